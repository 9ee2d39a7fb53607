"""Names of methods for people, and the papers to cite; from files beside the methods, so that torch is not needed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import cache
from importlib.resources import files

from clbench.errors import UsageError, close_names


@cache
def _names() -> dict[str, dict]:
    return tomllib.loads((files("clbench.methods") / "names.toml").read_text(encoding="utf-8"))


def known() -> list[str]:
    """Return the built-in methods' names, in the order of names.toml."""
    return list(_names())


def titles() -> dict[str, str]:
    """Return the built-in methods' names for people, by name."""
    return {name: entry["title"] for name, entry in _names().items()}


def squashed(name: str) -> str:
    """Return a name as it is compared: capitals, spaces and signs between words do not matter, those of numbers do."""
    return re.sub(r"[^\w@.:/+=\[\]-]|_|(?<!=)(?<!\de)-", "", "".join(name.casefold().split()))


def spelled(value: object) -> str:
    """Return a value as it is typed, and as labels have it: 1000000.0 is 1e6."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if not isinstance(value, float):
        return str(value)
    if abs(value) >= 1e6:
        return str(Decimal(repr(value)).normalize()).lower().replace("+", "")
    return repr(value).removesuffix(".0").replace("e-0", "e-")


def title(method: str, label: str) -> str:
    """Name a method for people: 'LwF (temperature = 4)' for the label 'lwf@temperature=4'.

    A label that does not begin with the method's name, as a preset's rows have them, stays as it is; so does what
    stands in brackets behind it. A method from a file or a package goes by the name of its class, and one of another
    library by that of both.
    """
    if label != method and not label.startswith((f"{method}@", f"{method} [")):
        return label
    asked, bracket, apart = label.removeprefix(method).partition(" [")
    settings = [setting.replace("=", " = ", 1) for setting in asked.split("@")[1:]]
    name = _names()[method]["title"] if method in _names() else method.rpartition(":")[2]
    if method.startswith("avalanche:"):
        name = f"Avalanche's {name}"
    return name + (f" ({', '.join(settings)})" if settings else "") + bracket + apart


def resolve(asked: str, titles: Mapping[str, str], what: str = "finished run of {}") -> str:
    """Return the label that is meant, of those in `titles` with their names for people.

    It may be given as either, in any case, with or without spaces and signs between words. Raises UsageError, with
    what is close, if there is none or several; `what` there is none of.
    """
    if asked in titles:
        return asked
    meant = squashed(asked)
    fitting = [label for label, title in titles.items() if meant in (squashed(label), squashed(title))]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(f"{asked!r} is ambiguous: choose from {', '.join(fitting)}")
    close = close_names(asked, {**titles, **dict.fromkeys(titles.values())})
    missing = "no " + what.format(repr(asked))
    raise UsageError(missing + (close or f": choose from {', '.join(sorted(titles)) or 'nothing'}"))


def explanations(methods: Iterable[str]) -> list[tuple[str, str]]:
    """Return the names of built-in methods for people, and a line on each."""
    return [(_names()[name]["title"], _names()[name]["what"]) for name in dict.fromkeys(methods) if name in _names()]


def bibliography(methods: Iterable[str]) -> str:
    """Return the BibTeX entries of the papers that built-in methods come from, each once."""
    papers = (files("clbench.methods") / "papers.bib").read_text(encoding="utf-8")
    entries = {re.match(r"@\w+{([^,]+),", entry)[1]: entry for entry in papers.strip().split("\n\n")}  # type: ignore[index]
    cited = dict.fromkeys(key for method in methods for key in _names().get(method, {}).get("cite", ()))
    return "\n\n".join(entries[key] for key in cited) + "\n" * bool(cited)
