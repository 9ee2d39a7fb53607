"""What matrix products are computed with: fp32, by kernels that are probed first; tf32 on CUDA; bf16 by autocast."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clbench.errors import UsageError

Precision = Literal["fp32", "tf32", "bf16"]
Shape = tuple[int, int, int]  # of a product: images, inputs, outputs

LARGEST_ERROR = 1e-5  # relative to float64, of products that count as fp32
GAIN = 1.3  # how many times faster other kernels must be: clear of noise, so that a machine always decides alike
ROUNDS = 15


def check_precision(precision: str, device: str) -> None:
    """Raise UsageError for a precision that there is not, or not on this device."""
    if precision not in ("fp32", "tf32", "bf16"):
        raise UsageError(f"unknown precision {precision!r}: choose from fp32, tf32, bf16")
    if precision == "tf32" and device == "cpu":
        raise UsageError("precision tf32 is a mode of CUDA devices, and this run is on the CPU: choose fp32 or bf16")


def linear_shapes(model: nn.Module, batch_size: int) -> tuple[Shape, ...]:
    """Return the shapes of the products in a network's linear layers, largest first."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    found = {(batch_size, layer.in_features, layer.out_features) for layer in layers}
    return tuple(sorted(found, key=lambda shape: -shape[1] * shape[2]))


@cache
def choose_kernels(precision: str, device: str, products: tuple[Shape, ...]) -> dict[str, Any]:
    """Return the library that computes matrix products, as `kernels`, and what was probed to choose it.

    On the CPU, fp32 products come from oneDNN if they are exact enough and clearly faster there, else from PyTorch's
    own choice. PyTorch reaches oneDNN by its matmul precision 'medium', which on some processors rounds to bf16 inside:
    hence the comparison with float64. CLBENCH_KERNELS=plain skips the question.
    """
    if device != "cpu":
        return {"kernels": "cuBLAS"}
    plain = {"kernels": "MKL" if torch.backends.mkl.is_available() else "BLAS"}
    if not torch.backends.mkldnn.is_available():
        return plain
    if precision == "bf16":
        return {"kernels": "oneDNN"}
    if not products or os.environ.get("CLBENCH_KERNELS") == "plain":
        return plain
    with _matmul("medium"):
        error = max(map(_error, products))
    gain = _gain(products[0])
    chosen = {"kernels": "oneDNN"} if error < LARGEST_ERROR and gain > GAIN else plain
    return {**chosen, "onednn_error": error, "onednn_gain": round(gain, 2)}


def _three_products(shape: Shape, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return a linear layer's outputs, and the gradients of its weights and inputs, for random values."""
    n, inputs, outputs = shape
    generator = torch.Generator().manual_seed(0)
    x, w, g = (torch.randn(*size, generator=generator) for size in ((n, inputs), (outputs, inputs), (n, outputs)))
    x, w, g = x.to(dtype), w.to(dtype), g.to(dtype)
    return [F.linear(x, w), g.T @ x, g @ w]


def _error(shape: Shape) -> float:
    pairs = zip(_three_products(shape), _three_products(shape, torch.float64), strict=True)
    return max(((got.double() - want).norm() / want.norm()).item() for got, want in pairs)


def _gain(shape: Shape) -> float:
    """Return how many times faster 'medium' is than 'highest', from the quickest of several goes in turn."""
    n, inputs, outputs = shape
    x, w = torch.zeros(n, inputs), torch.zeros(outputs, inputs)
    seconds: dict[str, list[float]] = {"highest": [], "medium": []}
    for _ in range(ROUNDS):
        for mode, measured in seconds.items():
            with _matmul(mode):
                start = time.perf_counter()
                F.linear(x, w)
                measured.append(time.perf_counter() - start)
    return min(seconds["highest"]) / min(seconds["medium"])


@contextlib.contextmanager
def computing(precision: Precision, device: str, kernels: str) -> Iterator[None]:
    """Compute in a precision, on the CPU with the kernels that were chosen; leave PyTorch's settings as found."""
    with contextlib.ExitStack() as stack:
        if device == "cpu":
            stack.enter_context(_matmul("medium" if kernels == "oneDNN" else "highest"))
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
