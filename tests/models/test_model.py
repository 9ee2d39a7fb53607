"""The expanding head and the backbones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from clbench.errors import ClbenchError, UsageError
from clbench.experiment import registry
from clbench.models import ExpandingHeadModel
from clbench.models.backbones import CNN, MLP, Backbone, ResNet18
from clbench.models.dropout import Dropout


def test_growth_keeps_old_blocks_bit_for_bit() -> None:
    model = ExpandingHeadModel(MLP(width=8), (1, 4, 4), 0)
    model.expand(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.expand(3)
    after = model.state_dict()
    assert set(after) == {*before, "head.1.weight", "head.1.bias"}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_outputs_are_the_blocks_side_by_side() -> None:
    model = ExpandingHeadModel(MLP(width=8), (1, 4, 4), 0).double()
    for classes in (2, 3, 1):
        model.expand(classes)
    x = torch.randn(5, 1, 4, 4, dtype=torch.double)
    features = model.features(x)
    assert model(x).shape == (5, 6)
    assert [model.columns(block) for block in range(3)] == [slice(0, 2), slice(2, 5), slice(5, 6)]
    for block in range(3):
        torch.testing.assert_close(model(x)[:, model.columns(block)], model.head[block](features))
    torch.testing.assert_close(model.logits(features, [0, 2]), model(x)[:, [0, 1, 5]])


def test_gradients_reach_only_the_blocks_asked_for() -> None:
    model = ExpandingHeadModel(MLP(width=8), (1, 4, 4), 0)
    for _ in range(3):
        model.expand(2)
    features = model.features(torch.randn(5, 1, 4, 4))
    model.logits(features, range(3), reached=[1]).sum().backward()
    assert [block.weight.grad is not None for block in model.head] == [False, True, False]


def test_weights_depend_on_seed_and_purpose_alone() -> None:
    def weights(seed: int, *purpose: str) -> list[torch.Tensor]:
        torch.rand(seed + len(purpose))  # whatever was drawn before must not matter
        model = ExpandingHeadModel(MLP(width=8), (1, 4, 4), seed, *purpose)
        for _ in range(2):
            model.expand(2)
        return list(model.parameters())

    def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
        return all(map(torch.equal, one, other))

    assert equal(weights(0, "weights"), weights(0, "weights"))
    assert not equal(weights(0, "weights"), weights(1, "weights"))
    assert not equal(weights(0, "weights"), weights(0, "scratch"))
    first, second = weights(0)[2], weights(0)[4]
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_building_leaves_the_global_random_state_alone() -> None:
    state = torch.random.get_rng_state()
    ExpandingHeadModel(MLP(), (1, 4, 4), 0).expand(2)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("scheme", "std"), [("pytorch", 1 / math.sqrt(3 * 784)), ("kaiming", 1 / 28), ("xavier", math.sqrt(2 / 1784))]
)
def test_initialisation_has_the_standard_deviation_of_its_law(scheme: str, std: float) -> None:
    model = ExpandingHeadModel(MLP(width=1000, initialisation=scheme), (1, 28, 28), 0)  # type: ignore[arg-type]
    assert model.backbone[1].weight.std().item() == pytest.approx(std, rel=0.01)


def test_head_initialisation_of_the_note() -> None:
    model = ExpandingHeadModel(MLP(width=256, head_initialisation="kaiming"), (1, 28, 28), 0)
    model.expand(1000)
    assert model.head[0].weight.var().item() == pytest.approx(1 / 256, rel=0.02)


def test_parameter_counts() -> None:
    def count(model: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    assert count(MLP(width=400, depth=2).build((1, 28, 28))) == 784 * 400 + 400 + 400 * 400 + 400
    assert count(CNN().build((3, 32, 32))) == 3 * 9 * 32 + 32 + 32 * 9 * 64 + 64 + 64 * 64 * 256 + 256
    # torchvision's ResNet-18 without its classifier has 11,176,512 parameters; the 3×3 stem has 3·49·64 − 3·9·64 fewer
    assert count(ResNet18(channels=64).build((3, 32, 32))) == 11_176_512 - 3 * 64 * (49 - 9)


@pytest.mark.parametrize("backbone", [MLP(), CNN(), ResNet18()])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_every_backbone_takes_every_image_size(backbone: MLP, shape: tuple[int, ...]) -> None:
    model = ExpandingHeadModel(backbone, shape, 0)
    model.expand(2)
    assert model(torch.randn(3, *shape)).shape == (3, 2)


def test_dropout_acts_in_training_only() -> None:
    model = ExpandingHeadModel(MLP(dropout=0.5), (1, 4, 4), 0)
    x = torch.randn(100, 1, 4, 4)
    kept = (model.train().features(x) != 0).float().mean() / (model.eval().features(x) != 0).float().mean()
    assert kept.item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("p", [0.0, 0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(400, 501), (3, 7, 11, 13)])
def test_dropout_drops_each_element_with_its_probability_and_scales_the_rest(p: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.ones(shape, requires_grad=True)
    y = Dropout(p)(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y)  # what was dropped has no gradient, the rest the gradient of its scale
    dropped = int((y == 0).sum())
    assert scipy.stats.binomtest(dropped, x.numel(), p).pvalue > 0.001
    assert y.unique().tolist() == pytest.approx([0.0] * (p > 0 and dropped > 0) + [1 / (1 - p)], rel=2**-16 / (1 - p))


def test_dropout_is_independent_between_elements_and_between_calls() -> None:
    torch.manual_seed(0)
    masks = torch.stack([Dropout(0.3)(torch.ones(64)) != 0 for _ in range(4000)]).double().numpy()
    correlation = np.corrcoef(masks.T)[np.triu_indices(64, 1)] * math.sqrt(4000)  # N(0, 1) each, if independent
    assert scipy.stats.kstest(correlation, "norm").pvalue > 0.001
    in_time = [np.corrcoef(column[1:], column[:-1])[0, 1] * math.sqrt(3999) for column in masks.T]
    assert scipy.stats.kstest(in_time, "norm").pvalue > 0.001


@pytest.mark.parametrize(
    ("activation", "by_hand"),
    [("relu", lambda x: np.maximum(x, 0)), ("tanh", np.tanh), ("gelu", lambda x: x * scipy.stats.norm.cdf(x))],
)
def test_the_activation_of_the_mlp(activation: Any, by_hand: Any) -> None:
    model = ExpandingHeadModel(MLP(width=8, depth=2, activation=activation), (1, 2, 2), 0).double()
    x = torch.randn(5, 1, 2, 2, dtype=torch.double)
    hidden = x.flatten(1).numpy()
    layers = [layer for layer in model.backbone.modules() if isinstance(layer, torch.nn.Linear)]
    for layer in layers:
        hidden = by_hand(hidden @ layer.weight.detach().numpy().T + layer.bias.detach().numpy())
    np.testing.assert_allclose(model.features(x).detach().numpy(), hidden)


def test_the_default_activation_leaves_a_runs_key_alone() -> None:
    assert "activation" not in registry.settings(MLP())
    assert registry.settings(MLP(activation="tanh"))["activation"] == "tanh"
    with pytest.raises(UsageError, match=r"'relu', 'leaky-relu'.*'tanh'"):
        registry.configure("mlp", MLP, {"activation": "tahn"})


@dataclass(frozen=True, kw_only=True)
class BuildsNothing(Backbone):
    def build(self, input_shape: Sequence[int]) -> torch.nn.Module:
        return None  # type: ignore[return-value]


class Two(torch.nn.Flatten):
    def forward(self, x: torch.Tensor) -> Any:
        return x, x


@dataclass(frozen=True, kw_only=True)
class BuildsTwo(Backbone):
    def build(self, input_shape: Sequence[int]) -> torch.nn.Module:
        return Two()


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (
            BuildsNothing(),
            r"BuildsNothing.build returns None \(.*test_model.py, line \d+\): a torch.nn.Module is needed",
        ),
        (BuildsTwo(), r"features \[n, d\], the network that BuildsTwo builds \(.*test_model.py, .* returned a tuple"),
    ],
    ids=["nothing", "a tuple"],
)
def test_a_model_that_gives_no_features_is_named(backbone: Backbone, message: str) -> None:
    with pytest.raises(ClbenchError, match=message):
        ExpandingHeadModel(backbone, (1, 4, 4), 0)
