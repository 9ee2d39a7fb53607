"""Tables of cells → Markdown, LaTeX, HTML and the terminal."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from clbench.report.tables import Cell, Table
from clbench.results.markdown import escape_markdown, markdown_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

# What stands around a marked cell. GitHub shows <ins> underlined, and not <u>.
MARKDOWN: Mapping[str, str] = {"": "{}", "best": "**{}**", "tie": "<ins>{}</ins>"}
LATEX: Mapping[str, str] = {"": "%s", "best": r"\textbf{%s}", "tie": r"\underline{%s}"}
HTML: Mapping[str, str] = {"": "{}", "best": "<strong>{}</strong>", "tie": "<u>{}</u>"}
TEXT_CLASS = ' class="text"'


def markdown(table: Table) -> list[str]:
    """Return the lines of a table in Markdown: caption, cells and notes."""
    rows = [list(map(escape_markdown, table.headings))]
    rows += [[MARKDOWN[cell.mark].format(escape_markdown(cell.text)) for cell in row] for row in table.rows]
    texts = [heading for heading, is_text in zip(rows[0], table.is_text, strict=True) if is_text]
    notes = [f"- {escape_markdown(note)}" for note in table.notes]
    return [escape_markdown(table.caption), "", *markdown_table(rows, texts), "", *notes]


def latex(table: Table, title: str) -> list[str]:
    """Return the lines of a table in LaTeX, with booktabs and graphicx; as wide as the page at most."""
    caption = escape_latex(" ".join([f"{title}.", table.caption, *table.notes]))
    return [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{''.join('l' if is_text else 'r' for is_text in table.is_text)}}}",
        r"\toprule",
        _latex_row(map(escape_latex, table.headings)),
        r"\midrule",
        *(_latex_row(LATEX[cell.mark] % escape_latex(cell.text) for cell in row) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
        "",
    ]


def _latex_row(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def as_html(table: Table, caption: str | None = None) -> str:
    """Return a table in HTML. A cell's `data-value` is the number that it is sorted by."""
    head = "".join(
        f'<th scope="col"{TEXT_CLASS * is_text}>{html.escape(heading)}</th>'
        for heading, is_text in zip(table.headings, table.is_text, strict=True)
    )
    rows = []
    for row in table.rows:
        cells = "".join(_html_cell(cell, is_text) for cell, is_text in zip(row[1:], table.is_text[1:], strict=True))
        rows.append(f'<tr><th scope="row">{html.escape(row[0].text)}</th>{cells}</tr>')
    caption = html.escape(caption or table.name)
    body = "\n".join(rows)
    return f"<table><caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"


def _html_cell(cell: Cell, is_text: bool) -> str:
    kind = TEXT_CLASS * is_text
    if cell.value is not None and cell.value == cell.value:  # not NaN
        kind += f' data-value="{cell.value:.9g}"'
    return f"<td{kind}>{HTML[cell.mark].format(html.escape(cell.text))}</td>"


def rich_table(table: Table, title: str) -> RichTable:
    """Return a table for a terminal; long names are folded."""
    from rich import box  # here, so that records are read and pages written without it
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(
        title=Text(title),
        caption=Text(table.caption),
        box=box.SIMPLE,
        title_justify="left",
        caption_justify="left",
    )
    shown.add_column(table.headings[0], overflow="fold")
    for heading in table.headings[1:]:
        shown.add_column(heading, justify="right", no_wrap=len(heading) < 12)
    for row in table.rows:
        shown.add_row(*(Text(cell.text) for cell in row))
    return shown


def console() -> Console:
    """Return standard output for tables: nothing is folded in a pipe or a file."""
    from rich.console import Console  # as above

    output = Console(highlight=False)
    if not output.is_terminal and output.width < 200:
        output.width = 200
    return output


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


def escape_latex(text: str) -> str:
    """Make any text plain in LaTeX, on one line."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
