"""Results → one self-contained HTML page: no network, no other file. Its template is `page.html`, beside this file."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clbench import __version__
from clbench.report.tables import Cell, Table, Tables, commands
from clbench.results import names
from clbench.results.analysis import found_in, line_of
from clbench.results.frames import Results
from clbench.results.groups import Comparison
from clbench.results.sentences import tasks_in_words, unequal_budgets
from clbench.results.wording import count_of, failure_title, percent, signed, spell

if TYPE_CHECKING:
    from jinja2 import Template

WORDS = (
    ("average accuracy", "mean accuracy over all tasks after the last one"),
    ("anytime accuracy", "mean over all tasks i of the mean accuracy on the tasks up to i after task i"),
    ("learning accuracy", "mean accuracy on each task right after learning it"),
    (
        "forgetting",
        "best earlier accuracy on a task minus that at the end, mean over all tasks but the last; lower is better",
    ),
    (
        "backward transfer",
        "accuracy on a task at the end minus that right after learning it, mean over all but the last",
    ),
    ("forward transfer", "accuracy on a task just before learning it minus that before any training"),
    ("intransigence", "learning accuracy of joint training minus the method's; lower is better"),
    (
        "minimum accuracy, worst-case accuracy",
        "lowest accuracy on a task while later ones were learnt, mean over all tasks but the last; the same with the "
        "last task's accuracy among them (De Lange et al. 2023); from runs with --eval-every",
    ),
    (
        "gap recovered",
        "(method − fine-tuning) / (joint training − fine-tuning) of average accuracy in per cent, with Fieller's 95 % "
        "interval; undefined where the gap may be 0",
    ),
    ("updates, images", "steps of the optimiser, and images that they were taken on, repeats counted"),
    ("forward passes", "images through the backbone in training; fewer than images where features are computed once"),
    ("stored", "the most that a method keeps between tasks beside the network: old images, importances, old networks"),
    ("peak memory", "what the run itself took, beside the program and the data that all runs share"),
    (
        "scenario",
        "task: which class, given the task; class: which class of all seen; domain: which class, whatever the task",
    ),
)


@dataclass(frozen=True)
class Picture:
    """A figure for the page: a PNG or SVG file that is drawn already, and what it shows."""

    path: Path
    alt: str
    wide: bool = False  # whether it takes the page's whole width

    @property
    def source(self) -> str:
        kind = {".png": "png", ".svg": "svg+xml"}[self.path.suffix]
        return f"data:image/{kind};base64,{base64.b64encode(self.path.read_bytes()).decode()}"


def render(
    results: Results,
    tables: Tables,
    pictures: Mapping[tuple[str, ...], Sequence[Picture]] | None = None,
    waiting: int = 0,
) -> str:
    """Return the page; `pictures` are by place: a comparison, or a scenario. So many are to be drawn yet."""
    pictures = pictures or {}
    finished = len(results) - len(results.failed)
    environments = [record.environment or {} for record in results.records]
    made_by = set(_distinct(environments, "clbench"))
    about = [f"{count_of(finished, 'finished run')} of {count_of(len(results.labels), 'method')}"]
    about += [f"{len(results.failed)} failed"] * bool(results.failed)
    for name, what in (("device", "on"), ("torch", "PyTorch"), ("clbench", "clbench")):
        if found := _distinct(environments, name):
            about.append(f"{what} {' and '.join(found)}")
    return _template().render(
        title="Continual learning: " + ", ".join(dict.fromkeys(place.sequence for place in results.comparisons)),
        about="; ".join(about) + ("." if {__version__} == made_by else f". Page by clbench {__version__}."),
        warnings=[*results.warnings, *results.problems, *tables.notes],
        overview=_overview(results, tables),
        overall=[picture for place, some in pictures.items() if len(place) == 1 for picture in some],
        waiting=waiting,
        sections=[_section(results, tables, place, pictures.get(place.place, ())) for place in results.comparisons],
        failures=[{"title": failure_title(record), "text": record.error} for record in results.failed],
        methods=names.explanations(group.method for place in results.comparisons for group in place.groups),
        words=WORDS,
        bibliography=names.bibliography(group.method for place in results.comparisons for group in place.groups),
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string((files("clbench.report") / "page.html").read_text(encoding="utf-8"))


def _distinct(environments: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return sorted({str(one[name]) for one in environments if one.get(name)})


def _identity(comparison: Comparison, results: Results) -> str:
    return f"comparison-{results.comparisons.index(comparison) + 1}"


def _overview(results: Results, tables: Tables) -> Table | None:
    """Tabulate what is most accurate and what forgets least, how sure that is, and what it costs."""
    rows = [
        row for comparison in results.comparisons if comparison.finished for row in _short(results, tables, comparison)
    ]
    if not rows:
        return None
    headings = [
        "comparison",
        "question",
        "answer",
        "value (%)",
        "difference to the baseline",
        "cannot be told from",
        "training (s)",
    ]
    caption = (
        "What is best in each comparison, joint training aside: mean over seeds with its 95 % interval, the "
        "paired difference to "
        "the baseline, the methods that a paired test cannot tell from the best, and seconds of training a run."
    )
    return Table("overview", caption, headings, rows)


def _short(results: Results, tables: Tables, comparison: Comparison) -> Iterator[list[Cell]]:
    for metric, question in (("average_accuracy", "highest average accuracy"), ("forgetting", "least forgetting")):
        first, ties, untested = tables.best(comparison, metric)
        if first is None:
            continue
        values = list(results.by_seed(first, metric).values())
        line = line_of(tables.differences_of(comparison), first, metric)
        beside, difference = "it is the baseline", None
        if line is not None:
            beside = f"to {comparison.titles[line.baseline]}: {spell(found_in(line), line.p_holm)}"
            beside += f": {line.verdict}" if line.n > 1 else ""
            difference = line.difference
        not_told = [group.title for group in ties] + [f"{group.title} (no test)" for group in untested]
        seconds = float(np.mean([sum((record.seconds or {})["train"]) for record in first.runs]))
        yield [
            Cell(comparison.title),
            Cell(question),
            Cell(first.title),
            Cell(percent(values, interval=tables.choices.interval), float(np.mean(values))),
            Cell(beside, difference),
            Cell(", ".join(not_told) or "–"),
            Cell(f"{seconds:.2f}", seconds),
        ]


def _section(results: Results, tables: Tables, comparison: Comparison, pictures: Sequence[Picture]) -> dict[str, Any]:
    seeds = sorted({seed for group in comparison.finished for seed in group.seeds})
    about = f"Seeds: {', '.join(map(str, seeds))}." if seeds else "No run has finished."
    if len(seeds) == 1:
        about += " One seed: there are no intervals, and differences between methods may be chance."
    about = f"{tasks_in_words(comparison)} {about}".strip()
    return {
        "id": _identity(comparison, results),
        "title": comparison.title,
        "about": about,
        "findings": tables.findings(comparison),
        "tables": tables.of(comparison),
        "flags": unequal_budgets(comparison),
        "figures": pictures,
        "commands": commands(comparison),
        "runs": _runs(results, comparison),
    }


def _runs(results: Results, comparison: Comparison) -> Table:
    rows = []
    for group in comparison.groups:
        for record in [*group.runs, *group.failed]:
            measures = [results.by_key(record.key).get(name, np.nan) for name in ("average_accuracy", "forgetting")]
            seconds = float(sum((record.seconds or {}).get("train", ())))
            rows.append(
                [
                    Cell(group.title),
                    Cell(str(record.spec["seed"]), float(record.spec["seed"])),
                    Cell(record.status),
                    *(Cell("–") if np.isnan(x) else Cell(signed(x, plus=False), x) for x in measures),
                    Cell(f"{seconds:.2f}", seconds) if record.ok else Cell("–"),
                    Cell(str((record.environment or {}).get("device", "–"))),
                    Cell(record.key),
                ]
            )
    headings = [
        "method",
        "seed",
        "status",
        "average accuracy (%)",
        "forgetting (%)",
        "training (s)",
        "device",
        "record",
    ]
    return Table("runs", f"All runs of {comparison.title}; per cent, and seconds of training.", headings, rows)
