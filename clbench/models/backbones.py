"""The backbones: networks that map images to features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from clbench.errors import ClbenchError, UsageError
from clbench.models.dropout import Dropout
from clbench.models.weights import check_file, load_file

Initialisation = Literal["pytorch", "kaiming", "xavier", "truncated", "side"]
Biases = Literal["pytorch", "0", "0.1"]
ADDED = {"added": True}  # marks fields that are younger than the first records: see `registry.settings`
FILE = {"file": True}  # marks fields that name a file, whose content is part of a run's key: see `own_code.code_hash`
Activation = Literal["relu", "leaky-relu", "elu", "gelu", "silu", "tanh", "sigmoid"]
ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def initialise(module: nn.Module, scheme: Initialisation, biases: Biases = "pytorch") -> None:
    """Draw the weights of every linear and convolutional layer anew; `pytorch` leaves U(±1/√fan_in) as built.

    `kaiming` is N(0, 1/fan_in) (gain 1; He et al. 2015), `xavier` is Glorot & Bengio's (2010) uniform law, `truncated`
    N(0, 0.1²) within two deviations, `side` U(±1/√(k · inputs)) of k×k kernels. Biases stay as built, or become 0 or
    0.1.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            if scheme == "kaiming":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            elif scheme == "xavier":
                nn.init.xavier_uniform_(layer.weight)
            elif scheme == "truncated":
                nn.init.trunc_normal_(layer.weight, std=0.1, a=-0.2, b=0.2)
            elif scheme == "side":
                bound = (layer.weight.shape[1] * layer.weight.shape[-1] ** (layer.weight.ndim == 4)) ** -0.5
                nn.init.uniform_(layer.weight, -bound, bound)
            if biases != "pytorch" and layer.bias is not None:
                nn.init.constant_(layer.bias, float(biases))


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Base of the backbones: a dataclass whose fields are the model's settings and whose `build` makes the network."""

    name: ClassVar[str]
    chunk: ClassVar[int] = 256  # images in a forward pass without training; a CNN's memory for more is mapped anew
    # how weights are drawn. pytorch: U(±1/√fan_in); kaiming: N(0, 1/fan_in); xavier: Glorot & Bengio's uniform law;
    # truncated: N(0, 0.1²) within two deviations; side: U(±1/√(k · inputs)) of k×k kernels, as in A-GEM's code
    initialisation: Initialisation = "pytorch"
    head_initialisation: Initialisation = "pytorch"  # the same, of the outputs
    biases: Biases = field(default="pytorch", metadata=ADDED)  # what they all start from, the head's too
    # whether a head that is there from the start is drawn as one layer of all classes: that matters to laws that look
    # at the number of outputs
    one_head: bool = field(default=False, metadata=ADDED)
    # the outputs. linear: w·φ + b; cosine: cosine_scale · cos(w, φ), without b, as in LUCIR and the code of ER-ACE
    head: Literal["linear", "cosine"] = field(default="linear", metadata=ADDED)
    cosine_scale: Annotated[float, Gt(0)] = field(default=10.0, metadata=ADDED)  # of a cosine head
    # a file of weights that every run starts from, .safetensors or .pt, or what --save-models has written
    weights: str | None = field(default=None, metadata={**ADDED, **FILE})
    frozen: bool = field(default=False, metadata=ADDED)  # only the head trains; the backbone stays in eval mode
    # what batch norm goes by in training. batch: the mean and variance of the batch; running: its running averages,
    # which stay as they were loaded
    batch_norm: Literal["batch", "running"] = field(default="batch", metadata=ADDED)

    def __post_init__(self) -> None:
        """Raise UsageError for settings that make no sense together, and for a file of weights that is not there."""
        file = self.weights_file
        if file is not None:
            check_file(file)
        if self.starts_from_weights and (self.initialisation, self.biases) != ("pytorch", "pytorch"):
            raise UsageError("initialisation and biases draw weights, and these are loaded: leave them out")

    @property
    def weights_file(self) -> Path | None:
        """The file of weights that every run starts from; a class that has a field `weights` of its own loads it."""
        marked = any(one.name == "weights" and one.metadata.get("file") for one in fields(self))
        return Path(self.weights).expanduser() if marked and self.weights is not None else None

    @property
    def starts_from_weights(self) -> bool:
        """Whether the network starts from weights that are not drawn."""
        return self.weights_file is not None

    @property
    def channels_last(self) -> bool:
        """Whether its convolutions run in channels-last order on the CPU, where that is quicker."""
        return False

    def build(self, input_shape: Sequence[int]) -> nn.Module:
        """Return a module that maps [n, *input_shape] to features [n, d]."""
        raise NotImplementedError(f"{type(self).__name__} does not define build")

    def load_weights(self, network: nn.Module) -> None:
        """Put the file of weights, if there is one, into a network that `build` made."""
        if self.weights_file is not None:
            load_file(network, self.weights_file)


