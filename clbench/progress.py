"""Progress of a sweep on standard error: a bar in a terminal, a line per run elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

if TYPE_CHECKING:
    from clbench.runner import Sweep
    from clbench.store import RunRecord


class Progress:
    """Tell what a sweep is doing: its notes first, then each run as it lands."""

    def __init__(self, sweep: Sweep, quiet: bool = False):
        self.sweep, self.quiet = sweep, quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.total, self.done, self.failed = len(sweep.missing), 0, 0
        self.bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        if self.quiet:
            return self
        for note in self.sweep.notes:
            self._say(f"note: {note}")
        there = len(self.sweep.jobs) - self.total
        workers = self.sweep.workers
        self._say(
            f"{self.total} run{'s' * (self.total != 1)} to do"
            + (f", {there} there already" if there else "")
            + (f"; {workers} at a time on {self.sweep.place}" if self.total else "")
        )
        self.started = time.monotonic()
        if self.total and self.console.is_terminal:
            self.bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("done, {task.fields[under_way]} under way,"),
                TimeElapsedColumn(),
                TextColumn("elapsed,"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=self.console,
            )
            self.task = self.bar.add_task("runs", total=self.total, under_way=min(workers, self.total))
            self.bar.start()
        return self

    def landed(self, record: RunRecord) -> None:
        """Count a finished run and say what came of it."""
        self.done += 1
        self.failed += not record.ok
        if self.quiet:
            return
        left = self.total - self.done
        spec = record.spec
        name = f"{spec['label']} on {spec['sequence_label']}, {spec['scenario']}, seed {spec['seed']}"
        if not record.ok:
            self._say(f"FAILED {name}: {(record.error or '').splitlines()[0]}")
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, under_way=min(self.sweep.workers, left))
        elif record.ok:
            assert record.seconds is not None
            seconds = sum(record.seconds["train"]) + sum(record.seconds["evaluate"])
            remaining = (time.monotonic() - self.started) / self.done * left
            self._say(f"[{self.done}/{self.total}] {name}: {seconds:.1f} s; about {remaining:.0f} s left")

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False)
