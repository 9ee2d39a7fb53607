"""Colours, markers and lines of methods, and text that fits."""

import pytest
from made_up import record
from matplotlib.colors import to_rgba

from clbench.report.figures.style import COLOURS, plain, styles_of, wrap
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


def test_sixty_methods_differ_in_grey_and_more_are_drawn() -> None:
    styles = styles_of([f"m{i}" for i in range(70)])
    pairs = [(str(style["marker"]), style["linestyle"]) for style in styles.values()]
    assert len(set(pairs[:60])) == 60


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
