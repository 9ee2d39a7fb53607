"""What a report says → a page in HTML, a Markdown file, LaTeX for a paper, and tables for the terminal and a notebook.

The page, which needs no other file and no network, and the Markdown are templates: `page.html` and `summary.md`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from clbench.report.contents import Contents, commands
from clbench.report.figures.files import Picture
from clbench.report.tables import Table
from clbench.results.wording import escape_markdown, markdown_table

if TYPE_CHECKING:
    from jinja2 import Template

# What stands around a marked cell. GitHub shows <ins> underlined, and not <u>.
MARKDOWN: Mapping[str, str] = {"": "{}", "best": "**{}**", "tie": "<ins>{}</ins>"}
LATEX: Mapping[str, str] = {"": "%s", "best": r"\textbf{%s}", "tie": r"\underline{%s}"}
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


def page(contents: Contents, pictures: Sequence[Picture] = ()) -> str:
    """Return the page."""
    return _template("page.html").render(contents=contents, pictures=pictures)


def table_in_html(table: Table, caption: str) -> str:
    """Return a table in HTML."""
    return str(_template("table.html").module.table(table, caption))  # type: ignore[attr-defined]


def markdown(contents: Contents, pictures: Sequence[Picture] = ()) -> str:
    """Return `summary.md`."""
    text = _template("summary.md").render(contents=contents, pictures=pictures)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _markdown_table(table: Table) -> str:
    rows = [list(map(escape_markdown, table.headings))]
    rows += [[MARKDOWN[cell.mark].format(escape_markdown(cell.text)) for cell in row] for row in table.rows]
    return "\n".join(markdown_table(rows, [rows[0][i] for i, is_text in enumerate(table.is_text) if is_text]))


def _fenced(lines: Sequence[str]) -> str:
    """Show lines as they are, behind a fence that none of them can close."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([fence, *(" ".join(line.splitlines()) for line in lines), fence])


@cache
def _template(name: str) -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape  # not for a terminal's tables

    loader = PackageLoader("clbench.report", ".")
    environment = Environment(
        loader=loader, autoescape=select_autoescape(), undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"escaped": escape_markdown, "fenced": _fenced, "as_table": _markdown_table}
    environment.globals["commands"] = commands
    return environment.get_template(name)


def latex(contents: Contents) -> str:
    """Return `summary.tex`: the tables for a paper, as wide as its page at most."""
    lines = [r"% needs \usepackage{booktabs,graphicx}; methods.bib has the papers of the methods", ""]
    for comparison in contents.results.comparisons:
        for table in contents.tables_of[comparison.place]:
            caption = escape_latex(" ".join([f"{comparison.title}.", table.caption, *table.notes]))
            lines += [
                rf"\begin{{table}}\centering\caption{{{caption}}}",
                r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
                rf"\begin{{tabular}}{{{''.join('l' if is_text else 'r' for is_text in table.is_text)}}}",
                r"\toprule",
                _latex_row(map(escape_latex, table.headings)),
                r"\midrule",
                *(_latex_row(LATEX[cell.mark] % escape_latex(cell.text) for cell in row) for row in table.rows),
                r"\bottomrule\end{tabular}}\end{table}",
                "",
            ]
    return "\n".join(lines)


def _latex_row(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def escape_latex(text: str) -> str:
    """Make any text plain in LaTeX, on one line."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
