"""What a report says → one HTML page without any other file or the network. Its template is `page.html`."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from clbench.report.contents import Contents
from clbench.report.formats import as_html

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True)
class Picture:
    """A figure for the page: a PNG or SVG file that is drawn already, and what it shows."""

    path: Path
    alt: str
    wide: bool = False  # whether it takes the page's whole width

    @property
    def source(self) -> str:
        kind = {".png": "png", ".svg": "svg+xml"}[self.path.suffix]
        return f"data:image/{kind};base64,{base64.b64encode(self.path.read_bytes()).decode()}"


def render(
    contents: Contents, pictures: Mapping[tuple[str, ...], Sequence[Picture]] | None = None, waiting: bool = False
) -> str:
    """Return the page. `pictures` are by place: a comparison's, or a scenario's alone. `waiting`: more are to come."""
    pictures = pictures or {}
    overall = [picture for place, some in pictures.items() if len(place) == 1 for picture in some]
    return _template().render(contents=contents, pictures=pictures, overall=overall, waiting=waiting)


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined  # here: a notebook's tables need no template

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.globals["as_html"] = as_html
    return environment.from_string((files("clbench.report") / "page.html").read_text(encoding="utf-8"))
