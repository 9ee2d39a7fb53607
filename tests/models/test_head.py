"""What a head and a backbone start from."""

import pytest
import tiny
import torch

from clbench.experiment import registry
from clbench.method.importance import importance
from clbench.models import ExpandingHeadModel
from clbench.models.backbones import MLP
from clbench.testing import tiny_tasks


def test_a_head_that_is_there_from_the_start_can_be_drawn_as_one_layer() -> None:
    """Xavier's bound is √(6 / (inputs + outputs)): of all classes, and not of a block's."""
    widths, bounds = [2, 2, 2], []
    for one_head in (False, True):
        backbone = MLP(width=200, head_initialisation="xavier", biases="0", one_head=one_head)
        network = ExpandingHeadModel(backbone, (1, 4, 4), 0)
        network.expand_to(widths)
        weights = torch.cat([block.weight for block in network.head])
        bounds.append(weights.abs().max().item())
        assert weights.shape == (6, 200)
        assert not any(p.any() for name, p in network.named_parameters() if name.endswith("bias"))
    assert bounds == pytest.approx([(6 / 202) ** 0.5, (6 / 206) ** 0.5], rel=0.01)
    assert bounds[1] < (6 / 206) ** 0.5


def test_truncated_weights_and_constant_biases() -> None:
    network = ExpandingHeadModel(MLP(width=300, initialisation="truncated", biases="0.1"), (1, 9, 9), 0)
    weights, biases = network.backbone[1].weight, network.backbone[1].bias
    assert weights.abs().max() <= 0.2
    assert weights.std().item() == pytest.approx(0.088, abs=0.001)  # of N(0, 0.1²) cut at two deviations, by SciPy
    assert biases.tolist() == pytest.approx([0.1] * 300)


@pytest.mark.parametrize("one_head", [False, True])
def test_a_cosine_heads_outputs_are_scaled_cosines(one_head: bool) -> None:
    network = ExpandingHeadModel(MLP(width=8, head="cosine", cosine_scale=7.0, one_head=one_head), (1, 4, 4), 0)
    network.expand_to([2, 3])
    x = torch.randn(5, 1, 4, 4)
    features, weight = network.features(x), torch.cat([block.weight for block in network.head])
    assert not [name for name, _ in network.named_parameters() if name.startswith("head") and "bias" in name]
    by_hand = [[7 * (f @ w / (f.norm() * w.norm())).item() for w in weight] for f in features]
    torch.testing.assert_close(network(x), torch.tensor(by_hand))
    torch.testing.assert_close(network.logits(features, [1]), torch.tensor(by_hand)[:, 2:])


def test_importances_under_a_cosine_head_are_those_of_single_samples() -> None:
    task = tiny_tasks(1)[0]
    network = ExpandingHeadModel(MLP(width=8, head="cosine"), (1, 8, 8), 0)
    network.expand(2)
    found = importance(network, task.train, slice(0, 2), lambda z, rows: z.square().sum(1), torch.square)
    expected = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for row in range(len(task.train)):
        score = network(task.train.batch(torch.tensor([row]))).square().sum()
        for name, gradient in zip(expected, torch.autograd.grad(score, list(network.parameters())), strict=True):
            expected[name] += gradient.square() / len(task.train)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("name", [name for name in registry.builtin("method")])
def test_every_method_trains_under_a_cosine_head(name: str) -> None:
    cls = registry.builtin("method")[name]
    outcome = tiny.go(cls(), sorted(cls.scenarios)[0], backbone=MLP(width=8, head="cosine"))  # type: ignore[arg-type]
    assert len(outcome.task_aware) == 4
