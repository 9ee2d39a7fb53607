"""The figures of a report as files in a folder, drawn anew every time.

The folder's `.made-by-clbench` names them, so that the next report removes them first. Files of others stay.
"""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from clbench.errors import UsageError
from clbench.report.figures.kinds import FIGURES, Subject, key_of, places, read
from clbench.report.figures.style import WIDTHS, Width
from clbench.results.frames import Results
from clbench.results.store import write_whole

FORMATS: Mapping[str, Mapping[str, Any]] = {  # options of savefig; no dates, so that the same data gives the same bytes
    "png": {},
    "pdf": {"metadata": {"CreationDate": None}},
    "svg": {"metadata": {"Date": None}},
}
LIST = ".made-by-clbench"
MOST_COPIES = 8  # of this process, to draw in


@dataclass(frozen=True)
class Picture:
    """A figure that there is data for, and the files that it goes to."""

    kind: str
    place: tuple[str, ...]  # sequence, scenario and model of a comparison; or a scenario
    subject: Subject
    paths: Sequence[Path]

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


def check_format(formats: Sequence[str], width: str) -> None:
    """Raise UsageError for formats and widths that do not exist."""
    if unknown := [name for name in formats if name not in FORMATS] or ([] if formats else ["none"]):
        raise UsageError(f"no format '{unknown[0]}': choose from {', '.join(FORMATS)}")
    if width not in WIDTHS:
        raise UsageError(f"no width '{width}': choose one of {', '.join(WIDTHS)}")


def planned(
    results: Results, folder: Path, formats: Sequence[str] = ("png", "pdf"), differences: pd.DataFrame | None = None
) -> list[Picture]:
    """Return every figure that there is data for.

    `differences` are those to show, as `analysis.differences` makes them (default: its own, to its own baseline).
    """
    stems = _stems([comparison.place for comparison in results.comparisons])
    pictures = []
    for kind in FIGURES:
        for place in places(kind, results):
            subject = read(kind, results, place, differences)
            if subject is not None:
                key = key_of(place)
                paths = [folder / f"{stems.get(key, key[0])}-{kind}.{suffix}" for suffix in dict.fromkeys(formats)]
                pictures.append(Picture(kind, key, subject, paths))
    return pictures


def _stems(keys: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Return the beginning of comparisons' file names; names that are alike get a number."""
    stems: dict[tuple[str, ...], str] = {}
    for key in keys:
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(key)).strip("-.")[:80]
        numbered = (name if n == 1 else f"{name}-{n}" for n in itertools.count(1))
        taken = {stem.lower() for stem in stems.values()}
        stems[key] = next(one for one in numbered if one.lower() not in taken)
    return stems


def draw(pictures: Sequence[Picture], folder: Path, width: Width = "column") -> None:
    """Draw figures into a folder that exists, in place of an earlier report's; raise UsageError if it is not writable.

    On Linux copies of this process share the work, where no other thread would be cut off. They need no shared memory,
    which may be full, and what they could not draw is drawn here.
    """
    names = [path.name for picture in pictures for path in picture.paths]
    with writing(folder):
        for name in {*names, *_listed(folder)}:
            (folder / name).unlink(missing_ok=True)
        write_whole(folder / LIST, "\n".join(names).encode())
    copies = []
    if sys.platform == "linux" and threading.active_count() == 1 and not multiprocessing.current_process().daemon:
        from clbench.report.figures import layouts  # noqa: F401  # once, and not in each copy

        count = min(len(pictures), len(os.sched_getaffinity(0)), MOST_COPIES)
        process = multiprocessing.get_context("fork").Process
        copies = [process(target=_draw_quietly, args=(pictures[n::count], width), daemon=True) for n in range(count)]
    with contextlib.suppress(OSError):  # there can be no more processes
        for copy in copies:
            copy.start()
    for copy in copies:
        if copy.pid is not None:
            copy.join()
    _draw(pictures, width)


def _listed(folder: Path) -> list[str]:
    """Return the names of an earlier report's figures; nothing that cannot be one, whatever the list says."""
    with contextlib.suppress(OSError):
        names = (folder / LIST).read_text(encoding="utf-8", errors="replace").splitlines()
        return [name for name in names if re.fullmatch(rf"[A-Za-z0-9.-]+\.({'|'.join(FORMATS)})", name)]
    return []


def _draw_quietly(pictures: Sequence[Picture], width: Width) -> None:
    """Draw in a copy of the process. What goes wrong there goes wrong here again, and is said."""
    with contextlib.suppress(Exception, KeyboardInterrupt):
        _draw(pictures, width)


def _draw(pictures: Sequence[Picture], width: Width) -> None:
    """Draw the figures that are not there."""
    draw_files([picture for picture in pictures if not all(path.exists() for path in picture.paths)], width)


def draw_files(pictures: Sequence[Picture], width: Width = "column") -> None:
    """Draw figures into their files."""
    from clbench.report.figures.layouts import DPI, lay_out  # here: tables are there before Matplotlib is

    for picture in pictures:
        figure = lay_out(picture.kind, picture.subject, width)
        figure.settle()
        for path in picture.paths:
            buffer, suffix = io.BytesIO(), path.suffix[1:]
            figure.savefig(buffer, format=suffix, dpi=DPI, **FORMATS[suffix])
            with writing(path.parent):
                write_whole(path, buffer.getvalue())


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise UsageError if a folder cannot be written."""
    try:
        yield
    except OSError as error:
        reason = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror
        problem = f"cannot write the report to {folder}: {reason}; name another folder with --out"
        raise UsageError(problem) from error
