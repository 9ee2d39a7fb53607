"""Files of weights, read as data only: nothing in them is executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from clbench.errors import UsageError, shown

SUFFIXES = (".safetensors", ".pt", ".pth")
# in front of a network's own names: DataParallel's, that of a backbone which clbench has saved, and that of a network
# of another library in it
PREFIXES = ("module.", "backbone.", "network.")
WITHIN = ("state_dict", "model")  # where a file of torch.save may have its weights beside other things


def check_file(path: Path) -> None:
    """Raise UsageError if a file of weights is not there, or of no kind that can be read."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"weights={path}: a file of weights is needed, {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if not path.is_file():
        raise UsageError(f"weights={path}: there is no such file")


def load_file(network: nn.Module, path: Path) -> None:
    """Put the weights in a file into a network.

    Every parameter and buffer of the network must be in the file, with its shape; counts of batches may be missing.
    What else is there, such as a classifier, is left alone. Raises UsageError that names what does not fit.
    """
    found, own = _named(_read(path)), network.state_dict()
    missing = [name for name in own if name not in found and not name.endswith("num_batches_tracked")]
    if missing:
        has = shown(", ".join(found) or "none")
        what = f"weights={path} lacks {len(missing)} of the network's {len(own)} tensors"
        raise UsageError(f"{what}, first {missing[0]!r}; it has {has}")
    for name, tensor in own.items():
        if name in found and found[name].shape != tensor.shape:
            shapes = f"{list(found[name].shape)}, the network needs {list(tensor.shape)}"
            raise UsageError(f"weights={path}: {name!r} has the shape {shapes}")
    network.load_state_dict({name: found.get(name, tensor) for name, tensor in own.items()})


def _read(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors in a file, by name; raise UsageError if it cannot be read as data."""
    try:
        if path.suffix.lower() == ".safetensors":
            return safetensors.torch.load_file(path)
        content: Any = torch.load(path, weights_only=True, map_location="cpu")
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        unsafe = "weights only" in first.lower()
        why = "it holds more than tensors: save its state_dict, or write a .safetensors" if unsafe else first
        raise UsageError(f"weights={path} cannot be read: {why}") from error
    for name in WITHIN:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        raise UsageError(f"weights={path} holds {shown(content)}, not tensors by name: save a state_dict")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _named(found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return tensors under the names that they have in the network itself."""
    for prefix in PREFIXES:
        inside = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
        found = inside or found
    return found
