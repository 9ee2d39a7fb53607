"""Our numbers beside a paper's: two-sided comparisons of a preset's rows with what was published for them.

    d ± t(df) · √(s²/n + SE²)      Welch (1947), from our n runs and the published mean and its error

The interval is widened by half a unit of the published number's last digit, which rounding may have taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from clbench.experiment.presets import Preset, Published, Row
from clbench.results.record import RunRecord
from clbench.results.statistics import LEVEL, POWER, holm, paired

Key = tuple[str, str]  # row, scenario


class Welch(NamedTuple):
    """A difference of two means with its interval, the smallest one that could have been seen, and its p value."""

    difference: float
    low: float
    high: float
    smallest: float  # true difference that is found with 80 % power at the 5 % level, one row on its own
    p: float  # two-sided


def welch(ours: ArrayLike, mean: float, error: float, kind: str, n: int, ddof: int = 1, rounding: float = 0.0) -> Welch:
    """Compare our values [n ≥ 2] with a published mean ± error of n repeats; `kind` is sd or sem.

    `rounding` is the most that the published mean may be off. Raises ValueError for fewer than two values.
    """
    from scipy.special import stdtr, stdtrit  # Student's t; here, as SciPy is slow to import

    values = np.asarray(ours, dtype=np.float64)
    if len(values) < 2:
        raise ValueError("at least two values are needed")
    own = values.var(ddof=1) / len(values)
    # squared standard error of their mean: a standard deviation with ddof 0 lacks the factor n / (n − 1)
    theirs = error**2 if kind == "sem" else error**2 / (n if ddof else n - 1)
    difference, se = float(values.mean() - mean), float(np.sqrt(own + theirs))
    beyond = max(0.0, abs(difference) - rounding)
    if se == 0:
        return Welch(difference, difference - rounding, difference + rounding, rounding, float(beyond == 0))
    df = se**4 / (own**2 / (len(values) - 1) + theirs**2 / (n - 1))
    quantile = stdtrit(df, (1 + LEVEL) / 2)
    half = quantile * se + rounding
    smallest = (quantile + stdtrit(df, POWER)) * se + rounding
    return Welch(difference, difference - half, difference + half, smallest, float(2 * stdtr(df, -beyond / se)))


@dataclass(frozen=True)
class Verification:
    """A preset's rows beside the published numbers: `frame` has a line per row and scenario, in per cent.

    Columns ending in _sd and _sem are for a ± read as a standard deviation and as a standard error; `verdict` follows
    the reading that decides. `old` and `new` are the final accuracies on all tasks but the last, and on that.
    """

    preset: Preset
    frame: pd.DataFrame
    claims: pd.DataFrame  # a line per claim and scenario: the mean paired difference, better minus worse, in per cent
    sequence: str
    commits: Sequence[str]
    overridden: Sequence[str]

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
    def failed(self) -> int:
        """How many runs failed."""
        return int(self.frame["failed"].sum())


def compare(preset: Preset, records: Sequence[RunRecord]) -> Verification:
    """Compare records of a preset's runs with what was published; records of other runs are left aside."""
    made = [record for record in records if (record.spec.get("preset") or {}).get("name") == preset.name]
    groups: dict[Key, list[RunRecord]] = {}
    overridden: dict[str, None] = {}
    for record in made:
        asked = record.spec["preset"]
        groups.setdefault((asked["row"], record.spec["scenario"]), []).append(record)
        overridden |= dict.fromkeys(f"{name} = {value}" for name, value in asked["overridden"].items())
    cells = itertools.product(preset.rows, preset.scenarios)
    lines = [
        _line(preset, row, where, groups[row.label, where]) for row, where in cells if (row.label, where) in groups
    ]
    frame = pd.DataFrame(lines)
    if preset.published is not None and lines:
        _judge(frame, preset, preset.published.kinds)
    claims = pd.DataFrame(_claims(preset, groups))
    if len(claims):
        claims["p_holm"] = holm(claims["p"].tolist())
        claims["verdict"] = [_claim_verdict(line) for _, line in claims.iterrows()]
    commits = {str(commit) for record in made if (commit := (record.environment or {}).get("commit"))}
    short = [" ".join([commit[:12], *commit.split()[1:]]) for commit in sorted(commits)]
    sequence = made[0].spec["sequence_label"] if made else ""
    return Verification(preset, frame, claims, sequence, short, list(overridden))


def n_tests(preset: Preset) -> int:
    """Return how many numbers of a preset were published, the size of the family of its tests."""
    return sum(len(row.published) for row in preset.rows if not row.control_of)


def _claims(preset: Preset, groups: Mapping[Key, Sequence[RunRecord]]) -> Iterator[dict[str, object]]:
    """Compare the rows of each claim seed by seed."""
    for claim, scenario in itertools.product(preset.claims, preset.scenarios):
        better, worse = (
            {record.spec["seed"]: _parts(record)[claim.on] for record in groups.get((row, scenario), ()) if record.ok}
            for row in (claim.better, claim.worse)
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


def _parts(record: RunRecord) -> dict[str, float]:
    """Return the final accuracy in per cent: the mean over all tasks, over all but the last, and of the last."""
    final = 100 * record.matrix()[-1]
    return {"mean": final.mean(), "old": final[:-1].mean() if len(final) > 1 else np.nan, "new": final[-1]}


def _line(preset: Preset, row: Row, scenario: str, runs: Sequence[RunRecord]) -> dict[str, object]:
    """Return a row's line of the frame, without what depends on the other rows."""
    values = pd.DataFrame([_parts(record) for record in runs if record.ok], columns=["mean", "old", "new"])
    n = len(values)
    line: dict[str, object] = {"row": row.label, "control_of": row.control_of, "scenario": scenario}
    line |= {"n": n, "failed": len(runs) - n}
    for name, sd in (("mean", "sd"), ("old", "old_sd"), ("new", "new_sd")):
        line[name], line[sd] = values[name].mean(skipna=False), values[name].std(skipna=False)
    line |= {"published": np.nan, "published_error": np.nan, "verdict": "no published number"}
    published: Published | None = preset.published
    if published is None or scenario not in row.published:
        return line
    line["published"], line["published_error"] = mean, error = row.published[scenario]
    line |= {"error": published.error, "published_n": published.n, "source": published.source}
    if n < 2:
        return line | {"verdict": "too few runs"}
    for kind in published.kinds:
        rounding = 0.5 * 10.0**-published.decimals
        result = welch(values["mean"], mean, error, kind, published.n, published.ddof, rounding)._asdict()
        line["difference"] = result.pop("difference")
        line |= {f"{name}_{kind}": value for name, value in result.items()}
    return line


def _judge(frame: pd.DataFrame, preset: Preset, kinds: Sequence[str]) -> None:
    """Add p values after Holm's correction, rows and controls apart, and the verdicts."""
    control = frame["control_of"] != ""
    for kind in kinds:
        for name in ("low", "high", "smallest", "p", "p_holm"):
            frame[f"{name}_{kind}"] = frame.get(f"{name}_{kind}", np.nan)
        for family in (~control, control):
            frame.loc[family, f"p_holm_{kind}"] = holm(frame.loc[family, f"p_{kind}"].tolist(), n_tests(preset))
    adjusted = frame[f"p_holm_{kinds[0]}"]
    for found, verdict, of_control in (
        (adjusted < 1 - LEVEL, "DISAGREES", "moved out, as it should"),
        (adjusted >= 1 - LEVEL, "agrees", "cannot tell"),
    ):
        frame.loc[found, "verdict"] = np.where(control[found], of_control, verdict)
