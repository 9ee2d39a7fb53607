"""Figures in files: drawn in parallel, only where something has changed, and never over what is someone else's.

What is in the folder and ours stands in its `.made-by-clbench`: each figure's fingerprint, of the records it was drawn
from and of the code that drew it, and each file's hash.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import joblib
import numpy as np

from clbench.errors import UsageError
from clbench.report.figures import kinds as figures
from clbench.report.figures import plots
from clbench.report.figures.kinds import FIGURES, Subject, Width
from clbench.results.groups import PLACE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from clbench.results.frames import Results
    from clbench.results.groups import Comparison

DPI = 200  # of pixel images
FORMATS: Mapping[str, Mapping[str, Any]] = {  # no dates, so that the same data gives the same bytes
    "png": {},
    "pdf": {"metadata": {"CreationDate": None}},
    "svg": {"metadata": {"Date": None}},
}
LIGHT_FONT = "Figures Sans"
MANIFEST = ".made-by-clbench"
SOURCES = ("figures", "figure_files", "plots", "metrics", "statistics", "results", "analysis", "names", "layouts")
Place = tuple[str, ...]  # sequence, scenario and model of a comparison; or a scenario
Task = tuple[str, Subject, Width | None, Sequence[str]]  # what a worker is given
Progress = Callable[[int, int], None]


class Figures(NamedTuple):
    """Files of figures: all paths, and by place and kind the name of the file in the first of the formats."""

    paths: list[Path]
    links: dict[Place, dict[str, str]]


@dataclass(frozen=True, eq=False)
class _Figure:
    """A figure that there may be: what of, the names of its files, and the fingerprint of all that it depends on."""

    kind: str
    place: Place
    subject_of: Any  # comparison or scenario
    stem: str
    fingerprint: str


class FigureFolder:
    """The figures of results in a folder that exists. `ready()` says which are there; `draw()` draws the rest.

    `differences` are those to show, as `analysis.differences` makes them (default: its own, to its own baseline).
    """

    def __init__(
        self,
        results: Results,
        folder: str | Path,
        formats: Sequence[str] = ("png", "pdf"),
        width: Width | None = None,
        differences: pd.DataFrame | None = None,
    ):
        check_format(formats, width)
        self.folder, self.width = Path(folder), width
        self.formats = tuple(dict.fromkeys(formats))
        self._source = figures.Source(results, differences)
        self._figures = list(_planned(results, width, differences))
        self._made = _read_manifest(self.folder / MANIFEST)

    def ready(self) -> Figures:
        """Return what is up to date, without drawing: fast."""
        return self._collect([figure for figure in self._figures if self._is_ready(figure)])

    @property
    def missing(self) -> int:
        """How many figures are to be drawn, or found to have no data."""
        return sum(not self._is_ready(figure) for figure in self._figures)

    def draw(self, jobs: int | None = None, progress: Progress | None = None) -> Figures:
        """Draw what is not up to date, in `jobs` processes (default: as many as there are cores), and return all.

        `progress` is called with how many are done and how many there are to do. Files of an earlier report that are no
        longer made are removed unless someone has changed them; a file of someone else's in the place of a figure is
        renamed.
        """
        self._made = _read_manifest(self.folder / MANIFEST)  # another report may have been at it
        missing = [figure for figure in self._figures if not self._is_ready(figure)]
        subjects = {figure: self._read(figure) for figure in missing}
        for figure, subject in subjects.items():
            self._made["without"].pop(figure.stem, None)
            if subject is None:
                self._made["without"][figure.stem] = figure.fingerprint
                continue
            for path in self._paths(figure):
                ours = self._made["files"].get(path.name)
                if path.exists() and (ours is None or ours.get("hash") not in (None, _hash_of(path))):
                    _set_aside(path)
                self._made["files"][path.name] = {}  # ours from now on, whatever happens
        self._tidy()
        to_draw = [(figure, subject) for figure, subject in subjects.items() if subject is not None]
        tasks = [(figure.kind, subject, self.width, self.formats) for figure, subject in to_draw]
        if progress:
            progress(0, len(tasks))
        for done, (number, contents) in enumerate(_drawn(tasks, jobs), 1):
            figure, _ = to_draw[number]
            for path, content in zip(self._paths(figure), contents, strict=True):
                write(path, content)
                self._made["files"][path.name] = {"fingerprint": figure.fingerprint, "hash": _hash(content)}
            self._write_manifest()
            if progress:
                progress(done, len(tasks))
        self._write_manifest()
        return self.ready()

    def _read(self, figure: _Figure) -> Subject | None:
        return figures.read(figure.kind, self._source, figure.subject_of)

    def _paths(self, figure: _Figure) -> list[Path]:
        return [self.folder / f"{figure.stem}.{suffix}" for suffix in self.formats]

    def _is_ready(self, figure: _Figure) -> bool:
        if self._made["without"].get(figure.stem) == figure.fingerprint:
            return True
        return all(
            (entry := self._made["files"].get(path.name, {})).get("fingerprint") == figure.fingerprint
            and _hash_of(path) == entry["hash"]
            for path in self._paths(figure)
        )

    def _collect(self, some: Sequence[_Figure]) -> Figures:
        paths: list[Path] = []
        links: dict[Place, dict[str, str]] = {}
        for figure in some:
            if self._made["without"].get(figure.stem) != figure.fingerprint:
                files = self._paths(figure)
                paths += files
                shown = [path for path in files if path.suffix in (".png", ".svg")] or files
                links.setdefault(figure.place, {})[figure.kind] = shown[0].name
        return Figures(paths, links)

    def _tidy(self) -> None:
        """Remove our files that are no longer made, but none that was changed since."""
        without = self._made["without"]
        stems = {figure.stem for figure in self._figures}
        kept = {
            path.name
            for figure in self._figures
            if without.get(figure.stem) != figure.fingerprint
            for path in self._paths(figure)
        }
        self._made["without"] = {stem: fingerprint for stem, fingerprint in without.items() if stem in stems}
        for name in set(self._made["files"]) - kept:
            entry = self._made["files"].pop(name)
            untouched = "hash" not in entry or _hash_of(self.folder / name) == entry["hash"]
            if Path(name).name == name and untouched:
                (self.folder / name).unlink(missing_ok=True)
        self._write_manifest()

    def _write_manifest(self) -> None:
        if self._made["files"] or self._made["without"]:
            write(self.folder / MANIFEST, json.dumps(self._made, indent=0, sort_keys=True).encode())


def write_figures(
    results: Results,
    folder: str | Path,
    formats: Sequence[str] = ("png", "pdf"),
    width: Width | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    differences: pd.DataFrame | None = None,
) -> Figures:
    """Draw the figures of results into a folder that exists, those that are not there yet; see `FigureFolder`."""
    return FigureFolder(results, folder, formats, width, differences).draw(jobs, progress)


def check_format(formats: Sequence[str], width: str | None) -> None:
    """Raise UsageError for formats and widths that there are not."""
    if unknown := [name for name in formats if name not in FORMATS] or ([] if formats else ["none"]):
        raise UsageError(f"no format '{unknown[0]}': choose from {', '.join(FORMATS)}")
    if width not in (None, *figures.WIDTHS):
        raise UsageError(f"no width '{width}': choose one of {', '.join(figures.WIDTHS)}")


def _planned(results: Results, width: Width | None, differences: pd.DataFrame | None) -> Iterator[_Figure]:
    """Yield every figure that there may be, comparison by comparison, those of all that a scenario has last."""
    base = hashlib.sha256(f"{_version_of_drawing()} {width}".encode())
    styles = plots.styles_of(results.labels)
    by_place = {} if differences is None or differences.empty else dict(list(differences.groupby(list(PLACE))))
    hashes: dict[str, list[str]] = {}
    stems = set[str]()
    for comparison in results.comparisons:
        if not comparison.finished:
            continue
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(comparison.place)).strip("-.")[:80]
        numbered = (name if n == 1 else f"{name}-{n}" for n in itertools.count(1))
        stem = next(one for one in numbered if one.lower() not in stems)
        stems.add(stem.lower())
        content = base.copy()
        _add_content(content, comparison, styles)
        fingerprint = content.hexdigest()[:16]
        hashes.setdefault(comparison.scenario, []).append(fingerprint)
        for kind, what in FIGURES.items():
            if not what.of_all:
                own = fingerprint
                if kind == "differences" and comparison.place in by_place:
                    own += f"-{_hash(by_place[comparison.place].to_csv().encode())}"
                yield _Figure(kind, comparison.place, comparison, f"{stem}-{kind}", own)
    for kind, what in FIGURES.items():
        for scenario in figures.places(kind, results) if what.of_all else ():
            fingerprint = hashlib.sha256("".join(hashes[scenario]).encode()).hexdigest()[:16]
            yield _Figure(kind, (scenario,), scenario, f"{scenario}-{kind}", fingerprint)


def _add_content(content: Any, comparison: Comparison, styles: plots.Styles) -> None:
    """Add to a hash all that a comparison's figures can show."""
    content.update(repr(comparison.place).encode())
    for group in comparison.groups:
        content.update(repr((group.label, group.title, styles[group.label])).encode())
        for record in group.runs:
            shown = (record.key, record.accuracy, record.seconds, record.peak_memory_bytes, record.curves)
            content.update(repr(shown).encode())


