"""Figures in a folder: which are drawn, which are left, and whose they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import HOSTILE, N, record, three_methods
from matplotlib import image

from clbench.errors import UsageError
from clbench.report.figures import files, layouts
from clbench.report.figures.files import FigureFolder
from clbench.report.figures.kinds import FIGURES
from clbench.results.analysis import differences
from clbench.results.frames import Results

DIFFERENCES = "split-digits-task-mlp-differences.svg"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have two kinds of figures only, to be fast; return the kinds drawn, which grow as the test goes on."""
    monkeypatch.setattr(files, "FIGURES", {kind: FIGURES[kind] for kind in ("average-accuracy", "differences")})
    drawn: list[str] = []
    monkeypatch.setattr("sys.platform", "one without copies of processes, in which the list would not grow")
    lay_out = layouts.lay_out
    monkeypatch.setattr(layouts, "lay_out", lambda kind, *rest: (drawn.append(kind), lay_out(kind, *rest))[1])
    return drawn


def written(results: Results, folder: Path, **options: Any) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    drawn = FigureFolder(results, folder, **{"formats": ["svg"], **options}).draw()
    return {path.name: path.read_bytes() for figure in drawn for path in figure.paths}


def test_files_are_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FIGURES", {"differences": FIGURES["differences"]})
    options: dict[str, Any] = {"formats": ("png", "pdf", "svg")}
    one = written(Results(three_methods()), tmp_path / "one", **options)
    assert written(Results(three_methods()), tmp_path / "two", **options) == one
    assert len(one) == 3
    assert one[DIFFERENCES.replace("svg", "pdf")].startswith(b"%PDF")
    assert b"Fine-tuning</text>" in one[DIFFERENCES]  # text stays text
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_is_up_to_date_is_not_drawn_again(few: list[str], tmp_path: Path) -> None:
    results = Results([*three_methods(), *three_methods(scenario="class")])
    folder = FigureFolder(results, tmp_path, ["svg"])
    assert folder.ready() == []
    assert len(folder.missing) == 4
    first = [figure.paths for figure in folder.draw()]
    assert [tmp_path / DIFFERENCES] in first
    few.clear()
    again = FigureFolder(Results([*three_methods(), *three_methods(scenario="class")]), tmp_path, ["svg"])
    assert again.missing == []
    assert again.ready() == again.draw()
    assert [figure.paths for figure in again.ready()] == first
    assert few == []

    changed = FigureFolder(Results([*three_methods(), *three_methods(scenario="class")[:-1]]), tmp_path, ["svg"])
    assert {figure.place for figure in changed.ready()} == {("split-digits", "task", "mlp")}  # not the other's
    assert [figure.paths for figure in changed.draw()] == first
    assert sorted(few) == ["average-accuracy", "differences"]


@pytest.mark.parametrize("harm", ["missing", "touched", "other width", "other baseline"])
def test_what_is_not_up_to_date_is_drawn_again(harm: str, few: list[str], tmp_path: Path) -> None:
    results = Results(three_methods())
    first = written(results, tmp_path)
    few.clear()
    path = tmp_path / DIFFERENCES
    options: dict[str, Any] = {}
    if harm == "missing":
        path.unlink()
    elif harm == "touched":
        path.write_text("mine")
    elif harm == "other width":
        options["width"] = "column"
    else:
        options["differences"] = differences(results, baseline="lwf")
    second = written(results, tmp_path, **options)
    assert few == [*["average-accuracy"] * (harm == "other width"), "differences"]
    assert (second == first) == (harm in ("missing", "touched"))
    if harm == "other baseline":
        assert b"difference to LwF" in second[DIFFERENCES]


@pytest.mark.usefixtures("few")
def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    both = Results([*three_methods(), *three_methods(sequence_label="other")])
    (tmp_path / DIFFERENCES).write_text("theirs")
    (tmp_path / "notes.svg").write_text("notes")
    first = written(both, tmp_path)
    assert DIFFERENCES in first
    kept = DIFFERENCES.replace(".svg", ".kept-1.svg")
    assert (tmp_path / kept).read_text() == "theirs"
    edited = tmp_path / "other-task-mlp-differences.svg"
    edited.write_text("edited by hand")
    second = written(Results(three_methods()), tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*second, ".made-by-clbench", "notes.svg", edited.name, kept}
    assert (tmp_path / "notes.svg").read_text() == "notes"


@pytest.mark.parametrize("damage", [b"\xff\xfe", b'{"a.svg": 3}', b'{"../a.svg": {"figure": "1", "file": "2"}}', b"{"])
@pytest.mark.usefixtures("few")
def test_a_damaged_list_of_what_is_ours_does_no_harm(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/.made-by-clbench").write_bytes(damage)
    theirs = [tmp_path / "figures/mine.svg", tmp_path / "a.svg"]
    for path in theirs:
        path.write_text("mine")
    assert len(written(Results([record("lwf")]), tmp_path / "figures")) == 1
    assert [path.read_text() for path in theirs] == ["mine", "mine"]


@pytest.mark.usefixtures("few")
def test_drawing_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = FigureFolder(Results(three_methods()), tmp_path, ["svg"])
    with monkeypatch.context() as patch:
        patch.setitem(layouts.LAYOUTS, "differences", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            folder.draw()
    again = FigureFolder(Results(three_methods()), tmp_path, ["svg"])
    assert len(again.ready()) == 1
    assert len(again.draw()) == 2
    assert not list(tmp_path.glob("*.kept-*"))


def test_formats_and_widths_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no format 'gif': choose from png, pdf, svg"):
        FigureFolder(Results([]), tmp_path, ["gif"])
    with pytest.raises(UsageError, match="no width 'wide'"):
        FigureFolder(Results([]), tmp_path, width="wide")  # type: ignore[arg-type]


def test_files_are_laid_out_for_the_ticks_that_they_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values below 0 give the axis wider numbers once it has its size: its label must still have room."""
    kinds = ("accuracy-by-task", "forgetting-by-task", "stability-plasticity")
    monkeypatch.setattr(files, "FIGURES", {kind: FIGURES[kind] for kind in kinds})
    runs = []
    for label, ends in (("finetune", [0.98, 0.97, 0.6, 0.99, 0.98]), ("scratch", [0.5, 0.45, 0.6, 0.4, 0.5])):
        for seed, end in enumerate(ends):
            R = np.where(np.tri(6, 5, -1), end, np.nan)
            R[np.arange(1, 6), np.arange(5)] = 1.0
            runs.append(record(label, seed, [[N if x != x else x for x in row] for row in R.tolist()]))
    drawn = FigureFolder(Results(runs), tmp_path, ["png"]).draw()
    assert len(drawn) == 3
    for path in (path for figure in drawn for path in figure.paths):
        pixels = image.imread(path)
        for edge in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]):
            assert (edge[..., :3] == 1).all(), path.name


@pytest.mark.usefixtures("few")
def test_names_that_look_alike_in_files_are_numbered(tmp_path: Path) -> None:
    models = ("m", "m!", "m-2", "M", HOSTILE)
    drawn = FigureFolder(Results([record("lwf", model_label=model) for model in models]), tmp_path, ["svg"]).draw()
    paths = [path for figure in drawn for path in figure.paths]
    assert len({path.name.lower() for path in paths}) == len({figure.place for figure in drawn}) == len(models)
    assert all(path.parent == tmp_path for path in paths)
