"""What is written for people, where it is written: in any encoding."""

import io
import sys

import pytest

from clbench.results.wording import console


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", r"97.5 +/- 0.2 -1 - ... M\xfcller \u03bb"),
        ("latin-1", "97.5 ± 0.2 -1 - ... Müller \\u03bb"),
        ("cp1252", "97.5 ± 0.2 -1 – … Müller \\u03bb"),
        ("utf-8", "97.5 ± 0.2 −1 – … Müller λ"),
    ],
)
def test_output_takes_any_text_in_any_encoding(encoding: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    console().print("97.5 ± 0.2 −1 – … Müller λ")
    print("97.5 ± 0.2 −1 – … Müller λ", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        assert stream.buffer.getvalue().decode(encoding).splitlines() == [expected]  # type: ignore[attr-defined]


def test_output_that_a_notebook_took_over_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = io.StringIO()
    monkeypatch.setattr(sys, "stdout", taken)
    console().print("97.5 ± 0.2")
    assert taken.getvalue() == "97.5 ± 0.2\n"
