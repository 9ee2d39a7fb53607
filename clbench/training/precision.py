"""How numbers are computed: precision, and the library of the matrix products on the CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch

from clbench.errors import UsageError

Precision = Literal["fp32", "tf32", "bf16"]
Kernels = Literal["pytorch", "onednn"]


def check_precision(precision: str, device: str) -> None:
    """Raise UsageError for a precision that there is not, or not on this device."""
    if precision not in ("fp32", "tf32", "bf16"):
        raise UsageError(f"unknown precision {precision!r}: choose from fp32, tf32, bf16")
    if precision == "tf32" and device == "cpu":
        raise UsageError("precision tf32 is a mode of CUDA devices, and this run is on the CPU: choose fp32 or bf16")


@contextlib.contextmanager
def computing(precision: Precision, device: str, kernels: Kernels = "pytorch") -> Iterator[None]:
    """Compute in a precision; leave PyTorch's settings as found.

    On the CPU `onednn` takes oneDNN's fp32 products, which are faster on some processors. PyTorch reaches them by its
    matmul precision 'medium', which rounds to bf16 inside on processors that have such instructions.
    """
    with contextlib.ExitStack() as stack:
        if device == "cpu":
            stack.enter_context(_matmul("medium" if kernels == "onednn" else "highest"))
            stack.enter_context(_no_subnormals())
        else:
            stack.enter_context(_tf32(precision == "tf32"))
        if precision == "bf16":  # weights change at every step, so their casts are not worth keeping
            kind = torch.device(device).type
            stack.enter_context(torch.autocast(kind, torch.bfloat16, cache_enabled=False))
        yield


@contextlib.contextmanager
def _matmul(mode: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(mode)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def _no_subnormals() -> Iterator[None]:
    """Round numbers below 1.2e-38 to zero on the CPU, where they cost many times as much as others.

    Adam's moments of a weight that is no longer used sink among them, and far below anything that could move a weight.
    """
    before = torch.full((1,), 1e-40).mul(0.5).item() == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid tf32 in CUDA's products and convolutions; PyTorch allows it in convolutions."""
    backends: tuple[Any, Any] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = allowed
    try:
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value
