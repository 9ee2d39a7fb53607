"""Backbones and the expanding head: one network shape for all methods and scenarios."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from torch import Tensor, nn

from clbench.errors import ClbenchError
from clbench.seeding import seed_default

Initialisation = Literal["pytorch", "kaiming", "xavier"]


def initialise(module: nn.Module, scheme: Initialisation) -> None:
    """Draw the weights of every linear and convolutional layer anew; `pytorch` leaves U(±1/√fan_in) as built.

    `kaiming` is N(0, 1/fan_in) (gain 1; He et al. 2015), `xavier` is Glorot & Bengio's (2010) uniform law. Biases stay.
    """
    if scheme == "pytorch":
        return
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            if scheme == "kaiming":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            else:
                nn.init.xavier_uniform_(layer.weight)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Base of the backbones: a dataclass whose fields are the model's settings and whose `build` makes the network."""

    name: ClassVar[str]
    chunk: ClassVar[int] = 256  # images in a forward pass without training; a CNN's memory for more is mapped anew
    initialisation: Initialisation = "pytorch"
    head_initialisation: Initialisation = "pytorch"

    @property
    def channels_last(self) -> bool:
        """Whether its convolutions run in channels-last order on the CPU, where that is quicker."""
        return False

    def build(self, input_shape: Sequence[int]) -> nn.Module:
        """Return a module that maps [n, *input_shape] to features [n, d]."""
        raise NotImplementedError(f"{type(self).__name__} does not define build")


@dataclass(frozen=True, kw_only=True)
class MLP(Backbone):
    """Multilayer perceptron with ReLU."""

    name: ClassVar[str] = "mlp"
    chunk: ClassVar[int] = 1024
    width: Annotated[int, Ge(1)] = 256
    depth: Annotated[int, Ge(1)] = 1  # hidden layers
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0  # after every hidden layer

    def build(self, input_shape: Sequence[int]) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        width = int(torch.Size(input_shape).numel())
        for _ in range(self.depth):
            layers += [nn.Linear(width, self.width), nn.ReLU()]
            layers += [Dropout(self.dropout)] if self.dropout else []
            width = self.width
        return nn.Sequential(*layers)


