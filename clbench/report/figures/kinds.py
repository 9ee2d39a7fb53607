"""The kinds of figures there are, and the data that each is drawn from. Needs no Matplotlib: `layouts` draws."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from clbench.errors import UsageError
from clbench.report.figures.searched import Searched, searched
from clbench.report.figures.style import Styles, greyed, styles_of
from clbench.results import analysis, metrics, names
from clbench.results.analysis import COMPARED, FEWEST_SEQUENCES, Ranks
from clbench.results.confusion import Confusion
from clbench.results.frames import Results
from clbench.results.groups import Comparison, Curves, Group
from clbench.results.metrics import Array
from clbench.results.references import BASELINE, UPPER_BOUND
from clbench.results.tuning import tuning_of
from clbench.results.wording import count_of, of_p


@dataclass(frozen=True)
class Subject:
    """What one figure is drawn from."""

    title: str  # what is compared
    note: str
    styles: Styles  # of the labels in it, in the order of the tables
    data: Any
    seeds: Mapping[str, int] = field(default_factory=dict)  # how many, by label

    @property
    def titles(self) -> dict[str, str]:
        return {label: str(style["label"]) for label, style in self.styles.items()}


@dataclass(frozen=True)
class Kind:
    """A kind of figure: what it shows, what it needs, and how its data is read.

    `read` takes results, a place and the differences to show (default: to fine-tuning), and returns None where the
    data is not there. A place is a scenario's name for a kind `of_scenario`, a comparison for any other.
    """

    title: str
    note: str  # of runs over several seeds
    needs: str
    read: Callable[[Results, Any, pd.DataFrame | None], Any]
    of_scenario: bool = False
    of_runs: bool = True  # whether its note is of the seeds that are shown
    always: Callable[[str], str] = lambda scenario: ""  # what to know of one seed too
    legend: bool = False  # its methods are told apart by their looks alone, so that there must not be too many


def _matrices(results: Results, comparison: Comparison, _: Any) -> Mapping[str, Array] | None:
    """Return each label's accuracy matrices: [seeds, T+1, T]."""
    return comparison.accuracy() or None


def _by_task(results: Results, comparison: Comparison, _: Any) -> Mapping[str, Array] | None:
    """Return the matrices if there is a task that can be followed."""
    matrices = comparison.accuracy()
    return matrices if tasks_followed(matrices) else None


def tasks_followed(matrices: Mapping[str, Array]) -> list[int]:
    """Return the tasks, from 0, that a method was evaluated on more than once: one point is no curve."""
    times = [(~np.isnan(R)).any(axis=0).sum(axis=0) for R in matrices.values()]
    return [int(task) for task in np.flatnonzero(np.max(times, axis=0) > 1)] if times else []


def _if_drawn(points: Callable[[Array], Array], least: int) -> Callable[..., Mapping[str, Array] | None]:
    """Return a way to read the matrices if a run has `least` points that can be drawn."""

    def read(results: Results, comparison: Comparison, _: Any) -> Mapping[str, Array] | None:
        matrices = comparison.accuracy()
        runs = [points(R) for of_seeds in matrices.values() for R in of_seeds]
        return matrices if any((~np.isnan(values)).sum() >= least for values in runs) else None

    return read


def _stability(results: Results, comparison: Comparison, _: Any) -> Mapping[str, Array] | None:
    """Return the matrices if learning accuracy and forgetting are both defined for more than one run."""
    matrices = comparison.accuracy()
    values = [metrics.learning_accuracy(R) + metrics.forgetting(R) for of_seeds in matrices.values() for R in of_seeds]
    return matrices if (~np.isnan(values)).sum() > 1 else None


