"""Our numbers beside a paper's: two-sided comparisons of a preset's rows with what was published for them.

    d ± t(df) · √(s²/n + SE²)      Welch (1947), from our n runs and the published mean and its error

The interval is widened by half a unit of the published number's last digit, which rounding may have taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from clbench.experiment.presets import Preset, Published, Row
from clbench.results.frames import average_accuracy, final_accuracies
from clbench.results.statistics import LEVEL, POWER, holm, paired
from clbench.results.store import RunRecord

if TYPE_CHECKING:
    from rich.table import Table

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
    from scipy.stats import t  # slow to import

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
    quantile = t.ppf((1 + LEVEL) / 2, df)
    half = quantile * se + rounding
    smallest = (quantile + t.ppf(POWER, df)) * se + rounding
    return Welch(difference, difference - half, difference + half, smallest, float(2 * t.sf(beyond / se, df)))


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

    def claims_table(self) -> list[list[str]]:
        """Return the table of the claims for people, headings first."""
        rows = [["claim", "task", "scenario", "difference", "p (Holm)", "verdict"]]
        for _, line in self.claims.iterrows():
            interval = "" if np.isnan(line["low"]) else f" [{_signed(line['low'])}, {_signed(line['high'])}]"
            p = "–" if np.isnan(line["p_holm"]) else f"{line['p_holm']:.2g}"
            rows.append([line["claim"], line["on"], line["scenario"], f"{_signed(line['difference'])}{interval}"])
            rows[-1] += [p, line["verdict"]]
        return rows

    def table(self) -> list[list[str]]:
        """Return the table for people, headings first: beside published numbers, else by old and new tasks."""
        if self.preset.published is None:
            rows = [["row", "scenario", "average", "old tasks", "new task", "seeds"]]
            for _, line in self.frame.iterrows():
                pairs = [
                    _pair(line[name], line[sd]) for name, sd in (("mean", "sd"), ("old", "old_sd"), ("new", "new_sd"))
                ]
                rows.append([line["row"], line["scenario"], *pairs, str(line["n"])])
            return rows
        return [HEADINGS + self._other_headings(), *(self._cells(line) for _, line in self.frame.iterrows())]

    def _other_headings(self) -> list[str]:
        kinds = [] if self.preset.published is None else self.preset.published.kinds[1:]
        return [f"if ± is {KINDS[kind]}" for kind in kinds]

    def _cells(self, line: pd.Series) -> list[str]:
        published = self.preset.published
        cells = [line["row"], line["scenario"], f"{_pair(line['mean'], line['sd'])} ({line['n']})"]
        if published is None or np.isnan(line["published"]):
            return [*cells, "–", "–", "–", line["verdict"], *["–"] * len(self._other_headings())]
        cells.append(_pair(line["published"], line["published_error"]))
        first, *others = published.kinds
        for kind in (first, *others):
            if np.isnan(line[f"low_{kind}"]):
                cells += ["–", "–", line["verdict"]] if kind == first else ["–"]
                continue
            interval = f"[{_signed(line[f'low_{kind}'])}, {_signed(line[f'high_{kind}'])}]"
            if kind == first:
                cells += [f"{_signed(line['difference'])} {interval}", f"{line[f'smallest_{kind}']:.2f}"]
                cells.append(line["verdict"])
            else:
                cells.append(f"{interval} {'disagrees' if line[f'p_holm_{kind}'] < 1 - LEVEL else 'agrees'}")
        return cells

    def markdown(self) -> str:
        """Return the table with what it needs to be understood."""
        from clbench.results.markdown import escape_markdown, markdown_table

        def table(rows: Sequence[Sequence[str]]) -> list[str]:
            return markdown_table([[escape_markdown(cell) for cell in row] for row in rows], TEXTS)

        title = f"# {escape_markdown(self.preset.name)}"
        lines = [title, "", f"{escape_markdown(self.preset.title)}.", "", *map(escape_markdown, self.legend()), ""]
        lines += table(self.table())
        if len(self.claims):
            lines += ["", CLAIMS, "", *table(self.claims_table())]
        shown, published = set(self.frame["row"]), self.preset.published
        said = [f"{row.label}: {row.note}." for row in self.preset.rows if row.note and row.label in shown]
        if published is not None and published.note:
            said.append(published.note)
        notes = [f"- {escape_markdown(text)}" for text in said]
        if notes:
            lines += ["", *notes]
        return "\n".join(lines) + "\n"

    def legend(self) -> list[str]:
        """Return what the table's columns mean, a paragraph per line."""
        published = self.preset.published
        lines = ["Average accuracy after the last task in per cent; ours: mean ± standard deviation (number of seeds)."]
        if published is not None:
            kind = (
                KINDS[published.error] if published.error != "unstated" else "something that the source does not name"
            )
            lines.append(
                f"Theirs: {published.source}, mean of {published.n} repeats ± {kind}. Difference: ours minus theirs "
                "with Welch's 95 % interval, rounding of the published number included; could see: the smallest true "
                "difference that this row had an 80 % chance of showing at the 5 % level. A row disagrees if p < 0.05, "
                f"two-sided, after Holm's correction over the preset's {n_tests(self.preset)} published numbers"
                + (f", ± taken as {KINDS[published.kinds[0]]}." if published.error == "unstated" else ".")
            )
        else:
            lines.append("Old tasks: all but the last. No numbers were published for these rows.")
        if self.overridden:
            lines.append(f"Not as in the preset: {'; '.join(self.overridden)}.")
        if self.commits:
            lines.append(f"Records made at commit {', '.join(self.commits)}.")
        return lines

    def write(self, folder: Path) -> list[Path]:
        """Write the table as CSV and Markdown into a folder, which exists, and return the files."""
        stem = folder / f"verify-{self.preset.name}{f'-{self.sequence}' if not self.preset.sequence else ''}"
        paths = [stem.with_name(f"{stem.name}.csv"), stem.with_name(f"{stem.name}.md")]
        tables = [table.to_csv(index=False, float_format="%.6g") for table in (self.frame, self.claims) if len(table)]
        paths[0].write_text("\n".join(tables), encoding="utf-8")
        paths[1].write_text(self.markdown(), encoding="utf-8")
        return paths


