"""Networks in files: what --save-models writes after each task, and what `clbench.load_model` makes of it.

A file is a .safetensors with all tensors that answers depend on: the network's, under their own names, the method's own
parameters, and what the method keeps between tasks. Its metadata hold a card in JSON: the run's spec, the classes of
each task, how images are prepared, and the form of the method's state. Reading a file executes nothing in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from clbench.data import transforms
from clbench.errors import ClbenchError, UsageError
from clbench.experiment import own_code, registry
from clbench.experiment.registry import Kind
from clbench.experiment.spec import RunSpec
from clbench.method import Learner, Method, Training
from clbench.results.record import RunRecord
from clbench.results.store import write_whole
from clbench.sequences.tasks import Split, Task
from clbench.training.run import restored

FORMAT = 1
PREPARED = ("mean", "std", "divisor", "padding")  # of a split: how its images are prepared


@dataclass(frozen=True)
class LoadedModel:
    """A learner as it was after some task, ready to answer. `tasks` are all of the run's, without images."""

    spec: RunSpec
    learner: Learner
    tasks: Sequence[Task]
    seen: int  # tasks that it has learnt

    def prepare(self, images: Tensor, task: int = 0) -> Tensor:
        """Return images as the network takes them, [n, *shape], of images as the data set stores them, mostly bytes.

        `task` says whose permutation or rotation is applied, where tasks have their own.
        """
        split = self.tasks[task].test
        moved = images if split.pixel_map is None else transforms.move_pixels(images, split.pixel_map)
        return split.prepare(moved)

    @torch.no_grad()
    def scores(self, x: Tensor, task: int | None = None) -> Tensor | None:
        """Return the method's own scores of prepared images: [n, outputs]; None where it has no answer.

        `task` is the images' task, from 0, or None if nobody tells.
        """
        return self.learner.scores(x, task)

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        """Return the class of each prepared image, int64 [n]; in `domain` its label within the task.

        Told the task, its own classes compete, else those of all tasks seen, or of all (`predict_over`). Raises
        ClbenchError where there is no answer.
        """
        scores = self.scores(x, task)
        if scores is None:
            raise ClbenchError(f"{self.spec.label} has no answer {'not ' * (task is None)}told the task")
        if self.spec.scenario == "domain":
            return scores.argmax(1)
        widths = [len(one.classes) for one in self.tasks]
        start = 0 if task is None else sum(widths[:task])
        seen = len(self.tasks) if self.spec.training.get("predict_over") == "all" else self.seen
        competing = self.tasks[:seen] if task is None else [self.tasks[task]]
        classes = torch.tensor([each for one in competing for each in one.classes], device=scores.device)
        return classes[scores[:, start : start + len(classes)].argmax(1)]


def save(path: Path, learner: Learner, spec: RunSpec, tasks: Sequence[Task], seen: int) -> None:
    """Write a learner's file, whole or not at all."""
    tensors: dict[str, Tensor] = dict(learner.weights())
    card = {
        "format": FORMAT,
        "spec": spec.as_json(),
        "seen": seen,
        "tasks": [_described(task, tensors) for task in tasks],
        # a guest's state is a pickle, which only its own checkpoint may be read from
        "state": _packed(learner.state() if learner.engine == "clbench" else None, tensors, type(learner).__name__),
    }
    apart = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, safetensors.torch.save(apart, {"format": "pt", "clbench": json.dumps(card)}))


