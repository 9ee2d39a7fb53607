"""First tasks that runs of a sweep have in common: whichever comes first trains it, the others take it over."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock


class FirstTask:
    """A trained first task in a file of the sweep's temporary folder, under a lock that ends with its holder."""

    def __init__(self, path: Path):
        self.path = path

    @contextlib.contextmanager
    def claim(self) -> Iterator[dict[str, Any] | None]:
        """Yield what another run left, or None to the one run that is to train it and `keep` it meanwhile."""
        with contextlib.ExitStack() as stack:
            found = None
            # a file that cannot be locked or read is no file: the run trains its first task itself
            with contextlib.suppress(OSError, RuntimeError, pickle.UnpicklingError):
                stack.enter_context(FileLock(self.path.with_suffix(".lock")))
                if self.path.exists():
                    found = torch.load(self.path, weights_only=True, map_location="cpu")
            yield found

    def keep(self, snapshot: dict[str, Any]) -> None:
        """Leave a snapshot of tensors and plain values to the others; where there is no room, they train themselves."""
        temporary = self.path.with_suffix(".tmp")
        try:
            torch.save(snapshot, temporary)
            temporary.replace(self.path)
        except (OSError, RuntimeError):
            with contextlib.suppress(OSError):
                temporary.unlink()