def _costs(results: Results, comparison: Comparison, _: Any) -> dict[str, dict[str, Array]] | None:
    """Return each label's training seconds and accuracy, and peak memory and accuracy: [seeds, 2].

    A cost that was recorded for one label only is left out.
    """
    costs: dict[str, dict[str, Array]] = {"seconds": {}, "bytes": {}}
    view = metrics.primary_view(comparison.scenario)
    for group in comparison.finished:
        accuracies = [metrics.average_accuracy(R) for R in group.accuracy(view)]
        measured = {
            "seconds": [sum(record.seconds["train"]) if record.seconds else None for record in group.runs],
            "bytes": [record.peak_memory_bytes for record in group.runs],
        }
        for name, values in measured.items():
            points = np.array([values, accuracies], dtype=np.float64).T  # None becomes NaN
            if not np.isnan(points).any():
                costs[name][group.label] = points
    return {name: points for name, points in costs.items() if len(points) > 1} or None


@dataclass(frozen=True)
class MemorySizes:
    """A method with several sizes of memory: `label` is the smallest's; points of stored images and accuracies."""

    label: str
    title: str
    points: Sequence[tuple[float, Array]]  # images, accuracy by seed


def _memories(results: Results, comparison: Comparison, _: Any) -> tuple[list[MemorySizes], dict[str, Array]] | None:
    """Return the methods that have run with several sizes of memory; and the references' accuracies, by label."""
    view = metrics.primary_view(comparison.scenario)
    references: dict[str, Array] = {}
    by_method: dict[str, list[tuple[float, Array, Group]]] = {}
    for group in comparison.finished:
        accuracies = np.array([metrics.average_accuracy(R) for R in group.accuracy(view)])
        stored = [record.stored_images or 0 for record in group.runs]
        if group.method in (BASELINE, UPPER_BOUND):
            references[group.label] = accuracies
        elif all(stored) and not np.isnan(accuracies).any():
            by_method.setdefault(group.method, []).append((float(np.mean(stored)), accuracies, group))
    series = [line for method, points in by_method.items() for line in _lines_of(method, points)]
    return (series, references) if series else None


def _lines_of(method: str, points: Sequence[tuple[float, Array, Group]]) -> Iterator[MemorySizes]:
    """Yield a method's line; one for each of its other settings, where several groups have the same size."""
    lines: dict[str, list[tuple[float, Array, Group]]] = {}
    repeated = len({size for size, *_ in points}) < len(points)
    for point in sorted(points, key=lambda point: point[0]):
        params = {name: value for name, value in point[2].runs[0].spec["params"].items() if name != "images"}
        lines.setdefault(json.dumps(params, sort_keys=True) if repeated else "", []).append(point)
    for some in lines.values():
        first = some[0][2]
        if len({size for size, *_ in some}) > 1:
            title = first.title if repeated else names.title(method, method)
            yield MemorySizes(first.label, title, [(size, values) for size, values, _ in some])


def _differences(results: Results, comparison: Comparison, frame: pd.DataFrame | None) -> list[pd.DataFrame] | None:
    """Return the differences to the baseline, a frame per metric, those that are defined."""
    frame = analysis.differences(results, COMPARED) if frame is None else frame
    rows = pd.DataFrame(comparison.rows_of(frame), columns=["Index", *frame.columns]).dropna(subset="difference")
    return [part for _, part in rows.groupby("metric", sort=False)] or None


def _ranks(results: Results, scenario: str, _: Any = None) -> Ranks | None:
    return next((ranks for ranks in analysis.ranks(results) if ranks.scenario == scenario), None)


def _within_tasks(results: Results, comparison: Comparison, _: Any) -> dict[str, Curves] | None:
    view = metrics.primary_view(comparison.scenario)
    found = {group.label: group.curves(view) for group in comparison.finished}
    return {label: curves for label, curves in found.items() if curves is not None} or None


def _confusions(results: Results, comparison: Comparison, _: Any) -> dict[str, Confusion] | None:
    """Return what classes were taken for by label, where there are several classes; as many in all labels."""
    found = {group.label: group.confusion() for group in comparison.finished}
    there = {label: one for label, one in found.items() if one is not None and one.counts.shape[1] > 1}
    first = next(iter(there.values()), None)
    return {label: one for label, one in there.items() if first is not None and one.tasks == first.tasks} or None


def _places(scenario: str) -> str:
    """Say what stands at the places of classes."""
    if scenario == "domain":
        return "labels within a task, the images of all tasks together"
    return "classes in the order of each run's tasks, lines between tasks"


