"""A request becomes jobs: groups of methods, grids, keys, what a machine has."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from asking import prepared as plan

from clbench.errors import UsageError
from clbench.experiment import planning, registry
from clbench.experiment.points import resolve_training
from clbench.experiment.spec import RunSpec
from clbench.methods.lwf import LwF
from clbench.results.store import read_records

CORE = ["feature-extraction", "finetune", "joint", "lwf", "scratch"]


def defined_for(scenario: str) -> list[str]:
    return [name for name in registry.names("method") if scenario in registry.find("method", name).scenarios]


def test_core_methods_are_the_default(tmp_path: Path) -> None:
    assert plan(seeds=1, out=tmp_path).labels == plan("core", seeds=1, out=tmp_path).labels == CORE
    assert plan("ewc,core", seeds=1, out=tmp_path).labels == [*CORE, "ewc"]
    assert plan("core,all", seeds=1, out=tmp_path).labels == defined_for("task")
    assert {job.spec.seed for job in plan("lwf", out=tmp_path).jobs} == set(range(5))


def test_all_methods_and_those_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LwF, "scenarios", frozenset({"task"}))
    sweep = plan("all", seeds=1, scenario="domain", out=tmp_path)
    assert sweep.labels == defined_for("domain")
    left_out = [name for name in registry.names("method") if name not in sweep.labels]
    assert {"duplicate-finetune", "er-ace", "lwf"} <= set(left_out)
    assert sweep.notes == [f"left out, not defined for the scenario domain: {', '.join(left_out)}"]
    with_more = plan("lwf@weight=2,all", seeds=1, out=tmp_path)
    assert with_more.labels == [*defined_for("task"), "lwf@weight=2"]
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


def test_what_is_asked_twice_is_done_once(tmp_path: Path) -> None:
    assert len(plan("lwf,lwf", seeds=1, out=tmp_path).jobs) == 1


def test_the_same_settings_from_python(tmp_path: Path) -> None:
    typed = plan("lwf", seeds=1, settings=["lwf.temperature=1,4"], out=tmp_path)
    python = plan([LwF], seeds=[0], settings={"lwf.temperature": [1, 4.0]}, out=tmp_path)
    assert [job.spec.key for job in typed.jobs] == [job.spec.key for job in python.jobs]


def test_optimizers_bring_their_own_rate(tmp_path: Path) -> None:
    adam = plan("lwf", seeds=1, optimizer="adam", out=tmp_path)
    budget = adam.jobs[0].spec.training
    assert (budget["lr"], budget["momentum"]) == (1e-3, 0)
    assert adam.notes == ["adam without --lr: using its usual 0.001, not the sequence's rate for sgd"]
    own = plan("lwf", seeds=1, optimizer="adam", lr=0.01, out=tmp_path)
    assert own.jobs[0].spec.training["lr"] == 0.01
    assert own.notes == []


def test_a_budget_is_epochs_or_iterations() -> None:
    steps = resolve_training({"epochs": 10}, {"iterations": 50}, [])
    assert (steps.epochs, steps.iterations) == (None, 50)
    epochs = resolve_training({"iterations": 50}, {"epochs": 2}, [])
    assert (epochs.epochs, epochs.iterations) == (2, None)


# Keys

OTHER = {
    "precision": "bf16", "kernels": "onednn", "threads": 2, "eval_every": 5, "seed": 1, "scenario": "class",
    "params": {}, "training": {}, "numbers": 99, "code": {"method": "a"}, "data": "other", "class_order": [1, 0],
    "probe": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    return plan("lwf", seeds=1, out=tmp_path_factory.mktemp("out")).jobs[0].spec


@pytest.mark.parametrize("name", OTHER)
def test_what_changes_numbers_changes_the_key(name: str, spec: RunSpec) -> None:
    other = dataclasses.replace(spec, **{name: OTHER[name]})
    assert other.key != spec.key
    assert (other.first_task_key == spec.first_task_key) == (name in ("params", "code"))


def test_names_do_not_change_the_key(spec: RunSpec) -> None:
    other = dataclasses.replace(spec, label="mine", model_label="a", sequence_label="b", preset={"name": "p"})
    assert other.key == spec.key


def test_a_spec_is_the_same_from_a_record(spec: RunSpec) -> None:
    content = spec.as_json()
    younger = {"tasks", "side_by_side"}  # there only where they say something
    assert {*content, *younger} == {field.name for field in dataclasses.fields(RunSpec)}
    assert RunSpec(**content).key == spec.key
    for name in ("precision", "kernels", "threads", "eval_every", "probe", "preset"):
        del content[name]  # a record that has nothing to say of them
    assert RunSpec(**content).key == spec.key


def test_older_records_stand_for_the_same_runs() -> None:
    """They were made before some of the options there are."""
    records, _ = read_records(Path(__file__).parents[2] / "results/reference/split-digits/records.jsonl.gz")
    assert len(records) > 20
    for record in records:
        assert "probe" not in record.spec
        assert RunSpec(**record.spec).key == record.key


def test_a_learner_without_a_network_is_named_where_a_probe_is_asked_for(tmp_path: Path) -> None:
    asked = {"seeds": 2, "out": tmp_path, "probe": True}
    assert plan("lwf,designs:Prototypes", **asked).notes == [
        "designs:Prototypes has no network that --probe could probe"
    ]
    assert plan("lwf", **asked).notes == plan("designs:Prototypes", seeds=1, out=tmp_path).notes == []


def test_methods_that_leave_the_first_task_alone_share_it(tmp_path: Path) -> None:
    jobs = plan("finetune,lwf,si", seeds=1, out=tmp_path).jobs
    assert [job.plain_first_task for job in jobs] == [True, True, False]
    assert len({job.spec.first_task_key for job in jobs}) == 1


# The machine


@pytest.mark.parametrize(("cores", "threads", "workers"), [(8, 1, 8), (8, 2, 4), (8, 3, 2), (8, 8, 1)])
def test_runs_side_by_side_leave_each_its_cores(
    cores: int, threads: int, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "count_cores", lambda: cores)
    assert plan("lwf", seeds=9, threads=threads, out=tmp_path).workers == workers
    if threads > 1:
        with pytest.raises(UsageError, match=f"{workers + 1} runs of|threads=8: this machine has 8 cores"):
            plan("lwf", seeds=9, threads=threads, jobs=workers + 1, out=tmp_path)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "250000 100000"}, 3),
        ({"cpu.max": "5000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
    ids=str,
)
def test_the_cores_are_those_that_a_container_has(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(planning, "CGROUP", tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert planning.count_cores() == cores


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 10**6}, r"this machine has \d+ core"),
        ({"threads": 2, "backend": "ray"}, "a run on ray has one"),
        ({"precision": "tf32", "device": "cpu"}, "precision tf32 is a mode of CUDA devices"),
        ({"device": "tpu"}, "choose from auto, cpu"),
        ({"out": "x" * 300}, "cannot be used"),
    ],
    ids=str,
)
def test_what_a_machine_has_not(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        plan("lwf", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_last_batch_of_one_image_that_a_network_cannot_train_on(batch_size: int, tmp_path: Path) -> None:
    """The first task of seed 0 has 291 images, 291 = 58 · 5 + 1; in eval mode a frozen network takes them."""
    options: dict[str, Any] = {"methods": ["finetune"], "seeds": 1, "out": tmp_path, "batch_size": batch_size}
    with pytest.raises(UsageError, match=r"torchvision:resnet18 does not fit split-digits: .*batch of one image"):
        plan(model="torchvision:resnet18", **options)
    for model in ("torchvision:resnet18@frozen=true", "torchvision:resnet18@resize=64", "mlp"):
        assert len(plan(model=model, **options).jobs) == 1
    if batch_size > 1:
        assert len(plan(model="torchvision:resnet18", settings={"training.drop_last": True}, **options).jobs) == 1
