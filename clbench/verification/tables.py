"""A preset's rows beside the published numbers, as tables for people: in the terminal, in Markdown and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.text import Text

from clbench.experiment.preset import Published
from clbench.results.statistics import LEVEL
from clbench.results.wording import escape_markdown, markdown_table, rich_table
from clbench.verification.comparison import PARTS, Verification

CLAIMS = (
    "Claims: the mean difference over seeds, better minus worse, in per cent, with its 95 % interval (paired by seed, "
    "Student's t) and p after Holm's correction over the claims. A claim holds if p < 0.05 in its direction, does not "
    "if p < 0.05 against it; in between, ≥ is not contradicted and > is undecided."
)
UNPUBLISHED = {
    "mean": "average",
    "old": "old tasks",
    "new": "new task",
    "images": "all images",
    "incremental": "incremental",
}
HEADINGS = ["row", "scenario", "ours", "theirs", "difference", "could see", "verdict"]
TEXTS = ("row", "scenario", "verdict", "claim", "task")  # columns that are not of numbers
LIMITS = {
    "no ±": "No ±: the source gives none. Our deviation is taken for theirs (Student's t with our degrees of freedom), "
    "which holds as far as their runs spread like ours.",
    "a single run": "A single run: it is compared with the interval in which 95 of 100 single runs of ours would lie, "
    "and says little of their mean.",
}
ERRORS = {
    "sd": "a standard deviation",
    "sem": "a standard error",
    "unstated": "something that the source does not name",
}


def results_table(found: Verification) -> list[list[str]]:
    """Return the table of the rows, headings first: beside published numbers, else by old and new tasks."""
    if found.preset.published is None:
        there = found.frame.dropna(axis=1, how="all")  # records without numbers of images have no last two
        shown = {name: heading for name, heading in UNPUBLISHED.items() if name in there}
        rows = [["row", "scenario", *shown.values(), "seeds"]]
        for _, line in found.frame.iterrows():
            pairs = [_pair(line[name], line[PARTS[name]]) for name in shown]
            rows.append([line["row"], line["scenario"], *pairs, str(line["n"])])
        return rows
    first, *others = found.preset.published.kinds
    headings = HEADINGS + [f"if ± is {ERRORS[kind]}" for kind in others]
    return [headings, *(_cells(line, first, others) for _, line in found.frame.iterrows())]


def _cells(line: pd.Series, first: str, others: Sequence[str]) -> list[str]:
    """Return a row's cells; `first` is the reading of the published ± that decides. Controls are marked."""
    name = f"{line['row']} (control)" if line["control_of"] else line["row"]
    cells = [name, line["scenario"], f"{_pair(line['mean'], line['sd'])} ({line['n']})"]
    if np.isnan(line["published"]):
        return [*cells, "–", "–", "–", line["verdict"], *["–"] * len(others)]
    limits = f" ({line['limits']})" if line["limits"] else ""
    cells.append(_pair(line["published"], line["published_error"]) + limits)
    if np.isnan(line[f"low_{first}"]):
        cells += ["–", "–"]
    else:
        cells += [f"{_signed(line['difference'])} {_interval(line, first)}", f"{line[f'smallest_{first}']:.2f}"]
    cells.append(line["verdict"])
    for kind in others:
        verdict = "disagrees" if line[f"p_holm_{kind}"] < 1 - LEVEL else "agrees"
        cells.append("–" if np.isnan(line[f"low_{kind}"]) else f"{_interval(line, kind)} {verdict}")
    return cells


def claims_table(found: Verification) -> list[list[str]]:
    """Return the table of the claims, headings first."""
    rows = [["claim", "task", "scenario", "difference", "p (Holm)", "verdict"]]
    for _, line in found.claims.iterrows():
        interval = "" if np.isnan(line["low"]) else f" [{_signed(line['low'])}, {_signed(line['high'])}]"
        p = "–" if np.isnan(line["p_holm"]) else f"{line['p_holm']:.2g}"
        difference = f"{_signed(line['difference'])}{interval}"
        rows.append([line["claim"], line["on"], line["scenario"], difference, p, line["verdict"]])
    return rows


