"""The errors clbench raises on purpose: each message says what, which value and what to do."""

import difflib
import inspect
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_NOT_OUTSIDE = {"clbench", "torch", "builtins", "typing", "abc"}  # packages whose code is no user's


class ClbenchError(Exception):
    """Base of every error that clbench raises on purpose."""


class UsageError(ClbenchError):
    """Something the user asked for cannot be done: raised before any training (exit code 2)."""


class DataError(UsageError):
    """A data set is missing or damaged."""


class DivergedError(ClbenchError):
    """A loss, weight or score is not finite, or a loss ends far too high: the run fails, its record says where."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: a hint at close names, or the list of all there are."""
    known = list(known)
    return close_names(name, known) or f": choose from {', '.join(known)}"


def close_names(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known names that are close to an unknown one, empty where none is."""
    by_lower: dict[str, str] = {}
    for other in known:
        by_lower.setdefault(other.lower(), other)
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


def line_of(code: Any, error: BaseException | None = None) -> str:
    """Return ' (file.py, line 12)' to put behind a message about code from outside; '' for clbench's own.

    That is the line where a class or function begins, or the last line of a class's files that an error came through.
    """
    outside = [part for part in getattr(code, "__mro__", [code]) if part.__module__.split(".")[0] not in _NOT_OUTSIDE]
    files = {getattr(sys.modules.get(part.__module__), "__file__", None) for part in outside}
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    lines = [(frame.filename, frame.lineno) for frame in frames if frame.filename in files]
    try:
        file, line = lines[-1] if lines else (inspect.getfile(outside[0]), inspect.getsourcelines(outside[0])[1])
    except (IndexError, OSError, TypeError):  # clbench's own, or made where there is no file
        return ""
    path, here = Path(file), Path.cwd()
    return f" ({path.relative_to(here) if path.is_relative_to(here) else path}, line {line})"
