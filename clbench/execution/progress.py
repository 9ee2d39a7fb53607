"""Progress of a sweep on standard error: a bar and the means so far in a terminal, a line per run elsewhere."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from clbench.results import metrics
from clbench.results.wording import count_of

if TYPE_CHECKING:
    from clbench.execution.sweep import Sweep
    from clbench.results.store import RunRecord

LONG = 30.0  # seconds after which a sweep shows its means so far


class Progress:
    """Tell what a sweep is doing: its notes first, then each run as it lands."""

    def __init__(self, sweep: Sweep, quiet: bool = False):
        self.sweep, self.quiet = sweep, quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.total, self.done, self.failed = len(sweep.missing), 0, 0
        self.live: Live | None = None
        specs = [job.spec for job in sweep.jobs]
        # average accuracies by sequence, scenario, model and label, in the order in which they were asked for
        self.finals: dict[tuple[str, str, str, str], list[float]] = {
            (spec.sequence_label, spec.scenario, spec.model_label, sweep.told_apart[spec.key]): [] for spec in specs
        }
        self.models = {spec.model_label for spec in specs}
        for record in sweep.done.values():
            self._count(record)

    def __enter__(self) -> Progress:
        if self.quiet:
            return self
        for note in self.sweep.notes:
            self._say(f"note: {note}")
        there = len(self.sweep.jobs) - self.total
        workers = min(self.sweep.workers, self.total)
        self._say(
            f"{count_of(self.total, 'run')} to do"
            + (f", {there} there already" if there else "")
            + (f"; {workers} at a time on {self.sweep.place}" if self.total else "")
        )
        self.started = time.monotonic()
        if self.total and self.console.is_terminal:
            count = TextColumn("{task.completed}/{task.total} done, {task.fields[under_way]} under way,")
            elapsed = TimeElapsedColumn(), TextColumn("elapsed,"), TimeRemainingColumn(), TextColumn("left")
            self.bar = RichProgress(TextColumn("runs"), BarColumn(), count, *elapsed, console=self.console)
            self.task = self.bar.add_task("runs", total=self.total, under_way=workers)
            self.live = Live(self.bar, console=self.console)
            self.live.start()
        return self

    def landed(self, record: RunRecord) -> None:
        """Count a finished run and say what came of it."""
        self.done += 1
        self.failed += not record.ok
        self._count(record)
        if self.quiet:
            return
        left = self.total - self.done
        spec = record.spec
        what = [spec["sequence_label"], spec["scenario"], *([spec["model_label"]] if len(self.models) > 1 else [])]
        name = f"{self._label(record)} on {', '.join(what)}, seed {spec['seed']}"
        if not record.ok:
            self._say(f"FAILED {name}: {(record.error or '?').splitlines()[0]}")
        if self.live is not None:
            self.bar.update(self.task, completed=self.done, under_way=min(self.sweep.workers, left))
            if time.monotonic() - self.started > LONG:
                self.live.update(Group(self.means(), self.bar))
        elif record.ok:
            assert record.seconds is not None
            seconds = sum(record.seconds["train"]) + sum(record.seconds["evaluate"])
            remaining = (time.monotonic() - self.started) / self.done * left
            self._say(f"[{self.done}/{self.total}] {name}: {seconds:.1f} s; about {remaining:.0f} s left")

    def means(self) -> Table:
        """Return a table of average accuracy so far, as many rows as the terminal has room for."""
        table = Table("sequence", "scenario", "model", "method", box=box.SIMPLE)
        for heading in ("average accuracy so far (%)", "seeds"):
            table.add_column(heading, justify="right")
        room = max(3, self.console.height - 8)
        there = [(place, values) for place, values in self.finals.items() if values]
        for place, values in there[:room]:
            table.add_row(*map(Text, place), f"{100 * np.mean(values):.2f}", str(len(values)))
        if len(there) > room:
            table.add_row("…", "", "", f"and {len(there) - room} more", "", "")
        return table

    def _count(self, record: RunRecord) -> None:
        if record.accuracy is not None:
            spec = record.spec
            matrix = np.array(record.accuracy[metrics.primary_view(spec["scenario"])], dtype=float)
            place = spec["sequence_label"], spec["scenario"], spec["model_label"], self._label(record)
            self.finals.setdefault(place, []).append(metrics.average_accuracy(matrix))

    def _label(self, record: RunRecord) -> str:
        return self.sweep.told_apart.get(record.key, record.spec["label"])

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.update(self.bar)
            self.live.stop()

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False)


def carry_out(sweep: Sweep, quiet: bool = False, fork: bool = False) -> Progress:
    """Run what is missing of a sweep and say how it goes; see `Sweep.run` for `fork`."""
    with contextlib.closing(sweep.run(fork)) as records, Progress(sweep, quiet) as progress:
        for record in records:
            progress.landed(record)
    return progress
