"""Colours, markers and lines of methods, and text that fits."""

from typing import Any

import numpy as np
import pytest
from made_up import record
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure

from clbench.report.figures.plots import draw_matrix
from clbench.report.figures.style import COLOURS, GREY, plain, styles_of, wrap
from clbench.report.plotted import PlottedResults
from clbench.results import names


def test_every_built_in_method_has_a_style_of_its_own_in_every_report() -> None:
    alone = {name: styles_of([name])[name] for name in names.known()}
    together = styles_of(["mine", "lwf@weight=2", *reversed(names.known())])
    for name, style in alone.items():
        assert {**style, "label": ""} == {**together[name], "label": ""}
    assert styles_of(["ewc@importance=3"])["ewc@importance=3"]["color"] == alone["ewc"]["color"]


@pytest.mark.parametrize(
    "labels", [names.known()[:15], [f"m{i}" for i in range(15)], ["lwf", *(f"lwf@a={i}" for i in "abcde")]]
)
def test_up_to_fifteen_methods_have_a_marker_each(labels: list[str]) -> None:
    styles = styles_of(labels)
    assert len({str(style["marker"]) for style in styles.values()}) == len(labels)
    if len(labels) <= len(COLOURS):
        assert len({style["color"] for style in styles.values()}) == len(labels)


def test_all_built_in_methods_differ_in_colour_or_marker() -> None:
    looks = [(style["color"], str(style["marker"])) for style in styles_of(names.known()).values()]
    assert len(set(looks)) == len(looks) > 20


@pytest.mark.parametrize("labels", [names.known(), [f"m{i}" for i in range(70)]])
def test_forty_methods_differ_in_colour_or_line_and_fifty_in_marker_or_line(labels: list[str]) -> None:
    """The first is what a line without markers shows, the second what print in grey shows."""
    styles = list(styles_of(labels).values())
    for name, most in (("color", 40), ("marker", 50)):
        pairs = [(str(style[name]), style["linestyle"]) for style in styles[:most]]
        assert len(set(pairs)) == len(pairs) > 20


def test_thirteen_methods_are_drawn_in_grey_but_for_the_best_and_the_references() -> None:
    """The final accuracies are 50, 51, … 62 %; the best six are m7 to m12 beside fine-tuning and joint training."""
    ends = {"finetune": 0.2, "joint": 0.3, **{f"m{i}": 0.5 + i / 100 for i in range(13)}}
    rows = [record(label, R=[[None, None], [0.9, None], [end, end]]) for label, end in ends.items()]
    shown = {"Fine-tuning", "Joint training", "m7", "m8", "m9", "m10", "m11", "m12"}
    for kind in ("average-accuracy", "accuracy-by-task", "forgetting-by-task", "stability-plasticity", "accuracy-cost"):
        drawn = PlottedResults(rows).figure(kind)
        assert {text.get_text() for text in drawn.legends[0].get_texts()} == {*shown, "7 others"}
        caption = " ".join(drawn.texts[-1].get_text().split())
        assert caption.endswith("in colour: Fine-tuning, Joint training, and the best 6 by average accuracy")
    (axes,) = PlottedResults(rows).figure("average-accuracy").axes
    grey = {line.get_label() for line in axes.lines if line.get_color() == GREY}
    assert grey == {f"m{i}" for i in range(7)}
    (axes,) = PlottedResults(rows[:12]).figure("average-accuracy").axes
    assert len(axes.lines) == 12
    assert all(line.get_color() in COLOURS for line in axes.lines)


def test_ink_is_readable_on_any_colour() -> None:
    """By the formula of WCAG 2: white on black is 21 to 1, text takes 4.5 to 1."""

    def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
        light = sorted((luminance(one), luminance(other)))
        return (light[1] + 0.05) / (light[0] + 0.05)

    def luminance(rgb: tuple[float, ...]) -> float:
        linear = np.where(np.array(rgb) <= 0.04045, np.array(rgb) / 12.92, ((np.array(rgb) + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    assert contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    R = np.array([np.full(11, np.nan), *[np.linspace(0, 1, 11)] * 11])
    axes = draw_matrix(R, Figure().subplots())
    colours: Any = axes.collections[0]
    for text, value in zip(axes.texts, [*np.linspace(0, 1, 11)] * 11, strict=True):
        assert contrast(to_rgb(text.get_color()), colours.cmap(colours.norm(100 * value))[:3]) >= 4.5


def test_methods_look_alike_in_all_figures_and_unlike_each_other() -> None:
    alone = [record("method5", seed, scenario="class") for seed in (0, 1)]
    results = PlottedResults([*(record(f"method{i}") for i in range(12)), *alone])
    (axes,) = results.figure("average-accuracy", scenario="task").axes
    looks = {line.get_label(): (line.get_color(), str(line.get_marker()), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == len(set(looks.values())) == len({marker for _, marker, _ in looks.values()}) == 12
    (curves,) = results.figure("average-accuracy", scenario="class").axes
    (line,) = curves.lines
    assert (line.get_color(), str(line.get_marker()), line.get_linestyle()) == looks["method5"]
    (points,) = results.figure("stability-plasticity", scenario="class").axes
    assert to_rgba(points.containers[0][0].get_color()) == to_rgba(looks["method5"][0])


def test_lines_break_where_they_may() -> None:
    assert wrap("LwF (weight = 2, temperature = 4)", 16) == "LwF\n(weight = 2,\ntemperature = 4)"
    assert wrap("lwf@weight=2@scope=old", 14) == "lwf@weight=2@\nscope=old"
    assert wrap("abcdef", 4) == "abcd\nef"
    assert wrap(plain("abc$d"), 4) == "abc\n\\$d"
    assert wrap(plain("_a b"), 10) == " _a b"
