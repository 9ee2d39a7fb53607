"""clbench's network in the shape that Avalanche's strategies take: `features`, then one of Avalanche's classifiers.

It starts from the seed's weights, as any method's: blocks of outputs that a task adds are drawn by clbench, and put
into what Avalanche's classifier has added.
"""

from __future__ import annotations

from typing import Any

import torch
from avalanche.models import BaseModel, IncrementalClassifier, MultiHeadClassifier, MultiTaskModule
from torch import Tensor, nn

from clbench.errors import ClbenchError
from clbench.models.head import ExpandingHeadModel, Passes


class Features(nn.Module):
    """A backbone that counts the images which pass through it, and those whose gradient comes back."""

    def __init__(self, backbone: nn.Module, passes: Passes):
        super().__init__()
        self.backbone, self.passes = backbone, passes

    def forward(self, x: Tensor) -> Tensor:
        images, passes = len(x), self.passes
        passes.forward += images
        features = self.backbone(x)
        if features.requires_grad:
            features.register_hook(lambda _: _count(passes, images))
        return features


def _count(passes: Passes, images: int) -> None:
    passes.backward += images


class Drawn:
    """The outputs that clbench draws for a seed, block by block."""

    def __init__(self, network: ExpandingHeadModel):
        self.network = network
        network.backbone = nn.Identity()  # only the outputs are asked for

    def block(self, number: int, width: int) -> nn.Module:
        """Return the block of a task: a linear layer of `width` outputs."""
        while len(self.network.head) <= number:
            self.network.expand(width)
        return self.network.head[number]

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """Return weight [count, d] and bias [count] of the first outputs."""
        blocks: list[Any] = list(self.network.head)
        return torch.cat([b.weight for b in blocks])[:count], torch.cat([b.bias for b in blocks])[:count]


class _Outputs(IncrementalClassifier):
    """Avalanche's classifier with one layer of outputs, which grows as classes come."""

    def __init__(self, drawn: Drawn, n_features: int, masking: bool):
        width = sum(drawn.network.widths)
        super().__init__(n_features, width, masking=masking)
        self.drawn = drawn
        self._take(width)

    @torch.no_grad()
    def adaptation(self, experience: Any) -> None:
        before = self.classifier.out_features
        super().adaptation(experience)
        after = self.classifier.out_features
        if after > before:
            self.drawn.block(len(self.drawn.network.head), after - before)
            self._take(after, before)

    @torch.no_grad()
    def _take(self, stop: int, start: int = 0) -> None:
        """Put the seed's weights into the outputs from `start` on."""
        weight, bias = self.drawn.first(stop)
        self.classifier.weight[start:stop] = weight[start:].to(self.classifier.weight)
        self.classifier.bias[start:stop] = bias[start:].to(self.classifier.bias)


class _Heads(MultiHeadClassifier):
    """Avalanche's classifier with a layer of outputs for each task."""

    def __init__(self, drawn: Drawn, n_features: int):
        super().__init__(n_features, drawn.network.widths[0])
        self.drawn = drawn
        self._take("0")

    def adaptation(self, experience: Any) -> None:
        before = set(self.classifiers)
        super().adaptation(experience)
        for name in sorted(set(self.classifiers) - before, key=int):
            self._take(name, len(experience.classes_in_this_experience))

    @torch.no_grad()
    def _take(self, name: str, width: int = 0) -> None:
        """Put the seed's weights into a new layer."""
        block: Any = self.drawn.block(int(name), width)
        layer = self.classifiers[name].classifier
        layer.weight[: len(block.weight)] = block.weight.to(layer.weight)
        layer.bias[: len(block.bias)] = block.bias.to(layer.bias)


class Network(BaseModel, nn.Module):
    """Images [n, *shape] → outputs [n, classes] of one layer."""

    def __init__(self, network: ExpandingHeadModel, masking: bool = False):
        super().__init__()
        self.features, drawn = _taken_apart(network)
        self.classifier: nn.Module = _Outputs(drawn, network.n_features, masking)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))

    def get_features(self, x: Tensor) -> Tensor:
        """Return the features [n, d], which LFL asks for."""
        return self.features(x)


class TaskNetwork(MultiTaskModule):
    """Images [n, *shape] and their tasks [n] → outputs [n, classes of a task]; for no tasks, those of each, by task."""

    def __init__(self, network: ExpandingHeadModel):
        super().__init__()
        self.features, drawn = _taken_apart(network)
        self.classifier = _Heads(drawn, network.n_features)

    def forward(self, x: Tensor, task_labels: Any) -> Any:
        return self.classifier(self.features(x), task_labels)


def _taken_apart(network: ExpandingHeadModel) -> tuple[Features, Drawn]:
    if any(getattr(block, "bias", None) is None for block in network.head):
        raise ClbenchError("the classifiers of Avalanche are linear: leave head=cosine out")
    return Features(network.backbone, network.passes), Drawn(network)
