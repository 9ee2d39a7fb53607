"""`clbench tune`: settings of methods are chosen by a named protocol, at the same number of trials each.

Trials are runs like any others, in a folder of records, so that none is repeated; the search is Optuna's.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clbench.errors import UsageError
from clbench.execution.progress import carry_out
from clbench.execution.run import as_in_a_new_process, using_threads
from clbench.execution.sweep import prepare
from clbench.experiment import catalogue, early
from clbench.experiment.early import own_settings
from clbench.experiment.fields import parse_fields
from clbench.experiment.planning import plan
from clbench.experiment.points import choose, resolve_training, rows_asked
from clbench.experiment.preset import Preset, Row
from clbench.experiment.request import TUNE_DEFAULTS, Request
from clbench.experiment.seeds import parse_seeds
from clbench.experiment.spec import Job
from clbench.experiment.tuned import USUAL, Tuning
from clbench.results import metrics
from clbench.results.record import RunRecord
from clbench.results.store import unused
from clbench.results.wording import count_of
from clbench.tuning.spaces import Candidate, candidates, points

SHARE = 0.1  # of the training images that settings are scored on, unless told
MACHINE = (
    *("seeds", "jobs", "device", "kernels", "threads", "data_root", "checkpoint", "timeout", "backend", "scheduler"),
)


@dataclass(frozen=True)
class Plan:
    """What is tuned, and on what."""

    request: Request
    base: Preset  # what all runs share, those that are reported too; it has no rows
    tuning: Tuning
    candidates: Sequence[Candidate]
    kept: str | None  # tasks that are left to report on; None: all
    # whether the classes of the first tasks are the same for every seed: the data set's first ones, which are skipped
    # in what is reported. Else a seed would report on classes that settings were chosen on with another one
    skips: bool
    jobs: Sequence[Job]  # one for each method and seed, with its defaults
    notes: Sequence[str]

    @property
    def name(self) -> str:
        """The name of the preset and of the folder beside it."""
        return self.base.name

    @property
    def folder(self) -> Path:
        return self.request.out / self.name

    @property
    def records(self) -> Path:
        return self.folder / "trials"

    @property
    def preset(self) -> Path:
        return self.request.out / f"{self.name}.toml"

    def sweep_of(self, rows: Sequence[Row]) -> Request:
        """Return the request of trials: rows of a preset on the tasks and images that settings are chosen on."""
        tuning = self.tuning
        training = {**self.base.training, "validation": tuning.validation}
        trials = dataclasses.replace(
            self.base,
            rows=list(rows),
            training=training,
            tuning=dataclasses.replace(tuning, trial=True),
            tasks=tuning.tasks,
            evaluate="end",
            class_order="fixed" if self.skips else self.base.class_order,
        )
        return _request(self.request, trials, self.records)

    @property
    def reported(self) -> Preset:
        """What the runs to report share: the first tasks are left out, if settings were chosen on them."""
        if self.skips:
            assert self.kept is not None
            skip = int(self.kept.removesuffix("-"))
            return dataclasses.replace(self.base, sequence={**self.base.sequence, "skip": skip}, tuning=self.tuning)
        return dataclasses.replace(self.base, tasks=self.kept, tuning=self.tuning)


def make_plan(request: Request) -> Plan:
    """Work out what is to be tuned; raise UsageError for anything that cannot be done."""
    if importlib.util.find_spec("optuna") is None:
        raise UsageError("clbench tune needs optuna: pip install 'clbench[tune]'")
    base = _base(request)
    asked = [row for row in rows_asked(request).rows if base.scenarios[0] in (row.scenarios or base.scenarios)]
    _check_names(request, base, {own_settings(row.method)[0] for row in asked})
    (sequence,) = choose("sequence", [base.sequence["name"]], {}, _without_name(base.sequence))
    training = resolve_training(sequence.instance.budget, base.training, [])
    if training.patience is not None:
        raise UsageError("patience stops by the images that settings are scored on: leave it out of clbench tune")
    found = candidates(asked, request, training)
    for one in found:
        if base.scenarios[0] not in (allowed := sorted(one.choice.instance.scenarios)):
            what = f"the method {one.label} is not defined for the scenario {base.scenarios[0]}"
            raise UsageError(f"{what}: choose from {', '.join(allowed)}")
    everywhere = dataclasses.replace(base, rows=[one.row({}, label=one.label) for one in found])
    with as_in_a_new_process(), using_threads(1):  # one thread, so that workers may be forked
        planned = plan(_request(request, everywhere, request.out))
        chosen_on, kept = _tasks(request, planned.jobs[0])
    there = {job.spec.label for job in planned.jobs}
    found = [one for one in found if one.label in there]
    for one in found:
        if request.search_by == "grid":
            points(one.space, request.trials)  # raises if there are too few trials
    by_seed = kept is not None and base.class_order in (None, "seed")
    skips = by_seed and getattr(sequence.instance, "skip", None) == 0
    return Plan(request, base, _tuning(request, chosen_on), found, kept, skips, planned.jobs, planned.notes)


def _tuning(request: Request, tasks: str | None) -> Tuning:
    """Return how settings are chosen; raise UsageError if no images are held out for it."""
    if request.protocol.name == "none":
        return Tuning(protocol="none")
    share = SHARE if request.validation is None else request.validation
    if not share:
        raise UsageError("--validation 0 leaves nothing to choose settings by: test images are never used for that")
    seeds, name = request.seeds or parse_seeds(TUNE_DEFAULTS["seeds"]), request.protocol.name
    return Tuning(protocol=name, tasks=tasks, validation=share, seeds=seeds, search_by=request.search_by)


def _check_names(request: Request, base: Preset, methods: set[str]) -> None:
    """Raise UsageError for settings and spaces of what is not tuned here, and for what has a value and a space."""
    if request.search and request.protocol.name == "none":
        raise UsageError("--protocol none searches nothing: leave --search out, or choose another protocol")
    searched = sorted(methods | {"training"})
    if unused := sorted(set(request.search) - {*searched}):
        raise UsageError(f"--search {unused[0]}.… names nothing that is tuned here: {', '.join(searched)}")
    (sequence,) = choose("sequence", [base.sequence["name"]], {}, _without_name(base.sequence))
    model = base.model.get("name") or own_settings(sequence.instance.model)[0]
    known = [*searched, sequence.reference, model]
    if unused := sorted(set(request.settings) - {*known}):
        raise early.unused(unused[0], known)
    for name in request.search.get("training", {}):
        if name in base.training:
            raise UsageError(f"training.{name} has a value, and is to be searched too: leave one out")
        if name == "validation":
            raise UsageError("training.validation is the share that settings are scored on: give it as --validation")


def _base(request: Request) -> Preset:
    """Return what all runs share, as a preset without rows; raise UsageError for more than one of anything."""
    for option in ("sequence", "scenario", "model"):
        if len(getattr(request, option) or ()) > 1:
            raise UsageError(f"--{option} names several: tune one at a time, as each has settings of its own")
    for name, fields in request.settings.items():
        for field, values in fields.items():
            if len(values) > 1:
                raise UsageError(f"--set {name}.{field} is a grid: write --search {name}.{field}=… to search over it")
    (sequence,) = choose("sequence", request.sequence or ["split-digits"], request.settings)
    scenario = (request.scenario or [sequence.instance.scenario])[0]
    tables: dict[str, Any] = {"sequence": {"name": sequence.reference, **_own(sequence)}}
    if request.model:
        (model,) = choose("model", request.model, request.settings)
        tables["model"] = {"name": model.reference, **_own(model)}
    else:
        (model,) = choose("model", [sequence.instance.model], request.settings)
        tables["model"] = {
            name: value for name, value in _own(model).items() if name in request.settings.get(model.reference, {})
        }
    given = request.training | {name: v[0] for name, v in request.settings.get("training", {}).items()}
    training = parse_fields("training", catalogue.training().fields, given)
    training = {name: value for name, value in training.items() if name != "validation" or "patience" in training}
    order = request.class_order
    short = re.split(r"[:/]", sequence.reference)[-1].removesuffix(".npz")
    return Preset(
        name=re.sub(r"[^\w.+-]+", "-", f"{short}-{scenario}").strip("-."),
        title="",
        scenarios=[scenario],
        rows=[],
        training=training,
        class_order=list(order) if isinstance(order, tuple) else order,
        precision=request.precision,
        **tables,
    )


def _own(choice: Any) -> dict[str, Any]:
    """Return the settings of a sequence or model that are not its defaults."""
    (plain,) = choose(choice.kind, [choice.reference], {})
    values = {**choice.fields, **choice.files}
    return {name: value for name, value in values.items() if value != plain.fields[name]}


def _without_name(table: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name != "name"}


def _request(request: Request, preset: Preset, out: Path) -> Request:
    """Return a request that runs a preset where and as this one was asked for."""
    machine = {name: getattr(request, name) for name in MACHINE}
    return Request(preset=preset, out=out, **machine)


def _tasks(request: Request, job: Job) -> tuple[str | None, str | None]:
    """Return the tasks that settings are chosen on, and those to report on; None: all."""
    if request.protocol.name != "first-tasks":
        return None, None
    count = len(job.load_tasks())
    first = request.protocol.tasks or min(USUAL, max(1, count // 2))
    if first >= count:
        there = f"{job.spec.sequence_label} has {count_of(count, 'task')}"
        raise UsageError(f"protocol first-tasks@tasks={first}: {there}, and some must be left to report on")
    return f"0-{first - 1}", f"{first}-"


# ----------------------------------------------------------------------------------------------------------------------


def search(planned: Plan, quiet: bool = False, fork: bool = False) -> dict[str, Any]:
    """Run all trials, and return each method's study by its label; a second call runs nothing.

    There are none where the protocol is that nothing is chosen. Raises UsageError if another search into
    this folder is under way.
    """
    planned.folder.mkdir(parents=True, exist_ok=True)
    if planned.tuning.protocol == "none":
        return {}
    try:
        with FileLock(planned.folder / ".lock", timeout=0):
            news: list[str] = []
            studies = _studies(planned, news)
            said: set[str] = set()
            while _round(planned, studies, quiet, fork, said, news):
                pass
    except Timeout:
        raise UsageError(f"another clbench tune into {planned.folder} is under way") from None
    return studies


def _studies(planned: Plan, news: list[str]) -> dict[str, Any]:
    """Open each method's study, anew where Optuna's file is damaged: what it has lost is asked for again.

    As trials depend on their numbers and on what came of those before, whose records are there, none is run again.
    """
    from clbench.tuning.study import Study, open_storage  # here, since it needs Optuna

    path, request = planned.folder / "study.journal", planned.request

    def opened() -> dict[str, Any]:
        if path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            raise ValueError("its last line is not whole")
        storage = open_storage(path)
        return {
            one.label: Study(storage, one, request.search_by, request.trials, question_of(planned, one))
            for one in planned.candidates
        }

    try:
        return opened()
    except (ValueError, KeyError, TypeError):
        aside = unused(planned.folder, "study.damaged-", ".journal")
        path.rename(aside)
        news.append(f"the study in {path} is damaged and kept as {aside.name}; it is made anew of the records")
        return opened()


def question_of(planned: Plan, candidate: Candidate) -> str:
    """Return all that can change what a trial of a method comes to, beside the values that are searched."""
    keys = [job.spec.key for job in planned.jobs if job.spec.label == candidate.label]
    return " ".join([*keys, repr(planned.tuning.tasks), repr(planned.tuning.validation)])


def _round(
    planned: Plan, studies: dict[str, Any], quiet: bool, fork: bool, said: set[str], news: Sequence[str]
) -> bool:
    """Run the trials that the studies ask for next, each setting once; return whether there were any."""
    asked = [(one, trial) for one in planned.candidates for trial in studies[one.label].ask()]
    if not asked:
        return False
    rows = {row.label: row for row in (one.row(trial.setting) for one, trial in asked)}
    sweep = prepare(planned.sweep_of(list(rows.values())))
    notes = [*news, *sweep.notes]
    sweep.notes = [note for note in notes if note not in said]
    said.update(notes)
    carry_out(sweep, quiet, fork)
    records: dict[str, list[RunRecord]] = {}
    for job in sweep.jobs:
        records.setdefault(job.spec.label, []).append(sweep.done[job.spec.key])
    for one, trial in asked:
        studies[one.label].tell(measured(trial, records[one.row(trial.setting).label]))
    return True


def measured(trial: Any, records: Sequence[RunRecord]) -> Any:
    """Return a trial with what its runs, one per tuning seed, came to; no test image counts."""
    failed = next((record for record in records if not record.ok), None)
    updates = sum(sum(record.updates or ()) for record in records)
    seconds = sum(sum(record.seconds["train"]) for record in records if record.seconds)
    scores = None
    if failed is None:
        scores = [float(metrics.average_accuracy(record.matrix(images="validation"))) for record in records]
    error = "" if failed is None else str(failed.reason)
    if scores is not None and any(map(math.isnan, scores)):
        scores, error = None, "it has no answer to validation images"
    return dataclasses.replace(trial, scores=scores, updates=updates, seconds=round(seconds, 3), error=error)
