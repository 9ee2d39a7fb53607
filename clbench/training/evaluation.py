"""Accuracy on tasks, told which task it is and not told; what classes are taken for; curves within tasks; and time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clbench.errors import ClbenchError, DivergedError, shown
from clbench.method import Learner, Method, Scenario, Training, hook_name
from clbench.sequences.tasks import Split, Task

Row = list[float | None]


class Answer(NamedTuple):
    """What was answered to a question about a task's images."""

    right: Tensor  # how many right answers; −1 if a score is NaN: []
    chosen: Tensor  # the head's columns that won [n]


Answers = tuple[Answer | None, Answer | None]  # where the task is told, and where it is not; None: there is no answer


class Evaluator:
    """Asks a learner about images. The two views are two questions: which class, told the task and not told it.

    Nobody is told in the domain scenario, where both views are the same. In the others the task-agnostic question is
    asked first. A method that does not define `scores` itself answers both from one forward pass.
    """

    def __init__(self, tasks: Sequence[Task], scenario: Scenario, training: Training, chunk: int):
        self.tasks, self.scenario, self.training, self.chunk = tasks, scenario, training, chunk

    @torch.no_grad()
    def ask(self, learner: Learner, tasks: Sequence[Task], seen: int) -> list[Answers]:
        """Ask about the test images of some tasks, after `seen` tasks; nothing waits for the device."""
        return [self._answers(learner, task.index, task.test, seen) for task in tasks]

    def rows(self, tasks: Sequence[Task], answers: Sequence[Answers]) -> tuple[Row, Row]:
        """Return the accuracy on the images that tasks were asked about, told and not told.

        Raises DivergedError if a score is NaN.
        """
        rows: tuple[Row, Row] = ([], [])
        for task, both in zip(tasks, answers, strict=True):
            for row, answer in zip(rows, both, strict=True):
                row.append(None if answer is None else _share(answer.right, task.index, len(task.test)))
        return rows

    def confusion(self, answers: Sequence[Answers]) -> dict[str, list[Any]] | None:
        """Count what the test images of each class were taken for, in the scenario's view; see RunRecord.

        `answers` are those of all tasks. None where one has no answer.
        """
        own = [told if self.scenario == "task" else not_told for told, not_told in answers]
        shared = self.scenario == "domain"
        classes = [list(task.classes) for task in self.tasks]
        classes = [list(range(len(classes[0])))] if shared else classes
        width = sum(map(len, classes))
        pairs = []  # the class of each image, and the answer: [2, n]
        for task, answer in zip(self.tasks, own, strict=True):
            if answer is None:
                return None
            start = 0 if shared else self._columns(task.index)[0]
            pairs.append(torch.stack([task.test.y + start, answer.chosen]))
        found, numbers = torch.cat(pairs, 1).cpu().unique(dim=1, return_counts=True)
        if found.max() >= width:  # a learner of one's own may have outputs of no class
            return None
        counts: list[dict[int, int]] = [{} for _ in range(width)]
        for own_class, chosen, count in zip(*found.tolist(), numbers.tolist(), strict=True):
            counts[own_class][chosen] = count
        return {"classes": classes, "counts": counts}

    @torch.no_grad()
    def accuracy(self, learner: Learner, task: int, split: Split) -> float:
        """Return the accuracy on other images of the current task, in the scenario's view."""
        told = self.scenario == "task"
        least = len(self.tasks[task].classes) if self.scenario == "domain" else self._columns(task)[1]
        scores = self._scores(learner, split, task if told else None, least)
        if scores is None and self.scenario == "class":  # it has no answer if it is not told
            told, scores = True, self._scores(learner, split, task, least)
        assert scores is not None
        answer = self._answer(scores, task, split, None if told else self._competing(task + 1))
        return _share(answer.right, task, len(split))

    def _answers(self, learner: Learner, task: int, split: Split, seen: int) -> Answers:
        """Answer both questions about images of a task; None where there is no answer."""
        if self.scenario == "domain":
            scores = self._scores(learner, split, None, len(self.tasks[task].classes))
            both = None if scores is None else self._answer(scores, task, split)
            return both, both
        outputs = len(self.tasks) if self.training.full_head else seen  # tasks that have outputs
        if task >= outputs:
            return None, None
        competing = self._competing(seen)
        every = self._columns(competing - 1)[1] if task < competing else 0
        not_told = self._scores(learner, split, None, every)
        if type(learner).scores is Method.scores:
            told = not_told
        else:
            told = self._scores(learner, split, task, self._columns(task)[1])
        return (
            None if told is None else self._answer(told, task, split),
            None if not_told is None or task >= competing else self._answer(not_told, task, split, competing),
        )

    def _competing(self, seen: int) -> int:
        """Return how many tasks' outputs compete where the task is not told."""
        return len(self.tasks) if self.training.predict_over == "all" else seen

    def _answer(self, scores: Tensor, task: int, split: Split, competing: int | None = None) -> Answer:
        """Choose among the outputs of a task, or of the first `competing` tasks."""
        start, stop, right = 0, scores.shape[1], split.y
        if self.scenario != "domain":
            start, stop = self._columns(task)
            right = right + start
            if competing is not None:
                start, stop = 0, self._columns(competing - 1)[1]
        asked = scores[:, start:stop]
        chosen = start + asked.argmax(1)
        return Answer(torch.where(asked.isnan().any(), -1, (chosen == right).sum()), chosen)  # not waited for here

    def _columns(self, task: int) -> tuple[int, int]:
        start = sum(len(other.classes) for other in self.tasks[:task])
        return start, start + len(self.tasks[task].classes)

    def _scores(self, learner: Learner, split: Split, task: int | None, least: int) -> Tensor | None:
        parts = []
        for rows in torch.arange(len(split), device=split.y.device).split(self.chunk):
            scores = learner.scores(split.batch(rows), task)
            if scores is None:
                return None
            shape = tuple(scores.shape) if isinstance(scores, Tensor) else ()
            if len(shape) != 2 or shape[0] != len(rows) or shape[1] < least:
                what = f"{hook_name(type(learner).scores)} returns {shown(scores)} for {len(rows)} images"
                raise ClbenchError(f"{what}: scores must return [n, classes], with {least} classes or more here")
            parts.append(scores)
        return torch.cat(parts)


