"""Sweeps: what is run, in what order and where, and that it does not matter."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from clbench.errors import UsageError
from clbench.execution.job import _processor, checkout_commit
from clbench.execution.sweep import Sweep
from clbench.execution.sweep import prepare as plan
from clbench.experiment import registry
from clbench.experiment.parsing import parse_class_order, parse_seeds, parse_settings
from clbench.method.base import Batch, Criterion, Method
from clbench.models.networks import ExpandingHeadModel
from clbench.results.store import RunRecord, Store

QUICK = {"training": {"epochs": 1}, "seeds": 2}


def sweep_into(folder: Path, **options: Any) -> tuple[Sweep, dict[str, RunRecord]]:
    sweep = plan(**{"methods": "lwf,finetune", "out": folder, **QUICK, **options})
    for _ in sweep.run():
        pass
    records, problems = Store(folder).read()
    assert problems == []
    return sweep, records


def numbers(record: RunRecord) -> tuple[Any, ...]:
    return record.accuracy, record.updates, record.images, record.weights_hash, record.history


def test_one_and_two_workers_agree_bit_for_bit(tmp_path: Path) -> None:
    options = {"methods": "scratch,finetune,feature-extraction,joint,lwf", "scenario": "task,class"}
    _, one = sweep_into(tmp_path / "one", jobs=1, **options)
    _, two = sweep_into(tmp_path / "two", jobs=2, **options)
    assert one.keys() == two.keys()
    assert len(one) == 20
    for key, record in one.items():
        assert numbers(record) == numbers(two[key])
        assert record.environment["threads"] == two[key].environment["threads"] == 1
    assert len({record.weights_hash for record in one.values()}) == 20


def test_a_record_says_everything(tmp_path: Path) -> None:
    _, records = sweep_into(tmp_path, methods="lwf@temperature=4", seeds=1)
    record = json.loads(next(tmp_path.glob("*.json")).read_text())
    (key,) = records
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


def test_started_again_it_runs_only_what_is_missing(tmp_path: Path) -> None:
    sweep, records = sweep_into(tmp_path)
    assert len(sweep.jobs) == 4
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    gone = sorted(times)[1]
    gone.unlink()
    again = plan("lwf,finetune", out=tmp_path, **QUICK)
    assert [job.spec.key for job in again.missing] == [gone.stem]
    wider = plan("lwf,finetune,joint", out=tmp_path, training={"epochs": 1}, seeds=3)
    assert len(wider.missing) == 1 + 3 + 2
    sweep_into(tmp_path)
    assert [p for p in times if p.stat().st_mtime_ns != times[p]] == [gone]
    assert len(plan("lwf,finetune", out=tmp_path, force=True, **QUICK).missing) == 4
    assert numbers(Store(tmp_path).read()[0][gone.stem]) == numbers(records[gone.stem])


def test_a_damaged_record_is_run_again(tmp_path: Path) -> None:
    sweep_into(tmp_path)
    damaged = sorted(tmp_path.glob("*.json"))[0]
    damaged.write_text(damaged.read_text()[:50])
    again = plan("lwf,finetune", out=tmp_path, **QUICK)
    assert [job.spec.key for job in again.missing] == [damaged.stem]
    assert any(damaged.name in note for note in again.notes)


METHOD = '''
from dataclasses import dataclass
from clbench.method.base import Method

@dataclass
class Mine(Method):
    """Fine-tuning by another name."""
'''


def test_an_edited_method_file_is_run_again_and_said_so(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(METHOD)
    _, records = sweep_into(tmp_path / "out", methods=f"{file}:Mine", jobs=2)
    assert all(record.ok for record in records.values())
    assert plan(f"{file}:Mine", out=tmp_path / "out", **QUICK).missing == []
    file.write_text(METHOD + "\n# edited\n")
    again = plan(f"{file}:Mine", out=tmp_path / "out", **QUICK)
    assert len(again.missing) == 2
    assert any("another version of its code" in note for note in again.notes)


def test_a_file_in_the_working_folder_is_found_by_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(METHOD)
    _, records = sweep_into(Path("out"), methods="./mine.py:Mine,finetune", jobs=2)
    by_label = {(record.spec["label"], record.spec["seed"]): record for record in records.values()}
    assert by_label["./mine.py:Mine", 1].weights_hash == by_label["finetune", 1].weights_hash
    assert str(tmp_path) not in json.dumps([record.spec for record in records.values()])


class Fails(Method):
    """Raises at the second task."""

    def loss(self, model: ExpandingHeadModel, batch: Batch, criterion: Criterion) -> Any:
        if model.seen == 2:
            raise ValueError("no such luck")
        return criterion(model, batch)


def test_a_failing_run_is_a_record_and_the_rest_goes_on(tmp_path: Path) -> None:
    _, records = sweep_into(tmp_path, methods=[Fails, "finetune"], jobs=1)
    failed = [record for record in records.values() if not record.ok]
    assert len(failed) == 2
    assert len(records) == 4
    assert failed[0].error.startswith("ValueError: no such luck")
    assert "Traceback" in failed[0].error
    assert failed[0].accuracy is None
    again = plan([Fails, "finetune"], out=tmp_path, **QUICK)
    assert {job.spec.key for job in again.missing} == {record.key for record in failed}


def test_divergence_is_a_failed_run(tmp_path: Path) -> None:
    _, records = sweep_into(tmp_path, methods="finetune", seeds=1, training={"epochs": 2, "lr": 1e20})
    (record,) = records.values()
    assert record.error.startswith("the loss is")


def test_saved_models_have_the_weights_of_the_record(tmp_path: Path) -> None:
    _, records = sweep_into(tmp_path, methods="lwf", seeds=1, save_models=True)
    (record,) = records.values()
    paths = sorted((tmp_path / "models" / record.key).iterdir())
    assert [path.name for path in paths] == [f"task-{t}.pt" for t in range(1, 6)]
    saved = [torch.load(path, weights_only=True) for path in paths]
    assert [len(state["widths"]) for state in saved] == [1, 2, 3, 4, 5]
    from clbench.models.networks import MLP
    from clbench.training.loop import weights_hash

    model = ExpandingHeadModel(MLP(), (1, 8, 8), 0)
    for width in saved[-1]["widths"]:
        model.expand(width)
    model.load_state_dict(saved[-1]["state_dict"])
    assert weights_hash(model) == record.weights_hash
    assert plan("lwf", seeds=1, training={"epochs": 1}, out=tmp_path, save_models=True).missing == []
    sweep_into(tmp_path / "second", methods="lwf", seeds=1)
    assert len(plan("lwf", seeds=1, training={"epochs": 1}, out=tmp_path / "second", save_models=True).missing) == 1


CORE = ["feature-extraction", "finetune", "joint", "lwf", "scratch"]


def test_core_methods_are_the_default(tmp_path: Path) -> None:
    assert plan(seeds=1, out=tmp_path).labels == plan("core", seeds=1, out=tmp_path).labels == CORE
    assert plan("ewc,core", seeds=1, out=tmp_path).labels == [*CORE, "ewc"]
    assert plan("core,all", seeds=1, out=tmp_path).labels == registry.names("method")


def test_all_methods_and_those_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clbench.methods.lwf import LwF

    monkeypatch.setattr(LwF, "scenarios", frozenset({"task"}))
    sweep = plan("all", seeds=1, scenario="domain", out=tmp_path)
    assert sweep.labels == [name for name in registry.names("method") if name not in ("lwf", "duplicate-finetune")]
    assert sweep.notes == ["left out, not defined for the scenario domain: duplicate-finetune, lwf"]
    with_more = plan("lwf@weight=2,all", seeds=1, out=tmp_path)
    assert with_more.labels == [*registry.names("method"), "lwf@weight=2"]
    with pytest.raises(UsageError, match="lwf is not defined for the scenario domain"):
        plan("lwf", seeds=1, scenario="domain", out=tmp_path)


def test_grids_and_variants(tmp_path: Path) -> None:
    sweep = plan(
        "lwf,lwf@weight=3,finetune",
        seeds=1,
        settings=["lwf.temperature=1,2", "mlp.width=8,16", "training.lr=0.1,0.2", "split-digits.tasks=2"],
        out=tmp_path,
    )
    assert sweep.labels == ["lwf@temperature=1", "lwf", "lwf@temperature=1@weight=3", "lwf@weight=3", "finetune"]
    assert len(sweep.jobs) == 5 * 2 * 2
    assert {job.spec.model_label for job in sweep.jobs} == {"mlp@width=8", "mlp@width=16"}
    assert {job.spec.sequence_label for job in sweep.jobs} == {"split-digits@tasks=2"}
    assert {job.spec.training["lr"] for job in sweep.jobs} == {0.1, 0.2}
    assert len({job.spec.key for job in sweep.jobs}) == 20
    # the order of typing does not matter, nor does asking twice
    twice = plan("lwf,lwf", seeds="0,0", out=tmp_path)
    assert len(twice.jobs) == 1


def test_the_same_settings_from_python(tmp_path: Path) -> None:
    from clbench.methods.lwf import LwF

    typed = plan("lwf", seeds=1, settings=["lwf.temperature=1,4"], out=tmp_path)
    python = plan([LwF], seeds=[0], settings={"lwf.temperature": [1, 4.0]}, out=tmp_path)
    assert [job.spec.key for job in typed.jobs] == [job.spec.key for job in python.jobs]


def test_optimizers_bring_their_own_rate(tmp_path: Path) -> None:
    adam = plan("lwf", seeds=1, training={"optimizer": "adam"}, out=tmp_path)
    budget = adam.jobs[0].spec.training
    assert (budget["lr"], budget["momentum"]) == (1e-3, 0)
    assert any("adam without --lr" in note for note in adam.notes)
    own = plan("lwf", seeds=1, training={"optimizer": "adam", "lr": 0.01}, out=tmp_path)
    assert own.jobs[0].spec.training["lr"] == 0.01
    assert own.notes == []
    steps = plan("lwf", seeds=1, training={"iterations": 50}, out=tmp_path).jobs[0].spec.training
    assert (steps["epochs"], steps["iterations"]) == (None, 50)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("5", [0, 1, 2, 3, 4]),
        (3, [0, 1, 2]),
        ("0,4,9", [0, 4, 9]),
        ("10-13", [10, 11, 12, 13]),
        ("1-2,7", [1, 2, 7]),
        ([3, 1], [3, 1]),
        ("7-7", [7]),
    ],
)
def test_seeds(text: Any, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["0", 0, -1, "-1", "9-3", "a", "1,,2", "1.5", "", [], [-1], [1.5], True, "99999999999-99999999999"]
)
def test_bad_seeds(text: Any) -> None:
    with pytest.raises(UsageError, match="seeds"):
        parse_seeds(text)


def test_class_orders() -> None:
    assert parse_class_order("seed") == "seed"
    assert parse_class_order("3,1,4") == parse_class_order([3, 1, 4]) == (3, 1, 4)
    with pytest.raises(UsageError, match="write seed, fixed, or classes"):
        parse_class_order("3,one")


@pytest.mark.parametrize(
    "text", ["lwf", "lwf.temperature", "temperature=4", "lwf.=4", ".x=4", "lwf.temperature=", "a.b=1,,2"]
)
def test_bad_settings(text: str) -> None:
    with pytest.raises(UsageError, match="cannot read --set"):
        parse_settings([text])


def test_settings_keep_paths_whole() -> None:
    assert parse_settings(["./a.b/mine.py:Mine.factor=2"]) == {"./a.b/mine.py:Mine": {"factor": ["2"]}}


def test_peak_memory_is_the_runs_own(tmp_path: Path) -> None:
    """A network of 100 MB in weights needs these, their gradients and their momentum; a small one much less."""
    options = {
        "methods": "finetune",
        "seeds": 1,
        "jobs": 1,
        "training": {"iterations": 1},
        "settings": ["split-digits.tasks=2"],
    }
    _, large = sweep_into(
        tmp_path / "large", **options | {"settings": ["split-digits.tasks=2", "mlp.width=5000", "mlp.depth=2"]}
    )
    _, small = sweep_into(tmp_path / "small", **options)
    (big,), (little,) = large.values(), small.values()
    if big.peak_memory_bytes is None:
        pytest.skip("peak memory cannot be told on this system")
    weights = 4 * big.parameters
    assert weights > 100e6
    assert 3 * weights < big.peak_memory_bytes < 5 * weights
    assert little.peak_memory_bytes < 0.2 * weights


def test_a_file_edited_while_its_sweep_runs_fails_the_run(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(METHOD)
    sweep = plan(f"{file}:Mine", out=tmp_path / "out", jobs=1, **QUICK)
    file.write_text(METHOD + "\n# edited\n")
    records = list(sweep.run())
    assert all("was changed while the sweep ran" in str(record.error) for record in records)


def test_a_base_class_in_another_file_counts_as_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base_of_mine.py").write_text(METHOD)
    Path("mine.py").write_text("from base_of_mine import Mine\n\nclass More(Mine):\n    pass\n")
    before = plan("./mine.py:More", out="out", **QUICK).jobs[0].spec.code
    Path("base_of_mine.py").write_text(METHOD + "\n# edited\n")
    assert plan("./mine.py:More", out="out", **QUICK).jobs[0].spec.code != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": 5}, "neither a name nor a list"),
        ({"methods": []}, "empty name"),
        ({"class_order": 5}, "class order 5"),
        ({"class_order": [3.7, 1]}, "class order"),
        ({"jobs": "2"}, "at least one worker"),
        ({"settings": {"lwf.temperature": []}}, "list of values is empty"),
        ({"out": ""}, "an empty folder name"),
        ({"out": "x" * 300}, "cannot be used"),
        ({"seeds": "0-3000000000"}, "more than 100,000"),
    ],
)
def test_slips_in_python(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        plan(**{"seeds": 1, **options})
    assert list(tmp_path.iterdir()) == []


def test_the_commit_is_marked_where_code_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    for name in ("clbench/job.py", "methods/lwf.py", "results/README.md", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setattr("clbench.execution.job.__file__", str(tmp_path / "clbench" / "job.py"))
    git("init", "-q")
    assert checkout_commit() is None  # no file of a checkout, but one that lies in it
    git("add", ".")
    git("commit", "-q", "-m", "all")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "results" / "README.md").write_text("2")
    assert checkout_commit() == commit
    (tmp_path / "methods" / "lwf.py").write_text("2")
    assert checkout_commit() == f"{commit} (changed)"


def test_processors_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: {}\nmodel name\t: AMD EPYC\nstepping\t: 1\n\n"
    found = []
    for info in (text.format(1) * 2, text.format(17), "processor\t: 0\nCPU part\t: 0xd40\n"):
        monkeypatch.setattr("clbench.execution.job._cpuinfo", lambda info=info: info)
        found.append(_processor.__wrapped__())
    vectors = torch.backends.cpu.get_cpu_capability()
    assert found[:2] == [f"AMD EPYC (family 25, model 1, {vectors})", f"AMD EPYC (family 25, model 17, {vectors})"]
    assert found[2].endswith(f" ({vectors})")  # of another make: its architecture


def test_a_processor_that_cannot_be_asked_has_its_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> str:
        raise FileNotFoundError("/proc/cpuinfo")

    monkeypatch.setattr("clbench.execution.job._cpuinfo", absent)
    assert _processor.__wrapped__().endswith(f" ({torch.backends.cpu.get_cpu_capability()})")
