"""What a run leaves in files for other runs, or for itself when it is started again: tensors and plain values."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

UNREADABLE = (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError)


class FirstTask:
    """A first task that runs of a sweep have in common, in its temporary folder: whichever comes first trains it.

    A lock that ends with its holder keeps the others waiting meanwhile.
    """

    def __init__(self, path: Path):
        self.path = path

    @contextlib.contextmanager
    def claim(self) -> Iterator[dict[str, Any] | None]:
        """Yield what another run left, or None to the one run that is to train it and `keep` it meanwhile."""
        with contextlib.ExitStack() as stack:
            found = None
            # a file that cannot be locked or read is no file: the run trains its first task itself
            with contextlib.suppress(*UNREADABLE):
                stack.enter_context(FileLock(self.path.with_suffix(".lock")))
                if self.path.exists():
                    found = torch.load(self.path, weights_only=True, map_location="cpu")
            yield found

    def keep(self, snapshot: dict[str, Any]) -> None:
        """Leave a snapshot to the others; where there is no room, they train themselves."""
        with contextlib.suppress(OSError, RuntimeError):
            _save(snapshot, self.path)


class Checkpoint:
    """A run's state after its last finished task, beside the records."""

    def __init__(self, path: Path, device: str = "cpu"):
        self.path, self.device = path, device

    def load(self) -> dict[str, Any] | None:
        """Return the state; None if there is none that can be read: the run then begins at its first task."""
        with contextlib.suppress(*UNREADABLE):
            return torch.load(self.path, weights_only=True, map_location=self.device)
        return None

    def keep(self, state: dict[str, Any]) -> None:
        """Replace what was there; raise OSError where there is no room."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _save(state, self.path)


def _save(content: dict[str, Any], path: Path) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")  # two sweeps may write the same file
    try:
        torch.save(content, temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OSError(f"cannot write {path}: {error}") from None