@cache
def _version_of_drawing() -> str:
    """Return a hash of the code that draws and of Matplotlib's version."""
    content = hashlib.sha256(version("matplotlib").encode())
    for name in SOURCES:
        with contextlib.suppress(FileNotFoundError):
            content.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return content.hexdigest()


def _drawn(tasks: Sequence[Task], jobs: int | None) -> Iterator[tuple[int, list[bytes]]]:
    """Draw in several processes if it is worth it; yield each task's number and files, in any order."""
    workers = min(
        jobs or len(os.sched_getaffinity(0) if sys.platform == "linux" else range(os.cpu_count() or 1)), len(tasks)
    )
    light_font = _light_font() if tasks else ""
    numbered = [(number, task, light_font) for number, task in enumerate(tasks)]
    alone = threading.active_count() == 1
    if workers > 1 and alone and sys.platform == "linux":  # copies of this process
        from matplotlib import figure, font_manager  # noqa: F401  # once, rather than in each worker

        with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
            futures = [pool.submit(_draw_numbered, *some) for some in numbered]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    elif workers > 1 and len(tasks) >= 12:  # new processes take seconds to start
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            parallel = joblib.Parallel(workers, batch_size=1, return_as="generator_unordered")
        with contextlib.closing(parallel(joblib.delayed(_draw_numbered)(*some) for some in numbered)) as landing:
            yield from landing
        # runs in the same workers would load so much on top that joblib takes it for a leak, and warns
        joblib.externals.loky.get_reusable_executor().shutdown(wait=True)
    else:
        yield from (_draw_numbered(*some) for some in numbered)


