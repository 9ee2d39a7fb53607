"""The page that compares clbench's methods with Avalanche's: paired differences by hand, failures, and its commands."""

import importlib
import shlex
from pathlib import Path
from typing import Any

import pytest
from made_up import ending_at, record

from clbench.experiment.early import item_of
from clbench.results.store import SET, Store


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "results")
    return importlib.import_module("beside_avalanche")


def test_differences_are_paired_by_seed(page: Any, tmp_path: Path) -> None:
    """+10, +20 and +30 points: mean 20, standard error 10/√3, t(2) = 4.303: ± 24.84."""
    (tmp_path / "records").mkdir()
    store = Store(tmp_path / "records")
    terms = {"epochs": 1, "iterations": None, "lr": 0.1, "batch_size": 128, "optimizer": "sgd"}
    made = [*ending_at("finetune", [0.5, 0.6, 0.7], training=terms), record("lwf", training=terms)]
    made += ending_at("avalanche:Naive", [0.6, 0.8, 1.0], training=terms)
    made.append(record("avalanche:LwF", error="TypeError: a scheduler has lost an argument", training=terms))
    for one in made:
        store.write(one)
    page.describe(tmp_path / "records", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("| Fine-tuning | task | 60")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:6] == ["60.00", "80.00", "+20.00", "−4.84 to +44.84"]
    assert cells[-1] == "3"
    assert "| LwF | task |" in text
    assert "fails with `TypeError: a scheduler has lost an argument`" in text


def test_the_page_is_what_the_command_writes(page: Any, tmp_path: Path) -> None:
    if not (page.FOLDER / SET).exists():
        pytest.skip("there is no set of records of both libraries yet")
    page.describe(page.FOLDER, tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page.PAGE.read_text(encoding="utf-8")


def test_every_command_can_be_read(page: Any) -> None:
    words = list(page.commands("split-mnist", 10, Path("out")))
    assert [command[command.index("--scenario") + 1] for command in words] == ["task", "class", "class", "domain"]
    for command in words:
        for item in command[command.index("--methods") + 1].split(","):
            assert item_of("method", item) == item
        assert shlex.join(command).endswith("--seeds 10 --out out")
