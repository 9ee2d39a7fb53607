"""The contract holds kinds of methods that clbench does not bring: each is a few hooks, and passes `check_method`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from tiny import go
from torch import Tensor, nn

from clbench.method import Costs, GradientOf, Gradients, Learner, Memory, Method, Phase, Run, Scenario, Step, Training
from clbench.sequences.tasks import Task
from clbench.testing import check_method


@dataclass
class Buffered(Method):
    """Base of the methods here that fill a buffer while they train."""

    memory: ClassVar[bool] = True
    first_task_is_finetuning: ClassVar[bool] = False
    size: int = 20
    sample: int = 8

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.buffer = Memory(self.size, run.stream("buffer"))

    def after_step(self, step: Step) -> None:
        self.buffer.add(step.batch)

    def state(self) -> dict[str, Any]:
        return {"buffer": self.buffer.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.buffer.load_state(state["buffer"])


@dataclass
class AGEM(Buffered):
    """Averaged gradient episodic memory (Chaudhry et al. 2019, arXiv 1812.00420, equation 11)"""

    name: ClassVar[str] = "agem"

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.angles: list[tuple[float, float]] = []  # of a step: g · g_ref before and after

    def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
        gradients = gradient_of(self.loss(step))
        if step.network.seen == 1 or not len(self.buffer):
            return gradients
        reference = gradient_of(step.on(self.buffer.sample(self.sample)).cross_entropy())
        shared = gradients.keys() & reference.keys()
        dot = sum((gradients[name] * reference[name]).sum() for name in shared)
        square = sum(value.square().sum() for value in reference.values())
        share = torch.clamp(torch.as_tensor(dot), max=0) / square
        projected = dict(gradients)
        for name, value in reference.items():
            projected[name] = gradients.get(name, 0) - share * value
        after = sum((projected[name] * value).sum() for name, value in reference.items())
        self.angles.append((float(dot), float(after)))
        return projected


@dataclass
class DER(Buffered):
    """Dark experience replay with labels (Buzzega et al. 2020, arXiv 2004.07211, equation 6)"""

    name: ClassVar[str] = "der++"
    alpha: float = 0.3
    beta: float = 0.5

    def loss(self, step: Step) -> Tensor:
        loss = step.cross_entropy()
        if len(self.buffer):
            one, other = (step.on(self.buffer.sample(self.sample)) for _ in range(2))
            then = one.batch.extras["logits"]
            loss = loss + self.alpha * (one.outputs[:, : then.shape[1]] - then).square().mean()
            loss = loss + self.beta * other.cross_entropy()
        return loss

    def after_step(self, step: Step) -> None:
        self.buffer.add(step.batch, logits=step.outputs)


@dataclass
class BiasCorrection(Method):
    """A scale and a shift for the newest outputs, trained alone in a phase of its own (Wu et al. 2019)"""

    name: ClassVar[str] = "bias-correction"
    memory: ClassVar[bool] = True

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.own = {"scale": nn.Parameter(torch.ones(())), "shift": nn.Parameter(torch.zeros(()))}

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return self.own

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        if not earlier:
            return [Phase(tasks=[task], trainable=self.network.parameters())]
        some = [replace(t, train=t.train.subset(torch.arange(6))) for t in (*earlier, task)]
        balanced = Phase(name="bias", tasks=some, trainable=self.own.values(), epochs=1, extra=True, equal_shares=True)
        return [Phase(tasks=[*some[:-1], task], trainable=self.network.parameters()), balanced]

    def corrected(self, outputs: Tensor) -> Tensor:
        if self.network.seen < 2:
            return outputs
        new = self.network.columns(self.network.seen - 1)
        before, own = outputs[:, : new.start], outputs[:, new]
        return torch.cat([before, self.own["scale"] * own + self.own["shift"]], 1)

    def loss(self, step: Step) -> Tensor:
        if step.phase.name != "bias":
            return step.cross_entropy()
        return nn.functional.cross_entropy(self.corrected(step.outputs), step.batch.y)

    def scores(self, x: Tensor, task: int | None) -> Tensor:
        return self.corrected(self.network(x))


@dataclass
class GreedySampler(Buffered):
    """GDumb (Prabhu et al. 2020): a balanced memory, and a network that is trained from it alone, anew each time"""

    name: ClassVar[str] = "gdumb"

    def start_from(self, task: Task) -> Any:
        return "initial"

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        tasks = [*earlier, task]
        quota = torch.arange(self.size // len(tasks))
        return [Phase(tasks=[replace(t, train=t.train.subset(quota)) for t in tasks], epochs=4, extra=True)]

    def after_step(self, step: Step) -> None:
        pass


@dataclass
class NearestMean(Learner):
    """A guest with a loop of its own: the nearest mean of pixels"""

    name: ClassVar[str] = "nearest-mean"

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.sums: list[Tensor] = []
        self.counts: list[int] = []

    def learn(self, task: Task) -> Costs:
        x = task.train.batch(torch.arange(len(task.train))).flatten(1)
        for label in range(len(task.classes)):
            mine = x[task.train.y == label]
            if self.run.scenario == "domain" and task.index:
                self.sums[label] = self.sums[label] + mine.sum(0)
                self.counts[label] += len(mine)
            else:
                self.sums.append(mine.sum(0))
                self.counts.append(len(mine))
        return Costs(updates=0, images=len(x))

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        if not self.sums:
            return None
        means = torch.stack([total / count for total, count in zip(self.sums, self.counts, strict=True)])
        return -torch.cdist(x.flatten(1), means)

    def weights(self) -> Mapping[str, Tensor]:
        return {f"sum {label}": total for label, total in enumerate(self.sums)}

    def state(self) -> dict[str, Any]:
        return {"sums": self.sums, "counts": self.counts}

    def load_state(self, state: dict[str, Any]) -> None:
        self.sums, self.counts = state["sums"], state["counts"]


@dataclass
class HardAttention(Method):
    """A gate on every feature for each task, trained with the network (after Serrà et al. 2018)"""

    name: ClassVar[str] = "gates"
    scenarios: ClassVar[frozenset[str]] = frozenset({"task"})

    def begin(self, run: Run) -> None:
        super().begin(run)
        width = self.network.n_features
        draws = run.stream("gates")
        self.gates = {str(t): nn.Parameter(torch.randn(width, generator=draws)) for t in range(run.tasks)}

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return self.gates

    def gated(self, features: Tensor, task: int) -> Tensor:
        return features * torch.sigmoid(self.gates[str(task)])

    def loss(self, step: Step) -> Tensor:
        task = step.network.seen - 1
        z = step.network.logits(self.gated(step.features, task), [task])
        return nn.functional.cross_entropy(z, step.batch.y - step.network.columns(task).start)

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        if task is None or task >= self.network.seen:
            return None
        return self.network.logits(self.gated(self.network.features(x), task), range(len(self.network.head)))


@pytest.mark.parametrize(
    ("method", "scenario"),
    [
        (AGEM, "task"),
        (AGEM, "class"),
        (DER, "class"),
        (DER, "domain"),
        (BiasCorrection, "class"),
        (GreedySampler, "class"),
        (NearestMean, "task"),
        (NearestMean, "class"),
        (NearestMean, "domain"),
        (HardAttention, "task"),
    ],
)
def test_contract(method: type[Learner], scenario: Scenario) -> None:
    check_method(method, models=["mlp"], scenarios=[scenario], tasks=3)


def test_a_projected_gradient_does_not_raise_the_loss_on_the_memory() -> None:
    method = AGEM()
    go(method, "class")
    assert any(before < 0 for before, _ in method.angles)
    for before, after in method.angles:
        assert after == pytest.approx(max(before, 0), abs=1e-4)


def test_what_was_stored_keeps_old_tasks() -> None:
    training = Training(epochs=8, batch_size=8, lr=0.05, momentum=0.9)
    kept, lost = (go(method, "class", training=training) for method in (DER(size=60), Method()))
    assert sum(kept.task_agnostic[-1][:2]) > sum(lost.task_agnostic[-1][:2]) + 0.5  # type: ignore[arg-type]


def test_a_phase_of_its_own_moves_the_methods_own_parameters_alone() -> None:
    method = BiasCorrection()
    outcome = go(method, "class", tasks=2)
    assert method.own["scale"].item() != 1
    assert outcome.history[1]["loss"][-1] > 0
    assert len(outcome.history[1]["loss"]) == 3
    assert outcome.parameters == sum(p.numel() for p in method.network.parameters()) + 2


def test_a_guest_says_what_it_costs() -> None:
    outcome = go(NearestMean(), "class")
    assert outcome.images == [24] * 3
    assert outcome.updates == outcome.forward_passes == [0] * 3
    assert outcome.parameters == 6 * 64
    assert outcome.task_agnostic[-1][0] is not None
    assert outcome.task_agnostic[-1][0] > 0.9