def legend(found: Verification) -> list[str]:
    """Return what the columns of the table of the rows mean, a paragraph per line."""
    published = found.preset.published
    lines = ["Average accuracy after the last task in per cent; ours: mean ± standard deviation (number of seeds)."]
    shown = set(found.frame["row"]) if len(found.frame) else set()
    if viewed := [f"{row.label} ({row.view})" for row in found.preset.rows if row.view and row.label in shown]:
        lines.append(f"By a view of their own: {', '.join(viewed)}.")
    if published is None:
        lines.append("Old tasks: all but the last. No numbers were published for these rows, so nothing is compared.")
        if len(found.frame) and found.frame["images"].notna().any():
            lines.append(
                "All images: each image weighs the same, not each task. Incremental: the same after every task, of the "
                "tasks so far, and the mean of that; the class-incremental papers' average incremental accuracy."
            )
    else:
        lines.append(_how_they_are_compared(found, published))
        limits = set(found.frame["limits"]) if len(found.frame) else set()
        lines += [text for limit, text in LIMITS.items() if limit in limits]
    if found.overridden:
        lines.append(f"Not as in the preset: {'; '.join(found.overridden)}.")
    if found.commits:
        lines.append(f"Records made at commit {', '.join(found.commits)}.")
    return lines


def _how_they_are_compared(found: Verification, published: Published) -> str:
    n = "a single run" if published.n == 1 else f"mean of {published.n} repeats"
    error = f" ± {ERRORS[published.error]}" if published.error else ""
    numbers = "one number that was" if found.tests == 1 else f"{found.tests} published numbers that were"
    welch = "Welch's 95 % interval" if published.error else "its 95 % interval"
    return (
        f"Theirs: {published.source}, {n}{error}. Difference: ours minus theirs with {welch}, rounding of the "
        "published number included; could see: the smallest true difference that this row had an 80 % chance of "
        "showing at the 5 % level. A row disagrees if p < 0.05, two-sided, after Holm's correction over the "
        f"{numbers} tested" + (f", ± taken as {ERRORS[published.kinds[0]]}." if published.error == "unstated" else ".")
    )


def markdown(found: Verification) -> str:
    """Return the tables with what they need to be understood."""

    def table(rows: Sequence[Sequence[str]]) -> list[str]:
        return markdown_table([[escape_markdown(cell) for cell in row] for row in rows], TEXTS)

    preset = found.preset
    lines = [f"# {escape_markdown(preset.name)}", "", f"{escape_markdown(preset.title)}.", ""]
    lines += [*map(escape_markdown, legend(found)), "", *table(results_table(found))]
    if len(found.claims):
        lines += ["", CLAIMS, "", *table(claims_table(found))]
    shown = set(found.frame["row"])
    notes = [f"{row.label}: {row.note}." for row in preset.rows if row.note and row.label in shown]
    if preset.published is not None and preset.published.note:
        notes.append(preset.published.note)
    if notes:
        lines += ["", *(f"- {escape_markdown(text)}" for text in notes)]
    return "\n".join(lines) + "\n"


def write(found: Verification, folder: Path) -> list[Path]:
    """Write the tables as CSV and Markdown into a folder, which exists, and return the files."""
    stem = f"verify-{found.preset.name}{f'-{found.sequence}' if not found.preset.sequence else ''}"
    paths = [folder / f"{stem}.csv", folder / f"{stem}.md"]
    tables = [table.to_csv(index=False, float_format="%.6g") for table in (found.frame, found.claims) if len(table)]
    paths[0].write_text("\n".join(tables), encoding="utf-8")
    paths[1].write_text(markdown(found), encoding="utf-8")
    return paths


def print_verification(found: Verification, output: Console) -> None:
    """Print the tables to a Rich console."""
    output.print(rich_table(found.preset.title, results_table(found), TEXTS))
    output.print(Text("\n".join(legend(found))))
    if len(found.claims):
        output.print(rich_table("\n" + CLAIMS, claims_table(found), TEXTS))


def _interval(line: pd.Series, kind: str) -> str:
    return f"[{_signed(line[f'low_{kind}'])}, {_signed(line[f'high_{kind}'])}]"


def _pair(mean: float, error: float) -> str:
    return "–" if np.isnan(mean) else f"{mean:.2f}" if np.isnan(error) else f"{mean:.2f} ± {error:.2f}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