@dataclass(frozen=True, kw_only=True)
class MLP(Backbone):
    """Multilayer perceptron."""

    name: ClassVar[str] = "mlp"
    chunk: ClassVar[int] = 1024
    width: Annotated[int, Ge(1)] = 256  # units in each hidden layer
    depth: Annotated[int, Ge(1)] = 1  # hidden layers
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0  # share of units that is left out, after every hidden layer
    activation: Activation = field(default="relu", metadata=ADDED)  # of every hidden layer, PyTorch's

    def build(self, input_shape: Sequence[int]) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        width = int(torch.Size(input_shape).numel())
        for _ in range(self.depth):
            layers += [nn.Linear(width, self.width), ACTIVATIONS[self.activation]()]
            layers += [Dropout(self.dropout)] if self.dropout else []
            width = self.width
        return nn.Sequential(*layers)


@dataclass(frozen=True, kw_only=True)
class CNN(Backbone):
    """Two 3×3 convolutions, each with ReLU and 2×2 max-pooling, and one hidden layer."""

    name: ClassVar[str] = "cnn"
    channels: Annotated[int, Ge(1)] = 32  # of the first convolution; the second has twice as many
    width: Annotated[int, Ge(1)] = 256  # units in the hidden layer
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0  # share of units that is left out, after the hidden layer

    @property
    def channels_last(self) -> bool:
        return True

    def build(self, input_shape: Sequence[int]) -> nn.Module:
        channels, height, width = input_shape
        flat = 2 * self.channels * (height // 4) * (width // 4)
        if flat == 0:
            raise ClbenchError(f"cnn needs images of at least 4×4 pixels, these are {height}×{width}: use mlp")
        layers: list[nn.Module] = [
            nn.Conv2d(channels, self.channels, 3, padding=1),
            nn.MaxPool2d(2),  # before the ReLU: the same numbers, from a quarter of the work
            nn.ReLU(),
            nn.Conv2d(self.channels, 2 * self.channels, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(flat, self.width),
            nn.ReLU(),
        ]
        layers += [Dropout(self.dropout)] if self.dropout else []
        return nn.Sequential(*layers)


@dataclass(frozen=True, kw_only=True)
class ResNet18(Backbone):
    """Reduced ResNet-18 with batch norm and a 3×3 stem, as in Lopez-Paz & Ranzato (2017)."""

    name: ClassVar[str] = "resnet18"
    channels: Annotated[int, Ge(1)] = (
        20  # of the first stage; doubled by each of the next three (64 is the full network)
    )

    @property
    def channels_last(self) -> bool:
        # PyTorch 2.14's 1×1 convolutions of stride 2 write outside of their memory on processors without AVX-512 where
        # they have fewer than 8 channels
        return self.channels >= 8

    def build(self, input_shape: Sequence[int]) -> nn.Module:
        return _residual([self.channels * 2**stage for stage in range(4)], 2, "projection", input_shape)


@dataclass(frozen=True, kw_only=True)
class ResNet32(Backbone):
    """ResNet-32 for small images, as in He et al. (2015), section 4.2: 464,154 parameters with 10 classes."""

    name: ClassVar[str] = "resnet32"
    channels: Annotated[int, Ge(1)] = 16  # of the first stage; doubled by each of the next two
    blocks: Annotated[int, Ge(1)] = 5  # in each stage, n of the 6n + 2 layers: 3 is ResNet-20, 9 is ResNet-56

    @property
    def channels_last(self) -> bool:
        return True

    def build(self, input_shape: Sequence[int]) -> nn.Module:
        return _residual([self.channels * 2**stage for stage in range(3)], self.blocks, "padding", input_shape)


Shortcut = Literal["projection", "padding"]  # where shapes change: a 1×1 convolution; or no parameters ('option A')


def _residual(widths: Sequence[int], blocks: int, shortcut: Shortcut, input_shape: Sequence[int]) -> nn.Module:
    """Return a 3×3 convolution, a stage of residual blocks for each width, and the mean over all places."""
    layers: list[nn.Module] = [
        nn.Conv2d(input_shape[0], widths[0], 3, padding=1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
    ]
    previous, size = widths[0], min(input_shape[1:])
    for stage, width in enumerate(widths):
        # never down to 1×1, where batch norm has nothing to average in a batch of one image
        stride = 2 if stage > 0 and size > 3 else 1
        layers += [_ResidualBlock(previous, width, stride, shortcut)]
        layers += [_ResidualBlock(width, width, 1, shortcut) for _ in range(blocks - 1)]
        previous, size = width, -(-size // stride)
    return nn.Sequential(*layers, _GlobalAverage())


class _ResidualBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int, shortcut: Shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if (stride, channels_in) == (1, channels_out):
            return
        if shortcut == "padding":
            self.shortcut = _PaddingShortcut(channels_out - channels_in, stride)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class _PaddingShortcut(nn.Module):
    """Every `stride`-th pixel, and planes of zeros for the channels that are new."""

    def __init__(self, new_channels: int, stride: int):
        super().__init__()
        self.new_channels, self.stride = new_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


class _GlobalAverage(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))  # unlike adaptive pooling, deterministic on CUDA
