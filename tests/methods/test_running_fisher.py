"""EWC++ and RWalk: importances along the steps, worked out again in NumPy from gradients and weights."""

from typing import Any

import numpy as np
import pytest
from tiny import go

from clbench.method import GradientOf, Gradients, Scenario, Step, Training
from clbench.methods.ewc_pp import EWCPlusPlus
from clbench.methods.finetune import Finetune
from clbench.methods.rwalk import RWalk
from clbench.models.backbones import MLP
from clbench.sequences.tasks import Task

Numbers = dict[str, np.ndarray]
PLAIN = Training(epochs=3, batch_size=6, lr=0.05)


def traced(cls: Any) -> Any:
    """Derive a class that notes g and the weights around every step, and what it has at the end of each task."""

    class Traced(cls):  # type: ignore[misc]
        def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
            own = {name: g.double().numpy() for name, g in gradient_of(step.on(step.batch).cross_entropy()).items()}
            self.noted.append((own, weights(self)))
            return super().gradients(step, gradient_of)

        def after_step(self, step: Step) -> None:
            self.after.append(weights(self))
            super().after_step(step)

        def start_task(self, task: Task) -> None:
            super().start_task(task)
            self.noted, self.after = [], []

        def finish_task(self, task: Task) -> None:
            super().finish_task(task)
            assert self.quadratic is not None
            assert self.quadratic.importance is not None
            importance = {name: value.double().numpy() for name, value in self.quadratic.importance.items()}
            found.append((self.noted, self.after, importance))

    found: list[Any] = []
    Traced.found = found
    return Traced


def weights(method: Any) -> Numbers:
    return {name: p.detach().double().numpy().copy() for name, p in method.network.named_parameters()}


def to_unit(values: Numbers) -> Numbers:
    low, high = min(v.min() for v in values.values()), max(v.max() for v in values.values())
    return {name: (v - low) / (high - low) for name, v in values.items()}


@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_the_running_fisher_information(scenario: Scenario) -> None:
    cls = traced(EWCPlusPlus)
    go(cls(strength=3.0, decay=0.8, every=5), scenario, 2, training=PLAIN, backbone=MLP(width=5))
    fisher: Numbers = {}
    for noted, _, importance in cls.found:
        assert len(noted) == 12  # two intervals of five; the last two steps come to nothing
        for start in (0, 5):
            for name in noted[start][0]:
                mean = np.mean([own[name] ** 2 for own, _ in noted[start : start + 5]], axis=0)
                fisher[name] = 0.8 * mean + 0.2 * fisher.get(name, np.zeros_like(mean))
        for name, expected in to_unit(fisher).items():
            np.testing.assert_allclose(importance[name], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("summed", ["interval", "task"])
@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_the_scores_of_the_path(scenario: Scenario, summed: str) -> None:
    cls = traced(RWalk)
    go(cls(strength=0.5, decay=0.8, every=4, summed=summed), scenario, 2, training=PLAIN, backbone=MLP(width=5))
    fisher: Numbers = {}
    scores: Numbers = {}
    for number, (noted, after, importance) in enumerate(cls.found):
        path: Numbers = {}
        for start in (0, 4, 8):
            steps = range(start, start + 4)
            for name, before in noted[start][1].items():
                omega = sum(-noted[k][0][name] * (after[k][name] - noted[k][1][name]) for k in steps)
                moved = after[start + 3][name] - before
                old = fisher.get(name, np.zeros_like(before))
                path[name] = path.get(name, 0) + np.maximum(omega, 0) / (old * moved**2 + 0.001)
                squares = sum(noted[k][0][name] ** 2 for k in (steps if summed == "interval" else range(start + 4)))
                fisher[name] = 0.8 * squares / 4 + 0.2 * old
        half = {name: value / 2 for name, value in path.items()}
        scores = {n: scores.get(n, 0) / 2 + v for n, v in half.items()} if number else path
        one, two = to_unit(fisher), to_unit(scores)
        for name in one:
            np.testing.assert_allclose(importance[name], one[name] + two[name], rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("cls", [EWCPlusPlus, RWalk])
@pytest.mark.parametrize("scenario", ["task", "class", "domain"])
def test_without_a_penalty_it_is_fine_tuning(cls: Any, scenario: Scenario) -> None:
    assert go(cls(strength=0.0), scenario).weights_hash == go(Finetune(), scenario).weights_hash
    assert go(cls(strength=0.0), scenario).weights_hash != go(cls(strength=5.0, every=2), scenario).weights_hash