CLAIMS = (
    "Claims: the mean difference over seeds, better minus worse, in per cent, with its 95 % interval (paired by seed, "
    "Student's t) and p after Holm's correction over the claims. A claim holds if p < 0.05 in its direction, does not "
    "if p < 0.05 against it; in between, ≥ is not contradicted and > is undecided."
)
HEADINGS = ["row", "scenario", "ours", "theirs", "difference", "could see", "verdict"]
TEXTS = ("row", "scenario", "verdict", "claim", "task")  # columns that are not of numbers
KINDS = {"sd": "a standard deviation", "sem": "a standard error"}


def compare(preset: Preset, records: Sequence[RunRecord]) -> Verification:
    """Compare records of a preset's runs with what was published; records of other runs are left aside."""
    groups: dict[Key, list[RunRecord]] = {}
    overridden: dict[str, None] = {}
    for record in records:
        origin = record.spec.get("preset") or {}
        if origin.get("name") == preset.name:
            groups.setdefault((origin["row"], record.spec["scenario"]), []).append(record)
            overridden |= dict.fromkeys(f"{name} = {value}" for name, value in origin["overridden"].items())
    lines = []
    for row in preset.rows:
        for scenario in preset.scenarios:
            if (row.label, scenario) in groups:
                lines.append(_line(preset, row, scenario, groups[row.label, scenario]))
    frame = pd.DataFrame(lines)
    if preset.published is not None and len(frame):
        _judge(frame, preset)
    claims = pd.DataFrame(_claims(preset, groups))
    if len(claims):
        tested = claims["p"].notna()
        claims["p_holm"] = np.nan
        claims.loc[tested, "p_holm"] = holm(claims.loc[tested, "p"].tolist())
        claims["verdict"] = [_claim_verdict(line) for _, line in claims.iterrows()]
    made = [record for records in groups.values() for record in records]
    commits = sorted({str(commit) for record in made if (commit := (record.environment or {}).get("commit"))})
    sequence = made[0].spec["sequence_label"] if made else ""
    return Verification(preset, frame, claims, sequence, [_short(commit) for commit in commits], list(overridden))


def print_verification(found: Verification) -> None:
    """Print the tables to standard output."""
    from rich.text import Text

    from clbench.report.formats import console

    output = console()
    output.print(_rich_table(found.preset.title, found.table()))
    output.print(Text("\n".join(found.legend())))
    if len(found.claims):
        output.print(_rich_table("\n" + CLAIMS, found.claims_table()))


def _rich_table(title: str, rows: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), box=box.SIMPLE, title_justify="left")
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading in TEXTS else "right")
    for cells in rows[1:]:
        table.add_row(*map(Text, cells))
    return table


def n_tests(preset: Preset) -> int:
    """Return how many numbers of a preset were published, the size of the family of its tests."""
    return sum(len(row.published) for row in preset.rows if not row.control_of)