def _probed(results: Results, comparison: Comparison, _: Any) -> dict[str, Array] | None:
    """Return each label's average accuracy and that of the linear probe: [seeds, 2]."""
    view = metrics.primary_view(comparison.scenario)
    found = {
        group.label: np.array(
            [[metrics.average_accuracy(run.matrix(view)), metrics.linear_probe_accuracy(run.probe)] for run in runs]
        )
        for group in comparison.finished
        if (runs := group.with_probe)
    }
    return {label: points for label, points in found.items() if not np.isnan(points).any()} or None


def _searches(results: Results, comparison: Comparison, _: Any) -> dict[str, Searched] | None:
    """Return the trials by which each label's settings were chosen."""
    found = {group.label: searched(tuning_of(group) or {}) for group in comparison.finished}
    return {label: one for label, one in found.items() if one is not None} or None


MOST_IN_COLOUR = 12  # methods, where there is a legend; of more, only the best few and the two references
BEST = 6
BAND, BAR = "band: 95 % interval", "bar: 95 % interval"
COUNTED = "a finished run that says what classes were taken for"
A_RUN, TWICE = "a finished run", "runs that were evaluated more than once"
FORGETTING = "runs for which forgetting is defined"

FIGURES: Mapping[str, Kind] = {  # the first is what a page opens with
    "accuracy-by-task": Kind(
        "Accuracy on each task as training goes on",
        f"dotted: when the task is learnt; {BAND}",
        TWICE,
        _by_task,
        legend=True,
    ),
    "accuracy-matrix": Kind("Accuracy on each task after each task", "means; hatched: not measured", A_RUN, _matrices),
    "within-task-curves": Kind(
        "Accuracy on the tasks seen, within tasks",
        f"dotted: the next task begins; {BAND}",
        "runs that were evaluated within tasks",
        _within_tasks,
    ),
    "average-accuracy": Kind(
        "Mean accuracy on the tasks seen so far", BAND, TWICE, _if_drawn(metrics.average_accuracies, 2), legend=True
    ),
    "forgetting-by-task": Kind(
        "Forgetting of each task at the end",
        f"{BAR}, cut where the scale ends",
        FORGETTING,
        _if_drawn(metrics.forgetting_by_task, 1),
        legend=True,
    ),
    "stability-plasticity": Kind(
        "Stability against plasticity",
        f"faint: single seeds; {BAR}; dashed: equal mean",
        FORGETTING,
        _stability,
        legend=True,
    ),
    "differences": Kind(
        "Paired differences to the baseline",
        f"{BAR}; filled: better or worse; hollow: no such verdict",
        "two methods with seeds in common",
        _differences,
    ),
    "accuracy-cost": Kind(
        "Average accuracy against cost", f"{BAR}; top left is best", "two methods", _costs, legend=True
    ),
    "accuracy-memory": Kind(
        "Average accuracy against memory",
        f"{BAR}; lines across: references",
        "a method with several sizes of memory",
        _memories,
    ),
    "class-accuracy": Kind("Accuracy on each class at the end", "means", COUNTED, _confusions, always=_places),
    "confusion": Kind("What each class is taken for at the end", "means", COUNTED, _confusions, always=_places),
    "probe": Kind(
        "What a linear probe finds in the features",
        BAR,
        "runs with --probe",
        _probed,
        always=lambda scenario: (
            "the probe is a linear classifier of the final features, fitted to all tasks' training images"
        ),
    ),
    "sensitivity": Kind(
        "Score of every setting that was tried",
        "accuracy on images held out of what was tuned on, no test image; bars: 95 % intervals over tuning seeds",
        "methods that clbench tune has tuned",
        _searches,
        of_runs=False,
    ),
    "ranks": Kind(
        "Average rank over task sequences",
        "bars join methods that may rank alike; joint training aside",
        f"{FEWEST_SEQUENCES} task sequences in a scenario that the same methods ran on",
        _ranks,
        of_scenario=True,
    ),
}


