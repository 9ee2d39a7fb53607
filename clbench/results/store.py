"""Where records are kept: a folder with one JSON file per finished run, or a set of many in one compressed file.

A record is written whole or not at all, and is found again by its key. This module needs neither torch nor pandas.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import re
import secrets
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from clbench.errors import ClbenchError, UsageError
from clbench.results.record import SAME, RunRecord, parse_record, record_text

SET = "records.jsonl.gz"  # a line per record


class Store:
    """The records in a folder, which need not exist yet: `KEY.json` each, and those of a set if it has one.

    The path of a set alone will do too, to read. New records are always files of their own, which go before the set's.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def write(self, record: RunRecord) -> Path:
        """Write one record atomically and return its path."""
        return write_whole(self._path(record.key), record_text(record).encode())

    def read(self) -> tuple[dict[str, RunRecord], list[str]]:
        """Return the good records by key, and a line for each damaged one."""
        records: dict[str, RunRecord] = {}
        problems = []
        for path in self.paths():
            try:
                for place, data in _texts(path):
                    try:
                        record = parse_record(data)
                        if path.suffix == ".json" and record.key != path.stem:
                            raise ClbenchError(f"it is the record of another run, {record.key}")
                    except ClbenchError as error:
                        problems.append(f"{place}: {error}")
                    else:
                        records[record.key] = record
            except (OSError, EOFError, zlib.error) as error:
                problems.append(f"{path.name}: {error}")
        return records, problems

    def tidy(self) -> None:
        """Remove half-written files that a killed process left; younger than an hour, they may be of one that lives."""
        for path in (*self.folder.glob(".*.tmp"), *self.folder.glob(".checkpoints/*.tmp")):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > 3600:
                    path.unlink()

    def find(self, key: str) -> RunRecord | None:
        """Return the record in a file of its own, None if there is no good one."""
        try:
            return parse_record(self._path(key).read_bytes())
        except (OSError, ClbenchError):
            return None

    def has_finished(self, key: str) -> bool:
        """Whether there is a good record of a finished run."""
        found = self.find(key) or Store(self.folder / SET).read()[0].get(key)
        return found is not None and found.ok

    def set_aside(self, key: str) -> None:
        """Keep a file under another name if it stands in a record's place and cannot be read as one."""
        path = self._path(key)
        try:
            if parse_record(path.read_bytes()).key != key:
                raise ClbenchError("the record of another run")
        except FileNotFoundError:
            return
        except (OSError, ClbenchError):
            path.rename(unused(path.parent, f"{path.name}.damaged-"))

    def paths(self) -> Iterator[Path]:
        """Yield the files that hold records: the set, then those of single records by name."""
        if self.folder.is_dir():
            yield from (path for path in (self.folder / SET,) if path.is_file())
            yield from sorted(path for path in self.folder.glob("*.json") if not path.name.startswith("."))
        elif self.folder.is_file():
            yield self.folder

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def read_records(place: str | Path) -> tuple[list[RunRecord], list[str]]:
    """Return the records in a folder and those below it, or in a set, and a line for each damaged one.

    Raises UsageError if there is none, or if finished records of the same run disagree.
    """
    place = Path(place)
    if not place.is_dir() and not (place.is_file() and is_set(place)):
        raise UsageError(
            f"no folder of records at {place}: name one that 'clbench run --out' wrote to, or a .jsonl.gz file"
        )
    joined, damaged = _join(record_folders(place), "name one of the folders")
    problems = [problem if folder == place else f"{folder / problem}" for folder, problem in damaged]
    if not joined and problems:
        raise UsageError(f"none of the {len(problems)} records in {place} can be read; the first, {problems[0]}")
    if not joined:
        raise UsageError(f"no records in {place}: 'clbench run' makes them")
    return [record for _, record in joined.values()], problems


def record_folders(place: Path) -> list[Path]:
    """Return where `read_records` finds records: the folder and all below it that have some; or the set named."""
    found = []
    for folder, below, _ in os.walk(place):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if holds_records(Path(folder)):
            found.append(Path(folder))
    return found or [place]


