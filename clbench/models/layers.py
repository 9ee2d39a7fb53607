"""The layers of a backbone that is a chain of them, for methods that reach into each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from clbench.errors import UsageError
from clbench.models.head import ExpandingHeadModel


def layers_in_a_row(network: ExpandingHeadModel, who: str) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the linear and convolutional layers of a backbone, in their order, by their names in `network`.

    Raises UsageError, which says that `who` cannot use it, for a backbone whose parameters are not all in such layers,
    one after another.
    """
    children = dict(network.backbone.named_children()) if isinstance(network.backbone, nn.Sequential) else {}
    layers = {f"backbone.{name}": child for name, child in children.items() if any(True for _ in child.parameters())}
    found = {name: layer for name, layer in layers.items() if isinstance(layer, (nn.Linear, nn.Conv2d))}
    if not found or len(found) < len(layers):
        raise UsageError(f"{who} needs a backbone of linear and convolutional layers in a row: take mlp or cnn")
    return found


@contextmanager
def joined(layers: Sequence[nn.Module], add: Callable[[int], Tensor | None]) -> Iterator[list[Tensor]]:
    """Add `add(number)` to what each of some layers gives, counted from 0; yield the list of what they have taken.

    Layers are called in this order, once each.
    """
    taken: list[Tensor] = []

    def join(layer: nn.Module, given: tuple[Tensor], output: Tensor) -> Tensor:
        taken.append(given[0])
        added = add(len(taken) - 1)
        return output if added is None else output + added

    with _hooked(layer.register_forward_hook(join) for layer in layers):
        yield taken


@contextmanager
def scaled_units(
    network: ExpandingHeadModel, layers: Mapping[str, nn.Module], scales: Sequence[Tensor]
) -> Iterator[None]:
    """Multiply each layer's units by scales [units], where the next layer takes them, or the head."""
    inner = [
        layer.register_forward_pre_hook(lambda _, given, a=scale: (_times(given[0], a),))
        for layer, scale in zip(list(layers.values())[1:], scales[:-1], strict=True)
    ]
    last = network.backbone.register_forward_hook(lambda _, given, features: _times(features, scales[-1]))
    with _hooked([*inner, last]):
        yield


@contextmanager
def _hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove hooks in the end."""
    kept = list(handles)
    try:
        yield
    finally:
        for handle in kept:
            handle.remove()


def _times(h: Tensor, scale: Tensor) -> Tensor:
    """Multiply units [n, units, …] by scales [units]; flattened ones [n, units × pixels] stand pixel after pixel."""
    return h * scale.repeat_interleave(h.shape[1] // len(scale)).view(-1, *[1] * (h.ndim - 2))
