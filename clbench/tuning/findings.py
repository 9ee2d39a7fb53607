"""What a search came to: a preset that a person can read, a table of all trials, and what should be heard of them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from clbench.errors import ClbenchError, UsageError
from clbench.experiment import registry
from clbench.experiment.preset import Preset, Row
from clbench.experiment.tuned import Tried, Tuned, plain
from clbench.results import names
from clbench.results.statistics import mean_interval
from clbench.results.store import unused, write_whole
from clbench.results.wording import count_of
from clbench.tuning.spaces import Candidate, Dimension
from clbench.tuning.study import Study, Trial
from clbench.tuning.tune import Plan


@dataclass(frozen=True)
class Findings:
    """What a search came to, method by method."""

    plan: Plan
    studies: Mapping[str, Study]

    @property
    def tuned(self) -> list[tuple[Candidate, Study, Trial]]:
        """The methods, each with its search and the trial that was chosen; without those whose every trial failed."""
        pairs = [(one, self.studies[one.label]) for one in self.plan.candidates if one.label in self.studies]
        return [(one, study, best) for one, study in pairs if (best := study.best()) is not None]

    @property
    def preset_path(self) -> Path:
        """The file of the preset that was written."""
        return self.plan.preset

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A line for each trial: what was tried, its score in per cent with its interval over seeds, and its cost."""
        lines = []
        for label, study in self.studies.items():
            for trial in study.ended():
                low, high = interval(trial)
                line = {"method": label, "trial": trial.number, "score": 100 * trial.score if trial.scores else None}
                line |= {"ci_low": low, "ci_high": high, "updates": trial.updates, "seconds": trial.seconds}
                lines.append({**line, "error": trial.error, **trial.setting})
        return pd.DataFrame(lines)

    @property
    def preset(self) -> Preset:
        """The preset whose rows have the settings that were chosen."""
        rows = [one.row(best.setting, label=one.label, tuning=outcome(one, study)) for one, study, best in self.tuned]
        if not self.studies:
            rows = [one.row({}, label=one.label) for one in self.plan.candidates]
        labels = ", ".join(names.title(row.label.split("@")[0], row.label) for row in rows)
        base, where = self.plan.base, self.plan.base.scenarios[0]
        how = f"tuned by {self.plan.tuning.protocol}" if self.studies else "untuned"
        title = f"{labels} on {base.sequence['name']} ({where}), {how}"
        return dataclasses.replace(self.plan.reported, title=title, rows=rows)

    @property
    def warnings(self) -> list[str]:
        """Lines on what to know before the settings are used."""
        lines = []
        for one, study in ((one, self.studies[one.label]) for one in self.plan.candidates if self.studies):
            ended = study.ended()
            failed = [trial for trial in ended if trial.scores is None]
            if failed and len(failed) == len(ended):
                lines.append(f"{one.label} is left out: all of its trials failed; the first, {failed[0].error}")
            elif failed:
                lines.append(f"{one.label}: {count_of(len(failed), 'trial')} of {len(ended)} failed: {failed[0].error}")
        for one, _, best in self.tuned:
            lines += [f"{one.label}: {line}" for line in edges(one, best)]
        if alike := [one.label for one, study, best in self.tuned if not beats_default(one, study, best)]:
            seeds = count_of(len(self.plan.tuning.seeds), "seed")
            lines.append(f"as far as {seeds} can tell, no setting is better than the default: {', '.join(alike)}")
        return lines + unequal(self.tuned)

    def write(self) -> list[Path]:
        """Write the preset, and the table of trials; return their paths. Raises ClbenchError if they can't be."""
        if self.studies and not self.tuned:
            raise ClbenchError(f"every trial of every method failed: {'; '.join(self.warnings)}")
        texts = {self.plan.preset: preset_text(self)}
        if self.studies:
            texts[self.plan.folder / "trials.csv"] = self.frame.to_csv(index=False)
        try:
            self._set_aside(texts[self.plan.preset])
            return [write_whole(path, text.encode()) for path, text in texts.items()]
        except OSError as error:
            raise UsageError(f"cannot write to {self.plan.folder}: {error.strerror or error}") from None

    def _set_aside(self, text: str) -> None:
        """Keep an earlier preset of this name that says something else: it may be of other methods, or be edited."""
        path = self.plan.preset
        if path.exists() and path.read_text(encoding="utf-8") != text:
            path.rename(unused(path.parent, f"{path.stem}.earlier-", ".toml"))


def interval(trial: Trial) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a trial's score over its seeds, in per cent; None with one seed or a failed run."""
    if trial.scores is None or len(trial.scores) < 2:
        return None, None
    found = mean_interval(trial.scores)
    return max(0.0, round(100 * float(found.low), 2)), min(100.0, round(100 * float(found.high), 2))


def outcome(candidate: Candidate, study: Study) -> Tuned:
    """Return what a search came to, as a preset has it; what a setting was tried twice for is counted once."""
    ended, best = study.ended(), study.best()
    defaults = [trial.number for trial in ended if trial.setting == candidate.default][:1]
    tried = [
        Tried(
            at={name: value for name, value in trial.setting.items() if value is not None},
            score=_per_cent(trial),
            interval=_interval(trial),
            chosen=best is not None and trial.number == best.number,
            default=trial.number in defaults,
        )
        for trial in ended
    ]
    different = {json.dumps(trial.setting, sort_keys=True): trial for trial in ended}
    return Tuned(
        score=None if best is None else _per_cent(best),
        interval=None if best is None else _interval(best),
        trials=len(ended),
        failed=sum(trial.scores is None for trial in ended),
        settings=len(different),
        updates=sum(trial.updates for trial in different.values()),
        seconds=round(sum(trial.seconds for trial in different.values()), 1),
        space={one.name: str(one.search) for one in study.space},
        tried=tried if study.space else [],
    )


