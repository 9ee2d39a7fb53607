"""Which outputs compete in the loss, and gradients that are cut."""

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from clbench.experiment import registry
from clbench.method import Batch, Criterion, Phase, Step, Training
from clbench.method.settings import LossOver
from clbench.methods.finetune import Finetune
from clbench.methods.lwf import LwF
from clbench.models import ExpandingHeadModel
from clbench.models.backbones import MLP
from clbench.testing import tiny_tasks

pytestmark = pytest.mark.usefixtures("double")


@pytest.mark.parametrize("outputs_first", [False, True])
@pytest.mark.parametrize(
    ("over", "competing"),
    [
        ("seen", {0: [0, 1, 2, 3], 1: [0, 1, 2, 3]}),
        ("all", {0: [0, 1, 2, 3, 4, 5], 1: [0, 1, 2, 3, 4, 5]}),
        ("own", {0: [0, 1], 1: [2, 3]}),
    ],
)
def test_the_outputs_that_compete_in_class(
    over: LossOver, competing: dict[int, list[int]], outputs_first: bool
) -> None:
    tasks = tiny_tasks(3)
    network = ExpandingHeadModel(MLP(width=8), (1, 8, 8), 0)
    network.expand_to([2, 2, 2])
    network.seen = 2
    for present in ([0], [1], [0, 1]):
        owners = torch.tensor(present).repeat(6)
        x = torch.cat([tasks[t].train.batch(torch.tensor([n])) for n, t in enumerate(owners.tolist())])
        y = owners * 2 + torch.arange(len(x)) // 2 % 2
        batch = Batch(x, y, owners, present, torch.arange(len(x)))
        step = Step(network, batch, Criterion("class", over), Phase(tasks=[]), 0.1, 0.0)
        if outputs_first:
            assert step.outputs.shape == (len(x), 6 if over == "all" else 4)
        z = network(x)
        logs = [log_softmax(z[n, competing[t]], 0)[competing[t].index(y[n])] for n, t in enumerate(owners.tolist())]
        torch.testing.assert_close(step.cross_entropy(), -torch.stack(logs).mean())


@pytest.mark.parametrize("method", [Finetune, LwF])
def test_in_the_warm_up_only_new_outputs_compete(method: type[Finetune | LwF]) -> None:
    found: list[tuple[str, int, int]] = []

    class Watch(method):  # type: ignore[misc, valid-type]
        def loss(self, step: Step) -> Tensor:
            loss: Tensor = super().loss(step)
            found.append((step.phase.name, self.network.seen, step.answers[0][0].shape[1]))
            return loss

    training = Training(epochs=1, warmup_epochs=1, warmup_extra=True, batch_size=8)
    tiny.go(Watch(), "class", tiny_tasks(2), training=training, backbone=MLP(width=8))
    assert set(found) == {("train", 1, 2), ("warm-up", 2, 2), ("train", 2, 4)}


@pytest.mark.parametrize("field", ["clip_norm", "clip_value"])
def test_gradients_are_cut_before_the_step(field: str) -> None:
    limit = 0.05
    before: dict[str, Tensor] = {}
    raw: dict[str, Tensor] = {}
    cuts = 0

    class Watch(Finetune):
        def gradients(self, step: Step, gradient_of: Any) -> Any:
            gradients = super().gradients(step, gradient_of)
            before.update({name: p.detach().clone() for name, p in self.network.named_parameters()})
            raw.update({name: gradient.clone() for name, gradient in gradients.items()})
            return gradients

        def after_step(self, step: Step) -> None:
            nonlocal cuts
            taken = {name: (before[name] - p.detach()) / step.lr for name, p in self.network.named_parameters()}
            if field == "clip_value":
                wanted = {name: gradient.clamp(-limit, limit) for name, gradient in raw.items()}
            else:
                length = sum(gradient.square().sum() for gradient in raw.values()) ** 0.5
                wanted = {name: gradient * min(1.0, limit / float(length)) for name, gradient in raw.items()}
            cuts += any(not torch.equal(wanted[name], raw[name]) for name in raw)
            for name, gradient in wanted.items():
                torch.testing.assert_close(taken[name], gradient, rtol=1e-4, atol=1e-9)

    training = Training(epochs=1, batch_size=8, lr=0.5, **{field: limit})  # type: ignore[arg-type]
    tiny.go(Watch(), "task", tiny_tasks(1), training=training, backbone=MLP(width=8))
    assert cuts


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_label_smoothing_is_pytorchs_over_the_outputs_that_compete(share: float) -> None:
    outputs, y = torch.randn(7, 5), torch.tensor([0, 1, 2, 0, 1, 2, 2])
    criterion = Criterion("class", smoothing=share)
    torch.testing.assert_close(
        criterion.mean_of(outputs, y), torch.nn.functional.cross_entropy(outputs, y, label_smoothing=share)
    )
    three = outputs.clone().requires_grad_()
    masked = three.masked_fill(torch.arange(5) >= 3, -torch.inf)  # as where the last two do not compete
    expected = torch.nn.functional.cross_entropy(outputs[:, :3], y, label_smoothing=share, reduction="none")
    torch.testing.assert_close(criterion.of_outputs(masked, y), expected)
    criterion.mean_of(masked, y).backward()
    assert three.grad is not None
    assert three.grad.isfinite().all()
    assert (three.grad[:, 3:] == 0).all()


@pytest.mark.parametrize("scenario", ["task", "class", "domain"])
def test_training_takes_the_smoothed_loss(scenario: Any) -> None:
    """The loss before the first step, of the weights that a rate of nearly 0 leaves as they are."""
    (task,) = tiny_tasks(1)
    training = Training(batch_size=1000, lr=1e-30, label_smoothing=0.25)
    method = Finetune()
    outcome = tiny.go(method, scenario, [task], training=training, backbone=MLP(width=8))
    x, y = task.train.batch(torch.arange(len(task.train))), task.train.y
    expected = torch.nn.functional.cross_entropy(method.network(x), y, label_smoothing=0.25)
    assert outcome.history[0]["loss"][0] == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["er-ace", "lucir", "bic", "ss-il"])
def test_a_loss_of_a_methods_own_is_smoothed_too(name: str) -> None:
    method = registry.find("method", name)
    first = [
        tiny.go(method(), "class", 2, training=Training(batch_size=8, lr=0.01, label_smoothing=share)).history[0][
            "loss"
        ]
        for share in (0.0, 0.5)
    ]
    assert first[0] != first[1]


def test_every_phase_is_smoothed() -> None:
    found: dict[str, float] = {}

    class Watch(Finetune):
        def loss(self, step: Step) -> Tensor:
            found[step.phase.name] = step.criterion.smoothing
            return super().loss(step)

    tiny.go(Watch(), "class", 2, training=Training(epochs=2, batch_size=8, label_smoothing=0.25, warmup_epochs=1))
    assert found == {"train": 0.25, "warm-up": 0.25}
