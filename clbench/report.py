"""Results → files and terminal: tables in Markdown, LaTeX and CSV, and the figures."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from clbench.errors import UsageError
from clbench.figure_files import Place, write, write_figures
from clbench.figures import FIGURES
from clbench.results import METRIC_NAMES, TOTALS, Comparison, Group, Results, count_of, first_line
from clbench.statistics import mean_interval
from clbench.store import RunRecord

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Rows = list[list[str]]  # the headings first; the first column is the method
DASH = "–"


def terminal_table(results: Results, comparison: Comparison) -> Table:
    """Return a comparison's average accuracy and forgetting as a Rich table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    seeds = {len(group.runs) for group in comparison.groups}
    caption = "per cent; no interval from one seed" if seeds <= {0, 1} else "per cent, mean ± 95 % interval over seeds"
    table = Table(
        title=Text(comparison.title), caption=caption, box=box.SIMPLE, title_justify="left", caption_justify="left"
    )
    headings, *rows = _metric_rows(results, comparison, ("average_accuracy", "forgetting"))
    table.add_column(headings[0], overflow="fold")
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=len(heading) < 12)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def print_tables(results: Results) -> None:
    """Print a table per comparison to standard output."""
    output = console()
    for comparison in results.comparisons:
        output.print(terminal_table(results, comparison))


def console() -> Console:
    """Return standard output for tables: nothing is folded in a pipe or a file."""
    from rich.console import Console

    output = Console(highlight=False)
    if not output.is_terminal and output.width < 200:
        output.width = 200
    return output


def _metric_rows(results: Results, comparison: Comparison, names: Sequence[str]) -> Rows:
    """Tabulate metrics over seeds, in per cent; the number of failed runs too if there are any."""
    failures = any(group.failed for group in comparison.groups)
    rows = [["method", *(name.replace("_", " ") for name in names), "seeds", *(["failed"] * failures)]]
    for group in comparison.groups:
        cells = [_percent(results._values(group, name), len(group.runs)) for name in names]
        rows.append([group.label, *cells, str(len(group.runs)), *([str(len(group.failed))] * failures)])
    return rows


def _cost_rows(results: Results, comparison: Comparison) -> Rows:
    """Tabulate the costs of one run, averaged over seeds."""
    headings = ["method", "training (s)", "evaluation (s)", "updates", "images", "forward passes", "backward passes"]
    rows = [[*headings, "parameters", "stored", "peak memory"]]
    runs = results.runs
    for group in comparison.finished:
        costs = runs[runs["key"].isin([record.key for record in group.runs])]

        def mean(name: str, show: Callable[[float], str], costs: pd.DataFrame = costs) -> str:
            values = costs[name].dropna()
            return show(float(values.mean())) if len(values) else DASH

        seconds = [mean(f"{name}_seconds", "{:,.2f}".format) for name in ("train", "evaluate")]
        totals = [mean(name, "{:,.0f}".format) for name in (*TOTALS, "parameters")]
        rows.append([group.label, *seconds, *totals, mean("stored_bytes", _bytes), mean("peak_memory_bytes", _bytes)])
    return rows


def _percent(values: Sequence[float], runs: int) -> str:
    """Show a mean with the half-width of its interval, and n where the metric is undefined for some of the runs."""
    if not values:
        return DASH
    interval = mean_interval(values)
    text = _signed(interval.mean)
    if interval.n > 1:
        text += f" ± {100 * float(interval.high - interval.mean):.2f}"
    return text if interval.n == runs else f"{text} (n = {interval.n})"