def _share(count: Tensor, task: int, images: int) -> float:
    """Return the share of a task's images that was answered right; raise DivergedError if a score was NaN."""
    right = int(count)
    if right < 0:
        raise DivergedError(f"a score of task {task + 1}'s images is NaN: the network diverged; try a smaller lr")
    return right / images


class Stopwatch:
    """Measures wall time; waits for the device's work before it reads the clock."""

    def __init__(self, device: torch.device):
        self.device, self.away = device, 0.0
        self.began = self._now()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what happens meanwhile."""
        start = self._now()
        try:
            yield
        finally:
            self.away += self._now() - start

    def add(self, seconds: float) -> None:
        """Count seconds that were spent elsewhere."""
        self.away -= seconds

    def seconds(self) -> float:
        """Return the seconds since it was made, without those it was paused for."""
        return self._now() - self.began - self.away

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class CurveRecorder:
    """Evaluates the tasks seen so far every so many updates. It leaves everything but the clock as it was."""

    def __init__(self, every: int, evaluator: Evaluator, tasks: Sequence[Task], device: torch.device):
        self.every, self.evaluator, self.tasks, self.device = every, evaluator, tasks, device
        self.curves: list[dict[str, list[Any]]] = []
        self.seconds = 0.0  # spent on the curve of the task under way

    def start_task(self) -> None:
        self.curves.append({"updates": [], "task_aware": [], "task_agnostic": []})
        self.seconds = 0.0

    def after_update(self, method: Method, task: int, updates: int) -> None:
        """Add a point if it is time for one."""
        if updates % self.every:
            return
        watch, network = Stopwatch(self.device), method.network
        modes, forward = [(module, module.training) for module in network.modules()], network.passes.forward
        network.eval()
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            seen = self.tasks[: task + 1]
            rows = self.evaluator.rows(seen, self.evaluator.ask(method, seen, task + 1))
        for module, mode in modes:
            module.training = mode
        network.passes.forward = forward
        self.add(task, updates, rows)
        self.seconds += watch.seconds()

    def add(self, task: int, updates: int, rows: tuple[Row, Row]) -> None:
        """Put a point into a task's curve, in place of an earlier one of the same update."""
        curve, later = self.curves[task], len(self.tasks) - task - 1
        if curve["updates"][-1:] == [updates]:
            for values in curve.values():
                values.pop()
        curve["updates"].append(updates)
        for view, row in zip(("task_aware", "task_agnostic"), rows, strict=True):
            curve[view].append([*row[: task + 1], *[None] * later])
