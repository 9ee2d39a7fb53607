"""Seconds of work on a device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


class Stopwatch:
    """Measures wall time; waits for the device's work before it reads the clock."""

    def __init__(self, device: torch.device):
        self.device, self.away = device, 0.0
        self.began = self._now()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what happens meanwhile."""
        start = self._now()
        try:
            yield
        finally:
            self.away += self._now() - start

    def add(self, seconds: float) -> None:
        """Count seconds that were spent elsewhere."""
        self.away -= seconds

    def seconds(self) -> float:
        """Return the seconds since it was made, without those it was paused for."""
        return self._now() - self.began - self.away

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
