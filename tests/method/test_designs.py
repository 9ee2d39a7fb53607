"""Methods that ask more of the contract than fine-tuning does: they are what it was designed for."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from clbench.method import (
    SCENARIOS,
    Costs,
    GradientOf,
    Gradients,
    Learner,
    Memory,
    Method,
    Phase,
    Run,
    Scenario,
    Step,
    Training,
)
from clbench.methods.finetune import Finetune
from clbench.models.backbones import MLP
from clbench.sequences import Task
from clbench.testing import check_method, tiny_tasks
from clbench.training.run import Outcome, run_sequence

TRAINING = Training(epochs=3, batch_size=8, lr=0.05, momentum=0.9)


def go(learner: Learner, scenario: Scenario = "class", tasks: int = 3, **options: Any) -> Outcome:
    return run_sequence(tiny_tasks(tasks), learner, MLP(width=16), TRAINING, scenario, 3, **options)


class WithMemory(Method):
    """What the two methods below share: a reservoir that goes into the state."""

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.memory_of_old = Memory(self.size, run.stream("memory"))  # type: ignore[attr-defined]

    def state(self) -> dict[str, Any]:
        return self.memory_of_old.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.memory_of_old.load_state(state)


@dataclass
class AGEM(WithMemory):
    """The gradient of a second loss, and the step's own gradient changed (Chaudhry et al. 2019, equation 11)."""

    name: ClassVar[str] = "agem"
    memory: ClassVar[bool] = True
    size: int = 20

    def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
        own = gradient_of(self.loss(step))
        if len(self.memory_of_old) == 0 or not self.network.seen:
            return own
        reference = gradient_of(step.on(self.memory_of_old.sample(16)).cross_entropy())
        return project(own, reference)

    def after_step(self, step: Step) -> None:
        self.memory_of_old.add(step.batch)


def project(own: Gradients, reference: Gradients) -> Gradients:
    """Return g − (gᵀ r / rᵀ r) r where gᵀ r is negative, else g."""
    dot = sum(((own[name] * reference[name]).sum() for name in own if name in reference), torch.tensor(0.0))
    squares = sum((r.square().sum() for r in reference.values()), torch.tensor(0.0))
    share = torch.where(dot < 0, dot / squares, torch.zeros_like(dot))
    return {name: g - share * reference[name] if name in reference else g for name, g in own.items()}


@dataclass
class DER(WithMemory):
    """An online buffer with stored outputs (Buzzega et al. 2020): CE + α ‖z − z'‖² on old samples."""

    name: ClassVar[str] = "der"
    memory: ClassVar[bool] = True
    size: int = 20
    alpha: float = 0.5

    def loss(self, step: Step) -> Tensor:
        loss = step.cross_entropy()
        if len(self.memory_of_old) == 0:
            return loss
        old = step.on(self.memory_of_old.sample(8))
        then = old.batch.extras["outputs"]
        known = torch.arange(then.shape[1], device=then.device) < old.batch.extras["columns"][:, None]
        now = old.outputs[:, : then.shape[1]]
        return loss + self.alpha * torch.where(known, (now - then).square(), 0.0).mean()

    def after_step(self, step: Step) -> None:
        outputs = step.outputs.detach()
        columns = torch.full((len(outputs),), outputs.shape[1], device=outputs.device)
        self.memory_of_old.add(step.batch, outputs=outputs, columns=columns)


@dataclass
class Calibrated(Method):
    """A phase of its own with parameters of its own: z ↦ a z + b on the newest block (Wu et al. 2019, BiC)."""

    name: ClassVar[str] = "calibrated"
    scenarios: ClassVar[frozenset[str]] = frozenset({"class"})

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.scale = nn.Parameter(torch.ones((), device=run.device))
        self.shift = nn.Parameter(torch.zeros((), device=run.device))

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return {"scale": self.scale, "shift": self.shift}

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        return [
            Phase(tasks=[task], trainable=self.network.parameters()),
            Phase(name="calibrate", tasks=[task], trainable=[self.scale, self.shift], epochs=2, extra=True),
        ]

    def corrected(self, outputs: Tensor) -> Tensor:
        newest = torch.arange(outputs.shape[1], device=outputs.device) >= outputs.shape[1] - self.network.widths[-1]
        return torch.where(newest, self.scale * outputs + self.shift, outputs)

    def loss(self, step: Step) -> Tensor:
        if step.phase.name == "calibrate":
            return nn.functional.cross_entropy(self.corrected(step.outputs.detach()), step.batch.y)
        return step.cross_entropy()

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        return self.corrected(self.network(x)) if self.network.seen else self.network(x)


