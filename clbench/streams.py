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
