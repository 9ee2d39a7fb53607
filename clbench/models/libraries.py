"""Networks of other libraries as backbones: `torchvision:NAME` and `timm:NAME`, without their classifier."""

from __future__ import annotations

import importlib
import urllib.error
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from clbench.errors import ClbenchError, UsageError, did_you_mean
from clbench.models.backbones import ADDED, FILE, Backbone
from clbench.models.weights import SUFFIXES

AUXILIARY = ("googlenet", "inception_v3")  # torchvision's networks with further outputs in training


@dataclass(frozen=True, kw_only=True)
class _Library(Backbone):
    """What they share. Grey images are repeated in three channels, as these networks take images in colour."""

    chunk: ClassVar[int] = 64
    network: ClassVar[str]  # its name in the library
    resize: Annotated[int, Ge(1)] | None = field(default=None, metadata=ADDED)  # images are made so many pixels wide

    @property
    def channels_last(self) -> bool:
        return True

    def build(self, input_shape: Sequence[int]) -> nn.Module:
        channels, height, width = input_shape
        if channels not in (1, 3):
            raise ClbenchError(f"{self.name} takes images of 1 or 3 channels, these have {channels}")
        network = _Adapted(self.name, self.made(), self.resize)
        try:
            with torch.no_grad():
                network.eval()(torch.zeros(1, *input_shape))
        except (RuntimeError, ValueError, AssertionError) as error:
            hint = "resize=224 makes them larger" if self.resize is None else f"resize={self.resize} is not its size"
            why = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ClbenchError(f"{self.name} takes no images of {height}×{width} pixels; {hint} ({why})") from error
        return network.train()

    def load_weights(self, network: nn.Module) -> None:
        super().load_weights(network.get_submodule("network"))

    def made(self) -> nn.Module:
        """Return the library's network without its classifier."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Torchvision(_Library):
    """One of torchvision's classification networks, without its classifier."""

    # what every run starts from: torchvision's name, as IMAGENET1K_V1, or a file as of any model; none: drawn weights
    weights: str | None = field(default=None, metadata={**ADDED, **FILE})

    @property
    def weights_file(self) -> Path | None:
        return super().weights_file if self.weights and _is_file(self.weights) else None

    @property
    def starts_from_weights(self) -> bool:
        return self.weights is not None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is not None and self.weights_file is None:
            known = _networks("torchvision").get_model_weights(self.network).__members__
            if self.weights not in known:
                what = f"weights={self.weights} is no file ({', '.join(SUFFIXES)}), and no weights of {self.name}"
                raise UsageError(f"{what}{did_you_mean(self.weights, known)}")

    def made(self) -> nn.Module:
        named = self.weights if self.weights_file is None else None
        # with weights its own builder knows what these need
        options = {"aux_logits": False, "init_weights": True} if self.network in AUXILIARY and named is None else {}
        try:
            network = _networks("torchvision").get_model(self.network, weights=named, **options)
        except urllib.error.URLError as error:
            raise UsageError(_not_at_hand(f"the weights {named} of {self.name}", error)) from error
        outputs = [name for name, layer in network.named_modules() if _is_classifier(layer)]
        parent, _, child = outputs[-1].rpartition(".")
        setattr(network.get_submodule(parent), child, nn.Identity())
        return network


@dataclass(frozen=True, kw_only=True)
class Timm(_Library):
    """One of timm's networks (pip install 'clbench[timm]'), without its classifier."""

    pretrained: bool = field(default=False, metadata=ADDED)  # start from the weights that timm has for it

    @property
    def starts_from_weights(self) -> bool:
        return self.pretrained or super().starts_from_weights

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pretrained and self.weights is not None:
            raise UsageError(f"{self.name}: pretrained=true and weights={self.weights}: give one of them")

    def made(self) -> nn.Module:
        try:
            return _networks("timm").create_model(self.network, pretrained=self.pretrained, num_classes=0)
        except (OSError, RuntimeError) as error:  # it raises either where there is nothing to load or no way to it
            raise UsageError(_not_at_hand(f"the network {self.name}", error)) from error


class _Adapted(nn.Module):
    """A network behind what makes images fit: grey ones in three channels, and another size."""

    def __init__(self, name: str, network: nn.Module, size: int | None):
        super().__init__()
        self.name, self.network, self.size = name, network, size

    def forward(self, x: Tensor) -> Tensor:
        if self.size is not None:
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=True)
        try:
            return self.network(x.expand(-1, 3, -1, -1))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            what = f"{self.name} cannot train on a batch of one image this small"
            instead = "give resize, another --batch-size, or --set training.drop_last=true"
            raise ClbenchError(f"{what}, as batch norm has nothing to average: {instead}") from error


def _is_file(weights: str) -> bool:
    return "/" in weights or weights.lower().endswith(SUFFIXES)


def _is_classifier(layer: nn.Module) -> bool:
    """Whether a layer has ImageNet's 1000 classes; a convolution has them in SqueezeNet."""
    return 1000 in (getattr(layer, "out_features", None), getattr(layer, "out_channels", None))


def _not_at_hand(what: str, error: Exception) -> str:
    why = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return f"{what} cannot be had: {why}; a machine without a way out takes a file: weights=./FILE.safetensors"


def _networks(library: str) -> Any:
    """Import a library's networks, which takes seconds, and is an extra in timm's case: only when one is named."""
    return importlib.import_module({"torchvision": "torchvision.models", "timm": "timm"}[library])


@cache
def library_model(library: str, name: str) -> type[Backbone]:
    """Make the model `torchvision:NAME` or `timm:NAME`; raise UsageError if there is none of that name."""
    if library == "timm":
        try:
            known = _networks(library).list_models()
        except ImportError as error:
            raise UsageError(f"timm:{name} needs timm: pip install 'clbench[timm]'") from error
        base: type[_Library] = Timm
    else:
        known, base = _networks(library).list_models(module=_networks(library)), Torchvision
    if name.split(".")[0] not in known:  # timm's weights have a name too, after a full stop
        raise UsageError(f"unknown network {name!r} of {library}{_hint(name, known)}")
    namespace = {"__module__": __name__, "__doc__": base.__doc__, "name": f"{library}:{name}", "network": name}
    return dataclass(frozen=True, kw_only=True)(type(base.__name__, (base,), namespace))


def _hint(name: str, known: Sequence[str]) -> str:
    hint = did_you_mean(name, known)
    return hint if len(hint) < 400 else f": its list_models() has {len(known)}"
