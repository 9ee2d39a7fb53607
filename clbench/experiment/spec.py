"""One run as plain data: what it is asked to do (RunSpec), and what a worker needs to do it (Job). Needs no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clbench.errors import ClbenchError
from clbench.experiment import own_code, registry
from clbench.experiment.preset import Evaluate, Scenario
from clbench.experiment.registry import Kind

if TYPE_CHECKING:
    from clbench.sequences.tasks import Task

# entries that are younger than the first records, which stand for runs with these values
YOUNGER: dict[str, Any] = {"evaluate": "all", "probe": False, "tasks": None, "side_by_side": 1}
NOT_IN_KEY = ("label", "sequence_label", "model_label", "preset")  # names, and how the run was asked for


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
    class_order_rule: str  # "seed" | "fixed" | "seed:7" | "numpy:1993" | "given"
    class_order: Sequence[int] | None  # in full; None where a sequence has no notion of it
    training: Mapping[str, Any]
    device: str  # "cpu" | "cuda"
    data: str  # SHA-256 of the data set, after "seed:" if each seed has its own
    numbers: int  # version of the built-in code that computes numbers
    code: Mapping[str, str]  # hashes of methods, sequences and models from outside
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    kernels: Literal["pytorch", "onednn"] = "pytorch"  # of matrix products on the CPU
    threads: int = 1  # on the CPU; sums over several round in another order
    evaluate: Evaluate = "all"  # after each task: all tasks, or those seen so far; or all of them at the end alone
    eval_every: int | None = None  # updates between two points of the curves within tasks
    probe: bool = False  # whether the features of the final network are probed
    preset: Mapping[str, Any] | None = None  # name, row, what was overridden, and how it was tuned
    tasks: str | None = None  # those of the sequence that are learnt, from 0: "0-2", or "3-" to the last; None: all
    side_by_side: int = 1  # at most so many runs that differ in their seed are trained as one batch of networks

    @cached_property
    def key(self) -> str:
        """The record's name: a hash of everything here but the labels and the preset."""
        content = {name: value for name, value in dataclasses.asdict(self).items() if name not in NOT_IN_KEY}
        for name, default in YOUNGER.items():
            if content[name] == default:
                del content[name]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]

    @cached_property
    def first_task_key(self) -> str:
        """What runs of all methods have in common that train the first task alike: the key without the method."""
        code = {kind: code for kind, code in self.code.items() if kind != "method"}
        return dataclasses.replace(self, method="", params={}, code=code).key

    @cached_property
    def but_for_seed(self) -> str:
        """What runs have in common that differ in their seed alone: the key without it, and what comes of it."""
        data = self.data.partition(":")[0] if self.data.startswith("seed:") else self.data
        order = None if self.class_order_rule == "seed" else self.class_order
        return dataclasses.replace(self, seed=0, class_order=order, data=data).key

    def as_json(self) -> dict[str, Any]:
        """Return the spec as the plain values that JSON gives back."""
        content = json.loads(json.dumps(dataclasses.asdict(self)))
        for name in ("tasks", "side_by_side"):
            if content[name] == YOUNGER[name]:
                del content[name]
        return dict(content)


@dataclass(frozen=True)
class Job:
    """One run for a worker: plain data that means the same in any process on the machine."""

    spec: RunSpec
    references: Mapping[Kind, str]  # names, or absolute paths of files
    device: str  # "cpu" | "cuda:0"
    data_root: Path | None
    models_folder: Path | None  # where to save the network after each task
    files: Mapping[Kind, Mapping[str, str]] = field(default_factory=dict)  # settings that name files, by absolute path
    commit: str | None = None
    plain_first_task: bool = False  # whether another method may train its first task
    memory: bool = False  # whether the method trains on old data again
    first_task: Path | None = None  # the file in which runs of the sweep share their first task
    timeout: float | None = None  # seconds after which the run has failed
    checkpoint: Path | None = None  # the file from which the run goes on
    capture: bool = False  # whether steps are captured in CUDA graphs, which changes no number
    trackers: Sequence[str] = ()  # who is told of the run as it goes on: names, or absolute paths of files
    tracked: Path = Path()  # the folder for what they write
    remarks: Sequence[str] = ()  # what the user should hear about the data

    def instance(self, kind: Kind) -> Any:
        """Make the run's method, sequence or model, of settings that planning has checked."""
        spec = self.spec
        params = {"method": spec.params, "sequence": spec.sequence_params, "model": spec.model_params}[kind]
        cls = registry.find(kind, self.references[kind])
        values = {**params, **self.files.get(kind, {})}
        if own_code.code_hash(cls, values) != spec.code.get(kind):
            what = f"the code of {self.references[kind]}, or a file that it names,"
            raise ClbenchError(f"{what} was changed while the sweep ran, or is not here: run it again")
        return cls(**values)

    def load_tasks(self) -> list[Task]:
        """Return the run's tasks, on the CPU; raise UsageError for tasks that cannot be trained on."""
        from clbench.sequences.checking import load_checked  # here, since it needs torch

        order = None if self.spec.class_order is None else tuple(self.spec.class_order)
        spec = self.spec
        sequence, label = self.instance("sequence"), spec.sequence_label
        return load_checked(sequence, label, self.data_root, spec.seed, order, spec.tasks)