def _draw_numbered(number: int, task: Task, light_font: str) -> tuple[int, list[bytes]]:
    return number, _draw(task, light_font)


def _draw(task: Task, light_font: str) -> list[bytes]:
    """Draw a figure and return its file in each of the formats."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    kind, subject, width, formats = task
    font: Any = {"font.family": [_add_font(light_font), "sans-serif"]}
    figure = figures.lay_out(kind, subject, width, font)
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(DPI)
    contents = []
    with rc_context({**plots.look(), **font}):
        if (engine := figure.get_layout_engine()) is not None:
            ticks = None
            while ticks != (
                ticks := _ticks(figure)
            ):  # axes of another size may have more ticks, and these other widths
                engine.execute(figure)
        figure.set_layout_engine(
            None
        )  # laid out by now, the same for all formats; with an engine each would draw twice
        for suffix in formats:
            buffer = io.BytesIO()
            if suffix == "png":
                _save_pixels(canvas, buffer)
            else:
                figure.savefig(buffer, format=suffix, **FORMATS[suffix])
            contents.append(buffer.getvalue())
    return contents


def _ticks(figure: Figure) -> list[list[float]]:
    return [axis.get_majorticklocs().tolist() for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]


def _save_pixels(canvas: FigureCanvasAgg, buffer: io.BytesIO) -> None:
    """Save a PNG of 256 colours, less than half as large, and to the eye the same.

    They are the 64 most frequent ones as they are, and 192 that stand for all others, more for those of a colour bar
    than for those at the edges of letters.
    """
    from PIL import Image

    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())  # [height, width, 4], opaque
    counts: Any = Image.fromarray(pixels).getcolors(pixels.size)
    counts.sort(reverse=True)
    colours = np.array([colour[:3] for _, colour in counts], dtype=np.uint8)  # [n, 3]
    kept = colours[:256]
    if len(colours) > 256:
        weights = np.sqrt(np.minimum([count for count, _ in counts[64:]], 64)).astype(int)
        others = Image.fromarray(np.repeat(colours[64:], weights, axis=0)[None]).quantize(192, Image.Quantize.MEDIANCUT)
        kept = np.concatenate([colours[:64], np.array(others.getpalette(), dtype=np.uint8).reshape(-1, 3)[:192]])
    exact = kept.astype(np.float32)
    nearest = ((exact**2).sum(axis=1) - 2 * colours.astype(np.float32) @ exact.T).argmin(axis=1)
    table = np.zeros(1 << 24, dtype=np.uint8)  # by colour, as a number
    table[colours.astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16], dtype=np.uint32)] = nearest
    numbers = pixels.view("<u4")[..., 0] & 0xFFFFFF
    few = Image.fromarray(table[numbers], "P")
    few.putpalette(kept.tobytes())
    few.save(buffer, "png", dpi=(DPI, DPI))


@cache
def _light_font() -> str:
    """Make a copy of Matplotlib's font without rules for other scripts; return its file, which ends with this process.

    To embed its letters takes a tenth of the time. Letters that it hasn't are taken from the font itself.
    """
    from fontTools import subset
    from matplotlib import font_manager

    options = subset.Options(
        glyph_names=True, notdef_outline=True, recommended_glyphs=True, name_IDs=["*"], layout_features=[]
    )
    options.drop_tables += ["GSUB", "GPOS", "GDEF", "kern", "FFTM"]
    font = subset.load_font(font_manager.findfont("DejaVu Sans"), options)
    letters = subset.Subsetter(options)
    letters.populate(unicodes=[*range(0x20, 0x180), *range(0x370, 0x400), *range(0x2010, 0x2040), 0x2192, 0x2212])
    letters.subset(font)
    for name in font["name"].names:
        if name.nameID in (1, 3, 4, 6, 16):
            name.string = "FiguresSans" if name.nameID == 6 else LIGHT_FONT
    folder = tempfile.mkdtemp(prefix="clbench-")
    atexit.register(_remove, folder, os.getpid())
    path = Path(folder) / "figures-sans.ttf"
    font.save(path)
    font.close()
    return str(path)


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # not a copy
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _add_font(path: str) -> str:
    from matplotlib import font_manager

    font_manager.fontManager.addfont(path)
    return LIGHT_FONT


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Read what is ours in a folder; of an earlier version's list, the names."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {"files": {}, "without": {}}
    try:
        made = json.loads(text)
        if not all(isinstance(entry, dict) for entry in made["files"].values()) or not isinstance(
            made["without"], dict
        ):
            raise ValueError
        return made
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"files": {name: {} for name in text.splitlines()}, "without": {}}


def _set_aside(path: Path) -> None:
    number = 1
    while (kept := path.with_name(f"{path.stem}.kept-{number}{path.suffix}")).exists():
        number += 1
    path.rename(kept)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _hash_of(path: Path) -> str | None:
    try:
        return _hash(path.read_bytes())
    except OSError:
        return None


def write(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
