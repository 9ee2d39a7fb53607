"""Methods that ask more of the contract than fine-tuning does keep it, and do what their papers say."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from designs import AGEM, DER, Calibrated, Prototypes, Pruned, project
from torch import Tensor

from clbench.method import SCENARIOS, Learner, Scenario, Step, Training
from clbench.methods.finetune import Finetune
from clbench.models.backbones import MLP
from clbench.testing import check_method, tiny_tasks
from clbench.training.run import Outcome, run_sequence

TRAINING = Training(epochs=3, batch_size=8, lr=0.05, momentum=0.9)


def go(learner: Learner, scenario: Scenario = "class", tasks: int = 3, **options: Any) -> Outcome:
    return run_sequence(tiny_tasks(tasks), learner, MLP(width=16), TRAINING, scenario, 3, **options)


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
