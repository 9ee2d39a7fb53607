"""Tables in Markdown, LaTeX and a terminal: any text stays as it is."""

import io
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import ENDS, HOSTILE, ending_at, record, three_methods
from markdown_it import MarkdownIt
from rich.console import Console

from clbench.report.contents import Contents
from clbench.report.formats import latex, markdown
from clbench.report.tables import Tables
from clbench.report.writer import print_tables
from clbench.results.frames import Results
from clbench.results.wording import escape_markdown, markdown_table, rich_table


def test_text_from_records_is_plain_in_markdown_and_latex() -> None:
    results = Results([record(HOSTILE), record("lwf"), record(HOSTILE, 1, error=f"| {HOSTILE}\nmore")])
    contents = Contents(results, Tables(results))
    html = MarkdownIt().enable("table").render(markdown(contents))
    assert "<script" not in html
    assert "<a " not in html
    assert "<em>" not in html
    cells = re.findall(r"<td>(.*?)</td>", html)
    assert [unescape(cell) for cell in cells].count(HOSTILE) == 2  # metrics and costs
    # two tables and their headings' best, sentences on them, a warning, a failure, and a command in its fence
    assert html.count("alert(1)") == html.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 4
    columns = {row.count("<td") for row in re.findall(r"<tr>.*?</tr>", html, re.DOTALL) if "alert(1)" in row}
    assert columns == {1 + 5 + 2, 1 + 10}  # metrics defined, seeds, failed; costs

    tex = latex(contents)
    row = next(line for line in tex.splitlines() if line.startswith("a"))
    assert row.startswith(
        r"a\textbar{}b\_c{*}\textless{}script\textgreater{}alert(1)\textless{}/script\textgreater{}\$x\$ "
        r"\textbackslash{}input\{/etc/passwd\} {[}d{]}(e) \#1 100\% \textasciitilde{}\textasciicircum{}\&\{`f` & "
    )
    assert r"\input" not in tex


def has_tex() -> bool:
    return bool(shutil.which("pdflatex") and subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).stdout)


@pytest.mark.skipif(not has_tex(), reason="there is no TeX here, or none with booktabs")
def test_latex_compiles(tmp_path: Path) -> None:
    by_label = {"lwf@weight=2" if label == "lwf" else label: finals for label, finals in ENDS.items()}
    rows = [one for label, finals in by_label.items() for one in ending_at(label, finals)]
    results = Results([*rows, record(HOSTILE), record("[b", 1), record("*", 1)])
    body = latex(Contents(results, Tables(results)))
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx}\begin{document}"
    (tmp_path / "paper.tex").write_text(f"{head}\n{body}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=600)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000
    assert r"\textbf{" in body


def test_terminal_table_fits_eighty_columns() -> None:
    results = Results([*three_methods(), record("lwf@temperature=4@weight=2@scope=joined@scale_t2=true")])
    table = Tables(results).terminal_table(results.comparisons[0])
    out = io.StringIO()
    Console(file=out, width=80).print(rich_table("title", table.texts, caption=table.caption))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(re.search(r"finetune +77\.50 \[45\.73, 100\*\] +30\.00 \[−97\.06, 100\*\] +2", line) for line in lines)


def test_tables_in_a_pipe_are_plain_and_unfolded(capsys: pytest.CaptureFixture[str]) -> None:
    long = "lwf@temperature=4@weight=2@scope=joined@reduction=mean@scale_t2=true"
    records = [record(long), record(long, device="cuda"), record("lwf", 1, error="failed")]
    records.append(record("lwf", sequence_label="[bold]mine"))
    print_tables(Results(records))
    out = capsys.readouterr().out
    assert "split-digits, task scenario, mlp [device=cuda]" in out
    assert re.search(rf"{re.escape(long)} +90\.00", out)
    assert "[bold]mine, task scenario, mlp" in out
    assert "\x1b" not in out
    assert re.search(r"lwf +– +– +0 +1", out)


@given(st.text(st.characters(exclude_categories=("C", "Z")) | st.sampled_from(" <>&;#[]()|`*_\\!~$=-a1"), max_size=30))
def test_any_text_reads_in_a_markdown_table_as_it_is(text: str) -> None:
    markdown = "\n".join(markdown_table([["a"], [escape_markdown(text)]]))
    html = MarkdownIt().enable(["table", "strikethrough"]).render(markdown)
    assert [unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", html, re.DOTALL)] == [" ".join(text.split())]
