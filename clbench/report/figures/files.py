"""Figures in a folder: drawn only where something has changed, and never over what is someone else's.

The folder's `.made-by-clbench` says which files are ours: for each, a hash of what its figure was drawn from, and one
of the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import joblib

from clbench.errors import UsageError
from clbench.report.figures.kinds import FIGURES, Subject, key_of, places, read
from clbench.report.figures.style import WIDTHS, Width

if TYPE_CHECKING:
    import pandas as pd

    from clbench.results.frames import Results

FORMATS: Mapping[str, Mapping[str, Any]] = {  # options of savefig; no dates, so that the same data gives the same bytes
    "png": {},
    "pdf": {"metadata": {"CreationDate": None}},
    "svg": {"metadata": {"Date": None}},
}
LIST = ".made-by-clbench"
Place = tuple[str, ...]  # sequence, scenario and model of a comparison; or a scenario


class Figures(NamedTuple):
    """Files of figures: all paths, and by place and kind the name of the file that a page or a document shows."""

    paths: list[Path]
    links: dict[Place, dict[str, str]]


@dataclass(frozen=True, eq=False)
class _Planned:
    """A figure that there is data for: the names of its files, and a hash of all that it depends on."""

    kind: str
    place: Place
    subject: Subject
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
        self.folder, self.width, self.formats = Path(folder), width, tuple(dict.fromkeys(formats))
        self._figures = list(_planned(results, width, differences))
        self._made = _read_list(self.folder / LIST)

    def ready(self) -> Figures:
        """Return what is up to date, without drawing."""
        paths: list[Path] = []
        links: dict[Place, dict[str, str]] = {}
        for figure in self._figures:
            if self._is_ready(figure):
                files = self._paths(figure)
                shown = [path for path in files if path.suffix in (".png", ".svg")] or files
                links.setdefault(figure.place, {})[figure.kind] = shown[0].name
                paths += files
        return Figures(paths, links)

    @property
    def missing(self) -> int:
        """How many figures are to be drawn."""
        return sum(not self._is_ready(figure) for figure in self._figures)

    def draw(self) -> Figures:
        """Draw what is not up to date, and return all.

        Files of an earlier report that are no longer made are removed unless someone has changed them; a file of
        someone else's in the place of a figure is renamed.
        """
        self._remove_old()
        missing = [figure for figure in self._figures if not self._is_ready(figure)]
        tasks = [(figure.kind, figure.subject, self.width, self.formats) for figure in missing]
        with _mapping(len(tasks)) as each:
            for figure, contents in zip(missing, each(_draw, tasks), strict=True):
                for path, content in zip(self._paths(figure), contents, strict=True):
                    if path.exists() and not self._is_ours(path):
                        _set_aside(path)
                    write(path, content)
                    self._made[path.name] = {"figure": figure.fingerprint, "file": _hash(content)}
                self._write_list()
        return self.ready()

    def _paths(self, figure: _Planned) -> list[Path]:
        return [self.folder / f"{figure.stem}.{suffix}" for suffix in self.formats]

    def _is_ready(self, figure: _Planned) -> bool:
        return all(
            self._made.get(path.name, {}).get("figure") == figure.fingerprint and self._is_ours(path)
            for path in self._paths(figure)
        )

    def _is_ours(self, path: Path) -> bool:
        """Whether a file is there as it was written."""
        return path.is_file() and self._made.get(path.name, {}).get("file") == _hash(path.read_bytes())

    def _remove_old(self) -> None:
        """Remove our files that are no longer made, but none that was changed since."""
        kept = {path.name for figure in self._figures for path in self._paths(figure)}
        old = [name for name in self._made if name not in kept]
        for name in old:
            if Path(name).name == name and self._is_ours(self.folder / name):
                (self.folder / name).unlink()
            del self._made[name]
        if old:
            self._write_list()

    def _write_list(self) -> None:
        write(self.folder / LIST, json.dumps(self._made, indent=0, sort_keys=True).encode())


def check_format(formats: Sequence[str], width: str | None) -> None:
    """Raise UsageError for formats and widths that do not exist."""
    if unknown := [name for name in formats if name not in FORMATS] or ([] if formats else ["none"]):
        raise UsageError(f"no format '{unknown[0]}': choose from {', '.join(FORMATS)}")
    if width not in (None, *WIDTHS):
        raise UsageError(f"no width '{width}': choose one of {', '.join(WIDTHS)}")


def _planned(results: Results, width: Width | None, differences: pd.DataFrame | None) -> Iterator[_Planned]:
    """Yield every figure that there is data for."""
    stems = _stems([comparison.place for comparison in results.comparisons])
    for kind in FIGURES:
        for place in places(kind, results):
            subject = read(kind, results, place, differences)
            if subject is not None:
                key = key_of(place)
                stem = f"{stems.get(key, key[0])}-{kind}"
                yield _Planned(kind, key, subject, stem, joblib.hash((_code(), kind, subject, width)))


def _stems(keys: Sequence[Place]) -> dict[Place, str]:
    """Return the beginning of comparisons' file names; names that are alike get a number."""
    stems: dict[Place, str] = {}
    for key in keys:
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(key)).strip("-.")[:80]
        numbered = (name if n == 1 else f"{name}-{n}" for n in itertools.count(1))
        taken = {stem.lower() for stem in stems.values()}
        stems[key] = next(one for one in numbered if one.lower() not in taken)
    return stems


@contextlib.contextmanager
def _mapping(count: int) -> Iterator[Callable[..., Iterator[list[bytes]]]]:
    """Return a `map` that works in copies of this process: on Linux, and where no other thread would be cut off.

    Elsewhere it works in this one: new processes would take longer to start than most reports to draw.
    """
    if count > 1 and sys.platform == "linux" and threading.active_count() == 1:
        from clbench.report.figures import layouts  # noqa: F401  # once, and not in each copy

        copies = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(min(count, joblib.cpu_count()), copies) as pool:
            yield pool.map
    else:
        yield map


def _draw(task: tuple[str, Subject, Width | None, Sequence[str]]) -> list[bytes]:
    """Draw a figure, and return its file in each of the formats."""
    from clbench.report.figures.layouts import DPI, lay_out  # here: tables and page are there before Matplotlib is

    kind, subject, width, formats = task
    figure = lay_out(kind, subject, width)
    figure.settle()
    contents = []
    for suffix in formats:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=DPI, **FORMATS[suffix])
        contents.append(buffer.getvalue())
    return contents


@cache
def _code() -> str:
    """Return a hash of the code that draws, and of Matplotlib's version."""
    parts = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return _hash(b"".join([*parts, version("matplotlib").encode()]))


def _read_list(path: Path) -> dict[str, dict[str, str]]:
    """Return what is ours in a folder; nothing where the list is damaged."""
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        return {name: {"figure": str(entry["figure"]), "file": str(entry["file"])} for name, entry in made.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _set_aside(path: Path) -> None:
    numbered = (path.with_name(f"{path.stem}.kept-{n}{path.suffix}") for n in itertools.count(1))
    path.rename(next(kept for kept in numbered if not kept.exists()))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def write(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
