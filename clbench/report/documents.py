"""What a report says → a Markdown file, and the tables in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from clbench.report.contents import Contents, Section
from clbench.report.figures.kinds import FIGURES
from clbench.report.formats import latex, markdown
from clbench.results.markdown import escape_markdown

Links = Mapping[tuple[str, ...], Mapping[str, str]]  # by place, then kind: the name of a figure's file


def markdown_document(contents: Contents, links: Links) -> str:
    """Return `summary.md`."""
    lines = ["# Results", "", escape_markdown(contents.about), ""]
    for place in links:
        if len(place) == 1:  # of a whole scenario
            lines += _figures(links, place)
    lines += _bullets("Before you compare", contents.warnings)
    for section in contents.sections:
        lines += _section(section, links)
    lines += _bullets("Failed runs", [title for title, _ in contents.failures])
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _section(section: Section, links: Links) -> list[str]:
    lines = [f"## {escape_markdown(section.title)}", "", escape_markdown(f"{section.about} {section.training}"), ""]
    lines += [f"- {escape_markdown(finding)}" for finding in section.findings]
    for table in section.tables:
        lines += ["", *markdown(table)]
    return [*lines, "", *_figures(links, section.place), *_fenced(section.commands), ""]


def _figures(links: Links, place: tuple[str, ...]) -> list[str]:
    return [f"![{FIGURES[kind].title}](figures/{file})\n" for kind, file in links.get(place, {}).items()]


def _bullets(title: str, items: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {escape_markdown(item)}" for item in items), ""] if items else []


def _fenced(lines: Sequence[str]) -> list[str]:
    """Show lines as they are, behind a fence that none of them can close."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, *(" ".join(line.splitlines()) for line in lines), fence]


def latex_document(contents: Contents) -> str:
    """Return `summary.tex`: the tables for a paper."""
    lines = [r"% needs \usepackage{booktabs,graphicx}; methods.bib has the papers of the methods", ""]
    for section in contents.sections:
        for table in section.tables:
            lines += latex(table, section.title)
    return "\n".join(lines)