def holds_records(folder: Path) -> bool:
    """Whether a folder has records, by their names: a set, or files named by a run's key."""
    return folder.is_dir() and any(
        is_set(path) or re.fullmatch(r"[0-9a-f]{20}\.json", path.name) for path in folder.iterdir()
    )


def is_set(path: Path) -> bool:
    """Whether a path is that of a set of records in one file, by its name."""
    return path.name.endswith(".jsonl.gz")


def write_set(path: Path, records: Iterable[RunRecord]) -> None:
    """Write records as a set in one file, atomically; the same records give the same bytes."""
    lines = [record_text(record) for record in sorted(records, key=lambda record: record.key)]
    write_whole(path, gzip.compress("".join(lines).encode(), mtime=0))


def pack(folder: Path) -> None:
    """Turn a folder's records into a set in it, and remove their files; raise ClbenchError if one is damaged."""
    store = Store(folder)
    records, problems = store.read()
    if problems:
        raise ClbenchError(f"{folder} was not packed: {problems[0]}")
    single = [path for path in store.paths() if path.suffix == ".json"]
    write_set(folder / SET, records.values())
    for path in single:
        path.unlink()


def merge(places: Sequence[Path], out: Path) -> tuple[int, list[str]]:
    """Join the records of folders and sets in another, which may have some; return how many came in, and problems.

    `out` is a folder, or the file of a set by its name. Of a run that failed in one place and finished in another the
    finished record is taken. Raises UsageError, and writes nothing, if finished records of the same run disagree in
    what is equal on like hardware.
    """
    merged, damaged = _join([out, *places], "nothing was merged")
    problems = [f"{(place if place.is_dir() else place.parent) / problem}" for place, problem in damaged]
    if is_set(out) and out.exists() and (own := Store(out).read()[1]):
        raise UsageError(f"nothing was merged, {out} is damaged: {own[0]}")
    new = [record for place, record in merged.values() if place != out]
    if is_set(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_set(out, (record for _, record in merged.values()))
        return len(new), problems
    out.mkdir(parents=True, exist_ok=True)
    store = Store(out)
    for record in new:
        store.set_aside(record.key)
        store.write(record)
    return len(new), problems


def _join(places: Sequence[Path], then: str) -> tuple[dict[str, tuple[Path, RunRecord]], list[tuple[Path, str]]]:
    """Return the records of folders and sets by key, and where each was; and where there is a damaged one, and which.

    A finished record is taken before a failed one. Raises UsageError, which ends with `then`, if finished records of
    the same run disagree in what is equal on like hardware.
    """
    joined: dict[str, tuple[Path, RunRecord]] = {}
    damaged, conflicts = [], []
    for place in places:
        records, problems = Store(place).read()
        damaged += [(place, problem) for problem in problems]
        for key, record in records.items():
            where, other = joined.setdefault(key, (place, record))
            if record.ok and not other.ok:
                joined[key] = (place, record)
            elif record.ok and (differing := [name for name in SAME if getattr(record, name) != getattr(other, name)]):
                spec = record.spec
                run = f"{spec['label']} on {spec['sequence_label']}, {spec['scenario']}, seed {spec['seed']}"
                conflicts.append(f"{key} ({run}) in {where} and {place}: {', '.join(differing)}")
    if conflicts:
        count = "1 record disagrees" if len(conflicts) == 1 else f"{len(conflicts)} records disagree"
        raise UsageError(f"{count}, {then}: {'; '.join(conflicts)}")
    return joined, damaged


def _texts(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the text of each record in a file, and where it stands."""
    if path.suffix == ".json":
        yield path.name, path.read_bytes()
        return
    with gzip.open(path) as lines:
        for number, line in enumerate(lines, 1):
            yield f"{path.name}, line {number}", line


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file so that it is there whole or not at all, and return its path."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and not error.filename:  # such as of a full disk
            error.filename = str(path)
        raise
    return path


def unused(folder: Path, before: str, after: str = "") -> Path:
    """Return a path in a folder that is not there yet: a number, from 1, between the two parts of its name."""
    paths = (folder / f"{before}{number}{after}" for number in itertools.count(1))
    return next(path for path in paths if not path.exists())
