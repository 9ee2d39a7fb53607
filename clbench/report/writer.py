"""Results → the terminal, a notebook, and a folder of tables, figures and a page."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clbench.errors import UsageError
from clbench.report.contents import Contents
from clbench.report.figures.files import FigureFolder, Picture, check_format
from clbench.report.figures.style import Width
from clbench.report.formats import latex, markdown, page, table_in_html
from clbench.report.tables import Tables
from clbench.results.frames import Results
from clbench.results.store import write_whole
from clbench.results.wording import console, rich_table


def print_tables(results: Results, tables: Tables | None = None) -> None:
    """Print a table per comparison to standard output."""
    tables, output = tables or Tables(results), console()
    for comparison in results.comparisons:
        table = tables.terminal_table(comparison)
        output.print(rich_table(comparison.title, table.texts, caption=" ".join([table.caption, *table.notes])))


def html_tables(results: Results) -> str:
    """Return every comparison's table of results in HTML, for a notebook."""
    tables, parts = Tables(results), []
    for comparison in results.comparisons:
        table = tables.results_table(comparison)
        parts.append(table_in_html(table, f"{comparison.title}. {table.caption}"))
    notes = "".join(f"<li>{html.escape(line)}</li>" for line in [*results.warnings, *results.problems])
    return "".join(parts) + (f"<ul>{notes}</ul>" if notes else "")


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
            self.contents = Contents(results, tables)
            texts = {
                "summary.csv": results.summary(tables.choices.interval).to_csv(index=False),
                "runs.csv": results.runs.to_csv(index=False),
                "differences.csv": tables.differences.to_csv(index=False),
                "gap_recovered.csv": tables.gap.to_csv(index=False),
                "summary.tex": latex(self.contents),
                "methods.bib": self.contents.bibliography,
            }
            paths = [write_whole(self.folder / name, text.encode()) for name, text in texts.items()]
            self.waiting = bool(self.figures.missing)
            return paths + self._write_texts(self.figures.ready(), self.waiting)

    def draw(self) -> list[Path]:
        """Draw the figures that are not there or not up to date; return the files of all."""
        with self._writing():
            drawn = self.figures.draw()
            if self.waiting:
                self._write_texts(drawn)
            return [path for picture in drawn for path in picture.paths]

    def _write_texts(self, pictures: Sequence[Picture], waiting: bool = False) -> list[Path]:
        """Write the page and the Markdown with the figures that there are; `waiting`: more are to come."""
        texts = {
            "summary.md": markdown(self.contents, pictures),
            "report.html": page(self.contents, pictures, waiting),
        }
        return [write_whole(self.folder / name, text.encode()) for name, text in texts.items()]

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