def _signed(fraction: Any) -> str:
    return f"{round(100 * float(fraction), 2) + 0.0:.2f}".replace("-", "−")  # + 0.0: no minus before 0.00


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def _markdown(results: Results, figures: Mapping[Place, Mapping[str, str]]) -> str:
    """Write the report's text; `figures` has a comparison's files by kind."""
    finished = len(results) - len(results.failed)
    lines = ["# Results", ""]
    lines += [
        f"{count_of(finished, 'finished run')}, {len(results.failed)} failed; "
        f"{count_of(len(results.labels), 'method')}.",
        "",
    ]
    lines += [
        "Metrics are in per cent: mean over seeds ± half-width of the 95 % interval of the mean (Student's t);"
        " a dash where undefined. Lower is better for forgetting and intransigence, higher for all others.",
        "",
    ]
    lines += _bullets("Before you compare", [*results.warnings, *results.problems])
    for comparison in results.comparisons:
        lines += [f"## {_escape_markdown(comparison.title)}", ""]
        groups = comparison.finished
        seeds = sorted({seed for group in groups for seed in group.seeds})
        if seeds:
            lines += [f"Seeds: {', '.join(map(str, seeds))}. {_escape_markdown(_shared_training(groups))}".rstrip(), ""]
        if len(seeds) == 1:
            lines += ["One seed: there are no intervals, and differences between methods may be chance.", ""]
        defined = [name for name in METRIC_NAMES if any(results._values(group, name) for group in groups)]
        lines += [*_markdown_table(_metric_rows(results, comparison, defined)), ""]
        if groups:
            lines += [*_markdown_table(_cost_rows(results, comparison)), ""]
        if any(record.shared_first_task for group in groups for record in group.runs):
            lines += ["A first task that methods have in common was trained once; its cost is counted in each.", ""]
        for kind, file in figures.get(comparison.place, {}).items():
            lines += [f"![{FIGURES[kind].title}](figures/{file})", ""]
    lines += _bullets("Failed runs", [_failure(record) for record in results.failed])
    return "\n".join(lines).rstrip() + "\n"


def _bullets(title: str, items: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {_escape_markdown(item)}" for item in items), ""] if items else []


def _failure(record: RunRecord) -> str:
    spec = record.spec
    where = f"{spec['label']}, {spec['sequence_label']}, {spec['scenario']}, {spec['model_label']}, seed {spec['seed']}"
    return f"{where}: {first_line(record.error)}"


def _shared_training(groups: Sequence[Group]) -> str:
    """Say which training settings all the groups share."""
    first, *others = [group.runs[0].spec["training"] for group in groups]
    shared = {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
    settings = ", ".join(f"{name}={value}" for name, value in shared.items() if value is not None)
    return f"Training: {settings}." if settings else ""


def _markdown_table(rows: Rows) -> list[str]:
    rule = ["---", *(["---:"] * (len(rows[0]) - 1))]
    escaped = [[_escape_markdown(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (escaped[0], rule, *escaped[1:])]


def _latex(results: Results) -> str:
    """Write the tables for a paper."""
    lines = [r"% needs \usepackage{booktabs,graphicx}", ""]
    for comparison in results.comparisons:
        groups = comparison.finished
        defined = [name for name in METRIC_NAMES if any(results._values(group, name) for group in groups)]
        tables = {
            "Per cent; mean over seeds with the half-width of its 95 % interval.": _metric_rows(
                results, comparison, defined
            ),
            "Costs, means per run.": _cost_rows(results, comparison),
        }
        for caption, (headings, *rows) in tables.items():
            if rows:
                lines += [r"\begin{table}", r"\centering"]
                lines += [rf"\caption{{{_escape_latex(f'{comparison.title}. {caption}')}}}"]
                lines += [
                    r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
                ]  # as wide as the page at most
                lines += [
                    rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
                    r"\toprule",
                    _latex_row(headings),
                    r"\midrule",
                ]
                lines += [*map(_latex_row, rows), r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""]
    return "\n".join(lines)


def _latex_row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(map(_escape_latex, cells))} \\"


def _escape_markdown(text: str) -> str:
    """Make any text plain in Markdown, on one line."""
    one_line = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", one_line)


_LATEX = {character: rf"\{character}" for character in "{}$&#%_"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "[": "{[}",  # after \\ or \midrule, a bare [ or * would be their argument
    "]": "{]}",
    "*": "{*}",
}


def _escape_latex(text: str) -> str:
    """Make any text plain in LaTeX, on one line."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def write_report(results: Results, folder: str | Path) -> list[Path]:
    """Write tables and figures into a folder, over those of an earlier report, and return the files.

    Raises UsageError if the folder cannot be written.
    """
    folder = Path(folder)
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        paths, links = write_figures(results, folder / "figures")
        tables = {
            "summary.csv": results.summary().to_csv(index=False),
            "runs.csv": results.runs.to_csv(index=False),
            "summary.md": _markdown(results, links),
            "summary.tex": _latex(results),
        }
        return [*(write(folder / name, text.encode()) for name, text in tables.items()), *paths]
    except OSError as error:
        reason = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror
        raise UsageError(f"cannot write the report to {folder}: {reason}; name another folder with --out") from error
