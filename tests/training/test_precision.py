"""Precision and kernels: they are in force inside, and settings are left as found."""

import pytest
import torch
from tiny import go

from clbench.errors import UsageError
from clbench.methods.finetune import Finetune
from clbench.models.backbones import MLP
from clbench.training.precision import Kernels, Precision, check_precision, computing


@pytest.mark.parametrize(
    ("kind", "device", "kernels"),
    [
        ("fp32", "cpu", "pytorch"),
        ("fp32", "cpu", "onednn"),
        ("bf16", "cpu", "pytorch"),
        ("fp32", "cuda:0", "pytorch"),
        ("tf32", "cuda:0", "pytorch"),
        ("bf16", "cuda:0", "pytorch"),
    ],
)
@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_settings_are_in_force_inside_and_as_found_outside(kind: Precision, device: str, kernels: Kernels) -> None:
    def settings() -> tuple[object, ...]:
        return (
            torch.get_float32_matmul_precision(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.is_autocast_enabled(torch.device(device).type),
        )

    before = settings()
    with computing(kind, device, kernels):
        inside, matmul, convolution, autocast = settings()
        if device == "cpu":
            assert inside == ("medium" if kernels == "onednn" else "highest")
        else:
            assert (matmul, convolution) == (kind == "tf32", kind == "tf32")
        assert autocast == (kind == "bf16" and (device == "cpu" or torch.cuda.is_available()))
    assert settings() == before


@pytest.mark.parametrize("before", [False, True])
def test_subnormal_numbers_are_zero_inside_and_as_found_outside(before: bool) -> None:
    def tiny() -> float:
        return (torch.full((1,), 1e-30) * 1e-10).item()

    torch.set_flush_denormal(before)
    try:
        with computing("fp32", "cpu"):
            assert tiny() == 0
            assert (torch.full((1,), 1e-30) * 1e-7).item() > 0
        assert (tiny() == 0) == before
    finally:
        torch.set_flush_denormal(False)


def test_tf32_is_a_matter_of_cuda() -> None:
    with pytest.raises(UsageError, match="precision tf32 is a mode of CUDA devices, and this run is on the CPU"):
        check_precision("tf32", "cpu")
    check_precision("tf32", "cuda")
    check_precision("bf16", "cpu")


def test_bf16_learns_as_well() -> None:
    found = {}
    kind: Precision
    for kind in ("fp32", "bf16"):
        with computing(kind, "cpu"):
            found[kind] = go(Finetune(), "class", backbone=MLP(width=32))
    assert found["bf16"].weights_hash != found["fp32"].weights_hash
    for one, other in zip(found["bf16"].history, found["fp32"].history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.1, abs=0.01)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
def test_other_kernels_differ_by_rounding() -> None:
    """On processors with bf16 or tf32 instructions these products round to them inside."""
    found = []
    kernels: Kernels
    for kernels in ("pytorch", "onednn"):
        with computing("fp32", "cpu", kernels):
            found.append(go(Finetune(), "class", backbone=MLP(width=32)).history)
    for one, other in zip(*found, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.1, abs=0.01)
