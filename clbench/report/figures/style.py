"""How figures look: a colour, marker and line for each method, and text that fits. Needs no Matplotlib."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, Literal

from clbench.results import names

Styles = Mapping[str, Mapping[str, Any]]  # by label: colour, marker, line style and title, as Axes.plot takes them
Width = Literal["column", "page"]
WIDTHS: Mapping[str, float] = {"column": 3.4, "page": 7.0}  # inches

COLOURS = (
    *("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#56b4e9", "#8c5109", "#7f7f7f", "#332288", "#882255"),
)  # after Okabe & Ito: told apart by the colour-blind too
MARKERS: tuple[Any, ...] = (  # 17, which 10 colours have no divisor in common with: 170 pairs
    *("o", "s", "D", "^", "v", "P", "X", "<", ">", "*"),
    *((4, 1, 0), "d", "p", "h", (3, 1, 0), (5, 0, 180), (8, 1, 0)),
)
LINES = ("-", "--", "-.", ":")  # 40 pairs with a colour, and 50 with a marker, before one comes again
PAIRS = len(COLOURS) * len(LINES)
SMALL = 7  # points, of legends and captions
GREY = "0.75"  # of methods that only stand behind the others
LAST_CHOICE = 5  # the first so many styles belong to the core methods, and are given to others last


def styles_of(labels: Sequence[str], titles: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Give each label a colour, marker and line that no other has, and its title (default: the label).

    A built-in method has its own in every report, as has a variant of one that stands alone; any other label gets what
    is free, with a new colour and marker as long as there are any.
    """
    return {
        label: {
            "color": COLOURS[number % len(COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": LINES[(number + number // len(COLOURS)) % len(LINES)],
            "label": plain((titles or {}).get(label, label)),
        }
        for label, number in _numbers_of_styles(tuple(labels)).items()
    }


@cache
def _numbers_of_styles(labels: tuple[str, ...]) -> dict[str, int]:
    known, chosen = names.known(), dict[str, int]()
    for name_of in (str, lambda label: label.split("@")[0].split(" [")[0]):  # methods as they are first, then variants
        for label in labels:
            name = name_of(label)
            if label not in chosen and name in known and known.index(name) not in chosen.values():
                chosen[label] = known.index(name)
    for label in labels:
        if label not in chosen:
            chosen[label] = _free(set(chosen.values()))
    return {label: chosen[label] for label in labels}


def _free(taken: set[int]) -> int:
    """Return the number of a style unlike those taken: with a new marker and colour, else a new marker, else new."""
    markers, colours = ({number % len(these) for number in taken} for these in (MARKERS, COLOURS))
    numbers = [*range(LAST_CHOICE, PAIRS), *range(LAST_CHOICE), *range(PAIRS, len(MARKERS) * len(LINES))]
    free = (number for number in numbers if number not in taken)
    return min(free, key=lambda n: (n % len(MARKERS) in markers, n % len(COLOURS) in colours), default=len(taken))


def greyed(styles: Styles, behind: Collection[str]) -> Styles:
    """Return styles in which these labels are grey and stand behind the others."""
    back = {"color": GREY, "zorder": 1.6}
    return {label: {**style, **(back if label in behind else {})} for label, style in styles.items()}


def ink(background: Sequence[float]) -> str:
    """Return black or white, whichever is easier to read on a colour [3 or 4 of 0 to 1]: 4.5 to 1 at least (WCAG 2)."""
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in background[:3])
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"


def plain(label: str) -> str:
    """Return a label that Matplotlib shows as it is: no mathematics, not hidden from legends."""
    text = label.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def wrap(text: str, width: int) -> str:
    """Break plain text into lines of at most `width` characters, behind a space or a sign where there is one.

    Best before a bracket or behind a comma.
    """
    lines, rest = [], " ".join(text.split())
    while len(rest) > width:
        at = max(rest.rfind(" (", 0, width), rest.rfind(", ", 0, width), rest.rfind("; ", 0, width)) + 1
        if at < 4:
            at = max(rest.rfind(separator, 0, width) for separator in " ,@=") + 1 or width
        at -= rest[:at].endswith("\\")  # which belongs to the next character
        lines.append(rest[:at].rstrip())
        rest = rest[at:].lstrip()
    return " " * text.startswith(" ") + "\n".join([*lines, rest])


def wrapped(styles: Styles, width: int) -> Styles:
    """Return styles whose titles are broken into lines of at most `width` characters."""
    return {label: {**style, "label": wrap(str(style["label"]), width)} for label, style in styles.items()}


def characters(inches: float, size: float = 8) -> int:
    """Return how many characters of a size in points fit into a width, as a rule."""
    return max(4, math.floor(inches * 72 / (0.62 * size)))
