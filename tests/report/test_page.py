"""The page of a report in a real browser, and the LaTeX tables in a real TeX: where these are installed."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up import FINETUNE, HOSTILE, JOINT, LWF, record, three_methods

from clbench.report.page import render
from clbench.report.tables import Choices, Tables
from clbench.report.writer import Report, write_report
from clbench.results.frames import Results

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


class Page(HTMLParser):
    """What a page holds, from its text alone."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def many(count: int) -> Results:
    """Return runs of five methods on sequences enough for `count` of them, ten seeds each."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count // 50):
        for label in ("finetune", "lwf", "joint", "si", "ewc"):
            for seed in range(10):
                R = np.where(np.tri(6, 5, -1), rng.uniform(0.5, 1.0, size=(6, 5)), np.nan).tolist()
                R = [[None if x != x else x for x in row] for row in R]
                rows.append(record(label, seed, R, sequence_label=f"split-{number}"))
    return Results(rows)


def test_page_is_self_contained_and_says_what_was_run(tmp_path: Path) -> None:
    write_report(Results(three_methods()), tmp_path)
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    for attributes in (attributes for _, attributes in page.tags):
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
    assert not re.findall(r"url\(|@import|https?://", text)
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("img")) >= 5
    assert "clbench run --methods finetune,joint,lwf --seeds 0-1" in page.text
    assert "@article{li2018learning" in page.text
    for words in ("Highest average accuracy: LwF", "Least forgetting: LwF", "Fine-tuning is at 77.50 ± 31.77"):
        assert words in page.text


def test_headings_tables_and_regions_are_named() -> None:
    page = Page(render(Results(three_methods()), Tables(Results(three_methods()))))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
    assert len(page.all("caption")) == len(page.all("table"))
    assert [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)][:3] == [1, 2, 2]


def test_text_from_records_is_plain_in_html() -> None:
    results = Results([record(HOSTILE), record("lwf"), record(HOSTILE, 1, error="</pre><script>alert(2)</script>")])
    text = render(results, Tables(results))
    assert text.count("<script") == 1  # our own
    page = Page(text)
    assert HOSTILE in page.text
    assert "</pre><script>alert(2)</script>" in page.text


def test_failed_runs_are_in_the_page_with_their_tracebacks() -> None:
    results = Results([*three_methods(), record("lwf", 2, error="OutOfMemory: too big\n\nTraceback: line 7")])
    page = Page(render(results, Tables(results)))
    assert "6 finished runs of 3 methods; 1 failed" in page.text
    assert "lwf, split-digits, task, mlp, seed 2: OutOfMemory: too big" in page.text
    assert "Traceback: line 7" in page.text


def test_500_runs_are_under_five_megabytes(tmp_path: Path) -> None:
    write_report(many(500), tmp_path)
    size = (tmp_path / "report.html").stat().st_size
    assert 100_000 < size < 5_000_000
    assert len(Page((tmp_path / "report.html").read_text()).all("img")) >= 50


def in_browser(page: Path, script: str = "") -> tuple[str, str]:
    """Load a page, run a script at its end, and return the document then and what the console said."""
    text = page.read_text()
    loaded = page.with_name("loaded.html")
    loaded.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=2000", "--dump-dom"]
    done = subprocess.run([*command, loaded.as_uri()], capture_output=True, text=True, timeout=120)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@browser
def test_page_renders_and_sorts_without_a_console_error(tmp_path: Path) -> None:
    write_report(Results(three_methods()), tmp_path)
    order = """
        const table = document.querySelector("section table.sortable");
        const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent).join(",");
        const press = column => { const button = table.tHead.rows[0].cells[column].querySelector("button");
            button.focus(); button.click(); return document.activeElement === button; };
        const said = [names()];
        for (const column of [1, 1, 0, 4]) said.push(`${press(column)}:${names()}`);
        const sizes = [...document.images].map(image => image.naturalWidth > 100);
        document.title = said.join(" | ") + " | " + table.querySelector("[aria-sort]").getAttribute("aria-sort")
            + " | " + table.querySelectorAll("[aria-sort]").length + " | " + sizes.every(Boolean);
    """
    document, console = in_browser(tmp_path / "report.html", order)
    assert console == ""
    (title,) = re.findall("<title>(.*?)</title>", document)
    assert title.split(" | ") == [
        "Fine-tuning,Joint training,LwF",
        "true:Fine-tuning,LwF,Joint training",  # 77.5, 87.5 and 100 %
        "true:Joint training,LwF,Fine-tuning",
        "true:Fine-tuning,Joint training,LwF",
        "true:Joint training,LwF,Fine-tuning",  # forgetting −15, −0 and 30 %
        "ascending",
        "1",
        "true",
    ]


@browser
def test_a_console_error_would_be_seen(tmp_path: Path) -> None:
    write_report(Results(three_methods()), tmp_path)
    assert "nothing_there" in in_browser(tmp_path / "report.html", "nothing_there();")[1]


def has_tex() -> bool:
    return bool(shutil.which("pdflatex") and subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).stdout)


@pytest.mark.skipif(not has_tex(), reason="there is no TeX here, or none with booktabs")
def test_latex_compiles(tmp_path: Path) -> None:
    by_label = {"finetune": FINETUNE, "lwf@weight=2": LWF, "joint": JOINT}
    rows = [record(label, seed, R) for label, matrices in by_label.items() for seed, R in enumerate(matrices)]
    write_report(Results([*rows, record(HOSTILE), record("[b", 1), record("*", 1)]), tmp_path)
    paper = tmp_path / "paper.tex"
    body = (tmp_path / "summary.tex").read_text()
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx}\begin{document}"
    paper.write_text(f"{head}\n{body}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", paper.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000
    assert r"\textbf{" in body


def test_nothing_is_being_drawn_when_the_report_is_done(tmp_path: Path) -> None:
    waiting = "Figures are being drawn"
    report = Report(Results(three_methods()), tmp_path, Tables(Results(three_methods())))
    report.write_tables()
    assert waiting in (tmp_path / "report.html").read_text()
    report.draw()
    assert waiting not in (tmp_path / "report.html").read_text()
    write_report(Results(three_methods()), tmp_path, Tables(Results(three_methods()), Choices(test="wilcoxon")))
    assert waiting not in (tmp_path / "report.html").read_text()
