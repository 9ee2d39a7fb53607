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
    """Raise UsageError for a precision that there is not on this device."""
    if precision == "tf32" and device == "cpu":
        raise UsageError("precision tf32 is a mode of CUDA devices, and this run is on the CPU: choose fp32 or bf16")


@contextlib.contextmanager
def computing(precision: Precision, device: str, kernels: Kernels = "pytorch") -> Iterator[None]:
    """Compute in a precision; leave PyTorch's settings as found.

    On the CPU `onednn` takes oneDNN's fp32 products, which are faster on some processors. PyTorch reaches them by its
    matmul precision 'medium', which rounds to bf16 inside on processors that have such instructions. Numbers below
    1.2e-38 are rounded to zero there, where they would cost many times as much as others; Adam's moments of a weight
    that is no longer used sink among them. On CUDA, PyTorch allows tf32 in convolutions, which fp32 forbids.
    """
    kind = torch.device(device).type
    cuda: tuple[Any, Any] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    matmul, tf32 = torch.get_float32_matmul_precision(), [backend.allow_tf32 for backend in cuda]
    flushed = torch.full((1,), 1e-40).mul(0.5).item() == 0
    try:
        if kind == "cpu":
            torch.set_float32_matmul_precision("medium" if kernels == "onednn" else "highest")
            torch.set_flush_denormal(True)
        else:
            for backend in cuda:
                backend.allow_tf32 = precision == "tf32"
        # weights change at every step, so their casts to bf16 are not worth keeping
        with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
            yield
    finally:
        if kind == "cpu":
            torch.set_float32_matmul_precision(matmul)
            torch.set_flush_denormal(flushed)
        else:
            for backend, allowed in zip(cuda, tf32, strict=True):
                backend.allow_tf32 = allowed
