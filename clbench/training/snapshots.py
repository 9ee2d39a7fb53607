"""A run's state after a task, in a file: tensors and plain values.

Runs of a sweep share their first task by such a file, and a run that was stopped goes on from one.
"""

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
from torch.types import Storage

UNREADABLE = (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError)
Snapshot = dict[str, Any]


class SnapshotFile:
    """A file with a snapshot, written whole or not at all.

    `made_by` names what numbers depend on beside the run's spec, such as the processor: a snapshot that something else
    has made is none.
    """

    def __init__(self, path: Path, device: str = "cpu", made_by: Mapping[str, Any] | None = None):
        self.path, self.device, self.made_by = path, device, dict(made_by or {})

    def load(self) -> Snapshot | None:
        """Return the snapshot; None if there is none that is whole and made by the same."""
        try:
            content = self.path.read_bytes()
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                return None
            found = torch.load(io.BytesIO(content[32:]), weights_only=True, map_location=self._place)
        except UNREADABLE:
            return None
        return found["snapshot"] if found["made_by"] == self.made_by else None

    def _place(self, storage: Storage, place: str) -> Storage:
        """Put a tensor where it was: on the device, or on the CPU, such as the labels of a memory."""
        return storage if place == "cpu" else torch.serialization.default_restore_location(storage, self.device)

    def keep(self, snapshot: Snapshot) -> None:
        """Replace what was there; where there is no room, it stays."""
        file = io.BytesIO()
        torch.save({"made_by": self.made_by, "snapshot": snapshot}, file)
        content = file.getvalue()
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")  # two sweeps may write the same file
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
            temporary.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()

    @contextlib.contextmanager
    def claim(self) -> Iterator[Snapshot | None]:
        """Yield what another run has kept, or None to the one run that is to `keep` it; others wait meanwhile.

        The lock ends with its process. Where there can be no lock, every run works for itself.
        """
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError, NotImplementedError):
                stack.enter_context(FileLock(self.path.with_suffix(".lock")))
            yield self.load()
