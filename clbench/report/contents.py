"""Results → what a report says, whatever it is written in, and the commands that make its runs again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from clbench.report.tables import DASH, Cell, Table, Tables, number
from clbench.results import names
from clbench.results.analysis import COMPARED, tasks_in_words
from clbench.results.frames import Results
from clbench.results.groups import Comparison, training_settings
from clbench.results.wording import count_of, failure_title, signed
from clbench.version import __version__


class Contents:
    """What a report says: what there is to say of each comparison, failures, and what methods are."""

    def __init__(self, results: Results, tables: Tables):
        self.results, self.tables = results, tables
        self.title = "Continual learning: " + ", ".join(dict.fromkeys(place.sequence for place in results.comparisons))
        self.warnings = [*results.warnings, *results.problems, *tables.notes]
        self.failures = [(failure_title(record), record.error or "") for record in results.failed]
        self.tables_of = {comparison.place: tables.of(comparison) for comparison in results.comparisons}
        self.findings_of = {comparison.place: tables.findings(comparison) for comparison in results.comparisons}
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

    def of_tasks(self, comparison: Comparison) -> str:
        """Say what the tasks and seeds of a comparison are."""
        seeds = sorted({seed for group in comparison.finished for seed in group.seeds})
        about = f"Seeds: {', '.join(map(str, seeds))}." if seeds else "No run has finished."
        if len(seeds) == 1:
            about += " One seed: there are no intervals, and differences between methods may be chance."
        return f"{tasks_in_words(comparison)} {about}".strip()

    def of_training(self, comparison: Comparison) -> str:
        """Say which training settings all finished runs of a comparison share."""
        first, *others = [training_settings(group.runs[0].spec) for group in comparison.finished] or [{}]
        shared = [
            f"{name}={value}"
            for name, value in first.items()
            if value is not None and all(other.get(name) == value for other in others)
        ]
        return f"Training: {', '.join(shared)}." if shared else ""

    def runs(self, comparison: Comparison) -> Table:
        """Tabulate every run of a comparison."""
        runs = comparison.rows_of(self.results.runs)
        processors = {run.processor or DASH for run in runs}
        rows = [
            [
                Cell(comparison.titles[run.label]),
                number(run.seed),
                Cell(run.status),
                *(number(getattr(run, name), partial(signed, plus=False)) for name in COMPARED),
                number(run.train_seconds, "{:.2f}".format),
                *[Cell(run.processor or DASH)] * (len(processors) > 1),
                Cell(run.key),
            ]
            for run in runs
        ]
        headings = ["method", "seed", "status", "average accuracy (%)", "forgetting (%)", "training (s)"]
        caption = f"All runs of {comparison.title}; per cent, and seconds of training"
        if len(processors) > 1:
            headings.append("device")
        elif processors != {DASH}:
            caption += f" on {', '.join(processors)}"
        return Table("runs", f"{caption}.", [*headings, "record"], rows)


def _distinct(environments: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return sorted({str(one[name]) for one in environments if one.get(name)})


def commands(comparison: Comparison) -> list[str]:
    """Return the commands that make a comparison's runs, failed ones included: one for all runs with equal settings."""
    alike: dict[str, tuple[dict[str, None], dict[int, None]]] = {}  # by settings: methods and seeds, each once
    for group in comparison.groups:
        for record in [*group.runs, *group.failed]:
            first, name, last = _options(record.spec)
            names, seeds = alike.setdefault(json.dumps([first, last]), ({}, {}))
            names[name] = seeds[record.spec["seed"]] = None
    lines = []
    for options, (names, seeds) in alike.items():
        first, last = json.loads(options)
        lines.append(shlex.join(["clbench", "run", *first, ",".join(names), "--seeds", _seeds(list(seeds)), *last]))
    return lines


def _options(spec: Mapping[str, Any]) -> tuple[list[str], str, list[str]]:
    """Return a run's options: those before its method's or row's name, the name, and those after the seeds."""
    preset = spec.get("preset")
    order = None if spec["class_order_rule"] == "seed" else spec["class_order_rule"]
    if preset:
        settings = {name: value for name, value in preset["overridden"].items() if "." in name}
        order = order if "class_order" in preset["overridden"] else None
        first, name = ["--preset", preset["name"], "--rows"], preset["row"]
    else:
        given = training_settings(spec)
        settings = {f"training.{name}": value for name, value in given.items() if value is not None}
        first, name = ["--methods"], spec["label"]
    last = ["--sequence", spec["sequence_label"], "--scenario", spec["scenario"], "--model", spec["model_label"]]
    if order is not None:
        last += ["--class-order", order if order != "given" else ",".join(map(str, spec["class_order"]))]
    for setting, value in settings.items():
        last += ["--set", f"{setting}={str(value).lower() if isinstance(value, bool) else value}"]
    if "tasks" in (preset["overridden"] if preset else spec):
        last += ["--tasks", spec.get("tasks", "0-")]
    if spec.get("evaluate", "all") != "all":
        last += ["--evaluate", spec["evaluate"]]
    if spec.get("eval_every"):
        last += ["--eval-every", str(spec["eval_every"])]
    if spec.get("probe"):
        last.append("--probe")
    if spec.get("precision", "fp32") != "fp32":
        last += ["--precision", spec["precision"]]
    if spec.get("threads", 1) != 1:
        last += ["--threads", str(spec["threads"])]
    if "side_by_side" in spec:
        last += ["--side-by-side", str(spec["side_by_side"])]
    return first, name, [*last, "--device", spec["device"]]


def _seeds(seeds: Sequence[int]) -> str:
    """Write seeds as the command line takes them: a range where they are one, else a list."""
    ordered = sorted(seeds)
    if ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]}-{ordered[-1]}"
    return ",".join(map(str, ordered))
