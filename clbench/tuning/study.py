"""One method's search: Optuna asks what to try, the study keeps what came of it.

Each trial is asked with a sampler of its own seed, so that what it tries depends on its number and on the trials before
it alone: not on when the search was stopped, nor on how many workers there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from clbench.experiment.tuned import SearchBy
from clbench.tuning.spaces import Candidate, Dimension, is_finite, points

STARTUP = 10  # trials that TPE draws at random before it models anything: Optuna's own number
MEASURED = ("scores", "updates", "seconds", "error")  # of a trial
BATCH = 5  # trials that TPE is asked for together: each batch sees what came of those before it


@dataclass(frozen=True)
class Trial:
    """One setting that is tried, and what came of it."""

    number: int
    setting: Mapping[str, Any]
    scores: Sequence[float] | None = None  # accuracy on validation images by tuning seed; None where a run failed
    updates: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def score(self) -> float:
        """The mean over tuning seeds; below all others where a run failed."""
        return -1.0 if self.scores is None else sum(self.scores) / len(self.scores)


def open_storage(path: Path) -> JournalStorage:
    """Return Optuna's storage in a file, which its dashboard reads too."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return JournalStorage(JournalFileBackend(str(path)))


class Study:
    """The search of one method's space, kept in Optuna's storage; it goes on where it stopped.

    `question` tells studies of one method apart: all that can change what a trial comes to.
    """

    def __init__(self, storage: JournalStorage, candidate: Candidate, search_by: SearchBy, trials: int, question: str):
        space = candidate.space
        self.in_full = search_by == "grid" or is_finite(space, trials)
        # what is tried first; all there is, or the defaults
        self.given: list[dict[str, Any]] = points(space, trials) if self.in_full else [candidate.default or {}]
        self.given = [values for values in self.given if values or not space]
        self.trials = len(self.given) if self.in_full else trials
        parts = [question, search_by, *(f"{one.name}={one.search}" for one in space), str(self.given)]
        self.question = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
        self.storage, self.space, self.search_by = storage, space, search_by
        self.distributions = {one.name: _distribution(one) for one in space}
        name = f"{candidate.label} {self.question}"
        self.study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True, sampler=self._sampler(0)
        )

    def under_way(self) -> list[Trial]:
        """Return trials that were asked for and have not ended: those of a search that was stopped, or none."""
        running = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        return [Trial(trial.number, self._values(trial.number, trial.params)) for trial in running]

    def ask(self) -> list[Trial]:
        """Return the next trials to run, [] when there are no more: those under way, and what fills up their batch."""
        asked = self.under_way()
        last = self._end_of_batch(asked[0].number if asked else self._count())
        while (number := self._count()) < last:
            if number < len(self.given) and not self._waiting():
                self.study.enqueue_trial(dict(self.given[number]))
            self.study.sampler = self._sampler(number)
            trial = self.study.ask(self.distributions)
            asked.append(Trial(trial.number, self._values(trial.number, trial.params)))
        return asked

    def tell(self, trial: Trial) -> None:
        """Keep what came of a trial. One with a failed run is no number; TPE takes it as worse than all others."""
        study_id = self.storage.get_study_id_from_name(self.study.study_name)
        place = self.storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        for name in ("setting", *MEASURED):
            self.storage.set_trial_user_attr(place, name, getattr(trial, name))
        if trial.scores is None:
            self.study.tell(trial.number, state=TrialState.PRUNED)
        else:
            self.study.tell(trial.number, trial.score)

    def ended(self) -> list[Trial]:
        """Return the trials that have ended, by number."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        found = self.study.get_trials(deepcopy=False, states=states)[: self.trials]
        return [Trial(one.number, **{name: one.user_attrs[name] for name in ("setting", *MEASURED)}) for one in found]

    def best(self) -> Trial | None:
        """Return the trial with the highest score, the first of equal ones; None if every trial failed."""
        found = [trial for trial in self.ended() if trial.scores is not None]
        return max(found, key=lambda trial: (trial.score, -trial.number), default=None)

    def _sampler(self, number: int) -> BaseSampler:
        seed = int(hashlib.sha256(f"{self.question} {number}".encode()).hexdigest()[:8], 16)
        if self.search_by == "tpe":
            return TPESampler(seed=seed, n_startup_trials=STARTUP)
        return RandomSampler(seed=seed)

    def _end_of_batch(self, number: int) -> int:
        """Return the number of the trial behind the batch that a trial is in."""
        if self.in_full or self.search_by != "tpe":
            return self.trials
        batches = max(0, number - STARTUP) // BATCH + (number >= STARTUP)
        return min(self.trials, STARTUP + batches * BATCH)

    def _count(self) -> int:
        return len(self._all()) - self._waiting()

    def _waiting(self) -> bool:
        return any(trial.state == TrialState.WAITING for trial in self._all())

    def _all(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _values(self, number: int, params: Mapping[str, Any]) -> dict[str, Any]:
        if number < len(self.given):
            return dict(self.given[number])
        return {one.name: one.rounded(params[one.name]) for one in self.space}


def _distribution(dimension: Dimension) -> BaseDistribution:
    search = dimension.search
    if not search.is_range:
        return CategoricalDistribution(tuple(search.choices))
    assert search.low is not None
    assert search.high is not None
    if dimension.integer:
        return IntDistribution(round(search.low), round(search.high), log=search.log)
    return FloatDistribution(search.low, search.high, log=search.log)
