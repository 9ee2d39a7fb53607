"""One run and its record."""

import json
import multiprocessing
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from asking import prepared as plan
from made_up import record
from safetensors.torch import load_file

import clbench
from clbench.errors import UsageError
from clbench.execution.run import run_one
from clbench.experiment.planning import count_cores
from clbench.models import ExpandingHeadModel
from clbench.models.backbones import MLP
from clbench.report.contents import commands
from clbench.results.record import parse_record, record_text
from clbench.results.store import RunRecord, Store
from clbench.training.run import weights_hash


def run(folder: Path, methods: str = "lwf", **options: Any) -> RunRecord:
    """Run one job and return its record as it is read."""
    sweep = plan(methods, **{"seeds": 1, "training": {"epochs": 1}, "out": folder, **options})
    list(sweep.run())
    (record,) = Store(folder).read()[0].values()
    return record


def test_a_record_says_everything(tmp_path: Path) -> None:
    key = run(tmp_path, "lwf@temperature=4").key
    record = json.loads(next(tmp_path.glob("*.json")).read_text())
    spec = record["spec"]
    assert record["schema"] == 1
    assert record["key"] == key
    assert record["status"] == "ok"
    assert record["error"] is None
    assert {k: spec[k] for k in ("sequence", "scenario", "method", "label", "model", "seed")} == {
        "sequence": "split-digits", "scenario": "task", "method": "lwf", "label": "lwf@temperature=4", "model": "mlp",
        "seed": 0,
    }  # fmt: skip
    assert spec["params"]["temperature"] == 4
    assert spec["params"]["weight"] == 1
    assert spec["training"]["epochs"] == 1
    assert spec["training"]["lr"] == 0.1
    assert sorted(spec["class_order"]) == list(range(10))
    assert spec["class_order"] == torch.randperm(10, generator=torch.Generator().manual_seed(0)).tolist()
    for view in ("task_aware", "task_agnostic"):
        assert [len(row) for row in record["accuracy"][view]] == [5] * 6
    assert len(record["seconds"]["train"]) == 5
    assert len(record["seconds"]["evaluate"]) == 6
    # 784 → 256 is 64 → 256 on 8×8 digits, and five blocks of two
    assert record["parameters"] == 64 * 256 + 256 + 5 * (2 * 256 + 2)
    assert record["stored_bytes"] == 0
    assert all(len(task["loss"]) == len(task["accuracy"]) == 1 for task in record["history"])
    assert record["environment"]["torch"] == torch.__version__


def test_with_a_probe_a_record_has_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is not the run's: here each look at the peak finds more."""
    looks = iter(range(1, 100))
    monkeypatch.setattr("clbench.execution.run.peak_bytes", lambda device, start: next(looks))
    (plain,), (probed,) = (
        [run_one(job) for job in plan("lwf", seeds=1, training={"epochs": 1}, out=tmp_path, **more).jobs]
        for more in ({}, {"probe": True})
    )
    assert plain.key != probed.key
    for name in ("accuracy", "weights_hash", "updates", "images", "forward_passes", "history", "confusion"):
        assert getattr(plain, name) == getattr(probed, name), name
    assert (plain.probe, len(probed.probe or ())) == (None, 5)
    assert (plain.peak_memory_bytes, probed.peak_memory_bytes) == (5, 5 + 5)  # after each task, not after the probe
    assert parse_record(record_text(probed).encode()) == probed


def test_divergence_is_a_failed_run(tmp_path: Path) -> None:
    assert (run(tmp_path, training={"epochs": 1, "lr": 1e20}).error or "").startswith("the loss is")


def test_saved_models_have_the_weights_of_the_record(tmp_path: Path) -> None:
    record = run(tmp_path, save_models=True)
    paths = sorted((tmp_path / "models" / record.key).iterdir())
    assert [path.name for path in paths] == [f"task-{t}.safetensors" for t in range(1, 6)]
    saved = [load_file(path) for path in paths]
    blocks = [[name for name in state if name.startswith("head.")] for state in saved]
    assert [len(names) for names in blocks] == [2, 4, 6, 8, 10]  # weights and biases
    model = ExpandingHeadModel(MLP(), (1, 8, 8), 0)
    for _ in range(5):
        model.expand(2)
    model.load_state_dict({name: value for name, value in saved[-1].items() if not name.startswith("state.")})
    assert weights_hash(model.state_dict()) == record.weights_hash
    assert plan("lwf", seeds=1, training={"epochs": 1}, out=tmp_path, save_models=True).missing == []
    run(tmp_path / "second")
    assert len(plan("lwf", seeds=1, training={"epochs": 1}, out=tmp_path / "second", save_models=True).missing) == 1


FULL = """
import torch
from clbench.method import Method

class Full(Method):
    '''Asks for more memory than there is'''
    name = "full"
    def loss(self, step):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
"""


def test_too_little_memory_is_a_record_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "full.py").write_text(FULL)
    lines = (run(tmp_path / "out", f"{tmp_path}/full.py:Full").error or "").splitlines()
    assert lines[0] == "out of memory on cpu: fewer --jobs on it, or smaller batches"
    assert "CUDA out of memory. Tried to allocate 2.00 GiB." in lines