def places(kind: str, results: Results) -> list[Any]:
    """Return what a figure of a kind may be made of: comparisons, or scenarios."""
    finished = [comparison for comparison in results.comparisons if comparison.finished]
    return list(dict.fromkeys(c.scenario for c in finished)) if FIGURES[kind].of_scenario else finished


def key_of(place: Any) -> tuple[str, ...]:
    """Return a place's names: sequence, scenario and model of a comparison; or a scenario alone."""
    return (place,) if isinstance(place, str) else place.place


def read(kind: str, results: Results, place: Any, differences: pd.DataFrame | None = None) -> Subject | None:
    """Return what the figure of a place is drawn from; None if the data is not there."""
    what = FIGURES[kind]
    data = what.read(results, place, differences)
    if data is None:
        return None
    if what.of_scenario:
        p = "" if np.isnan(data.p) else f"; Friedman's p {of_p(data.p)}"
        title = f"{place} scenario, {count_of(data.sequences, 'task sequence')}"
        groups = [group for c in results.comparisons if c.scenario == place for group in c.groups]
        return Subject(title, what.note + p, _styles_in(results, groups), data)
    seeds = {group.label: len(group.runs) for group in place.finished}
    few, many = min(seeds.values()), max(seeds.values())
    count = f"{few}–{many} seeds" if few < many else count_of(many, "seed")
    note = f"{count}; {what.note}" if many > 1 else "one seed, so no intervals"
    note = note if what.of_runs else what.note
    note += f"; {always}" if (always := what.always(place.scenario)) else ""
    styles = _styles_in(results, place.finished)
    if what.legend and len(seeds) > MOST_IN_COLOUR:
        references = _references(place)
        styles = greyed(styles, set(seeds) - {*references, *_best(place, references)})
        named = ", ".join(place.titles[label] for label in references)
        note += f"; in colour: {named}, and the best {BEST} by average accuracy"
    return Subject(place.title, note, styles, data, seeds)


def _references(comparison: Comparison) -> list[str]:
    """Return the labels of the baseline and of joint training, as far as there are any."""
    base = analysis.baseline_of(comparison)
    return [group.label for group in comparison.finished if group is base or group.method == UPPER_BOUND]


def _best(comparison: Comparison, references: Sequence[str]) -> list[str]:
    """Return the labels with the best average accuracy beside the references."""
    matrices = comparison.accuracy().items()
    means = {label: np.mean([metrics.average_accuracy(R) for R in of_seeds]) for label, of_seeds in matrices}
    others = [label for label in means if label not in references]
    return sorted(others, key=lambda label: np.nan_to_num(means[label], nan=-1.0), reverse=True)[:BEST]


def _styles_in(results: Results, groups: Iterable[Group]) -> Styles:
    """Return the groups' styles, which they have in all figures of these results."""
    titles = {group.label: group.title for group in groups}
    styles = styles_of(results.labels, titles)
    return {label: styles[label] for label in results.labels if label in titles}


def find(
    kind: str, results: Results, sequence: str | None = None, scenario: str | None = None, model: str | None = None
) -> Subject:
    """Return what a figure is drawn from. Raises UsageError unless exactly one comparison fits and has the data."""
    if kind not in FIGURES:
        raise UsageError(f"no figure '{kind}': choose one of {', '.join(FIGURES)}")
    what, choices = FIGURES[kind], places(kind, results)
    wanted = (scenario,) if what.of_scenario else (sequence, scenario, model)
    fitting = [p for p in choices if all(w in (None, have) for w, have in zip(wanted, key_of(p), strict=True))]
    if what.of_scenario:  # the one that has enough
        fitting = [scenario for scenario in fitting if _ranks(results, scenario)] or fitting
    if len(fitting) != 1:
        listed = "; ".join(p if what.of_scenario else p.title for p in fitting or choices)
        fit = "scenarios fit: name" if what.of_scenario else "comparisons fit: name sequence, scenario and model of"
        raise UsageError(f"{len(fitting)} {fit} one of: {listed or 'nothing'}")
    subject = read(kind, results, fitting[0])
    if subject is None:
        raise UsageError(f"no figure '{kind}' of these records: it needs {what.needs}")
    return subject
