"""The errors clbench raises on purpose: each message says what, which value and what to do."""

import difflib
from collections.abc import Iterable


class ClbenchError(Exception):
    """Base of every error that clbench raises on purpose."""


class UsageError(ClbenchError):
    """Something the user asked for cannot be done: raised before any training (exit code 2)."""


class DataError(UsageError):
    """A data set is missing or damaged."""


class DivergedError(ClbenchError):
    """The training loss became NaN or infinite: the run fails and its record says where."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: a hint at close names, or the list of all there are."""
    known = list(known)
    return close_names(name, known) or f": choose from {', '.join(known)}"


def close_names(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known names that are close to an unknown one, empty where none is."""
    by_lower = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=2, cutoff=0.6)
    return f", did you mean {' or '.join(by_lower[other] for other in close)}?" if close else ""


def shown(value: object) -> str:
    """Return a value as a message shows it: on one line, shortened; an array by its type and shape."""
    if hasattr(value, "shape"):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    text = " ".join((value if isinstance(value, str) else repr(value)).split())
    return text if len(text) <= 80 else f"{text[:77]}…"


def quoted(value: object) -> str:
    """Return a value as `shown` does, text in quotes."""
    return repr(shown(value)) if isinstance(value, str) else shown(value)
