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
from clbench.models.backbones import CNN, MLP, Backbone, ResNet18, ResNet32
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


def test_weights_by_the_side_of_a_kernel() -> None:
    """U(±1/√(3 · inputs)) of 3×3 kernels and U(±1/√inputs) of 1×1 ones, as A-GEM's code draws them."""
    network = ExpandingHeadModel(ResNet18(initialisation="side"), (3, 32, 32), 0)
    network.expand(5)
    convolutions = [layer.weight for layer in network.backbone.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert len(convolutions) == 20
    for weight in convolutions:
        bound = (weight.shape[1] * weight.shape[3]) ** -0.5
        assert 0.97 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert network.head[0].weight.abs().max() <= 160**-0.5


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


@pytest.mark.parametrize(
    ("backbone", "classes", "parameters"),
    [
        (ResNet18(), 100, 1_109_240),  # Lopez-Paz & Ranzato (2017)
        # He et al. (2015), table 6: 0.27, 0.46, 0.85, 1.7 million
        (ResNet32(blocks=3), 10, 269_722),
        (ResNet32(), 10, 464_154),
        (ResNet32(blocks=9), 10, 853_018),
        (ResNet32(blocks=18), 10, 1_727_962),
    ],
)
def test_resnets_have_their_authors_parameters(backbone: Backbone, classes: int, parameters: int) -> None:
    model = ExpandingHeadModel(backbone, (3, 32, 32), 0)
    model.expand(classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_parameters_of_resnet32_by_formula() -> None:
    """Stem, 2n convolutions of 3×3 in each stage, the first from the stage before, two numbers of batch norm each."""
    stem, n, head = 3 * 16 * 9 + 2 * 16, 5, 64 * 10 + 10
    stages = sum(
        (before * width + (2 * n - 1) * width**2) * 9 + 2 * n * 2 * width
        for before, width in ((16, 16), (16, 32), (32, 64))
    )
    assert stem + stages + head == 464_154


def test_shortcuts_without_parameters_skip_pixels_and_pad_channels() -> None:
    network = ResNet32(channels=2, blocks=1).build((1, 8, 8)).eval()
    block = network[4]  # the first of the second stage: from 2 to 4 channels, at half the size
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
    x = torch.rand(3, 2, 8, 8)
    expected = np.zeros((3, 4, 4, 4), np.float32)
    expected[:, :2] = x.numpy()[:, :, ::2, ::2]
    np.testing.assert_array_equal(block(x).detach().numpy(), expected)


def test_a_frozen_backbone_has_no_parameters_and_stays_in_eval_mode() -> None:
    tuned = ExpandingHeadModel(ResNet18(channels=2), (1, 8, 8), 0)
    frozen = ExpandingHeadModel(ResNet18(channels=2, frozen=True), (1, 8, 8), 0)
    count = sum(parameter.numel() for parameter in tuned.parameters())
    for model in (tuned, frozen):
        model.expand(2)
        model.train()
    assert [name for name, _ in frozen.named_parameters()] == ["head.0.weight", "head.0.bias"]
    assert frozen.frozen_parameters == count
    assert frozen.state_dict().keys() == tuned.state_dict().keys()
    assert not any(module.training for module in frozen.backbone.modules())
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    x = torch.rand(4, 1, 8, 8)
    frozen(x).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())  # batch norm's too
    torch.testing.assert_close(frozen(x), tuned.eval()(x))


def test_batch_norm_by_running_averages() -> None:
    model = ExpandingHeadModel(ResNet18(channels=2, batch_norm="running"), (1, 8, 8), 0).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    x = torch.rand(4, 1, 8, 8)
    features = model.features(x)
    features.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert all(parameter.grad is not None for parameter in model.parameters())  # weights of batch norm train
    torch.testing.assert_close(features, model.eval().features(x))


@pytest.mark.parametrize("backbone", [MLP(), CNN(), ResNet18(), ResNet32()])
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