def _claims(preset: Preset, groups: Mapping[Key, Sequence[RunRecord]]) -> Iterator[dict[str, object]]:
    """Compare the rows of each claim seed by seed."""
    for claim, scenario in itertools.product(preset.claims, preset.scenarios):
        values: list[dict[int, float]] = []
        for label in (claim.better, claim.worse):
            finished = [record for record in groups.get((label, scenario), ()) if record.ok]
            values.append({record.spec["seed"]: _old_and_new(record)[claim.on] for record in finished})
        both = sorted(values[0].keys() & values[1].keys())
        if both:
            result = paired([values[0][seed] - values[1][seed] for seed in both])
            name = f"{claim.better} {'>' if claim.strictly else '≥'} {claim.worse}"
            yield {
                "claim": name,
                "on": claim.on,
                "scenario": scenario,
                "strictly": claim.strictly,
                "n": len(both),
                "difference": result.mean,
                "low": result.low,
                "high": result.high,
                "p": result.p,
            }


def _claim_verdict(line: pd.Series) -> str:
    """Say whether an ordering holds: shown, not contradicted (for ≥), undecided (for >), or contradicted."""
    if np.isnan(line["p_holm"]):
        return "no test: one seed, or no spread"
    if line["p_holm"] < 1 - LEVEL:
        return "holds" if line["difference"] > 0 else "DOES NOT HOLD"
    return "undecided" if line["strictly"] else "not contradicted"


def _spread(finished: Sequence[RunRecord]) -> dict[str, float]:
    """Return means and standard deviations over runs of the accuracies on old and new tasks."""
    rows = [_old_and_new(record) for record in finished]
    found = {}
    for name in ("old", "new"):
        values = [row[name] for row in rows]
        found[name] = float(np.mean(values)) if values else np.nan
        found[f"{name}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
    return found


def _old_and_new(record: RunRecord) -> dict[str, float]:
    accuracies = 100 * final_accuracies(record)
    return {"old": float(accuracies[:-1].mean()) if len(accuracies) > 1 else np.nan, "new": float(accuracies[-1])}


def _short(commit: str) -> str:
    return " ".join([commit[:12], *commit.split()[1:]])


def _line(preset: Preset, row: Row, scenario: str, runs: Sequence[RunRecord]) -> dict[str, object]:
    finished = [record for record in runs if record.ok]
    values = [100 * average_accuracy(record) for record in finished]
    line: dict[str, object] = {
        "row": row.label,
        "control_of": row.control_of,
        "scenario": scenario,
        "n": len(values),
        "failed": len(runs) - len(finished),
        "mean": np.mean(values) if values else np.nan,
        "sd": np.std(values, ddof=1) if len(values) > 1 else np.nan,
        **_spread(finished),
        "published": np.nan,
        "published_error": np.nan,
        "verdict": "no published number",
    }
    published: Published | None = preset.published
    if published is None or scenario not in row.published:
        return line
    line["published"], line["published_error"] = mean, error = row.published[scenario]
    line |= {"error": published.error, "published_n": published.n, "source": published.source}
    if len(values) < 2:
        return line | {"verdict": "too few runs"}
    line["difference"] = float(np.mean(values)) - mean
    for kind in published.kinds:
        rounding = 0.5 * 10.0**-published.decimals
        result = welch(values, mean, error, kind, published.n, published.ddof, rounding)
        line |= {f"{name}_{kind}": value for name, value in result._asdict().items() if name != "difference"}
    return line


def _judge(frame: pd.DataFrame, preset: Preset) -> None:
    """Add p values after Holm's correction, rows and controls apart, and the verdicts."""
    assert preset.published is not None
    for kind in preset.published.kinds:
        for name in ("low", "high", "smallest", "p", "p_holm"):
            frame[f"{name}_{kind}"] = frame.get(f"{name}_{kind}", np.nan)
        for of_controls in (False, True):
            family = ((frame["control_of"] != "") == of_controls) & frame[f"p_{kind}"].notna()
            frame.loc[family, f"p_holm_{kind}"] = holm(frame.loc[family, f"p_{kind}"].tolist(), n_tests(preset))
    adjusted = frame[f"p_holm_{preset.published.kinds[0]}"]
    wrong, right = adjusted < 1 - LEVEL, adjusted >= 1 - LEVEL
    control = frame["control_of"] != ""
    frame.loc[wrong, "verdict"] = "DISAGREES"
    frame.loc[right, "verdict"] = "agrees"
    frame.loc[wrong & control, "verdict"] = "moved out, as it should"
    frame.loc[right & control, "verdict"] = "cannot tell"


def _pair(mean: float, error: float) -> str:
    return "–" if np.isnan(mean) else f"{mean:.2f}" if np.isnan(error) else f"{mean:.2f} ± {error:.2f}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
