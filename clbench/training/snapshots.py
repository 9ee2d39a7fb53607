"""What a run leaves in files for other runs, or for itself when it is started again: tensors and plain values."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
from collections.abc import Iterator, Mapping
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
        temporary = self.path.with_suffix(".tmp")
        try:
            torch.save(snapshot, temporary)
            temporary.replace(self.path)
        except (OSError, RuntimeError):
            with contextlib.suppress(OSError):
                temporary.unlink()


class Checkpoint:
    """A run's state after its last finished task, beside the records.

    `made_by` names what numbers depend on beside the run's spec: a state that something else has made is none.
    """

    def __init__(self, path: Path, device: str = "cpu", made_by: Mapping[str, Any] | None = None):
        self.path, self.device, self.made_by = path, device, dict(made_by or {})

    def load(self) -> dict[str, Any] | None:
        """Return the state; None if there is none that is whole: the run then begins at its first task."""
        try:
            content = self.path.read_bytes()
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                return None
            found = torch.load(io.BytesIO(content[32:]), weights_only=True, map_location=self.device)
        except UNREADABLE:
            return None
        return found["state"] if found["made_by"] == self.made_by else None

    def keep(self, state: dict[str, Any]) -> None:
        """Replace what was there; where there is no room, it stays."""
        file = io.BytesIO()
        torch.save({"made_by": self.made_by, "state": state}, file)
        content = file.getvalue()
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")  # two sweeps may write the same file
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
            temporary.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
