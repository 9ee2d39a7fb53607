"""One run as plain data: what it is asked to do (RunSpec), and what a worker needs to do it (Job)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from clbench.errors import ClbenchError
from clbench.experiment import registry
from clbench.experiment.registry import Kind
from clbench.method import Scenario
from clbench.sequences.tasks import Task
from clbench.training.precision import Precision


@dataclass(frozen=True)
class RunSpec:
    """All that can change a run's numbers, and the names people know it by.

    Labels are names plus the fields that differ from their defaults; `params` and its like hold every field.
    """

    sequence: str
    sequence_label: str
    sequence_params: Mapping[str, Any]
    scenario: Scenario
    method: str
    label: str
    params: Mapping[str, Any]
    model: str
    model_label: str
    model_params: Mapping[str, Any]
    seed: int
    class_order_rule: str  # "seed" | "fixed" | "given"
    class_order: Sequence[int] | None  # in full; None where a sequence has no notion of it
    training: Mapping[str, Any]
    device: str  # "cpu" | "cuda"
    data: str  # SHA-256 of the data set, after "seed:" if each seed has its own
    numbers: int  # version of the built-in code that computes numbers
    code: Mapping[str, str]  # hashes of methods, sequences and models from outside
    precision: Precision = "fp32"
    threads: int = 1  # on the CPU; sums over several round in another order
    eval_every: int | None = None  # updates between two points of the curves within tasks
    preset: Mapping[str, Any] | None = None  # name, row, and what was overridden; how it was asked for, not what

    @cached_property
    def key(self) -> str:
        """The record's name: a hash of everything here but the labels and the preset."""
        return self._hash("preset")

    @cached_property
    def first_task_key(self) -> str:
        """What names the first task, where the method does nothing special to it: everything but the method."""
        code = {kind: code for kind, code in self.code.items() if kind != "method"}
        return dataclasses.replace(self, code=code)._hash("preset", "method", "params")

    def _hash(self, *but: str) -> str:
        content = {k: v for k, v in self._content().items() if not k.endswith("label") and k not in but}
        if self.precision == "fp32":
            del content["precision"]  # as in the keys of records from before there was a choice
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]

    def as_json(self) -> dict[str, Any]:
        """Return the spec as the plain values that JSON gives back."""
        return json.loads(json.dumps(self._content()))

    def _content(self) -> dict[str, Any]:
        content = dataclasses.asdict(self)
        if self.eval_every is None:
            del content["eval_every"]  # as in records from before there were curves
        if self.threads == 1:
            del content["threads"]  # as in records from before there was a choice
        return content


@dataclass(frozen=True)
class Job:
    """One run for a worker: plain data that means the same in any process on the machine."""

    spec: RunSpec
    references: Mapping[Kind, str]  # names, or absolute paths of files
    device: str  # "cpu" | "cuda:0"
    data_root: str | None
    models_folder: str | None  # where to save the network after each task
    commit: str | None

    reuse: bool = True  # whether what was computed once may serve again
    kernels: Mapping[str, Any] = field(default_factory=dict)  # of matrix products, see `choose_kernels`
    plain_first_task: bool = False  # whether another method may train its first task, see `shares_first_task`
    memory: bool = False  # whether the method trains on old data again
    first_task: str | None = None  # the file in which runs of the sweep share their first task
    timeout: float | None = None  # seconds after which the run has failed
    checkpoint: str | None = None  # the file from which the run goes on
    mark: str | None = None  # a file that is there while the run is under way
    slots: Sequence[tuple[str, str]] = ()  # of several devices: a file to lock for each run at a time, and its device

    @property
    def root(self) -> Path | None:
        return None if self.data_root is None else Path(self.data_root)

    def instance(self, kind: Kind) -> Any:
        """Make the run's method, sequence or model."""
        spec = self.spec
        params = {"method": spec.params, "sequence": spec.sequence_params, "model": spec.model_params}[kind]
        cls = registry.find(kind, self.references[kind])
        if registry.code_hash(cls) != spec.code.get(kind):
            raise ClbenchError(f"the code of {self.references[kind]} was changed while the sweep ran: run it again")
        return registry.configure(self.references[kind], cls, params)

    def load_tasks(self) -> list[Task]:
        """Return the run's tasks, on the CPU."""
        order = None if self.spec.class_order is None else tuple(self.spec.class_order)
        return self.instance("sequence").load(self.root, self.spec.seed, order)