def _described(task: Task, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return what a card says of a task."""
    split = task.test
    if split.pixel_map is not None and split.map_of_row is None:
        tensors[f"task.{task.index}.pixel_map"] = split.pixel_map
    described = {name: getattr(split, name) for name in PREPARED}
    shape, kind = list(split.images.shape[1:]), str(split.images.dtype).removeprefix("torch.")
    return {"classes": list(task.classes), "images": {"shape": shape, "dtype": kind, **described}}


def _packed(value: Any, tensors: dict[str, Tensor], whose: str) -> Any:
    """Return nested containers as JSON, their tensors put aside under names of their own."""
    if isinstance(value, Tensor):
        tensors[f"state.{len(tensors)}"] = value
        return {"tensor": f"state.{len(tensors) - 1}"}
    if isinstance(value, Mapping):
        pairs = [[_packed(key, tensors, whose), _packed(each, tensors, whose)] for key, each in value.items()]
        return {"dict": pairs}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_packed(each, tensors, whose) for each in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise ClbenchError(f"the state of {whose} holds a {type(value).__name__}: tensors and plain values can be saved")


def _unpacked(packed: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {_unpacked(key, tensors): _unpacked(value, tensors) for key, value in content}
    if kind in ("list", "tuple"):
        items = [_unpacked(each, tensors) for each in content]
        return items if kind == "list" else tuple(items)
    return content


def load_model(
    record: RunRecord | str | Path, task: int | None = None, folder: str | Path = "results/runs"
) -> LoadedModel:
    """Return a run's learner after a task, from 1, by default the last; see `clbench.load_model`."""
    path = _file_of(record, task, folder)
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- it is no mapping
        card = json.loads(metadata["clbench"])
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    except (KeyError, ValueError):
        raise UsageError(
            f"{path} has no card of clbench's: only files that --save-models wrote can be loaded"
        ) from None
    if card["format"] > FORMAT:
        raise UsageError(f"{path} was written by a newer clbench")
    spec = RunSpec(**card["spec"])
    method = _instance(spec, "method")
    if card["state"] == {"value": None} or (card["state"] == {"dict": []} and not isinstance(method, Method)):
        what = f"{spec.label} trains by a loop of its own, and no file holds its state"
        raise UsageError(f"{what}: its weights are in {path}, but it cannot answer")
    tasks = [_task(index, each, tensors) for index, each in enumerate(card["tasks"])]
    learner = restored(
        method,
        tasks,
        _instance(spec, "model"),
        registry.from_record(Training, spec.training),
        spec.scenario,
        spec.seed,
        {name: tensor for name, tensor in tensors.items() if not name.startswith(("state.", "task."))},
        _unpacked(card["state"], tensors),
        card["seen"],
    )
    return LoadedModel(spec, learner, tasks, card["seen"])


def _file_of(record: RunRecord | str | Path, task: int | None, folder: str | Path) -> Path:
    """Return the file of a run after a task; raise UsageError if it is not there."""
    if isinstance(record, RunRecord):
        place = Path(folder) / "models" / record.key
    elif Path(record).suffix == ".safetensors":
        if task is not None:
            raise UsageError(f"{record} is of one task: leave task out")
        return Path(record)
    else:
        place = Path(record).parent / "models" / Path(record).stem
    found = {int(path.stem.removeprefix("task-")): path for path in place.glob("task-*.safetensors")}
    if not found:
        raise UsageError(f"there is no saved network in {place}: 'clbench run --save-models' writes them")
    number = max(found) if task is None else task
    if number not in found:
        raise UsageError(f"{place} has no network after task {task}, but after {', '.join(map(str, sorted(found)))}")
    return found[number]


def _task(index: int, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Task:
    """Return a task without images."""
    about = described["images"]
    nothing, none = torch.empty(0, *about["shape"], dtype=getattr(torch, about["dtype"])), torch.empty(0).long()
    prepared: dict[str, Any] = {name: about[name] for name in PREPARED}
    prepared |= {name: tuple(prepared[name]) for name in ("mean", "std")}
    split = Split(nothing, none, none, pixel_map=tensors.get(f"task.{index}.pixel_map"), **prepared)
    return Task(index, tuple(described["classes"]), split, split)


def _instance(spec: RunSpec, kind: Kind) -> Any:
    """Make a run's method or model; weights that it started from are not asked for, as those of the file follow."""
    reference, params = (spec.method, spec.params) if kind == "method" else (spec.model, spec.model_params)
    cls = registry.find(kind, reference)
    if kind == "model":
        params = {**params, **{name: value for name, value in NOT_STARTED.items() if name in params}}
    elif own_code.code_hash(cls, params) != spec.code.get(kind):
        raise UsageError(f"the code of {reference} is not what it was when its network was saved")
    return registry.from_record(cls, params)


NOT_STARTED = {"weights": None, "pretrained": False}  # fields of models: no weights to start from