RAISES = """
from clbench.method import Method

class Raises(Method):
    '''Raises in its third task'''
    name = "raises"
    def after_step(self, step):
        if step.network.seen == 3:
            raise ZeroDivisionError("a bug")
"""


def test_an_exception_is_a_record_that_says_where(tmp_path: Path) -> None:
    (tmp_path / "raises.py").write_text(RAISES)
    error = run(tmp_path / "out", f"{tmp_path}/raises.py:Raises").error or ""
    assert error.startswith(f"ZeroDivisionError: a bug, in {tmp_path}/raises.py, line 9, at task 3 of 5\n")
    assert "raises.py" in error  # the traceback


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "def loss(self, step):\n        loss = step.cross_entropy()\n        loss.backward()\n        return loss",
            r"^Own.loss \(own.py, line 8\): .* was computed before: it calls no .backward\(\), the loop does",
        ),
        (
            "def scores(self, x, task):\n        return self.network(x).argmax(1)",
            r"^Own.scores \(own.py, line 8\) returns Tensor of shape \(\d+,\) .*scores must return \[n, classes\]",
        ),
        (
            "def scores(self, x, task):\n        return self.network(x)[:, :1]",
            r"^Own.scores \(own.py, line 8\) returns Tensor of shape \(\d+, 1\) .*, with \d+ classes or more",
        ),
        (
            "def phases(self, task, earlier):\n        pass",
            r"^Own.phases \(own.py, line 8\) returns None: a list of Phase",
        ),
        (
            "def phases(self, task, earlier):\n        return [task]",
            r"^Own.phases \(own.py, line 8\) returns .*list of Ph",
        ),
        (
            "def phases(self, task, earlier):\n        return [Phase(tasks=task)]",
            r"^Phase\(tasks=…\) takes a list of tasks, not a Task: tasks=\[task\], in .*own.py, line 9",
        ),
        (
            "def begin(self, run):\n        super().begin(run)\n        self.kept = Memory(100, run, 'resevoir')",
            r"^a memory has no choice 'resevoir': choose from reservoir, class-balanced, .*, in .*own.py, line 10",
        ),
    ],
)
def test_a_failed_run_names_the_line_of_the_method(body: str, message: str, tmp_path: Path) -> None:
    head = "from clbench.method import Memory, Method, Phase\n\nclass Own(Method):\n"
    head += '    """Own."""\n\n    name = "own"\n\n    '
    (tmp_path / "own.py").write_text(head + body + "\n")
    error = run(tmp_path / "out", f"{tmp_path}/own.py:Own").error or ""
    assert re.search(message, error.splitlines()[0]), error


def test_a_file_edited_while_its_sweep_runs_fails_the_run(tmp_path: Path) -> None:
    file = tmp_path / "raises.py"
    file.write_text(RAISES)
    (job,) = plan(f"{file}:Raises", seeds=1, out=tmp_path / "out").jobs
    file.write_text(RAISES + "\n# edited\n")
    assert "was changed while the sweep ran" in str(run_one(job).error)


def test_what_a_process_has_set_changes_nothing_and_stays(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", "ewc", training={"iterations": 2})
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with torch.no_grad(), torch.inference_mode():
            odd = run(tmp_path / "odd", "ewc", training={"iterations": 2})
            assert not torch.is_grad_enabled()
            assert torch.is_inference_mode_enabled()
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert odd.error is None
    assert odd.weights_hash == plain.weights_hash
    assert odd.accuracy == plain.accuracy


def test_a_process_that_may_start_no_others_runs_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "daemon", True)
    results = clbench.run("finetune", seeds=2, iterations=1, jobs=2, out=tmp_path)
    assert (len(results), results.failed) == (2, [])
    err = " ".join(capsys.readouterr().err.split())
    assert (
        "note: this process is a worker of multiprocessing, which may start no others: runs go one after another" in err
    )
    assert "1 at a time" in err
    with pytest.raises(UsageError, match="leave timeout out"):
        clbench.run("finetune", seeds=2, timeout=60, out=tmp_path)


several = pytest.mark.skipif(count_cores() < 2, reason="runs of several threads need as many cores")


@several
def test_a_run_of_several_threads_is_the_same_but_for_rounding(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    one, two, again = (run(tmp_path / name, threads=n) for name, n in (("one", 1), ("two", 2), ("again", 2)))
    assert torch.get_num_threads() == before
    assert two.weights_hash == again.weights_hash
    for threads, made in ((1, one), (2, two)):
        assert made.environment is not None
        assert made.environment["threads"] == threads
    assert one.history is not None
    assert two.history is not None
    for row, other in zip(one.history, two.history, strict=True):
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-3)


def test_runs_of_several_threads_stand_apart(tmp_path: Path) -> None:
    for threads in (1, 2):
        for seed in (0, 1):
            Store(tmp_path).write(record("lwf", seed, **{"threads": threads} if threads > 1 else {}))
    results = clbench.load(tmp_path)
    assert [comparison.model for comparison in results.comparisons] == ["mlp [threads=1]", "mlp [threads=2]"]
    assert results.labels == ["lwf"]
    lines = [line for comparison in results.comparisons for line in commands(comparison)]
    (command,) = [line for line in lines if "--threads" in line]
    assert "--methods lwf" in command
    assert "--threads 2" in command
