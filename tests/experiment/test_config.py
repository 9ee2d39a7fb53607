"""Sweeps in a file: what --save-config writes, --config reads; the command line goes before it."""

from pathlib import Path

import pytest

from clbench.errors import UsageError
from clbench.experiment import config
from clbench.experiment.planning import plan
from clbench.experiment.request import Request

OPTIONS = [
    {"methods": "lwf@temperature=4,finetune", "seeds": "0,4-6", "scenario": "task,class", "lr": 0.05},
    {"methods": ["er"], "settings": {"er.images": [20, 40], "mlp.width": 8, "training.patience": None}},
    {"methods": "joint", "class_order": [9, 8, 7, 6, 5, 4, 3, 2, 1, 0], "validation": 0.1, "eval_every": 5},
    {"preset": "note", "rows": "lwf", "sequence": "split-digits", "seeds": 2, "save_models": True},
]
MINE = """
title = "Two rows"
scenarios = ["task"]
sequence = { name = "split-digits" }

[[rows]]
label = "none"
method = "finetune"

[[rows]]
label = "LwF"
method = "lwf"

[run]
rows = ["LwF"]
seeds = 3
epochs = 1
"""


def keys(request: Request) -> list[str]:
    return [job.spec.key for job in plan(request).jobs]


@pytest.mark.parametrize("options", OPTIONS)
def test_what_is_written_asks_for_the_same_runs(tmp_path: Path, options: dict) -> None:
    asked = Request(**options)
    again = Request(config=config.write(asked, tmp_path / "sweep.toml"))
    assert keys(again) == keys(asked)
    assert len(keys(asked)) == len(set(keys(asked))) > 0


def test_options_beside_a_config_go_before_it(tmp_path: Path) -> None:
    path = config.write(Request(methods="lwf", lr=0.05, seeds=2, device="cpu"), tmp_path / "sweep.toml")
    both = Request(config=path, lr=0.1, device="auto")
    assert (both.lr, both.seeds, both.methods, both.device) == (0.1, [0, 1], ["lwf"], "auto")


def test_a_preset_with_options_is_a_config(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    (tmp_path / "without.toml").write_text(MINE[: MINE.index("[run]")])
    beside = Request(preset=tmp_path / "without.toml", rows="LwF", seeds=3, epochs=1)
    assert keys(Request(config=path)) == keys(beside)
    assert len(keys(beside)) == 3


def test_settings_may_be_tables_or_dotted_names(tmp_path: Path) -> None:
    (tmp_path / "tables.toml").write_text('[run]\nmethods = "lwf"\nsettings.lwf = { weight = [1, 2] }\n')
    (tmp_path / "names.toml").write_text('[run]\nmethods = "lwf"\n[run.settings]\n"lwf.weight" = [1, 2]\n')
    tables, names = (Request(config=tmp_path / f"{name}.toml") for name in ("tables", "names"))
    assert tables.settings == names.settings == {"lwf": {"weight": [1, 2]}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        ("seeds = ", "is not TOML"),
        ("", "has no options"),
        ("seeds = 3", "has seeds outside [run], but no [[rows]]"),
        ("run = 3", "run is no table"),
        ("[run]\nmethod = 'lwf'", "did you mean methods?"),
        ("[run]\nconfig = 'other.toml'", "a config names no other"),
        ("[run]\nlr = 'fast'", "lr=fast"),
        ("[run]\ntrials = 3", "'clbench run' has no option 'trials'"),
        ("[run]\ncontrols = true", "'clbench run' has no option 'controls'"),
        (MINE + "preset = 'note'", "names a preset, and has rows of its own"),
        (MINE.replace("[[rows]]", "[[rows]]\ncolour = 1", 1), "has no entry 'colour'"),
    ],
)
def test_what_is_wrong_with_a_config_is_said(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "sweep.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as error:
        Request(config=path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_as_a_preset_a_config_brings_no_options(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(MINE)
    assert len(keys(Request(preset=tmp_path / "mine.toml", seeds=1))) == 2
    whole = Request(config=tmp_path / "mine.toml")
    assert keys(Request(config=config.write(whole, tmp_path / "again.toml"))) == keys(whole)


def test_a_file_that_says_otherwise_stays(tmp_path: Path) -> None:
    path = config.write(Request(methods="lwf"), tmp_path / "sweep.toml")
    before = path.read_text()
    assert config.write(Request(methods="lwf"), path).read_text() == before
    with pytest.raises(UsageError, match="is there already and says otherwise"):
        config.write(Request(methods="er"), path)
    assert path.read_text() == before
    with pytest.raises(UsageError, match="cannot be written"):
        config.write(Request(methods="er"), tmp_path)
