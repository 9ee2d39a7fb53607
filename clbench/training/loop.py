"""The training core: one loop for all methods, evaluation, and `run_sequence` which chains them over a sequence."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from clbench.errors import DivergedError
from clbench.method.base import Batch, Criterion, Method, Run, Scenario, in_chunks
from clbench.method.schedule import Plan, Plateau, Training, hold_out
from clbench.models.networks import Backbone, ExpandingHeadModel
from clbench.results.record import Curve, Matrix
from clbench.seeding import seed_default, stream
from clbench.sequences.tasks import Split, Task, concat
from clbench.training.optimizer import SGD, Adagrad, Adam, Optimizer
from clbench.training.snapshots import Checkpoint, FirstTask

Rows = tuple[list[float | None], list[float | None]]  # accuracies on tasks, told their names and not told them


@dataclass
class Outcome:
    """What a run measured; see RunRecord for shapes and units."""

    task_aware: Matrix = field(default_factory=list)
    task_agnostic: Matrix = field(default_factory=list)
    train_seconds: list[float] = field(default_factory=list)
    evaluate_seconds: list[float] = field(default_factory=list)
    updates: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    forward_passes: list[int] = field(default_factory=list)
    backward_passes: list[int] = field(default_factory=list)
    history: list[dict[str, list[float]]] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)  # empty without `eval_every`
    parameters: int = 0
    stored_bytes: int = 0
    weights_hash: str = ""
    shared_first_task: bool = False  # whether another run trained it; its cost is in the lists above all the same


def run_sequence(
    tasks: Sequence[Task],
    method: Method,
    backbone: Backbone,
    training: Training,
    scenario: Scenario,
    seed: int,
    device: torch.device | str = "cpu",
    after_task: Callable[[ExpandingHeadModel, Task], None] | None = None,
    first_task: FirstTask | None = None,
    reuse: bool = True,
    checkpoint: Checkpoint | None = None,
    eval_every: int | None = None,
) -> Outcome:
    """Train a method on one task after another and evaluate all tasks before the first and after each.

    `tasks` lie on `device`. `first_task` is where the first is taken from, if another run has trained it, or else left
    for others; without `reuse`, what could be computed once is computed in each step; `checkpoint` is where the run is
    kept after each task, and goes on from. With `eval_every`, the tasks seen so far are evaluated after every so many
    updates too: the network as it is at that moment, before `finish_task`; the last point of a task is its row of the
    accuracy matrix. None of them changes a number. Raises DivergedError when the loss is not finite. The global random
    state is left as found.
    """
    device = torch.device(device)
    with _random_state_of_its_own(device):
        sequence = _Sequence(tasks, method, backbone, training, scenario, seed, device, reuse, eval_every)
        try:
            return sequence.train(after_task, first_task, checkpoint)
        except DivergedError:  # it says where
            raise
        except BaseException as error:
            error.add_note(f"at task {sequence.at + 1} of {len(tasks)}")
            raise


class _Sequence:
    """One run over a sequence: the network, the optimiser and what has been measured so far."""

    def __init__(
        self,
        tasks: Sequence[Task],
        method: Method,
        backbone: Backbone,
        training: Training,
        scenario: Scenario,
        seed: int,
        device: torch.device,
        reuse: bool,
        eval_every: int | None,
    ):
        self.tasks, self.held_out = hold_out(tasks, training.held_out, seed)
        self.method, self.backbone, self.training = method, backbone, training
        self.scenario, self.seed, self.device, self.reuse = scenario, seed, device, reuse
        self.eval_every = eval_every
        self.criterion = Criterion(scenario)
        self.outcome = Outcome()
        seed_default(seed, "begin", device=device)
        method.begin(Run(scenario, len(tasks), seed, device, training, reuse))
        self.model = self._new_model(0, "weights")
        self.optimizer: Optimizer | None = None
        self.at = 0  # index of the task under way
        self.reached: set[int] = set()  # ids of the parameters that a loss has reached
        self.kept_bytes = 0  # of earlier tasks' images that the method trains on again
        self.looking = 0.0  # seconds of the task under way that went into its curve

    def train(
        self,
        after_task: Callable[[ExpandingHeadModel, Task], None] | None,
        first_task: FirstTask | None,
        checkpoint: Checkpoint | None,
    ) -> Outcome:
        method = self.method
        mark = self._now()

        def lap() -> float:
            nonlocal mark
            previous, mark = mark, self._now()
            return mark - previous

        kept = None if checkpoint is None else checkpoint.load()
        if kept is not None:
            self._restore(kept)
        outcome = self.outcome
        lap()
        if kept is None:
            self._evaluate()
            outcome.evaluate_seconds.append(lap())
        for task in self.tasks[len(outcome.updates) :]:
            self.at, self.looking = task.index, 0.0
            forwarded = self._start(task)
            seconds = lap()
            used = method.training_tasks(self.tasks[: task.index + 1])
            if task.index == 0 and first_task is not None and len(used) == 1:
                with first_task.claim() as found:
                    lap()  # neither waiting for another run nor reading and writing files is a cost of the method
                    if found is None:
                        self._train_task(task, used)
                        seconds += lap() - self.looking
                        first_task.keep(self._snapshot(seconds, self.model.images_forwarded - forwarded))
                    else:
                        seconds = self._take_over(task, found)
                        outcome.shared_first_task = True
                lap()
            else:
                self._train_task(task, used)
                seconds += lap() - self.looking
            self.model.eval()
            method.finish_task(self.model, task)
            outcome.forward_passes.append(self.model.images_forwarded - forwarded)
            outcome.stored_bytes = max(outcome.stored_bytes, self.kept_bytes + _nbytes(method.state()))
            outcome.train_seconds.append(seconds + lap())
            if used:
                self._evaluate()
            else:
                self._no_row()
            if used and self.eval_every is not None:
                self._add_point(task, outcome.updates[-1], (outcome.task_aware[-1], outcome.task_agnostic[-1]))
            if after_task is not None:
                after_task(self.model, task)
            outcome.evaluate_seconds.append(lap() + self.looking)
            if checkpoint is not None:
                checkpoint.keep(self._state())
                lap()  # keeping is not a cost of the method
        outcome.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        outcome.weights_hash = weights_hash(self.model)
        return outcome

    def _new_model(self, seen: int, *purpose: str | int) -> ExpandingHeadModel:
        """Draw a network with the blocks of `seen` tasks, or of all of them if the head doesn't grow."""
        self.purpose = purpose  # of the stream that blocks still to come are drawn from
        model = ExpandingHeadModel(self.backbone, self.tasks[0].train.shape, self.seed, *purpose).to(self.device)
        if self.backbone.channels_last and self.device.type == "cpu":
            model.to(memory_format=torch.channels_last)
        if self.scenario == "domain":
            model.expand(len(self.tasks[0].classes))
        else:
            for task in self.tasks if self.training.full_head else self.tasks[:seen]:
                model.expand(len(task.classes))
        model.seen = 1 if self.scenario == "domain" else seen
        return model

    def _block(self, task: Task) -> int:
        return 0 if self.scenario == "domain" else task.index

    def _start(self, task: Task) -> int:
        """Make the network ready for a task; return its count of forward passes before anything was done for it."""
        seed_default(self.seed, "start", task.index, device=self.device)
        method = self.method
        start = method.start_from(task)
        if start != "previous" and task.index > 0:
            purpose = ("weights",) if start == "initial" else ("scratch", task.index + 1)
            self.model, self.optimizer, self.reached = self._new_model(task.index, *purpose), None, set()
        forwarded = self.model.images_forwarded
        self.model.eval()
        method.start_task(self.model, task)
        if self.scenario != "domain":
            if task.index == len(self.model.head):
                self.model.expand(len(task.classes))
            self.model.seen = task.index + 1
        return forwarded

    def _state(self) -> dict[str, Any]:
        """Return all that the tasks so far have left behind, as tensors and plain values."""
        return {
            "outcome": vars(self.outcome),
            "purpose": list(self.purpose),
            "model": self.model.state_dict(),
            "forwarded": self.model.images_forwarded,
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
            "reached": [index for index, p in enumerate(self.model.parameters()) if id(p) in self.reached],
            "method": self.method.state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        """Go on from what `_state` returned."""
        self.outcome = Outcome(**state["outcome"])
        self.model = self._new_model(len(self.outcome.updates), *state["purpose"])
        self.model.load_state_dict(state["model"])
        self.model.images_forwarded = state["forwarded"]
        parameters = list(self.model.parameters())
        if state["optimizer"] is not None:
            self.optimizer = make_optimizer(self.training, parameters)
            self.optimizer.load_state_dict(state["optimizer"])
        self.reached = {id(parameters[index]) for index in state["reached"]}
        self.method.load_state(state["method"], self.model.eval())

    def _snapshot(self, seconds: float, forwarded: int) -> dict[str, Any]:
        """Return all that the first task has left behind, as tensors and plain values."""
        assert self.optimizer is not None
        outcome, random = self.outcome, [torch.get_rng_state()]
        if self.device.type == "cuda":
            random.append(torch.cuda.get_rng_state(self.device))
        return {
            "model": self.model.state_dict(),
            "forwarded": forwarded,
            "optimizer": self.optimizer.state_dict(),
            "reached": [index for index, p in enumerate(self.model.parameters()) if id(p) in self.reached],
            "random": random,
            "counts": [outcome.updates[0], outcome.images[0], outcome.backward_passes[0]],
            "history": outcome.history[0],
            "curves": outcome.curves,
            "looking": self.looking,
            "seconds": seconds,
        }

    def _take_over(self, task: Task, snapshot: dict[str, Any]) -> float:
        """Go on from another run's first task; return the seconds that it took there."""
        outcome, parameters = self.outcome, list(self.model.parameters())
        self.model.load_state_dict(snapshot["model"])
        self.model.images_forwarded += snapshot["forwarded"]
        self._optimizer(task).load_state_dict(snapshot["optimizer"])
        self.reached = {id(parameters[index]) for index in snapshot["reached"]}
        torch.set_rng_state(snapshot["random"][0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(snapshot["random"][1], self.device)
        for counts, count in zip(
            (outcome.updates, outcome.images, outcome.backward_passes), snapshot["counts"], strict=True
        ):
            counts.append(count)
        outcome.history.append(snapshot["history"])
        outcome.curves += snapshot["curves"]
        self.looking = snapshot["looking"]
        return snapshot["seconds"]

    def _train_task(self, task: Task, used: Sequence[Task]) -> None:
        """Train on the training data of these tasks, if any."""
        training, method, model, outcome = self.training, self.method, self.model, self.outcome
        self.kept_bytes = sum({one.index: one.train.nbytes for one in used if one.index != task.index}.values())
        history: dict[str, list[float]] = {"loss": [], "accuracy": []}
        outcome.history.append(history)
        every = self.eval_every
        if every is not None:
            outcome.curves.append({"updates": [], "task_aware": [], "task_agnostic": []})
        if not used:
            for counts in (outcome.updates, outcome.images, outcome.backward_passes):
                counts.append(0)
            return
        split = concat([one.train for one in used])
        sizes = [len(one.train) for one in used]
        columns = torch.cat([one.train.y + model.columns(self._block(one)).start for one in used])
        owners = torch.repeat_interleave(torch.tensor([one.index for one in used]), torch.tensor(sizes))
        task_ids = owners.to(self.device)
        mixed = len(used) > 1 and self.scenario == "task"
        optimizer, parameters = self._optimizer(task), list(model.parameters())
        plan = Plan(sizes, training, method.equal_shares, method.beside(training.batch_size))
        plateau = Plateau(training.patience, warming=task.index > 0 and training.warmup_epochs > 0)
        recorded: Tensor | None = None
        tallies: list[Tally] = []
        updates = 0
        for epoch in range(plan.epochs):
            plateau.warming = plateau.warming and epoch < training.warmup_epochs
            chosen = model.newest.parameters() if plateau.warming else method.trainable(model, task, epoch)
            frozen = set_trainable(model, chosen)
            reusable = frozen and not split.augment
            if not (reusable and self.reuse):
                recorded = None
            elif recorded is None:
                recorded = in_chunks(model.features, split, model.chunk)
            seed_default(self.seed, "dropout", task.index, epoch, device=self.device)
            augmentation = stream(self.seed, "augmentation", task.index, epoch)
            order = stream(self.seed, "batches", task.index, epoch)
            steps = plan.draw_newest(order) if plateau.warming else plan.draw(order, plan.total_steps - updates)
            lengths, rows = [len(step) for step in steps], torch.cat(steps)
            present = _present(owners[rows].split(lengths)) if mixed else [(task.index,)] * len(steps)
            rows = rows.to(self.device)
            tally = Tally()
            for index, y, ids, there in zip(
                rows.split(lengths), columns[rows].split(lengths), task_ids[rows].split(lengths), present, strict=True
            ):
                batch = Batch(model, split, index, y, ids, there, recorded, augmentation, reusable)
                loss = method.loss(model, batch, self.criterion)
                loss.backward()
                if training.untouched != "skip":
                    self._zero_gradients(parameters)
                method.after_backward(model)
                optimizer.step()
                method.after_step(model)
                tally.add(loss, batch)
                if every is not None and (updates + len(tally.sizes)) % every == 0:
                    self._look(task, updates + len(tally.sizes))
            updates += len(steps)
            tallies.append(tally)
            if training.patience:
                history.setdefault("held_out", []).append(self._held_out_accuracy(task))
                action = plateau.after(history["held_out"][-1])
                if action == "stop":
                    break
                if action == "lower":
                    optimizer.lr /= 10
        outcome.updates.append(updates)
        images = sum(tally.images for tally in tallies)
        outcome.images.append(images)
        outcome.backward_passes.append(images)
        for epoch, tally in enumerate(tallies):
            loss_mean, accuracy = tally.means()
            if not math.isfinite(loss_mean):
                raise DivergedError(
                    f"the loss is {loss_mean} at task {task.index + 1}, epoch {epoch + 1}: it diverged; "
                    "try a smaller lr"
                )
            history["loss"].append(loss_mean)
            if accuracy is not None:
                history["accuracy"].append(accuracy)
        if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
            raise DivergedError(f"a weight is not finite after task {task.index + 1}: it diverged; try a smaller lr")

    def _zero_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give parameters that the loss did not reach a gradient of zero, as `untouched` says."""
        for parameter in parameters:
            if parameter.grad is not None:
                self.reached.add(id(parameter))
            elif parameter.requires_grad and (self.training.untouched == "zero" or id(parameter) in self.reached):
                parameter.grad = torch.zeros_like(parameter)

    def _optimizer(self, task: Task) -> Optimizer:
        """Return the optimiser for a task: a new one, or the kept one with the new block's parameters joined."""
        training, parameters = self.training, list(self.model.parameters())
        if self.optimizer is None or not training.keep_optimizer:
            self.optimizer = make_optimizer(training, parameters)
        self.optimizer.add(parameters)
        self.optimizer.lr = training.lr * (training.later_lr_factor if task.index > 0 else 1)
        return self.optimizer

    def _evaluate(self) -> None:
        """Append a row to both accuracy matrices."""
        self.model.eval()
        aware, agnostic = self._accuracy(self.tasks)
        self.outcome.task_aware.append(aware)
        self.outcome.task_agnostic.append(agnostic)

    @torch.no_grad()
    def _accuracy(self, tasks: Sequence[Task]) -> Rows:
        """Return the accuracy on some tasks in both views, which one pass over each test set answers."""
        rows: Rows = [], []
        for task, both in zip(tasks, [self._hits(task, task.test) for task in tasks], strict=True):
            for row, hits in zip(rows, both, strict=True):
                row.append(None if hits is None else hits.item() / len(task.test))
        return rows

    def _look(self, task: Task, updates: int) -> None:
        """Evaluate between two updates, and leave everything but the clock as it was."""
        start, model = self._now(), self.model
        modes, forwarded = [(module, module.training) for module in model.modules()], model.images_forwarded
        model.eval()
        with _random_state_of_its_own(self.device):
            rows = self._accuracy(self.tasks[: task.index + 1])
        for module, mode in modes:
            module.training = mode
        model.images_forwarded = forwarded
        self._add_point(task, updates, rows)
        self.looking += self._now() - start

    def _add_point(self, task: Task, updates: int, rows: Rows) -> None:
        """Put a point of the tasks seen so far into a task's curve, in place of an earlier one of the same update."""
        curve, later = self.outcome.curves[task.index], len(self.tasks) - task.index - 1
        if curve["updates"][-1:] == [updates]:
            for values in curve.values():
                values.pop()
        curve["updates"].append(updates)
        for view, row in zip(("task_aware", "task_agnostic"), rows, strict=True):
            curve[view].append([*row[: task.index + 1], *[None] * later])

    def _hits(self, task: Task, split: Split) -> tuple[Tensor | None, Tensor | None]:
        """Count what is right on images of a task, told its name and not told it; None where it can't be answered."""
        model, seen, block = self.model, self.model.seen, self._block(task)
        if block >= (seen if self.method.uses_task_name else len(model.head)):
            return None, None
        competing = len(model.head) if self.training.predict_over == "all" else seen
        own, n_outputs = model.columns(block), sum(model.widths[:competing])
        scores = in_chunks(partial(self._scores, task), split, model.chunk)
        aware = (scores[:, own].argmax(1) == split.y).sum()
        if block >= competing or self.method.uses_task_name:
            return aware, None
        return aware, (scores[:, :n_outputs].argmax(1) == split.y + own.start).sum()

    @torch.no_grad()
    def _held_out_accuracy(self, task: Task) -> float:
        """Return the accuracy on the current task's images held out, in the scenario's view."""
        self.model.eval()
        split = self.held_out[task.index]
        aware, agnostic = self._hits(task, split)
        hits = aware if self.scenario == "task" or agnostic is None else agnostic
        assert hits is not None
        return hits.item() / len(split)

    def _scores(self, task: Task, x: Tensor) -> Tensor:
        return self.method.predict(self.model, x, task)

    def _no_row(self) -> None:
        for matrix in (self.outcome.task_aware, self.outcome.task_agnostic):
            matrix.append([None] * len(self.tasks))

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _random_state_of_its_own(device: torch.device) -> AbstractContextManager[None]:
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def make_optimizer(training: Training, parameters: Sequence[nn.Parameter]) -> Optimizer:
    """Make the optimiser that the training settings name; it leaves a parameter without a gradient alone."""
    if training.optimizer == "sgd":
        return SGD(parameters, training.lr, training.weight_decay, training.momentum)
    return {"adam": Adam, "adagrad": Adagrad}[training.optimizer](parameters, training.lr, training.weight_decay)


class Tally:
    """An epoch's losses and right answers, kept on the device until they are asked for."""

    WINDOW = 16  # steps whose outputs are kept before they are compared, many at once

    def __init__(self) -> None:
        self.images = 0
        self.losses: list[Tensor] = []
        self.sizes: list[int] = []
        self.waiting: list[tuple[Tensor, Tensor]] = []
        self.hits: list[Tensor] = []
        self.answered = True  # whether the criterion was asked in every step

    def add(self, loss: Tensor, batch: Batch) -> None:
        self.losses.append(loss.detach())
        self.sizes.append(len(batch))
        self.images += len(batch)
        if batch.answers is None:
            self.answered = False
            return
        self.waiting.append(batch.answers)
        if len(self.waiting) == self.WINDOW:
            self._compare()

    def means(self) -> tuple[float, float | None]:
        """Return the mean loss of an image, and the share that was answered right; None if not all were asked."""
        self._compare()
        losses = torch.stack(self.losses).double()
        loss = (losses * losses.new_tensor(self.sizes)).sum().item() / self.images
        return loss, torch.stack(self.hits).sum().item() / self.images if self.answered else None

    def _compare(self) -> None:
        by_width: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for logits, y in self.waiting:
            by_width.setdefault(logits.shape[1], []).append((logits, y))
        for some in by_width.values():
            logits, y = (torch.cat(parts) for parts in zip(*some, strict=True))
            self.hits.append((logits.argmax(1) == y).sum())
        self.waiting = []


def set_trainable(model: ExpandingHeadModel, parameters: object) -> bool:
    """Let just these parameters train, the modules that have none of them in eval mode.

    Returns whether the backbone is frozen, so that its features stay the same.
    """
    chosen = {id(parameter) for parameter in parameters}  # type: ignore[attr-defined]
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    model.train()
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()
    return not model.backbone.training


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of every parameter and buffer: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _present(owners: Sequence[Tensor]) -> list[list[int]]:
    """Return the tasks in each step, sorted, from the owners of its rows."""
    counts = [torch.bincount(step).tolist() for step in owners]
    return [[task for task, count in enumerate(step) if count] for step in counts]


def _nbytes(state: object) -> int:
    """Count the bytes of the tensors in nested containers and modules."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, nn.Module):
        return _nbytes(state.state_dict())
    if isinstance(state, dict):
        return sum(map(_nbytes, state.values()))
    if isinstance(state, (list, tuple)):
        return sum(map(_nbytes, state))
    return 0
