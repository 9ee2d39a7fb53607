"""How numbers, runs and tables are written for people: in sentences, in Markdown and in a terminal."""

from __future__ import annotations

import codecs
import io
import math
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clbench.results.record import RunRecord
from clbench.results.statistics import IntervalKind, Paired, mean_interval

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable


CUT = "*"  # behind a bound that lies where the scale ends, and not where the formula has it
CUT_NOTE = f"{CUT} The interval is cut where the scale ends."


def percent(
    values: Sequence[float], metric: str | None = None, runs: int | None = None, interval: IntervalKind = "t"
) -> str:
    """Write a metric's mean in per cent with its 95 % interval: ± its half-width, or its bounds.

    Bounds are given where it is a bootstrap's, or would reach past the ends of the scale: 0 to 100 for an accuracy,
    −100 to 100 for other metrics. The number of values is given where it isn't that of the runs; without values there
    is a dash.
    """
    if not values:
        return "–"
    found = mean_interval(values, kind=interval)
    n, mean, low, high = found.n, float(found.mean), float(found.low), float(found.high)
    text = signed(mean, plus=False)
    lowest = 0.0 if metric is not None and metric.endswith("accuracy") else -1.0
    if n > 1 and interval == "t" and lowest - 1e-9 <= low and high <= 1 + 1e-9:
        text += f" ± {100 * (high - mean):.2f}"
    elif n > 1:
        text += f" [{_bound(low, lowest, 1.0, False)}, {_bound(high, lowest, 1.0, False)}]"
    return text if runs in (None, n) else f"{text} (n = {n})"


def _bound(value: float, lowest: float = -1.0, highest: float = 1.0, plus: bool = True) -> str:
    """Write the bound of an interval in per cent, with a mark where the scale cuts it."""
    end = lowest if value < lowest - 1e-9 else highest if value > highest + 1e-9 else None
    if end is None:
        return signed(value, plus)
    return f"{100 * end:{'+' if plus and end > 0 else ''}.0f}{CUT}".replace("-", "−")


def between(low: float, high: float) -> str:
    """Write the interval of a difference in percentage points."""
    return f"{_bound(low)} to {_bound(high)}"


def signed(fraction: float, plus: bool = True) -> str:
    """Write a fraction in per cent, with a sign: a plus on request, a minus where it is below 0 as shown."""
    value = round(100 * float(fraction), 2) + 0.0  # no minus before 0.00
    return f"{value:{'+' if plus else ''}.2f}".replace("-", "−")


def of_p(p: float) -> str:
    """Write a p value behind the letter: '= 0.032' or '< 0.001'."""
    return "–" if math.isnan(p) else "< 0.001" if p < 0.001 else f"= {p:.2g}"


def spell(found: Paired, p_holm: float, family: str) -> str:
    """Write a paired difference in percentage points: interval, p, p corrected over a family, seeds.

    The family is '' of one test.
    """
    text = f"{signed(found.mean)} points"
    if found.n == 1:
        return f"{text} (one seed)"
    corrected = f"{of_p(p_holm).removeprefix('= ')} by {family}" if family else "one test"
    p = "no test" if math.isnan(found.p) else f"p {of_p(found.p)}, {corrected}"
    return f"{text} (95 % interval {between(found.low, found.high)}, {p}, {found.n} seeds)"


def count_of(number: int, what: str) -> str:
    """Write a number of things: '1 run', '2 runs'."""
    return f"{number} {what}{'s' * (number != 1)}"


def failure_title(record: RunRecord) -> str:
    """Say which run a record is of, and the first line of its error."""
    return f"{record.title}: {record.reason}"


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


def rich_table(title: str, rows: Sequence[Sequence[str]], texts: Sequence[str] = (), caption: str = "") -> RichTable:
    """Return a table for a terminal, headings first; long names are folded. `texts` as in `markdown_table`."""
    from rich import box  # here, so that records are read and pages written without it
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(title=Text(title), caption=Text(caption), box=box.SIMPLE)
    table.title_justify = table.caption_justify = "left"
    for column, heading in enumerate(rows[0]):
        if column == 0 or heading in texts:
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=len(heading) < 12)
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table


PLAIN = {"±": "+/-", "−": "-", "–": "-", "…": "...", "×": "x", "→": "->", "≥": ">=", "’": "'"}


def _in_plain(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding lacks in ASCII: a sign's usual form, or else its number, as Python's own errors do."""
    assert isinstance(error, UnicodeEncodeError)
    character = error.object[error.start]
    return PLAIN.get(character, character.encode("ascii", "backslashreplace").decode()), error.start + 1


codecs.register_error("clbench", _in_plain)


def allow_any_encoding() -> None:
    """Let standard output and standard error take any text, whatever their encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="clbench")


def console() -> Console:
    """Return standard output for tables: in any encoding, and nothing is folded in a pipe or a file."""
    from rich.console import Console  # as above

    allow_any_encoding()
    output = Console(highlight=False)
    if not output.is_terminal and output.width < 200:
        output.width = 200
    return output
