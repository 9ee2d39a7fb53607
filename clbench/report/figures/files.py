"""Figures in a folder: drawn only where something has changed, and never over what is someone else's.

The folder's `.made-by-clbench` says which files are ours: for each, a hash of what its figure was drawn from, and one
of the file.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import itertools
import json
import multiprocessing
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
from pydantic import TypeAdapter, ValidationError

from clbench.errors import UsageError
from clbench.report.figures.kinds import FIGURES, Subject, key_of, places, read
from clbench.report.figures.style import WIDTHS, Width
from clbench.results.store import unused, write_whole

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


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure that there is data for: its files, and a hash of all that it depends on."""

    kind: str
    place: Place
    subject: Subject
    paths: Sequence[Path]
    fingerprint: str
    wide: bool  # whether it takes a page's whole width

    @property
    def title(self) -> str:
        return FIGURES[self.kind].title

    @property
    def shown(self) -> Path | None:
        """The file that a page can show, if there is one."""
        return next((path for path in self.paths if path.suffix in (".png", ".svg")), None)

    @property
    def source(self) -> str:
        """What stands in a page for that file."""
        assert self.shown is not None
        kind = {".png": "png", ".svg": "svg+xml"}[self.shown.suffix]
        return f"data:image/{kind};base64,{base64.b64encode(self.shown.read_bytes()).decode()}"


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
        self._figures = list(self._planned(results, differences))
        self._made = _read_list(self.folder / LIST)

    def _planned(self, results: Results, differences: pd.DataFrame | None) -> Iterator[Picture]:
        """Yield every figure that there is data for."""
        stems = _stems([comparison.place for comparison in results.comparisons])
        for kind in FIGURES:
            for place in places(kind, results):
                subject = read(kind, results, place, differences)
                if subject is not None:
                    key = key_of(place)
                    name = f"{stems.get(key, key[0])}-{kind}"
                    paths = [self.folder / f"{name}.{suffix}" for suffix in self.formats]
                    fingerprint = joblib.hash((_code(), kind, subject, self.width))
                    wide = (self.width or FIGURES[kind].width) == "page"
                    yield Picture(kind, key, subject, paths, fingerprint, wide)

    @property
    def missing(self) -> list[Picture]:
        """The figures that are to be drawn."""
        return [
            figure
            for figure in self._figures
            if any(self._made.get(path.name, ("",))[0] != figure.fingerprint for path in figure.paths)
            or not all(map(self._is_ours, figure.paths))
        ]

    def ready(self) -> list[Picture]:
        """Return what is up to date, without drawing."""
        missing = self.missing
        return [figure for figure in self._figures if figure not in missing]

    def draw(self) -> list[Picture]:
        """Draw what is not up to date, and return all.

        Files of an earlier report that are no longer made are removed unless someone has changed them; a file of
        someone else's in the place of a figure is renamed.
        """
        wanted = {path.name for figure in self._figures for path in figure.paths}
        for name in self._made.keys() - wanted:
            if Path(name).name == name and self._is_ours(self.folder / name):
                (self.folder / name).unlink()
            del self._made[name]
        missing = self.missing
        tasks = [(figure.kind, figure.subject, self.width, self.formats) for figure in missing]
        with _mapping(len(tasks)) as each:
            for figure, contents in zip(missing, each(_draw, tasks), strict=True):
                for path, content in zip(figure.paths, contents, strict=True):
                    if path.exists() and not self._is_ours(path):
                        path.rename(unused(self.folder, f"{path.stem}.kept-", path.suffix))
                    write_whole(path, content)
                    self._made[path.name] = figure.fingerprint, _hash(content)
                self._write_list()
        self._write_list()
        return self.ready()

    def _is_ours(self, path: Path) -> bool:
        """Whether a file is there as it was written."""
        return path.is_file() and self._made.get(path.name, ("", ""))[1] == _hash(path.read_bytes())

    def _write_list(self) -> None:
        if self._made or (self.folder / LIST).exists():
            write_whole(self.folder / LIST, json.dumps(self._made, indent=0, sort_keys=True).encode())


def check_format(formats: Sequence[str], width: str | None) -> None:
    """Raise UsageError for formats and widths that do not exist."""
    if unknown := [name for name in formats if name not in FORMATS] or ([] if formats else ["none"]):
        raise UsageError(f"no format '{unknown[0]}': choose from {', '.join(FORMATS)}")
    if width not in (None, *WIDTHS):
        raise UsageError(f"no width '{width}': choose one of {', '.join(WIDTHS)}")


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
    """Return a hash of the code that draws, here and in the libraries."""
    parts = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return _hash(b"".join([*parts, version("matplotlib").encode(), version("seaborn").encode()]))


def _read_list(path: Path) -> dict[str, tuple[str, str]]:
    """Return what is ours in a folder, by name the figure's hash and the file's; nothing where the list is damaged."""
    try:
        return TypeAdapter(dict[str, tuple[str, str]]).validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return {}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
