"""What `prepare` plans: methods, settings, seeds, threads; and what it refuses."""

from pathlib import Path
from typing import Any

import joblib
import pytest

from clbench.errors import UsageError
from clbench.execution.sweep import prepare as plan
from clbench.experiment import registry
from clbench.experiment.parsing import parse_class_order, parse_seeds, parse_settings
from clbench.experiment.spec import RunSpec
from clbench.results.store import Store

QUICK = {"training": {"epochs": 1}, "seeds": 2}
METHOD = '''
from dataclasses import dataclass
from clbench.method import Method

@dataclass
class Mine(Method):
    """Fine-tuning by another name."""
'''


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


@pytest.mark.skipif("joblib.cpu_count() < 2")
def test_the_number_of_threads_names_a_run(tmp_path: Path) -> None:
    one, two = (plan("lwf", seeds=1, threads=threads, out=tmp_path).jobs[0].spec for threads in (1, 2))
    assert "threads" not in one.as_json()
    assert two.as_json()["threads"] == 2
    assert (one.key, one.first_task_key) != (two.key, two.first_task_key)
    assert one.first_task_key != two.first_task_key
    records = Store(Path(__file__).parents[2] / "results" / "reference" / "split-digits").read()[0]
    assert all(RunSpec(**record.spec).key == key for key, record in records.items())


@pytest.mark.parametrize(("cores", "threads", "workers"), [(8, 1, 8), (8, 2, 4), (8, 3, 2), (8, 8, 1)])
def test_runs_side_by_side_leave_each_its_cores(
    cores: int, threads: int, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    assert plan("lwf", seeds=9, threads=threads, out=tmp_path).workers == workers
    if threads > 1:
        with pytest.raises(UsageError, match=f"{workers + 1} runs of|threads=8: this machine has 8 cores"):
            plan("lwf", seeds=9, threads=threads, jobs=workers + 1, out=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "a run has at least one"),
        ({"threads": True}, "a run has at least one"),
        ({"threads": 1.5}, "a run has at least one"),
        ({"threads": 10**6}, r"this machine has \d+ core"),
        ({"threads": 2, "backend": "ray"}, "a run on ray has one"),
    ],
)
def test_threads_that_cannot_be(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        plan("lwf", out=tmp_path, **options)  # type: ignore[arg-type]
