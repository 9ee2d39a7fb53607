"""Our numbers beside a paper's: two-sided comparisons of a preset's rows with what was published for them.

    d ± t(df) · √(s²/n + SE²)        Welch (1947), from our n runs and the published mean and its error
    d ± t(n−1) · s · √(1/n + 1/n')   where a mean of n' repeats has no error: ours is taken for theirs

The second is exact if the deviations are equal. With n' = 1 it is the prediction interval of a single run. Intervals
are widened by half a unit of the published number's last digit, which rounding may have taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from clbench.experiment.preset import Preset, Row, Scenario
from clbench.results.metrics import View, measure_images
from clbench.results.record import RunRecord
from clbench.results.statistics import LEVEL, POWER, holm, paired

Key = tuple[str, str]  # row, scenario
VIEW: dict[str, View] = {"task-aware": "task_aware", "task-agnostic": "task_agnostic"}  # by a row's
# what is shown of a row, and the name of its standard deviation
PARTS = {"mean": "sd", "old": "old_sd", "new": "new_sd", "images": "images_sd", "incremental": "incremental_sd"}
BY_OUR_DEVIATION = {True: "a single run", False: "no ±"}  # by whether n' is 1


class Difference(NamedTuple):
    """A difference of two means with its interval, the smallest one that could have been seen, and its p value."""

    difference: float
    low: float
    high: float
    smallest: float  # true difference that is found with 80 % power at the 5 % level, one row on its own
    p: float  # two-sided; NaN where nothing says what differences there are by chance


def welch(
    ours: ArrayLike, mean: float, error: float, kind: str, n: int, ddof: int = 1, rounding: float = 0.0
) -> Difference:
    """Compare our values [n ≥ 2] with a published mean ± error of n ≥ 2 repeats; `kind` is sd or sem.

    `rounding` is the most that the published mean may be off. Raises ValueError for fewer than two values.
    """
    values = _several(ours)
    own = values.var(ddof=1) / len(values)
    # squared standard error of their mean: a standard deviation with ddof 0 lacks the factor n / (n − 1)
    theirs = error**2 if kind == "sem" else error**2 / (n if ddof else n - 1)
    difference, se = float(values.mean() - mean), float(np.sqrt(own + theirs))
    if se == 0:
        beyond = max(0.0, abs(difference) - rounding)
        return Difference(difference, difference - rounding, difference + rounding, rounding, float(beyond == 0))
    return _compared(difference, se, se**4 / (own**2 / (len(values) - 1) + theirs**2 / (n - 1)), rounding)


def by_our_deviation(ours: ArrayLike, mean: float, n: int, rounding: float = 0.0) -> Difference:
    """Compare our values [n ≥ 2] with a mean of n ≥ 1 repeats whose deviation is unknown, ours taken for it.

    With n = 1 that is Student's test of whether a single run is one of ours. Raises ValueError for fewer than two
    values.
    """
    values = _several(ours)
    difference = float(values.mean() - mean)
    se = float(values.std(ddof=1) * np.sqrt(1 / len(values) + 1 / n))
    if se == 0:
        return Difference(difference, np.nan, np.nan, np.nan, np.nan)
    return _compared(difference, se, len(values) - 1, rounding)


def _several(ours: ArrayLike) -> np.ndarray:
    values = np.asarray(ours, dtype=np.float64)
    if len(values) < 2:
        raise ValueError("at least two values are needed")
    return values


def _compared(difference: float, se: float, df: float, rounding: float) -> Difference:
    from scipy.special import stdtr, stdtrit  # Student's t; here, as SciPy is slow to import

    beyond = max(0.0, abs(difference) - rounding)
    quantile = stdtrit(df, (1 + LEVEL) / 2)
    half = quantile * se + rounding
    smallest = (quantile + stdtrit(df, POWER)) * se + rounding
    return Difference(difference, difference - half, difference + half, smallest, float(2 * stdtr(df, -beyond / se)))


@dataclass(frozen=True)
class Verification:
    """A preset's rows beside the published numbers: `frame` has a line per row and scenario, in per cent.

    Columns ending in _sd and _sem are for a ± read as a standard deviation and as a standard error; `verdict` follows
    the reading that decides. `old` and `new` are the final accuracies on all tasks but the last, and on that. `limits`
    says why a number could not be compared by Welch's test: it is a single run, or has no ±.
    """

    preset: Preset
    frame: pd.DataFrame
    claims: pd.DataFrame  # a line per claim and scenario: the mean paired difference, better minus worse, in per cent
    sequence: str
    commits: Sequence[str]
    overridden: Sequence[str]
    failed: int  # runs

    @property
    def disagreeing(self) -> list[str]:
        """The rows, not the controls, that do not agree."""
        wrong = self.frame[(self.frame["verdict"] == "DISAGREES") & (self.frame["control_of"] == "")]
        against = self.claims[self.claims["verdict"] == "DOES NOT HOLD"] if len(self.claims) else self.claims
        return [
            *(f"{row}, {scenario}" for row, scenario in zip(wrong["row"], wrong["scenario"], strict=True)),
            *(f"{line['claim']} on the {line['on']} task" for _, line in against.iterrows()),
        ]

    @property
    def agreeing(self) -> int:
        """How many of the published numbers that were tested, controls aside, agree."""
        return self.tests - int(((self.frame["verdict"] == "DISAGREES") & (self.frame["control_of"] == "")).sum())

    @property
    def tests(self) -> int:
        """How many published numbers were tested: the family of Holm's correction."""
        if self.preset.published is None or not len(self.frame):
            return 0
        tested = self.frame[f"p_{self.preset.published.kinds[0]}"].notna()
        return int((tested & (self.frame["control_of"] == "")).sum())


