"""Results in a notebook: tables, and what they draw."""

from made_up import ENDS, HOSTILE, ending_at, record

from clbench.report.plotted import PlottedResults


def test_a_notebook_shows_the_tables() -> None:
    shown = PlottedResults([*ending_at("lwf", ENDS["lwf"]), *ending_at("finetune", ENDS["finetune"])])._repr_html_()
    assert "<strong>94.50 ± " in shown
    assert "<script" not in PlottedResults([record(HOSTILE)])._repr_html_()