def _per_cent(trial: Trial) -> float | None:
    return None if trial.scores is None else round(100 * trial.score, 2)


def _interval(trial: Trial) -> list[float] | None:
    low, high = interval(trial)
    return None if low is None or high is None else [low, high]


def beats_default(candidate: Candidate, study: Study, best: Trial) -> bool:
    """Whether what was chosen scores higher than the default, by the 95 % interval of the difference paired by seed.

    True, too, where there is nothing to compare. As the best was picked among many, it is said of too many.
    """
    default = next((trial for trial in study.ended() if trial.setting == candidate.default), None)
    if not candidate.space or default is None or default.scores is None or len(default.scores) < 2:
        return True
    assert best.scores is not None
    found = mean_interval([one - other for one, other in zip(best.scores, default.scores, strict=True)])
    return bool(found.low > 0)


def edges(candidate: Candidate, best: Trial) -> Iterator[str]:
    """Yield a line for each value that lies at an end of its range."""
    for one in candidate.space:
        if edge := one.edge(best.setting[one.name]):
            yield edge_in_words(one, best.setting[one.name], edge)


def edge_in_words(dimension: Dimension, value: Any, edge: str) -> str:
    """Say where a value lies."""
    where = f"the {edge} end of its space {dimension.search}"
    return f"{dimension.name} = {names.spelled(value)} lies at {where}: a better one may lie beyond"


def unequal(tuned: Sequence[tuple[Candidate, Study, Trial]]) -> list[str]:
    """Say which methods had more trials, or other settings, than others that had something to search."""
    counts = {one.label: len(study.ended()) for one, study, _ in tuned if one.space and not study.in_full}
    least = min(counts.values(), default=0)
    return [f"{label} had {n} trials, others {least}: not the same budget" for label, n in counts.items() if n > least]


# ----------------------------------------------------------------------------------------------------------------------
# The file


def preset_text(findings: Findings) -> str:
    """Return the preset as TOML, with comments that say where its numbers come from."""
    plan, preset = findings.plan, findings.preset
    tuning, here = plan.tuning, plan.request.out
    where = "all tasks" if tuning.tasks is None else f"tasks {tuning.tasks}"
    how = [
        f"# Written by clbench tune. Settings were chosen by {tuning.protocol}: on {100 * tuning.validation:g} %",
        f"# of the training images of {where}, which were not trained on. No test image was used.",
    ]
    if not findings.studies:
        how = ["# Written by clbench tune with the protocol none: these are the defaults, nothing was chosen."]
    lines = [*how, f"title = {toml(preset.title)}", f"scenarios = {toml(preset.scenarios)}"]
    if preset.tasks is not None:
        lines.append(f"tasks = {toml(preset.tasks)} # counted from 0: those before were tuned on, and are left out")
    elif tuning.protocol == "stream-validation":
        lines.insert(2, "# Whoever chose them saw all tasks before the first one was learnt, as no learner can.")
    for name in ("class_order", "precision"):
        if getattr(preset, name) is not None:
            lines.append(f"{name} = {toml(getattr(preset, name))}")
    for name in ("sequence", "model", "training"):
        table = {key: relative(value, here) if key == "name" else value for key, value in getattr(preset, name).items()}
        lines += ["", f"[{name}]", *(f"{key} = {toml(value)}" for key, value in table.items())] if table else []
    lines += ["", "[tuning]", *(f"{key} = {toml(v)}" for key, v in vars(tuning).items() if v)]
    chosen = {one.label: (one, best) for one, _, best in findings.tuned}
    for row in preset.rows:
        warned = edges(*chosen[row.label]) if row.label in chosen else ()
        lines += ["", *row_text(row, warned, here)]
    return "\n".join(lines) + "\n"


def row_text(row: Row, warnings: Iterable[str], here: Path) -> Iterator[str]:
    """Yield the lines of a row."""
    yield "[[rows]]"
    yield f"label = {toml(row.label)}"
    yield f"method = {toml(relative(row.method, here))}"
    yield from (f"# WARNING: {line}" for line in warnings)
    for name in ("fields", "training"):
        if table := getattr(row, name):
            yield f"{name} = {toml(table)}"
    if row.tuning is None:
        return
    known = {
        key: value for key, value in plain(row.tuning).items() if value not in ({}, []) and (value or key != "failed")
    }
    tried = known.pop("tried", [])
    yield "[rows.tuning]" + (
        "" if row.tuning.space else " # there was nothing to search: its settings are the defaults"
    )
    notes = {
        "score": "accuracy after the last task on validation images, per cent: mean over seeds",
        "interval": "of that mean, 95 %",
        "settings": "different ones",
        "seconds": "of training, in all trials",
    }
    for key, value in known.items():
        yield f"{key} = {toml(value)}" + (f" # {notes[key]}" if key in notes else "")
    if tried:
        yield from ("tried = [", *(f"    {toml(trial)}," for trial in tried), "]")


def relative(reference: str, folder: Path) -> str:
    """Return a reference to a file as it stands in a preset of a folder."""
    place = registry.absolute(reference)
    if place == reference and not os.path.isabs(re.sub(r"^\w+:", "", reference)):
        return reference
    kind, _, path = ("", "", place) if os.path.isabs(place) else place.partition(":")
    near = Path(os.path.relpath(path, folder.absolute())).as_posix()
    return f"{kind}:{near}" if kind else near if near.startswith(".") else f"./{near}"


def toml(value: Any) -> str:
    """Write a value as TOML has it."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {toml(v)}" for key, v in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else toml(name)
