"""The page of a report: its text, and how it looks and sorts in a real browser where there is one."""

import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up import ENDS, HOSTILE, ending_at, record, three_methods, with_curve
from matplotlib import image

from clbench.report.contents import Contents
from clbench.report.figures.layouts import DPI
from clbench.report.formats import page
from clbench.report.tables import Choices, Tables
from clbench.report.writer import html_tables
from clbench.results.frames import METRIC_NAMES, Results

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
Written = tuple[Path, set[str]]


class Page(HTMLParser):
    """What a page holds, from its text alone."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.folded = 0
        self.at_once: list[tuple[str, dict[str, str | None]]] = []  # tags that are seen without a click
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.folded += tag == "details"
        if not self.folded:
            self.at_once.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.folded -= tag == "details"

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
    for words in ("Highest average accuracy: LwF", "Least forgetting: LwF", "Fine-tuning is at 77.50 [45.73, 100*]"):
        assert words in page.text


def test_page_opens_with_the_picture_of_forgetting_and_one_small_table(written: Written) -> None:
    seen = Page((written[0] / "report.html").read_text()).at_once
    shown = [(tag, attributes) for tag, attributes in seen if tag in ("img", "table")]
    assert [tag for tag, _ in shown] == ["img", "table"]
    assert str(shown[0][1]["alt"]).startswith("Accuracy on each task as training goes on")


@pytest.mark.parametrize(
    "columns", [(), METRIC_NAMES, ("forgetting",), ("train_seconds", "forgetting", "updates", "images")]
)
def test_first_table_has_six_columns_at_most(columns: tuple[str, ...]) -> None:
    results = Results([*three_methods(), record("lwf", 2, error="failed")])
    tables = Tables(results, Choices(columns))
    (place,) = results.comparisons
    headings = tables.first_table(place).headings
    assert len(headings) <= 6
    expected = [name.replace("_", " ").replace("train seconds", "training (s)") for name in columns[:3]]
    assert headings[1:-2] == (expected or ["average accuracy", "forgetting", "learning accuracy"])
    seen = Page(page(Contents(results, tables))).at_once
    assert [tag for tag, _ in seen].count("table") == 1
    assert [tag for tag, _ in seen].count("th") == len(headings) + 3  # three methods


def test_headings_tables_and_regions_are_named(written: Written) -> None:
    page = Page((written[0] / "report.html").read_text())
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
    assert len(page.all("caption")) == len(page.all("table")) == 5
    assert [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)] == [1, 2, 2]


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


def wide(tmp_path: Path) -> Path:
    """Write a page of all metrics there are, wide numbers and long names; without figures."""
    long = "lwf@temperature=4@weight=2@scope=joined@scale_t2=true"
    R = [[0.1, 0.1], [0.9, 0.1], [0.1, 0.99]]
    curves = with_curve("lwf", 0, 0.3).curves
    labels = ("finetune", long, "joint", "EWC with the Fisher of the batch mean")
    rows = [record(label, seed, R, curves=curves, eval_every=50) for label in labels for seed in range(2)]
    rows += [record(long, 2, error="failed"), *three_methods(sequence_label=long), record(HOSTILE)]
    path = tmp_path / "wide.html"
    path.write_text(page_of(Results(rows)))
    return path


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize("what", ["three methods", "many columns"])
def test_page_in_a_browser_sorts_and_fits_without_a_console_error(what: str, written: Written, tmp_path: Path) -> None:
    script = """
        document.querySelectorAll("details").forEach(one => one.open = true);
        const table = document.querySelector("section table");
        const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent).join(",");
        const press = column => { const button = table.tHead.rows[0].cells[column].querySelector("button");
            button.focus(); button.click(); return document.activeElement === button; };
        const said = [names()];
        for (const column of [1, 1, 0, 2]) said.push(`${press(column)}:${names()}`);
        const parts = "html, header, nav, figure, p, li, pre, .scroll", wide = [...document.querySelectorAll(parts)];
        document.title = said.join(" | ") + " | " + table.querySelector("[aria-sort]").getAttribute("aria-sort")
            + " | " + table.querySelectorAll("[aria-sort]").length + " | " + innerWidth
            + " | " + wide.filter(part => part.scrollWidth > part.clientWidth + 1).length;
        nothing_there();
    """
    shown = written[0] / "report.html" if what == "three methods" else wide(tmp_path)
    loaded = tmp_path / "loaded.html"
    loaded.write_text(shown.read_text().replace("</body>", f"<script>{script}</script></body>"))
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += ["--window-size=1280,1000", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000"]
    done = subprocess.run([*command, "--dump-dom", loaded.as_uri()], capture_output=True, text=True, timeout=600)
    (error,) = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert "nothing_there" in error  # ours: another one would be seen
    (title,) = re.findall("<title>(.*?)</title>", done.stdout)
    *sorting, width, cut_off = title.split(" | ")
    assert (width, cut_off) == ("1280", "0")
    if what == "three methods":
        assert sorting == [
            "Fine-tuning,Joint training,LwF",
            "true:Fine-tuning,LwF,Joint training",  # 77.5, 87.5 and 100 %
            "true:Joint training,LwF,Fine-tuning",
            "true:Fine-tuning,Joint training,LwF",
            "true:Joint training,LwF,Fine-tuning",  # forgetting −15, −0 and 30 %
            "ascending",
            "1",
        ]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_first_tables_fit_a_small_screen_and_numbers_stay_on_a_line(tmp_path: Path) -> None:
    """On 400 and on 1,280 pixels; a window cannot be as narrow as a frame."""
    script = r"""
        document.querySelectorAll("details").forEach(one => one.open = true);
        const lines = cell => { const text = document.createRange(); text.selectNodeContents(cell);
            return new Set([...text.getClientRects()].map(part => Math.round(part.top))).size; };
        const cells = [...document.querySelectorAll("td:not(.text)")].filter(cell => !/[±[]/.test(cell.textContent));
        const first = [...document.querySelectorAll(".first .scroll")];
        parent.document.title += `${innerWidth}: ${cells.some(cell => /\d kB/.test(cell.textContent))} `
            + `${cells.filter(cell => lines(cell) > 1).length} ${first.length} `
            + `${first.filter(part => part.scrollWidth > part.clientWidth).length}; `;
    """
    text = escape(wide(tmp_path).read_text().replace("</body>", f"<script>{script}</script></body>"))
    frames = [
        f'<iframe width="{width}" height="900" style="border: 0" srcdoc="{text}"></iframe>' for width in (400, 1280)
    ]
    (tmp_path / "frames.html").write_text(f"<title></title>{''.join(frames)}")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=2000", "--dump-dom", (tmp_path / "frames.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    (title,) = re.findall("<title>(.*?)</title>", done.stdout)
    assert sorted(re.findall(r"\d+: \w+ \d+ \d+ \d+", title)) == ["1280: true 0 2 0", "400: true 0 2 0"]


def test_a_processor_that_all_runs_share_is_named_once() -> None:
    def runs(*devices: str) -> tuple[str, list[str]]:
        rows = [record("lwf", seed, environment={"device": device}) for seed, device in enumerate(devices)]
        results = Results(rows)
        table = Contents(results, Tables(results)).runs(results.comparisons[0])
        return table.caption, [cell.text for row in table.rows for cell in row]

    caption, cells = runs("AMD EPYC", "AMD EPYC")
    assert caption.endswith("seconds of training on AMD EPYC.")
    assert "AMD EPYC" not in cells
    caption, cells = runs("AMD EPYC", "H100")
    assert caption.endswith("seconds of training.")
    assert {"AMD EPYC", "H100"} < set(cells)


def test_figures_on_the_page_are_legible_on_a_small_screen(written: Written) -> None:
    """Of 400 pixels, a figure has 350 at least: its smallest text, of 7 points, must take 9 of them."""
    for path in (written[0] / "figures").glob("*.png"):
        pixels = image.imread(path).shape[1]
        assert 7 / 72 * DPI * 350 / pixels > 9, path.name
