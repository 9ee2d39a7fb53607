"""Steps in buffers of their own: equal to steps one by one, and nothing in them that a CUDA graph could not repeat."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from tiny import ADAM, SGD, go, new
from torch import Tensor

from clbench.errors import ClbenchError
from clbench.experiment import registry
from clbench.method import Method, Scenario, Step, Training, can_be_captured
from clbench.models.backbones import CNN, MLP, Backbone
from clbench.training.run import Outcome
from clbench.training.static import WARM_UP, StaticSteps, Taken

CAPTURED = [name for name in registry.builtin("method") if isinstance(new(name), Method) and can_be_captured(new(name))]
PLAIN = Training(epochs=4, batch_size=8, lr=0.05)
TRAININGS = [
    SGD,
    ADAM,
    Training(epochs=4, batch_size=7, lr=0.05, clip_norm=1.0, label_smoothing=0.1, untouched="zero", full_head=True),
    Training(epochs=4, batch_size=8, lr=0.05, momentum=0.9, schedule="step", schedule_steps="0.5", lr_warmup=0.2),
]


def equal(one: Outcome, other: Outcome) -> None:
    assert one.weights_hash == other.weights_hash
    for name in ("task_aware", "task_agnostic", "updates", "images", "history", "forward_passes", "backward_passes"):
        assert getattr(one, name) == getattr(other, name), name


def test_the_methods_whose_steps_can_be_captured() -> None:
    assert {"finetune", "joint", "lwf", "ewc", "mas", "l2", "feature-extraction", "scratch"} <= set(CAPTURED)
    assert not can_be_captured(registry.configure("lwf", registry.find("method", "lwf"), {"teacher": "train-mode"}))


@pytest.mark.parametrize("scenario", ["task", "class", "domain"])
@pytest.mark.parametrize("name", CAPTURED)
def test_they_are_the_same_steps(name: str, scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    watched = StaticSteps._watched  # of our own package
    monkeypatch.setattr(StaticSteps, "_watched", lambda *given: taken.append(1) or watched(*given))
    for training in TRAININGS:
        equal(
            go(new(name), scenario, 2, training=training, capture=True), go(new(name), scenario, 2, training=training)
        )
    assert len(taken) > 10


@pytest.mark.parametrize("backbone", [CNN(channels=2, width=8), MLP(width=8, dropout=0.5)])
def test_with_other_networks(backbone: Backbone) -> None:
    options: dict[str, Any] = {"backbone": backbone, "training": PLAIN}
    equal(go(new("lwf"), "class", 2, capture=True, **options), go(new("lwf"), "class", 2, **options))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "nadam", "radam", "rmsprop", "adagrad", "adafactor"])
def test_with_every_optimiser(optimizer: Any) -> None:
    training = Training(epochs=4, batch_size=8, lr=0.001, optimizer=optimizer)
    equal(go(new("ewc"), "class", 2, training=training, capture=True), go(new("ewc"), "class", 2, training=training))


def test_steps_of_one_form_share_their_buffers() -> None:
    """What a graph reads and writes stays where it is: the batch comes to the same memory."""
    steps, places, seen = StaticSteps([Method_of_nothing()], torch.device("cpu")), set(), []

    def take(batch: Sequence[Tensor]) -> list[Taken]:
        index, y, ids = batch
        places.add((index.data_ptr(), y.data_ptr(), ids.data_ptr()))
        seen.append(index.tolist() if len(seen) < WARM_UP else (index + 0).sum())
        return [Taken(y.double().mean(), len(y))]

    for number in range(WARM_UP + 5):
        batch = torch.full((4,), number), torch.full((4,), number), torch.zeros(4)
        assert float(steps.take(((4, 0.1, (0,)),), take, batch)[0].loss) == number
        if number == WARM_UP - 1:
            places.clear()
    assert len(places) == 1
    assert [int(each) for each in seen[WARM_UP:]] == [4 * number for number in range(WARM_UP, WARM_UP + 5)]


class Method_of_nothing(Method):
    def __init__(self) -> None:
        self.network = type("Network", (), {"passes": None})()  # type: ignore[assignment]


@dataclass
class Bad(Method):
    """Says that its steps can be captured, and they cannot"""

    name: ClassVar[str] = "bad"
    captured: ClassVar[bool] = True
    fault: str = "none"

    def start_task(self, task: Any) -> None:
        self.count, self.kept, self.total = 0, [], torch.zeros(())

    def loss(self, step: Step) -> Tensor:
        loss = step.cross_entropy()
        if self.fault == "counts":
            self.count += 1
        elif self.fault == "keeps":
            self.kept.append(loss.detach())
        elif self.fault == "replaces":
            self.total = self.total + loss.detach()
        elif self.fault == "adds in place":
            self.total += loss.detach()
        elif self.fault == "looks":
            return loss * (2.0 if loss.item() > 0.1 else 1.0)
        elif self.fault == "decides":
            return loss if loss > 0.1 else 2 * loss
        elif self.fault == "masks":
            return loss + 0 * step.outputs[step.batch.y > 0].sum()
        elif self.fault == "draws":
            return loss * torch.rand((), generator=self.run.stream("bad"))
        return loss


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("counts", "a step changes its count"),
        ("keeps", "a step changes its kept"),
        ("replaces", "a step changes its total"),
        ("looks", "a step calls item"),
        ("decides", "a step calls __bool__"),
        ("masks", "a step indexes by a mask"),
        ("draws", "a step calls rand"),
    ],
)
def test_what_a_graph_could_not_repeat_is_found(fault: str, message: str) -> None:
    with pytest.raises(ClbenchError, match=f"Bad says that its steps can be captured, but {message}"):
        go(Bad(fault=fault), "class", 1, training=PLAIN, capture=True)
    go(Bad(fault=fault), "class", 1, training=PLAIN)  # one by one it may


@pytest.mark.parametrize("fault", ["none", "adds in place"])
def test_what_a_graph_can_repeat_is_no_fault(fault: str) -> None:
    method = Bad(fault=fault)
    equal(go(method, "class", 1, training=PLAIN, capture=True), go(Bad(fault=fault), "class", 1, training=PLAIN))


def test_who_derives_from_such_a_method_says_so_itself() -> None:
    class Derived(Bad):
        pass

    assert can_be_captured(Bad())
    assert not can_be_captured(Derived())
    go(Derived(fault="looks"), "class", 1, training=PLAIN, capture=True)  # one by one
