"""The committed reference results: whole, described by the command, and compared as they say."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from clbench.experiment import presets
from clbench.results.frames import Results
from clbench.results.record import RunRecord
from clbench.results.store import SET, Store

ROOT = Path(__file__).parents[2]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "results" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = _load()
THERE = [name for name in reference.SETS if (reference.FOLDER / name / SET).exists()]


def test_the_tables_are_what_the_command_writes() -> None:
    written = reference.README.read_text(encoding="utf-8").split(reference.MARK)[1]
    assert written == "\n" + "\n".join(reference._described()) + "\n"


@pytest.mark.parametrize("name", THERE)
def test_a_set_is_whole_summarised_and_no_seed_was_chosen(name: str) -> None:
    folder = reference.FOLDER / name
    records, problems = Store(folder).read()
    assert problems == []
    assert {path.name for path in folder.iterdir()} == {SET, "summary.csv"}
    assert (folder / "summary.csv").read_text() == reference.summary(Results(records.values()))
    cells: dict[tuple[str, ...], list[int]] = {}
    for record in records.values():
        assert record.ok
        assert record.environment is not None
        assert "changed" not in record.environment["commit"]
        cells.setdefault((record.spec["label"], record.spec["scenario"]), []).append(record.spec["seed"])
    assert all(sorted(seeds) == list(range(len(seeds))) for seeds in cells.values())


def test_every_set_is_a_command_that_exists() -> None:
    for name in reference.SETS:
        action, first, *_ = reference.command(name)
        assert action in ("run", "verify")
        assert action == "run" or first in presets.names() or presets.load(ROOT / first).rows


def record(accuracy: float, weights: str = "a", device: str = "one", seed: int = 0) -> RunRecord:
    rows = [[0.1], [accuracy]]
    return RunRecord(
        f"k{seed}",
        {"scenario": "task", "label": "x", "seed": seed},
        "ok",
        accuracy={"task_aware": rows, "task_agnostic": rows},
        updates=[1],
        images=[1],
        weights_hash=weights,
        environment={"device": device, "torch": "2"},
    )


def test_comparing_a_run_with_its_record() -> None:
    row = [record(0.7 + seed / 100, seed=seed) for seed in range(5)]  # mean 72, standard deviation √2.5
    assert reference.compare(record(0.7), row[0], row) == "equal bit for bit"
    assert reference.compare(record(0.7, "b"), row[0], row).startswith("DIFFERS on the same")
    assert reference.compare(record(0.7, "b", "two"), row[0], row).startswith("within")
    # t(0.9995, 4) = 8.610, so the bound is 0.1 + 8.610 · 1.5811 · √1.2 = 15.01
    assert reference.compare(record(0.86, "b", "two"), row[0], row) == "within 15.01 of the row's mean: +14.00"
    assert reference.compare(record(0.88, "b", "two"), row[0], row).startswith("DIFFERS: not within 15.01")