def compare(preset: Preset, records: Sequence[RunRecord]) -> Verification:
    """Compare records of a preset's runs with what was published; records of other runs are left aside."""
    runs_of = {row.label: preset.has_runs_of(row) for row in preset.rows}
    told = [(record, record.spec.get("preset") or {}) for record in records]
    made = [record for record, asked in told if asked.get("name") == preset.name and asked["row"] in runs_of]
    groups: dict[Key, list[RunRecord]] = {}
    overridden: dict[str, None] = {}
    for record in made:
        asked = record.spec["preset"]
        groups.setdefault((runs_of[asked["row"]], record.spec["scenario"]), []).append(record)
        overridden |= dict.fromkeys(f"{name} = {value}" for name, value in asked["overridden"].items())
    lines = [
        _line(preset, row, where, groups[runs_of[row.label], where])
        for row, where in itertools.product(preset.rows, preset.scenarios)
        if where in preset.where(row) and (runs_of[row.label], where) in groups
    ]
    frame = pd.DataFrame(lines)
    if preset.published is not None and lines:
        _judge(frame, preset.published.kinds)
    claims = pd.DataFrame(_claims(preset, groups, runs_of))
    if len(claims):
        claims["p_holm"] = holm(claims["p"].tolist())
        claims["verdict"] = [_claim_verdict(line) for _, line in claims.iterrows()]
    commits = {str(commit) for record in made if (commit := (record.environment or {}).get("commit"))}
    short = [" ".join([commit[:12], *commit.split()[1:]]) for commit in sorted(commits)]
    sequence = made[0].spec["sequence_label"] if made else ""
    return Verification(preset, frame, claims, sequence, short, list(overridden), sum(not record.ok for record in made))


def _claims(
    preset: Preset, groups: Mapping[Key, Sequence[RunRecord]], runs_of: Mapping[str, str]
) -> Iterator[dict[str, object]]:
    """Compare the rows of each claim seed by seed."""
    rows = {row.label: row for row in preset.rows}
    for claim, scenario in itertools.product(preset.claims, preset.scenarios):
        better, worse = (
            {
                record.spec["seed"]: _parts(record, rows[label])[claim.on]
                for record in groups.get((runs_of[label], scenario), ())
                if record.ok
            }
            for label in (claim.better, claim.worse)
        )
        if both := sorted(better.keys() & worse.keys()):
            name = f"{claim.better} {'>' if claim.strictly else '≥'} {claim.worse}"
            n, difference, low, high, p, _ = paired([better[seed] - worse[seed] for seed in both])
            line = {"claim": name, "on": claim.on, "scenario": scenario, "strictly": claim.strictly, "n": n}
            yield line | {"difference": difference, "low": low, "high": high, "p": p}