@dataclass
class Pruned(Method):
    """Weights set between two phases: the smallest are pruned, then the rest trains again (Mallya & Lazebnik 2018)."""

    name: ClassVar[str] = "pruned"

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        self.kept: Tensor | None = None
        return [Phase(name="train", tasks=[task], epochs=1), Phase(name="retrain", tasks=[task])]

    def finish_phase(self, phase: Phase) -> None:
        if phase.name == "train":
            with torch.no_grad():
                weight = self.network.get_parameter("backbone.1.weight")
                self.kept = (weight.abs() > weight.abs().median()).float()
                weight *= self.kept

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        if self.kept is not None:  # momentum and decay would move them
            self.network.get_parameter("backbone.1.weight").mul_(self.kept)

    def finish_task(self, task: Task) -> None:
        weight = self.network.get_parameter("backbone.1.weight")
        assert (weight == 0).float().mean().item() == pytest.approx(0.5, abs=0.01)


@dataclass
class Prototypes(Learner):
    """A learner without the loop: it keeps the mean image of each class, and takes no gradient."""

    name: ClassVar[str] = "prototypes"
    scenarios: ClassVar[frozenset[str]] = frozenset({"task", "class"})

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.means: list[Tensor] = []

    def learn(self, task: Task) -> Costs:
        x, y = task.train.batch(torch.arange(len(task.train))).flatten(1), task.train.y
        self.means += [x[y == label].mean(0) for label in range(len(task.classes))]
        return Costs(images=len(x))

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        return -torch.cdist(x.flatten(1), torch.stack(self.means)) if self.means else None

    def weights(self) -> Mapping[str, Tensor]:
        return {str(index): mean for index, mean in enumerate(self.means)}

    def state(self) -> dict[str, Any]:
        return {"means": self.means}

    def load_state(self, state: dict[str, Any]) -> None:
        self.means = list(state["means"])


@pytest.mark.parametrize("cls", [AGEM, DER, Calibrated, Pruned, Prototypes])
def test_the_designs_keep_the_contract(cls: type[Learner]) -> None:
    check_method(cls, models=["mlp"], tasks=3)


def test_projection_against_its_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        g, r = (torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(2))
        names = {"a": slice(0, 3), "b": slice(3, 7)}
        found = project({n: g[s] for n, s in names.items()}, {n: r[s] for n, s in names.items()})
        expected = g - (g @ r) / (r @ r) * r if g @ r < 0 else g
        torch.testing.assert_close(torch.cat([found["a"], found["b"]]), expected)
        assert torch.cat([found["a"], found["b"]]) @ r > -1e-12


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("cls", [AGEM, DER])
def test_without_a_memory_they_are_fine_tuning(cls: Any, scenario: Scenario) -> None:
    assert go(cls(size=0), scenario).weights_hash == go(Finetune(), scenario).weights_hash
    assert go(cls(), scenario).weights_hash != go(Finetune(), scenario).weights_hash


def test_stored_outputs_are_those_at_insertion() -> None:
    offered: dict[bytes, list[list[float]]] = {}
    looked_up = 0

    class Watched(DER):
        def loss(self, step: Step) -> Tensor:
            nonlocal looked_up
            if len(self.memory_of_old):
                batch = self.memory_of_old.sample(8)
                for x, outputs, columns in zip(batch.x, batch.extras["outputs"], batch.extras["columns"], strict=True):
                    assert outputs[:columns].tolist() in offered[x.numpy().tobytes()]
                    looked_up += 1
            return super().loss(step)

        def after_step(self, step: Step) -> None:
            for x, outputs in zip(step.batch.x, step.outputs, strict=True):
                offered.setdefault(x.numpy().tobytes(), []).append(outputs.tolist())
            super().after_step(step)

    go(Watched())
    assert looked_up > 100


def test_a_second_gradient_is_a_cost() -> None:
    outcome = go(AGEM())
    assert outcome.updates == [9, 9, 9]
    # after the first step, 8 images are stored, after the second 16; each later step has a gradient of 16 more
    assert outcome.backward_passes == [72 + 8 + 7 * 16, 72 + 9 * 16, 72 + 9 * 16]
    assert outcome.images == [72, 72, 72]


def test_a_phase_trains_its_own_parameters_and_nothing_else() -> None:
    method, networks = Calibrated(), []

    class Watched(Calibrated):
        def after_step(self, step: Step) -> None:
            if step.phase.name == "calibrate":
                networks.append(copy.deepcopy(self.network.state_dict()))

    watched = Watched()
    outcome = go(watched)
    assert outcome.updates == [15, 15, 15]  # 3 epochs of the budget, and 2 beside it
    for first, second in itertools.pairwise(networks[:6]):
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert watched.scale.item() != 1.0
    assert outcome.parameters == sum(p.numel() for p in watched.network.parameters()) + 2
    assert go(method).weights_hash == outcome.weights_hash


def test_a_learner_of_its_own_is_measured_like_any_other() -> None:
    outcome = go(Prototypes())
    assert outcome.updates == [0, 0, 0]
    assert outcome.images == [24, 24, 24]
    assert outcome.parameters == 6 * 64
    assert outcome.task_agnostic[0] == [None] * 3
    assert min(map(float, outcome.task_agnostic[-1])) > 0.9  # type: ignore[arg-type]
