"""Randomness by name: every draw comes from a stream derived from (seed, purpose), never from history."""

from __future__ import annotations

import hashlib
import json

import torch


def stream_seed(seed: int, *purpose: str | int) -> int:
    """Derive a 63-bit seed from the run's seed and the purpose, such as ('batches', task, epoch)."""
    digest = hashlib.sha256(json.dumps([seed, *purpose]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose, so that the draws are the same on every device."""
    return torch.Generator().manual_seed(stream_seed(seed, *purpose))


def seed_default(seed: int, *purpose: str | int, device: torch.device | None = None) -> None:
    """Seed PyTorch's default generator of the CPU, and that of the device if it is another, for one purpose.

    `torch.manual_seed` seeds every kind of device that there may be, and keeps the traceback: 0.2 to 0.4 ms.
    """
    number = stream_seed(seed, *purpose)
    torch.default_generator.manual_seed(number)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)