def _claim_verdict(line: pd.Series) -> str:
    """Say whether an ordering holds: shown, not contradicted (for ≥), undecided (for >), or contradicted."""
    if np.isnan(line["p_holm"]):
        return "no test: one seed, or no spread"
    if line["p_holm"] < 1 - LEVEL:
        return "holds" if line["difference"] > 0 else "DOES NOT HOLD"
    return "undecided" if line["strictly"] else "not contradicted"


def _parts(record: RunRecord, row: Row) -> dict[str, float]:
    """Return accuracies in per cent: at the end the mean over all tasks, over all but the last, and of the last.

    And those in which each image weighs the same, NaN where a record has no numbers of images: at the end, and on the
    way.
    """
    matrix = 100 * record.matrix(VIEW[row.view] if row.view else None)
    final, by_image = matrix[-1], measure_images(matrix, record.test_images)
    old = final[:-1].mean() if len(final) > 1 else np.nan
    images = {"images": by_image["all_images_accuracy"], "incremental": by_image["incremental_accuracy"]}
    return {"mean": final.mean(), "old": old, "new": final[-1], **images}


def _line(preset: Preset, row: Row, scenario: Scenario, runs: Sequence[RunRecord]) -> dict[str, object]:
    """Return a row's line of the frame, without what depends on the other rows."""
    values = pd.DataFrame([_parts(record, row) for record in runs if record.ok], columns=list(PARTS))
    n = len(values)
    line: dict[str, object] = {"row": row.label, "control_of": row.control_of, "scenario": scenario}
    line |= {"n": n, "failed": len(runs) - n}
    for name, sd in PARTS.items():
        line[name], line[sd] = values[name].mean(skipna=False), values[name].std(skipna=False)
    line |= {"published": np.nan, "published_error": np.nan, "limits": "", "verdict": "no published number"}
    published = preset.published
    if published is None or scenario not in row.published:
        return line
    mean, error = row.published[scenario]
    line |= {"published": mean, "published_error": np.nan if error is None else error}
    line |= {"error": published.error, "published_n": published.n, "source": published.source}
    line["limits"] = BY_OUR_DEVIATION[published.n == 1] if error is None else ""
    if n < 2:
        return line | {"verdict": "too few runs"}
    if values["mean"].isna().any():
        return line | {"verdict": f"no {row.view or 'such'} answer"}
    for kind in published.kinds:
        if error is None:
            result = by_our_deviation(values["mean"], mean, published.n, published.rounding)
        else:
            result = welch(values["mean"], mean, error, kind, published.n, published.ddof, published.rounding)
        line["difference"] = result.difference
        line |= {f"{name}_{kind}": value for name, value in result._asdict().items() if name != "difference"}
    return line | {"verdict": "no test: no spread"}  # unless it is judged


def _judge(frame: pd.DataFrame, kinds: Sequence[str]) -> None:
    """Add p values after Holm's correction, rows and controls apart, and the verdicts.

    The family is the numbers that are tested; a control is judged as if it were one of the rows.
    """
    control = frame["control_of"] != ""
    for kind in kinds:
        for name in ("low", "high", "smallest", "p", "p_holm"):
            frame[f"{name}_{kind}"] = frame.get(f"{name}_{kind}", np.nan)
        tests = int(frame.loc[~control, f"p_{kind}"].notna().sum())
        for family in (~control, control):
            frame.loc[family, f"p_holm_{kind}"] = holm(frame.loc[family, f"p_{kind}"].tolist(), tests)
    adjusted = frame[f"p_holm_{kinds[0]}"]
    for found, verdict, of_control in (
        (adjusted < 1 - LEVEL, "DISAGREES", "moved out, as it should"),
        (adjusted >= 1 - LEVEL, "agrees", "cannot tell"),
    ):
        frame.loc[found, "verdict"] = np.where(control[found], of_control, verdict)
