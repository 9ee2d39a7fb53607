"""Precision: kernels are chosen by a probe, settings are left as found, and records say what was in force."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import clbench
from clbench.errors import UsageError
from clbench.execution.sweep import prepare as plan
from clbench.experiment.spec import RunSpec
from clbench.results.store import Store
from clbench.training import precision
from clbench.training.precision import choose_kernels, computing, linear_shapes

SHAPES = ((128, 784, 256), (128, 256, 10))
PLAIN = "MKL" if torch.backends.mkl.is_available() else "BLAS"
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CLBENCH_KERNELS", raising=False)
    choose_kernels.cache_clear()
    yield
    choose_kernels.cache_clear()


@needs_onednn
@pytest.mark.parametrize(
    ("gain", "bits", "expected"), [(2.0, 24, "oneDNN"), (1.1, 24, PLAIN), (2.0, 11, PLAIN), (2.0, 8, PLAIN)]
)
def test_other_kernels_are_taken_only_if_exact_and_clearly_faster(
    gain: float, bits: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bits` of the significand survive in what 'medium' computes: 24 in float32, 11 in tf32, 8 in bf16."""
    products = precision._three_products

    def rounded(shape: precision.Shape, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
        exact = products(shape, dtype)
        if dtype == torch.float64 or torch.get_float32_matmul_precision() != "medium":
            return exact
        steps = [torch.exp2(torch.frexp(x).exponent.float() - bits) for x in exact]
        return [(x / step).round() * step for x, step in zip(exact, steps, strict=True)]

    monkeypatch.setattr(precision, "_three_products", rounded)
    monkeypatch.setattr(precision, "_gain", lambda shape: gain)
    chosen = choose_kernels("fp32", "cpu", SHAPES)
    assert chosen["kernels"] == expected
    assert (chosen["onednn_error"] < 1e-5) == (bits == 24)


@needs_onednn
def test_the_probe_measures_fp32_products() -> None:
    """The error of a float32 dot product of n terms is about √n · 2⁻²⁴, far from bf16's 2⁻⁹."""
    before = torch.get_float32_matmul_precision()
    error = precision._error((128, 784, 256))
    assert 1e-8 < error < 784**0.5 * 2**-24
    assert precision._gain((128, 64, 64)) > 0
    assert torch.get_float32_matmul_precision() == before


def test_the_question_can_be_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLBENCH_KERNELS", "plain")
    monkeypatch.setattr(precision, "_gain", lambda shape: 10.0)
    assert choose_kernels("fp32", "cpu", SHAPES) == {"kernels": PLAIN}


def test_linear_layers_are_found_largest_first() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Linear(5, 7), nn.Sequential(nn.Linear(7, 30), nn.Linear(5, 7)))
    assert linear_shapes(model, 16) == ((16, 7, 30), (16, 5, 7))
    assert choose_kernels("fp32", "cpu", linear_shapes(nn.Conv2d(1, 8, 3), 16))["kernels"] == PLAIN


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize("kind", ["fp32", "tf32", "bf16"])
@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_settings_are_in_force_inside_and_as_found_outside(kind: precision.Precision, device: str) -> None:
    def settings() -> tuple[object, ...]:
        return (
            torch.get_float32_matmul_precision(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.is_autocast_enabled(torch.device(device).type),
        )

    before = settings()
    with computing(kind, device, "oneDNN" if device == "cpu" else "cuBLAS"):
        _, matmul, convolution, autocast = settings()
        if device == "cpu":
            assert torch.get_float32_matmul_precision() == "medium"
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
        with computing("fp32", "cpu", PLAIN):
            assert tiny() == 0
            assert (torch.full((1,), 1e-30) * 1e-7).item() > 0
        assert (tiny() == 0) == before
    finally:
        torch.set_flush_denormal(False)


def test_tf32_is_a_matter_of_cuda(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="precision tf32 is a mode of CUDA devices, and this run is on the CPU"):
        plan("finetune", precision="tf32", device="cpu", out=tmp_path)
    with pytest.raises(UsageError, match="unknown precision 'fp64': choose from fp32, tf32, bf16"):
        plan("finetune", precision="fp64", out=tmp_path)


def test_bf16_runs_stand_apart_and_learn_as_well(tmp_path: Path) -> None:
    for kind in ("fp32", "bf16"):
        clbench.run("finetune,joint,lwf,ewc", seeds=1, precision=kind, out=tmp_path, quiet=True, jobs=1)
    results = clbench.load(tmp_path)
    assert len(results.records) == 2 * 4
    by_precision: dict[str, dict[str, float]] = {}
    for row in results.runs.itertuples():
        record = next(r for r in results.records if r.key == row.key)
        assert record.environment is not None
        assert record.environment["precision"] == record.spec["precision"]
        assert record.environment["kernels"]
        by_precision.setdefault(record.spec["precision"], {})[record.spec["label"]] = row.average_accuracy
    assert all("precision=" in label for label in results.labels)
    for label, exact in by_precision["fp32"].items():
        assert by_precision["bf16"][label] != exact or label in ("joint", "lwf")
        assert by_precision["bf16"][label] == pytest.approx(exact, abs=0.1)


def test_keys_of_fp32_runs_are_those_of_older_records() -> None:
    records = Store(Path(__file__).parents[2] / "results" / "reference" / "split-digits").read()[0]
    assert len(records) > 100
    for key, record in records.items():
        spec = RunSpec(**{**record.spec, "precision": "fp32"})
        assert spec.key == key
        assert RunSpec(**{**record.spec, "precision": "bf16"}).key != key
        assert json.loads(json.dumps(spec.as_json()))["precision"] == "fp32"
