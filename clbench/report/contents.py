"""Results → what a report says, section by section, whatever it is written in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from clbench.report.commands import commands
from clbench.report.tables import COMPARED, DASH, Cell, Table, Tables
from clbench.results import names
from clbench.results.analysis import found_in, line_of
from clbench.results.frames import Results
from clbench.results.groups import Comparison
from clbench.results.sentences import tasks_in_words
from clbench.results.wording import count_of, failure_title, percent, signed, spell
from clbench.version import __version__


@dataclass(frozen=True)
class Section:
    """What a report says of one comparison."""

    place: tuple[str, str, str]
    title: str
    about: str  # tasks and seeds, in sentences
    training: str  # the settings that all runs share
    findings: Sequence[str]
    tables: Sequence[Table]
    runs: Table
    commands: Sequence[str]


class Contents:
    """What a report says: an overview, a section per comparison, failures, and what methods are."""

    def __init__(self, results: Results, tables: Tables):
        self.results, self.tables = results, tables
        self.title = "Continual learning: " + ", ".join(dict.fromkeys(place.sequence for place in results.comparisons))
        self.warnings = [*results.warnings, *results.problems, *tables.notes]
        self.failures = [(failure_title(record), record.error or "") for record in results.failed]
        methods = [group.method for place in results.comparisons for group in place.groups]
        self.methods = names.explanations(methods)
        self.bibliography = names.bibliography(methods)

    @property
    def about(self) -> str:
        """What was run, and on what."""
        results = self.results
        environments = [record.environment or {} for record in results.records]
        parts = [
            f"{count_of(len(results) - len(results.failed), 'finished run')} of "
            f"{count_of(len(results.labels), 'method')}",
            f"{len(results.failed)} failed",
        ]
        for name, what in (("device", "on"), ("torch", "PyTorch"), ("clbench", "clbench")):
            if found := _distinct(environments, name):
                parts.append(f"{what} {' and '.join(found)}")
        by = "" if _distinct(environments, "clbench") == [__version__] else f" Report by clbench {__version__}."
        return f"{'; '.join(parts)}.{by}"

    @cached_property
    def overview(self) -> Table | None:
        """What is most accurate and what forgets least, how sure that is, and what it costs; None without runs."""
        rows = [row for comparison in self.results.comparisons for row in self._answers(comparison)]
        headings = ["comparison", "question", "answer", "value (%)", "difference to the baseline"]
        caption = (
            "What is best in each comparison, joint training aside: mean over seeds with its 95 % interval, the paired "
            "difference to the baseline, the methods that a paired test cannot tell from the best, and seconds of "
            "training a run."
        )
        headings += ["cannot be told from", "training (s)"]
        return Table("overview", caption, headings, rows) if rows else None

    @cached_property
    def sections(self) -> list[Section]:
        return [self._section(comparison) for comparison in self.results.comparisons]

    def _answers(self, comparison: Comparison) -> Iterator[list[Cell]]:
        """Yield the overview's rows on a comparison."""
        for metric, question in (("average_accuracy", "highest average accuracy"), ("forgetting", "least forgetting")):
            first, ties, untested = self.tables.best(comparison, metric)
            if first is None:
                continue
            values = list(self.results.by_seed(first, metric).values())
            line = line_of(self.tables.differences_of(comparison), first, metric)
            difference = Cell("it is the baseline")
            if line is not None:
                text = f"to {comparison.titles[line.baseline]}: {spell(found_in(line), line.p_holm)}"
                difference = Cell(text + (f": {line.verdict}" if line.n > 1 else ""))
            not_told = [group.title for group in ties] + [f"{group.title} (no test)" for group in untested]
            seconds = float(np.mean([sum((record.seconds or {})["train"]) for record in first.runs]))
            yield [
                Cell(comparison.title),
                Cell(question),
                Cell(first.title),
                Cell(percent(values, interval=self.tables.choices.interval), float(np.mean(values))),
                difference,
                Cell(", ".join(not_told) or "none"),
                Cell(f"{seconds:.2f}", seconds),
            ]

    def _section(self, comparison: Comparison) -> Section:
        seeds = sorted({seed for group in comparison.finished for seed in group.seeds})
        about = f"Seeds: {', '.join(map(str, seeds))}." if seeds else "No run has finished."
        if len(seeds) == 1:
            about += " One seed: there are no intervals, and differences between methods may be chance."
        return Section(
            place=comparison.place,
            title=comparison.title,
            about=f"{tasks_in_words(comparison)} {about}".strip(),
            training=_shared_training(comparison),
            findings=self.tables.findings(comparison),
            tables=self.tables.of(comparison),
            runs=self._runs(comparison),
            commands=commands(comparison),
        )

    def _runs(self, comparison: Comparison) -> Table:
        """Tabulate every run of a comparison."""
        rows = []
        for group in comparison.groups:
            for record in [*group.runs, *group.failed]:
                measures = self.results.by_key(record.key)
                seconds = float(sum((record.seconds or {}).get("train", ())))
                rows.append(
                    [
                        Cell(group.title),
                        Cell(str(record.spec["seed"]), float(record.spec["seed"])),
                        Cell(record.status),
                        *(_percent(measures.get(name, np.nan)) for name in COMPARED),
                        Cell(f"{seconds:.2f}", seconds) if record.ok else Cell(DASH),
                        Cell(str((record.environment or {}).get("device", DASH))),
                        Cell(record.key),
                    ]
                )
        headings = ["method", "seed", "status", "average accuracy (%)", "forgetting (%)", "training (s)"]
        caption = f"All runs of {comparison.title}; per cent, and seconds of training."
        return Table("runs", caption, [*headings, "device", "record"], rows)


def _distinct(environments: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return sorted({str(one[name]) for one in environments if one.get(name)})


def _percent(value: float) -> Cell:
    return Cell(DASH) if np.isnan(value) else Cell(signed(value, plus=False), value)


def _shared_training(comparison: Comparison) -> str:
    """Say which training settings all finished runs share."""
    settings = [group.runs[0].spec["training"] for group in comparison.finished]
    shared = [
        f"{name}={value}"
        for name, value in (settings[0] if settings else {}).items()
        if value is not None and all(other.get(name) == value for other in settings)
    ]
    return f"Training: {', '.join(shared)}." if shared else ""
