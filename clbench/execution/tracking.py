"""A small stream of events of a run for those who follow it, and TensorBoard as one of them."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import UsageError, did_you_mean
from clbench.experiment import own_code, registry
from clbench.experiment.spec import Job, RunSpec
from clbench.results.metrics import measure
from clbench.results.record import RunRecord

if TYPE_CHECKING:
    from clbench.training.run import Outcome


class Tracker:
    """Follows one run, in the process that does it. What it raises ends it, and not the run.

    `spec` says which run it is. `folder` is for what it writes, this run's alone, and is made when it is needed.
    Events come task by task: a task's epochs, then its accuracies; so training never waits for its own losses.
    """

    def __init__(self, spec: RunSpec, folder: Path):
        self.spec, self.folder = spec, folder

    def after_epoch(self, task: int, epoch: int, values: Mapping[str, float]) -> None:
        """Take the means of an epoch of a task, both from 0: `loss` and training `accuracy`, in [0, 1]."""

    def after_task(self, task: int, accuracy: Mapping[str, Sequence[float | None]]) -> None:
        """Take the accuracies after a task, `task_aware` and `task_agnostic`: [tasks], None where not measured."""

    def finish(self, record: RunRecord) -> None:
        """Take the record of the run, which may have failed; the last event."""


class TensorBoard(Tracker):
    """Writes what TensorBoard shows: losses by epoch, accuracies by task, and the metrics of the whole run."""

    def __init__(self, spec: RunSpec, folder: Path):
        super().__init__(spec, folder)
        from torch.utils.tensorboard import SummaryWriter  # here, since it takes seconds

        self.writer = SummaryWriter(str(folder))
        self.writer.add_text("spec", f"```\n{json.dumps(spec.as_json(), indent=2)}\n```")

    def after_epoch(self, task: int, epoch: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{name} by epoch/task {task + 1}", value, epoch + 1)

    def after_task(self, task: int, accuracy: Mapping[str, Sequence[float | None]]) -> None:
        for view, row in accuracy.items():
            told = "told the task" if view == "task_aware" else "not told the task"
            for number, value in enumerate(row):
                if value is not None:
                    self.writer.add_scalar(f"accuracy, {told}/on task {number + 1}", value, task + 1)
        self.writer.flush()

    def finish(self, record: RunRecord) -> None:
        for name, value in measure(record.matrix()).items() if record.ok else ():
            if value == value:  # NaN: it is not defined for this run
                self.writer.add_scalar(f"whole run/{name.replace('_', ' ')}", value)
        self.writer.close()


def check(references: Sequence[str]) -> None:
    """Raise UsageError for a tracker that there is not, and for two that would write to one folder."""
    for reference in references:
        find(reference)
    folders = [_folder_of(reference) for reference in references]
    if twice := next((name for name in folders if folders.count(name) > 1), None):
        raise UsageError(f"two trackers are called {twice}: give one another name")


def _folder_of(reference: str) -> str:
    return re.sub(r"\W+", "-", reference.rpartition(":")[2])


def find(reference: str) -> type[Tracker]:
    """Return the tracker of a name, or a class in a file or module; raise UsageError where there is none."""
    if reference == "tensorboard":
        return TensorBoard
    if ":" not in reference:
        hint = did_you_mean(reference, ["tensorboard"])
        raise UsageError(f"unknown tracker {reference!r}{hint}, or name a class of your own, as in ./mine.py:Mine")
    found = registry.thing_at("tracker", reference)
    if not (inspect.isclass(found) and issubclass(found, Tracker)):
        raise UsageError(f"{reference!r} is no tracker: it does not derive from clbench.execution.tracking.Tracker")
    return found


class Trackers:
    """All that follow a run. Where one raises, it is told no more, and standard error says so."""

    def __init__(self, job: Job, resumed: bool):
        self.job, self.epochs = job, 0
        self.listening: dict[str, Tracker] = {}
        for reference in job.trackers:
            folder = job.tracked / _folder_of(reference) / folder_name(job.spec)
            if not resumed:
                shutil.rmtree(folder, ignore_errors=True)  # of the same run, made again
            self._tell(reference, lambda reference=reference, folder=folder: self._make(reference, folder))

    def _make(self, reference: str, folder: Path) -> None:
        self.listening[reference] = find(reference)(self.job.spec, folder)

    def after_task(self, outcome: Outcome) -> None:
        """Tell of the last task of an outcome."""
        task, history = len(outcome.updates) - 1, outcome.history[-1]
        epochs = [dict(zip(history, values, strict=False)) for values in zip(*history.values(), strict=False)]
        rows = {"task_aware": outcome.task_aware[-1], "task_agnostic": outcome.task_agnostic[-1]}
        for reference, tracker in list(self.listening.items()):
            for epoch, values in enumerate(epochs):
                self._tell(reference, lambda t=tracker, e=epoch, v=values: t.after_epoch(task, e, v))
            self._tell(reference, lambda t=tracker: t.after_task(task, rows))

    def finish(self, record: RunRecord) -> None:
        """Tell of the end."""
        for reference, tracker in list(self.listening.items()):
            self._tell(reference, lambda t=tracker: t.finish(record))

    def _tell(self, reference: str, event: Any) -> None:
        try:
            event()
        except Exception as error:
            self.listening.pop(reference, None)
            run = f"{self.job.spec.label}, seed {self.job.spec.seed}"
            where = own_code.raised_at(error) or ""
            what = f"the tracker {reference} ends, the run goes on: {own_code.what(error)}"
            print(f"clbench: {run}: {what}{where and f', in {where}'}", file=sys.stderr)


def folder_name(spec: RunSpec) -> str:
    """Name a run for people, and by its key so that no two are called alike."""
    parts = (spec.sequence_label, spec.scenario, spec.model_label, spec.label, f"seed-{spec.seed}-{spec.key[:6]}")
    return "/".join(re.sub(r"[^\w@.=+-]+", "-", part).strip("-.") for part in parts)
