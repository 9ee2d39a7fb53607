"""Figures in a folder: drawn anew every time, in copies of the process where there can be any, and whose they are."""

import errno
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import HOSTILE, N, record, three_methods
from matplotlib import image

from clbench.errors import UsageError
from clbench.report.figures import files, layouts
from clbench.report.figures.files import LIST, check_format, draw, planned
from clbench.report.figures.kinds import FIGURES
from clbench.results.analysis import differences
from clbench.results.frames import Results

DIFFERENCES = "split-digits-task-mlp-differences.svg"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have two kinds of figures only, to be fast."""
    monkeypatch.setattr(files, "FIGURES", {kind: FIGURES[kind] for kind in ("average-accuracy", "differences")})


def written(results: Results, folder: Path, width: Any = "column", **options: Any) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    pictures = planned(results, folder, **{"formats": ["svg"], **options})
    draw(pictures, folder, width)
    return {path.name: path.read_bytes() for picture in pictures for path in picture.paths}


def test_files_are_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FIGURES", {"differences": FIGURES["differences"]})
    options: dict[str, Any] = {"formats": ("png", "pdf", "svg")}
    one = written(Results(three_methods()), tmp_path / "one", **options)
    assert written(Results(three_methods()), tmp_path / "two", **options) == one
    assert len(one) == 3
    assert one[DIFFERENCES.replace("svg", "pdf")].startswith(b"%PDF")
    assert b"Fine-tuning</text>" in one[DIFFERENCES]  # text stays text
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.usefixtures("few")
def test_every_report_draws_all_its_figures(tmp_path: Path) -> None:
    first = written(Results(three_methods()), tmp_path)
    (tmp_path / DIFFERENCES).write_text("spoilt")
    assert written(Results(three_methods()), tmp_path) == first
    wide = written(Results(three_methods()), tmp_path, width="page")
    assert all(wide[name] != first[name] for name in first)
    other = written(
        Results(three_methods()), tmp_path, differences=differences(Results(three_methods()), baseline="lwf")
    )
    assert b"difference to LwF" in other[DIFFERENCES]


@pytest.mark.usefixtures("few")
def test_figures_that_are_no_longer_made_go_and_files_of_others_stay(tmp_path: Path) -> None:
    both = Results([*three_methods(), *three_methods(sequence_label="other")])
    (tmp_path / "notes.svg").write_text("notes")
    first = written(both, tmp_path)
    second = written(Results(three_methods()), tmp_path)
    assert len(first) == 2 * len(second) == 4
    assert {path.name for path in tmp_path.iterdir()} == {*second, LIST, "notes.svg"}
    assert (tmp_path / LIST).read_text().splitlines() == list(second)
    assert written(Results([]), tmp_path) == {}
    assert {path.name for path in tmp_path.iterdir()} == {LIST, "notes.svg"}


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"../a.svg", b'{"a.svg": 3}', b"/etc/passwd\n.\n..\n\n../a.svg"])
@pytest.mark.usefixtures("few")
def test_a_damaged_list_of_what_is_ours_does_no_harm(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / LIST).write_bytes(damage)
    theirs = [tmp_path / "figures/mine.svg", tmp_path / "a.svg"]
    for path in theirs:
        path.write_text("mine")
    assert len(written(Results([record("lwf")]), tmp_path / "figures")) == 1
    assert [path.read_text() for path in theirs] == ["mine", "mine"]


def failing(code: int) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("what", ["full", "missing", "no more processes", "in a pool"])
def test_figures_are_drawn_where_processes_cannot_be(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With /dev/shm full or missing, semaphores fail; with too many processes, forking; a pool's start no others."""
    expected = written(Results(three_methods()), tmp_path / "expected")
    if what == "in a pool":
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.apply(written, (Results(three_methods()), tmp_path / "found")) == expected
        return
    if what == "no more processes":
        monkeypatch.setattr(os, "fork", failing(errno.EAGAIN))
    else:
        code = errno.ENOSPC if what == "full" else errno.ENOENT
        monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", failing(code))
    assert written(Results(three_methods()), tmp_path / "found") == expected


@pytest.mark.usefixtures("few")
def test_what_cannot_be_drawn_is_said_here_and_the_rest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a broken figure")

    monkeypatch.setitem(layouts.LAYOUTS, "differences", broken)  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError, match="a broken figure"):
        written(Results(three_methods()), tmp_path)
    assert (tmp_path / "split-digits-task-mlp-average-accuracy.svg").exists()
    assert capfd.readouterr().err == ""  # nothing from copies of this process


def test_formats_and_widths_are_checked() -> None:
    with pytest.raises(UsageError, match="no format 'gif': choose from png, pdf, svg"):
        check_format(["png", "gif"], "column")
    with pytest.raises(UsageError, match="no width 'wide': choose one of column, page"):
        check_format(["png"], "wide")


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
    drawn = written(Results(runs), tmp_path, formats=["png"])
    assert len(drawn) == 3
    for name in drawn:
        pixels = image.imread(tmp_path / name)
        for edge in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]):
            assert (edge[..., :3] == 1).all(), name


@pytest.mark.usefixtures("few")
def test_names_that_look_alike_in_files_are_numbered(tmp_path: Path) -> None:
    models = ("m", "m!", "m-2", "M", HOSTILE)
    drawn = planned(Results([record("lwf", model_label=model) for model in models]), tmp_path, ["svg"])
    paths = [path for figure in drawn for path in figure.paths]
    assert len({path.name.lower() for path in paths}) == len({figure.place for figure in drawn}) == len(models)
    assert all(path.parent == tmp_path for path in paths)
