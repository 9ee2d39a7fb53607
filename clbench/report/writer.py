"""Results → files and terminal: tables in Markdown, LaTeX and CSV, the page and the figures."""

from __future__ import annotations

import contextlib
import html
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clbench.errors import UsageError
from clbench.report.figures.files import FigureFolder, Figures, Place, check_format, write
from clbench.report.figures.kinds import FIGURES, Width
from clbench.report.page import Picture, render
from clbench.report.tables import Tables, commands
from clbench.results import names
from clbench.results.frames import Results
from clbench.results.groups import Comparison, Group
from clbench.results.markdown import escape_markdown, markdown_table
from clbench.results.sentences import tasks_in_words, unequal_budgets
from clbench.results.wording import count_of, failure_title

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

    from clbench.report.tables import Cell, Table


def terminal_table(results: Results, comparison: Comparison, tables: Tables | None = None) -> RichTable:
    """Return a comparison's average accuracy and forgetting as a Rich table."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    tables = tables or Tables(results)
    found = tables.results_table(comparison, tables.choices.columns or ("average_accuracy", "forgetting"))
    table = RichTable(
        title=Text(comparison.title),
        caption=Text(found.caption),
        box=box.SIMPLE,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column(found.headings[0], overflow="fold")
    for heading in found.headings[1:]:
        table.add_column(heading, justify="right", no_wrap=len(heading) < 12)
    for group, row in zip(comparison.groups, found.rows, strict=True):
        table.add_row(Text(group.label), *(Text(cell.text) for cell in row[1:]))  # as one types it
    return table


def print_tables(results: Results, tables: Tables | None = None) -> None:
    """Print a table per comparison to standard output."""
    output = console()
    for comparison in results.comparisons:
        output.print(terminal_table(results, comparison, tables))


def console() -> Console:
    """Return standard output for tables: nothing is folded in a pipe or a file."""
    from rich.console import Console

    output = Console(highlight=False)
    if not output.is_terminal and output.width < 200:
        output.width = 200
    return output


def html_tables(results: Results) -> str:
    """Return every comparison's table of results in HTML, for a notebook."""
    tables, parts = Tables(results), []
    for comparison in results.comparisons:
        table = tables.results_table(comparison)
        weights = {"best": "font-weight: bold", "tie": "text-decoration: underline"}
        rows = "".join(
            "<tr>"
            + "".join(f'<td style="{weights.get(cell.mark, "")}">{html.escape(cell.text)}</td>' for cell in row)
            + "</tr>"
            for row in table.rows
        )
        head = "".join(f"<th>{html.escape(heading)}</th>" for heading in table.headings)
        caption = html.escape(f"{comparison.title}. {table.caption}")
        parts.append(f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
    notes = "".join(f"<li>{html.escape(line)}</li>" for line in [*results.warnings, *results.problems])
    return "".join(parts) + (f"<ul>{notes}</ul>" if notes else "")


def _markdown(results: Results, tables: Tables, figures: Mapping[Place, Mapping[str, str]]) -> str:
    """Write the report's text; `figures` has a comparison's files by kind."""
    finished = len(results) - len(results.failed)
    lines = ["# Results", ""]
    lines += [
        f"{count_of(finished, 'finished run')}, {len(results.failed)} failed; "
        f"{count_of(len(results.labels), 'method')}.",
        "",
        "A dash where a metric is undefined. Lower is better for forgetting and intransigence, higher for all others. "
        "Bold: the best mean, joint training aside.",
        "",
    ]
    for place, links in figures.items():
        if len(place) == 1:  # of a whole scenario
            lines += [f"![{FIGURES[kind].title}: {place[0]} scenario](figures/{file})" for kind, file in links.items()]
            lines += [""]
    lines += _bullets("Before you compare", [*results.warnings, *results.problems, *tables.notes])
    for comparison in results.comparisons:
        lines += [f"## {escape_markdown(comparison.title)}", ""]
        groups = comparison.finished
        seeds = sorted({seed for group in groups for seed in group.seeds})
        if seeds:
            said = [tasks_in_words(comparison), f"Seeds: {', '.join(map(str, seeds))}.", _shared_training(groups)]
            lines += [escape_markdown(" ".join(filter(None, said))), ""]
        if len(seeds) == 1:
            lines += ["One seed: there are no intervals, and differences between methods may be chance.", ""]
        lines += [f"- {escape_markdown(line)}" for line in tables.findings(comparison)]
        for table in tables.of(comparison):
            lines += ["", escape_markdown(table.caption), "", *_markdown_table(table)]
            if table.name == "costs":
                lines += ["", *(f"- {escape_markdown(line)}." for line in unequal_budgets(comparison))]
        if any(record.shared_first_task for group in groups for record in group.runs):
            lines += ["", "A first task that methods have in common was trained once; its cost is counted in each."]
        for kind, file in figures.get(comparison.place, {}).items():
            lines += ["", f"![{FIGURES[kind].title}](figures/{file})"]
        lines += ["", *_fenced(commands(comparison)), ""]
    lines += _bullets("Failed runs", [failure_title(record) for record in results.failed])
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _bullets(title: str, items: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {escape_markdown(item)}" for item in items), ""] if items else []


def _fenced(lines: Sequence[str]) -> list[str]:
    """Show lines as they are, behind a fence that none of them can close."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, *(" ".join(line.splitlines()) for line in lines), fence]


def _shared_training(groups: Sequence[Group]) -> str:
    """Say which training settings all the groups share."""
    first, *others = [group.runs[0].spec["training"] for group in groups]
    shared = {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
    settings = ", ".join(f"{name}={value}" for name, value in shared.items() if value is not None)
    return f"Training: {settings}." if settings else ""


def _markdown_table(table: Table) -> list[str]:
    def show(cell: Cell) -> str:
        text = escape_markdown(cell.text)
        return f"**{text}**" if cell.mark == "best" else text

    return markdown_table([list(map(escape_markdown, table.headings)), *([show(c) for c in row] for row in table.rows)])


def _latex(results: Results, tables: Tables) -> str:
    """Write the tables for a paper."""
    lines = [r"% needs \usepackage{booktabs,graphicx}; methods.bib has the papers of the methods", ""]
    for comparison in results.comparisons:
        for table in tables.of(comparison):
            marked = (
                " Bold: best, joint training aside; underlined: not told from it by a paired test (Holm, 5 % level)."
            )
            caption = f"{comparison.title}. {table.caption}{marked if table.name == 'results' else ''}"
            columns = "l" + "r" * (len(table.headings) - 1)
            lines += [r"\begin{table}", r"\centering", rf"\caption{{{_escape_latex(caption)}}}"]
            # as wide as the page at most
            lines += [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
            lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
            lines += [_latex_row(map(_escape_latex, table.headings)), r"\midrule"]
            lines += [_latex_row(map(_latex_cell, row)) for row in table.rows]
            lines += [r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""]
    return "\n".join(lines)


def _latex_row(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _latex_cell(cell: Cell) -> str:
    text = _escape_latex(cell.text)
    if cell.mark == "best":
        return rf"\textbf{{{text}}}"
    return rf"\underline{{{text}}}" if cell.mark == "tie" else text


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


@dataclass
class Report:
    """A report in a folder: `write_tables` writes tables and page, `draw` the figures, and the page again with them.

    Files of an earlier report are replaced. Both raise UsageError if the folder cannot be written.
    """

    results: Results
    folder: Path
    tables: Tables
    formats: Sequence[str] = ("png", "pdf")
    width: Width | None = None

    def __post_init__(self) -> None:
        check_format(self.formats, self.width)

    def write_tables(self) -> list[Path]:
        """Write all but the figures, with those that are there from before and up to date; return the files."""
        results, tables = self.results, self.tables
        with self._writing():
            (self.folder / "figures").mkdir(parents=True, exist_ok=True)
            self.figures = FigureFolder(results, self.folder / "figures", self.formats, self.width, tables.differences)
            methods = [group.method for place in results.comparisons for group in place.groups]
            texts = {
                "summary.csv": results.summary(tables.choices.interval).to_csv(index=False),
                "runs.csv": results.runs.to_csv(index=False),
                "differences.csv": tables.differences.to_csv(index=False),
                "gap_recovered.csv": tables.gap.to_csv(index=False),
                "summary.tex": _latex(results, tables),
                "methods.bib": names.bibliography(methods),
            }
            paths = [write(self.folder / name, text.encode()) for name, text in texts.items()]
            self.waiting = self.figures.missing
            return paths + self._write_texts(self.figures.ready(), self.waiting)

    def draw(self, progress: Callable[[int, int], None] | None = None) -> list[Path]:
        """Draw the figures that are not there or not up to date; return the files of all."""
        with self._writing():
            drawn = self.figures.draw(progress=progress)
            if self.waiting:
                self._write_texts(drawn)
            return drawn.paths

    def _write_texts(self, figures: Figures, waiting: int = 0) -> list[Path]:
        """Write the page and the Markdown with the figures that there are; so many are to be drawn yet."""
        page = render(self.results, self.tables, self._pictures(figures), waiting)
        texts = {"summary.md": _markdown(self.results, self.tables, figures.links), "report.html": page}
        return [write(self.folder / name, text.encode()) for name, text in texts.items()]

    def _pictures(self, figures: Figures) -> dict[tuple[str, ...], list[Picture]]:
        suffix = next((f".{name}" for name in ("png", "svg") if name in self.formats), None)  # that a page can show
        if suffix is None:
            return {}
        return {
            place: [
                Picture(
                    (self.folder / "figures" / name).with_suffix(suffix),
                    f"{FIGURES[kind].title}: {', '.join(place)}",
                    (self.width or FIGURES[kind].width) == "page",
                )
                for kind, name in links.items()
            ]
            for place, links in figures.links.items()
        }

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror
            problem = f"cannot write the report to {self.folder}: {reason}; name another folder with --out"
            raise UsageError(problem) from error


def write_report(
    results: Results,
    folder: str | Path,
    tables: Tables | None = None,
    formats: Sequence[str] = ("png", "pdf"),
    width: Width | None = None,
) -> list[Path]:
    """Write tables, figures and the page into a folder, and return the files; see `Report`."""
    report = Report(results, Path(folder), tables or Tables(results), formats, width)
    return [*report.write_tables(), *report.draw()]