@dataclass(frozen=True, kw_only=True)
class CNN(Backbone):
    """Two 3×3 convolutions, each with ReLU and 2×2 max-pooling, and one hidden layer."""

    name: ClassVar[str] = "cnn"
    channels: Annotated[int, Ge(1)] = 32  # of the first convolution; the second has twice as many
    width: Annotated[int, Ge(1)] = 256
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0  # after the hidden layer

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
        widths = [self.channels * 2**stage for stage in range(4)]
        layers: list[nn.Module] = [
            nn.Conv2d(input_shape[0], widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        previous, size = widths[0], min(input_shape[1:])
        for stage, width in enumerate(widths):
            # never down to 1×1, where batch norm has nothing to average in a batch of one image
            stride = 2 if stage > 0 and size > 3 else 1
            layers += [_ResidualBlock(previous, width, stride), _ResidualBlock(width, width, 1)]
            previous, size = width, -(-size // stride)
        return nn.Sequential(*layers, _GlobalAverage())


class _ResidualBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class _GlobalAverage(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))  # unlike adaptive pooling, deterministic on CUDA


class Dropout(nn.Dropout):
    """PyTorch's dropout, its masks drawn as 16 random bits per element on the CPU, where PyTorch draws doubles.

    The probability is rounded to a multiple of 2⁻¹⁶, and what is kept is scaled by that of being kept, so that the
    expectation stays exact.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu":
            return super().forward(x)
        dropped = min(round(self.p * 2**16), 2**16 - 1)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        mask = torch.ge(bits[: x.numel()].view(x.shape), dropped - 2**15, out=torch.empty_like(x))
        return x * mask.mul_(2**16 / (2**16 - dropped))


class ExpandingHeadModel(nn.Module):
    """A backbone under a head that grows by one Linear block at a time; old blocks are never touched.

    All initial weights come from the streams (seed, *purpose): the backbone's from one, each block's from its own, so
    that a block starts the same whether it is added late or at the start.
    """

    def __init__(self, backbone: Backbone, input_shape: Sequence[int], seed: int, *purpose: str | int):
        super().__init__()
        self._seed, self._purpose = seed, purpose
        self._head_initialisation = backbone.head_initialisation
        self.chunk = backbone.chunk
        with torch.random.fork_rng(devices=[]):
            seed_default(seed, *purpose, "backbone")
            self.backbone = backbone.build(input_shape)
            initialise(self.backbone, backbone.initialisation)
        self.head = nn.ModuleList()
        self.widths: list[int] = []  # classes per block
        self.owners: Tensor  # the block of each column [classes]
        self.register_buffer("owners", torch.zeros(0, dtype=torch.long), persistent=False)
        self.seen = 0  # blocks that take part: of the tasks seen so far
        self.images_forwarded = 0  # through the backbone, since it was built
        with torch.no_grad():
            training = self.backbone.training
            shape = self.backbone.eval()(torch.zeros(1, *input_shape)).shape
            self.backbone.train(training)
        if len(shape) != 2:
            raise ClbenchError(f"a backbone returns features [n, d], this one returned {list(shape)}")
        self.n_features = int(shape[1])

    def expand(self, n_classes: int) -> None:
        """Append a block of `n_classes` outputs; the old blocks keep their weights bit for bit."""
        reference = next(self.parameters(), None)
        with torch.random.fork_rng(devices=[]):
            seed_default(self._seed, *self._purpose, "block", len(self.head))
            block = nn.Linear(self.n_features, n_classes)
            initialise(block, self._head_initialisation)
        self.head.append(block if reference is None else block.to(reference))
        self.widths.append(n_classes)
        self.owners = torch.cat([self.owners, self.owners.new_full((n_classes,), len(self.widths) - 1)])

    def columns(self, block: int) -> slice:
        """Return the head's columns that belong to a block."""
        start = sum(self.widths[:block])
        return slice(start, start + self.widths[block])

    @property
    def newest(self) -> nn.Module:
        """The block of the current task (in the domain scenario: the only one)."""
        return self.head[self.seen - 1]

    def features(self, x: Tensor) -> Tensor:
        """Map images [n, *input_shape] to features [n, d]."""
        self.__dict__["images_forwarded"] += x.shape[0]  # past nn.Module's own and slow way to set an attribute
        return _full(self.backbone(x))

    def logits(self, features: Tensor, blocks: Sequence[int], reached: Sequence[int] | None = None) -> Tensor:
        """Map features [n, d] to the outputs of some blocks [n, their classes]; gradients reach only `reached` ones."""
        if len(blocks) == 1:
            return _full(self.head[blocks[0]](features))
        chosen: list[nn.Linear] = [self.head[block] for block in blocks]  # type: ignore[misc]
        live = [reached is None or block in reached for block in blocks]
        weight = torch.cat([b.weight if on else b.weight.detach() for b, on in zip(chosen, live, strict=True)])
        bias = torch.cat([b.bias if on else b.bias.detach() for b, on in zip(chosen, live, strict=True)])
        return _full(F.linear(features, weight, bias))

    def restored(self, state: Mapping[str, Tensor]) -> ExpandingHeadModel:
        """Return a copy that has these weights, and as many blocks as they are for, at most its own."""
        other = copy.deepcopy(self)
        blocks = len({name.split(".")[1] for name in state if name.startswith("head.")})
        other.head, other.widths = other.head[:blocks], other.widths[:blocks]
        other.owners = other.owners[: sum(other.widths)]
        other.load_state_dict(state)
        return other

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, *input_shape] to the outputs of every block there is [n, classes]."""
        return self.logits(self.features(x), range(len(self.head)))


def _full(x: Tensor) -> Tensor:
    """Return what autocast has made bf16 as float32, so that losses are not rounded too."""
    return x.float() if x.dtype == torch.bfloat16 else x
