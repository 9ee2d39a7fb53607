"""Text and tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence


def escape_markdown(text: str) -> str:
    """Make any text plain in Markdown, on one line; a bracket or sign that means nothing there stays as it is."""
    one_line = " ".join(text.split())
    one_line = re.sub(r"&(?=[#\w])", "&amp;", one_line)
    one_line = re.sub(r"<(?=[\w/!?])", "&lt;", one_line)
    return re.sub(r"([\\`*_\[|#~$]|^>)", r"\\\1", one_line)


def markdown_table(rows: Sequence[Sequence[str]], texts: Sequence[str] = ()) -> list[str]:
    """Return the lines of a table, headings first, cells as they are.

    The first column is text, as are those under the headings `texts`; all others are numbers.
    """
    rule = ["---", *("---" if heading in texts else "---:" for heading in rows[0][1:])]
    return [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]
