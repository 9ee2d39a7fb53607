"""The page of a report: its text, and how it looks and sorts in a real browser where there is one."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up import ENDS, HOSTILE, ending_at, record, three_methods

from clbench.report.contents import Contents
from clbench.report.formats import page
from clbench.report.tables import Tables
from clbench.report.writer import Report, html_tables
from clbench.results.frames import Results

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
Written = tuple[Path, set[str]]


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


def page_of(results: Results) -> str:
    return page(Contents(results, Tables(results)))


def test_page_is_self_contained_and_says_what_was_run(written: Written) -> None:
    text = (written[0] / "report.html").read_text()
    page = Page(text)
    for attributes in (attributes for _, attributes in page.tags):
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
    assert not re.findall(r"url\(|@import|https?://", text)
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("img")) == 7
    assert "clbench run --methods finetune,joint,lwf --seeds 0-1" in page.text
    assert "@article{li2018learning" in page.text
    assert "Figures are being drawn" not in page.text
    for words in ("Highest average accuracy: LwF", "Least forgetting: LwF", "Fine-tuning is at 77.50 [45.73, 100*]"):
        assert words in page.text


def test_headings_tables_and_regions_are_named(written: Written) -> None:
    page = Page((written[0] / "report.html").read_text())
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
    assert len(page.all("caption")) == len(page.all("table")) == 5
    assert [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)][:3] == [1, 2, 2]


def test_text_from_records_is_plain_in_html() -> None:
    results = Results([record(HOSTILE), record("lwf"), record(HOSTILE, 1, error="</pre><script>alert(2)</script>")])
    text = page_of(results)
    assert text.count("<script") == 1  # our own
    page = Page(text)
    assert HOSTILE in page.text
    assert "</pre><script>alert(2)</script>" in page.text
    assert "<script" not in html_tables(results)


def test_failed_runs_are_in_the_page_with_their_tracebacks() -> None:
    page = Page(
        page_of(Results([*three_methods(), record("lwf", 2, error="OutOfMemory: too big\n\nTraceback: line 7")]))
    )
    assert "6 finished runs of 3 methods; 1 failed" in page.text
    assert "lwf, split-digits, task, mlp, seed 2: OutOfMemory: too big" in page.text
    assert "Traceback: line 7" in page.text


def test_a_notebook_shows_tables_marked() -> None:
    rows = [one for label, finals in ENDS.items() for one in ending_at(label, finals)]
    shown = html_tables(Results([*rows, record("lwf", 7)]))
    assert "<strong>93.86 ± " in shown  # 90 %, and six of 94.5 % on average
    assert "<caption>split-digits, task scenario, mlp. Per cent: mean ± 95 % interval over seeds.</caption>" in shown
    assert "no finished run of seed 7" in shown


def test_500_runs_are_under_five_megabytes(written: Written) -> None:
    """Ten comparisons of fifty runs: their text, and figures as large as those of another report."""
    rng = np.random.default_rng(0)
    rows = []
    for label in ("finetune", "lwf", "joint", "si", "ewc"):
        for seed in range(100):
            R = np.where(np.tri(6, 5, -1), rng.uniform(0.5, 1.0, size=(6, 5)), np.nan).tolist()
            R = [[None if x != x else x for x in row] for row in R]
            rows.append(record(label, seed % 10, R, sequence_label=f"split-{seed // 10}"))
    text = len(page_of(Results(rows)))
    assert text > 100_000
    assert text + 10 * (written[0] / "report.html").stat().st_size < 5_000_000


def test_tables_and_page_are_there_before_the_figures(tmp_path: Path) -> None:
    report = Report(Results([record("lwf")]), tmp_path, Tables(Results([record("lwf")])), ["svg"])
    report.write_tables()
    assert "Figures are being drawn" in (tmp_path / "report.html").read_text()
    assert not list(tmp_path.glob("figures/*.svg"))


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_page_in_a_browser_sorts_and_fits_without_a_console_error(written: Written, tmp_path: Path) -> None:
    script = """
        const table = document.querySelector("section table");
        const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent).join(",");
        const press = column => { const button = table.tHead.rows[0].cells[column].querySelector("button");
            button.focus(); button.click(); return document.activeElement === button; };
        const said = [names()];
        for (const column of [1, 1, 0, 4]) said.push(`${press(column)}:${names()}`);
        const sizes = [...document.images].map(image => image.naturalWidth > 100);
        const wide = [document.documentElement, ...document.querySelectorAll(".scroll")];
        document.title = said.join(" | ") + " | " + table.querySelector("[aria-sort]").getAttribute("aria-sort")
            + " | " + table.querySelectorAll("[aria-sort]").length + " | " + sizes.every(Boolean)
            + " | " + innerWidth + " | " + wide.filter(part => part.scrollWidth > part.clientWidth).length;
        nothing_there();
    """
    loaded = tmp_path / "loaded.html"
    text = (written[0] / "report.html").read_text()
    loaded.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += ["--window-size=1280,1000", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000"]
    done = subprocess.run([*command, "--dump-dom", loaded.as_uri()], capture_output=True, text=True, timeout=600)
    (error,) = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert "nothing_there" in error  # ours: another one would be seen
    (title,) = re.findall("<title>(.*?)</title>", done.stdout)
    assert title.split(" | ") == [
        "Fine-tuning,Joint training,LwF",
        "true:Fine-tuning,LwF,Joint training",  # 77.5, 87.5 and 100 %
        "true:Joint training,LwF,Fine-tuning",
        "true:Fine-tuning,Joint training,LwF",
        "true:Joint training,LwF,Fine-tuning",  # forgetting −15, −0 and 30 %
        "ascending",
        "1",
        "true",
        "1280",
        "0",  # nothing needs to be scrolled sideways
    ]
