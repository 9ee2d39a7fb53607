"""Results → the terminal, a notebook, and a folder of tables, figures and a page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from clbench.errors import UsageError
from clbench.report.contents import Contents
from clbench.report.figures.files import check_format, draw, planned, writing
from clbench.report.figures.style import Width
from clbench.report.formats import latex, markdown, page, table_in_html
from clbench.report.tables import Tables
from clbench.results.frames import Results
from clbench.results.store import holds_records, write_whole
from clbench.results.wording import console, rich_table


def print_tables(results: Results, tables: Tables | None = None) -> None:
    """Print a table per comparison to standard output."""
    tables, output = tables or Tables(results), console()
    for comparison in results.comparisons:
        table = tables.terminal_table(comparison)
        words = [heading for heading, is_text in zip(table.headings, table.is_text, strict=True) if is_text]
        output.print(rich_table(comparison.title, table.texts, words, caption=" ".join([table.caption, *table.notes])))


def html_tables(results: Results) -> str:
    """Return every comparison's table of results in HTML, for a notebook."""
    tables, parts = Tables(results), []
    for comparison in results.comparisons:
        table = tables.results_table(comparison)
        parts.append(table_in_html(table, f"{comparison.title}. {table.caption}"))
    notes = "".join(f"<li>{html.escape(line)}</li>" for line in [*results.warnings, *results.problems])
    return "".join(parts) + (f"<ul>{notes}</ul>" if notes else "")


def make_folder(folder: Path) -> None:
    """Make the folder of a report. Raises UsageError if it cannot be made or holds records."""
    with writing(folder):
        if holds_records(folder):
            raise UsageError(
                f"{folder} holds records, which a report must not mix with: name another folder with --out"
            )
        (folder / "figures").mkdir(parents=True, exist_ok=True)


def write_report(
    results: Results,
    folder: str | Path,
    tables: Tables | None = None,
    formats: Sequence[str] = ("png", "pdf"),
    width: Width = "column",
) -> list[Path]:
    """Write tables, then figures, then the page that shows both into a folder, and return the files.

    Files of an earlier report are replaced. Raises UsageError if the folder cannot be written or holds records.
    """
    folder, tables = Path(folder), tables or Tables(results)
    check_format(formats, width)
    make_folder(folder)
    contents = Contents(results, tables)
    pictures = planned(results, folder / "figures", formats, tables.differences)
    texts = {
        "summary.csv": results.summary(tables.choices.interval).to_csv(index=False),
        "runs.csv": results.runs.to_csv(index=False),
        "differences.csv": tables.differences.to_csv(index=False),
        "gap_recovered.csv": tables.gap.to_csv(index=False),
        "summary.tex": latex(contents),
        "methods.bib": contents.bibliography,
        "summary.md": markdown(contents, pictures),
    }
    with writing(folder):
        paths = [write_whole(folder / name, text.encode()) for name, text in texts.items()]
    draw(pictures, folder / "figures", width)
    with writing(folder):
        paths.append(write_whole(folder / "report.html", page(contents, pictures).encode()))
    return paths + [path for picture in pictures for path in picture.paths]
