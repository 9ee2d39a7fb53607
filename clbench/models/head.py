"""A backbone under a head that grows: the one network that all methods share."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clbench.errors import ClbenchError, line_of, shown
from clbench.models.backbones import Backbone, initialise
from clbench.seeding import seed_default

BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Passes:
    """Counts of images that went through a network; copies of the network count into the same one.

    `forward`: through the backbone. `backward`: in the gradients that were computed. `pending`: in a loss whose
    gradient has not been computed yet.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.forward = self.pending = self.backward = 0

    def count_forward(self, images: int) -> None:
        self.forward += images
        if torch.is_grad_enabled():
            self.pending += images

    def count_backward(self) -> None:
        """Count the images of a loss whose gradient was computed just now."""
        self.backward += self.pending
        self.pending = 0

    def __deepcopy__(self, memo: Any) -> Passes:
        return self


class ExpandingHeadModel(nn.Module):
    """A backbone under a head that grows by one linear or cosine block at a time; old blocks are never touched.

    All initial weights come from the streams (seed, *purpose): the backbone's from one, each block's from its own, so
    that a block starts the same whether it is added late or at the start.
    """

    def __init__(self, backbone: Backbone, input_shape: Sequence[int], seed: int, *purpose: str | int):
        super().__init__()
        self._seed, self._purpose = seed, purpose
        self._settings, self.input_shape = backbone, tuple(input_shape)
        self.chunk = backbone.chunk
        with torch.random.fork_rng(devices=[]):
            seed_default(seed, *purpose, "backbone")
            built = backbone.build(input_shape)
            if not isinstance(built, nn.Module):
                what = f"{type(backbone).__name__}.build returns {shown(built)}{line_of(type(backbone))}"
                raise ClbenchError(f"{what}: a torch.nn.Module is needed")
            self.backbone = built
            initialise(self.backbone, backbone.initialisation, backbone.biases)
        backbone.load_weights(self.backbone)
        # of a frozen backbone: they become buffers, so that no method or optimiser takes them for trainable
        self.frozen_parameters = freeze(self.backbone) if backbone.frozen else 0
        self.head = nn.ModuleList()
        self.widths: list[int] = []  # classes per block
        self.owners: Tensor  # the block of each column [classes]
        self.register_buffer("owners", torch.zeros(0, dtype=torch.long), persistent=False)
        self.seen = 0  # blocks that take part: of the tasks seen so far
        self.passes = Passes()
        with torch.no_grad():
            training = self.backbone.training
            features = self.backbone.eval()(torch.zeros(1, *input_shape))
            self.backbone.train(training)
        if not isinstance(features, Tensor) or features.ndim != 2:
            what = list(features.shape) if isinstance(features, Tensor) else f"a {type(features).__name__}"
            whose = f"the network that {type(backbone).__name__} builds{line_of(type(backbone))}"
            raise ClbenchError(f"a backbone returns features [n, d], {whose} returned {what}")
        self.n_features = int(features.shape[1])

    def expand(self, n_classes: int) -> None:
        """Append a block of `n_classes` outputs; the old blocks keep their weights bit for bit."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        reference = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
        with torch.random.fork_rng(devices=[]):
            seed_default(self._seed, *self._purpose, "block", len(self.head))
            block = self._new_block(n_classes)
        self.head.append(block if reference is None else block.to(reference))
        self.widths.append(n_classes)
        self.owners = torch.cat([self.owners, self.owners.new_full((n_classes,), len(self.widths) - 1)])

    def expand_to(self, widths: Sequence[int]) -> None:
        """Append a block of each of some widths to an empty head; with `one_head` they are drawn as one layer."""
        for width in widths:
            self.expand(width)
        if self._settings.one_head:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                seed_default(self._seed, *self._purpose, "head")
                whole = self._new_block(sum(widths))
                for number, block in enumerate(self.head):
                    own = self.columns(number)
                    block.load_state_dict({name: value[own] for name, value in whole.state_dict().items()})

    def _new_block(self, n_classes: int) -> nn.Linear:
        if self._settings.head == "cosine":
            block: nn.Linear = _CosineBlock(self.n_features, n_classes, self._settings.cosine_scale)
        else:
            block = nn.Linear(self.n_features, n_classes)
        initialise(block, self._settings.head_initialisation, self._settings.biases)
        return block

    def columns(self, block: int) -> slice:
        """Return the head's columns that belong to a block."""
        start = sum(self.widths[:block])
        return slice(start, start + self.widths[block])

    def train(self, mode: bool = True) -> ExpandingHeadModel:
        """Set training or evaluation mode; a frozen backbone, and batch norm that goes by running averages, stay."""
        super().train(mode)
        if self._settings.frozen:
            self.backbone.eval()
        if self._settings.batch_norm == "running":
            for module in self.backbone.modules():
                if isinstance(module, BATCH_NORM):
                    module.eval()
        return self

    def beside_others(self, scores: Tensor, block: int) -> Tensor:
        """Put the scores of a block's classes [n, its classes] beside −∞ for all others: [n, classes]."""
        own = self.columns(block)
        return F.pad(scores, (own.start, sum(self.widths) - own.stop), value=-torch.inf)

    @property
    def newest(self) -> nn.Module:
        """The block of the current task (in the domain scenario: the only one)."""
        return self.head[self.seen - 1]

    def features(self, x: Tensor) -> Tensor:
        """Map images [n, *input_shape] to features [n, d]."""
        self.passes.count_forward(len(x))
        return _full(self.backbone(x))

    def logits(self, features: Tensor, blocks: Sequence[int], reached: Sequence[int] | None = None) -> Tensor:
        """Map features [n, d] to the outputs of some blocks [n, their classes]; gradients reach only `reached` ones."""
        if len(blocks) == 1:
            return _full(self.head[blocks[0]](features))
        chosen: list[nn.Linear] = [self.head[block] for block in blocks]  # type: ignore[misc]
        live = [reached is None or block in reached for block in blocks]
        weight = torch.cat([b.weight if on else b.weight.detach() for b, on in zip(chosen, live, strict=True)])
        if self._settings.head == "cosine":
            return _full(_cosines(features, weight, self._settings.cosine_scale))
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


def freeze(module: nn.Module) -> int:
    """Make buffers of all parameters of a module, under the same names, and return how many numbers they hold."""
    count = 0
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach())
            count += parameter.numel()
    return count


class _CosineBlock(nn.Linear):
    """A block whose outputs are scaled cosines."""

    def __init__(self, n_features: int, n_classes: int, scale: float):
        super().__init__(n_features, n_classes, bias=False)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        return _cosines(features, self.weight, self.scale)


def _cosines(features: Tensor, weight: Tensor, scale: float) -> Tensor:
    """Return scale · cos(w, φ) for features [n, d] and weights [classes, d]: [n, classes]."""
    return scale * F.linear(F.normalize(features), F.normalize(weight))


def _full(x: Tensor) -> Tensor:
    """Return what autocast has made bf16 as float32, so that losses are not rounded too."""
    return x.float() if x.dtype == torch.bfloat16 else x
