"""Sweeps that share a folder of records: what each has under way, so that none repeats another's runs.

A sweep holds a lock on a file of its own in the folder's `.sweeps`, beside the list of the runs that it has taken. The
system takes the lock away when the process ends, however it ends: the list of a sweep that was killed counts no more.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Collection, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from clbench.results.store import write_whole


class Claims:
    """The runs that a sweep has taken in a folder, until it is closed."""

    def __init__(self, folder: Path):
        self.folder = folder / ".sweeps"
        self.runs = self.folder / f"{secrets.token_hex(8)}.runs"
        self.alive = _lock(self.runs.with_suffix(".lock"))

    def take(self, keys: Collection[str]) -> set[str]:
        """Take these runs, in the place of earlier ones, but for those that other sweeps have; return the latter.

        Raises OSError or NotImplementedError where the file system has no locks.
        """
        with self._alone():
            if not self.alive.is_locked:
                self.alive.acquire()
            others = {key for path in self._others() for key in path.read_text(encoding="ascii").split()}
            write_whole(self.runs, "\n".join(sorted(set(keys) - others)).encode())
            return set(keys) & others

    def close(self) -> None:
        """Give the runs back."""
        if not self.alive.is_locked:
            return
        with contextlib.suppress(OSError), self._alone():
            self.alive.release()
            _remove(self.runs)
            if not self._others():
                (self.folder / "lock").unlink()
                self.folder.rmdir()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other sweep looks at the lists or changes its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _lock(self.folder / "lock"):
            yield

    def _others(self) -> list[Path]:
        """Return the lists of the other sweeps that are running; remove what those have left that were killed."""
        found = []
        for path in self.folder.glob("*.runs"):
            try:
                if path != self.runs:
                    with _lock(path.with_suffix(".lock"), timeout=0):
                        _remove(path)
            except Timeout:
                found.append(path)
        return found


def _lock(path: Path, timeout: float = -1) -> FileLock:
    return FileLock(path, timeout=timeout, thread_local=False)  # a sweep may be closed in another thread


def _remove(runs: Path) -> None:
    for path in (runs, runs.with_suffix(".lock")):
        path.unlink(missing_ok=True)
