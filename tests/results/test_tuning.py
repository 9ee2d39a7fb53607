"""What a report says of how settings were chosen."""

from typing import Any

import pytest
from made_up import LWF, record

from clbench.report.tables import Tables
from clbench.results.frames import Results
from clbench.results.record import RunRecord, parse_record, record_text
from clbench.results.tuning import in_words, notes

CHOSEN = {"protocol": "first-tasks", "tasks": "0-2", "validation": 0.1, "seeds": [1000, 1001], "search_by": "tpe"}
WHAT = {"score": 80.0, "trials": 20, "failed": 0, "settings": 20, "updates": 2000, "seconds": 12.3}


def run_of(row: str, tuning: dict[str, Any] | None, seed: int = 0, **spec: Any) -> RunRecord:
    preset = {"name": "tuned", "row": row, "overridden": {}} | ({} if tuning is None else {"tuning": tuning})
    return record(row, seed, LWF[0], preset=preset, **spec)


def results_of(**tunings: dict[str, Any] | None) -> Results:
    return Results([run_of(row, tuning) for row, tuning in tunings.items()], order=list(tunings))


def test_the_settings_of_each_method_stand_beside_it() -> None:
    some = results_of(
        ewc=CHOSEN | WHAT | {"space": {"strength": "0.1..1e6:log"}},
        joint=CHOSEN | WHAT | {"space": {}, "trials": 1},
        lwf=CHOSEN,
    )
    (comparison,) = some.comparisons
    assert [in_words(group) for group in comparison.groups] == ["tuned by first-tasks", "nothing to tune", "untuned"]
    for table in (Tables(some).terminal_table(comparison), Tables(some).results_table(comparison)):
        assert table.headings[:2] == ["method", "settings"]
        assert [row[1].text for row in table.rows] == ["tuned by first-tasks", "nothing to tune", "untuned"]
        assert table.text_headings == ["settings"]


def test_runs_that_settings_are_chosen_by_are_trials() -> None:
    ours = {"training": {"held_out": 0.1}, "tasks": "0-2"}
    (comparison,) = Results([run_of("ewc@strength=3", CHOSEN | {"trial": True}, **ours)]).comparisons
    assert [in_words(group) for group in comparison.groups] == ["a trial"]
    (comparison,) = Results([run_of("ewc@strength=3", CHOSEN, **ours | {"tasks": "3-"})]).comparisons
    assert [in_words(group) for group in comparison.groups] == ["untuned"]


def test_reports_without_tuned_runs_are_as_before() -> None:
    plain = Results([record("lwf"), record("finetune")])
    (comparison,) = plain.comparisons
    assert "settings" not in Tables(plain).results_table(comparison).headings
    assert notes(comparison) == []


def test_the_notes_name_what_was_seen_and_what_it_cost() -> None:
    (comparison,) = results_of(
        ewc=CHOSEN | WHAT | {"space": {"strength": "0.1..1e6:log"}},
        er=CHOSEN | WHAT | {"space": {"choice": "a,b"}, "trials": 2, "updates": 200},
    ).comparisons
    assert notes(comparison) == [
        "Tuned by first-tasks: settings were chosen on 10 % of the training images of tasks 0-2, counted from 0, with "
        "seeds 1000, 1001, by tpe.",
        "Budgets of tuning: EWC 20 trials (2,000 updates, 12 s), ER 2 trials, all there are (200 updates, 12 s).",
    ]
    whole = {name: value for name, value in CHOSEN.items() if name != "tasks"} | {"protocol": "stream-validation"}
    (comparison,) = results_of(si=whole | WHAT | {"space": {"strength": "1..2"}}).comparisons
    assert "all tasks, which sees the future" in notes(comparison)[0]


def test_more_trials_and_dearer_ones_are_pointed_out() -> None:
    space = {"space": {"strength": "1..2"}}
    (comparison,) = results_of(
        ewc=CHOSEN | WHAT | space,
        si=CHOSEN | WHAT | space | {"trials": 30, "updates": 3000},
        lwf=CHOSEN | WHAT | space | {"updates": 5000},
    ).comparisons
    assert notes(comparison)[2:] == [
        "Unequal tuning: SI had 30 trials, the fewest are 20.",
        "Unequal tuning: a trial of LwF took 2.50 times the usual updates.",
    ]


def test_runs_on_some_tasks_stand_apart_and_say_so() -> None:
    some = [record("lwf", tasks="0-1"), record("lwf", tasks="2-"), record("lwf"), record("finetune", tasks="2-")]
    results = Results(some)
    assert [comparison.model for comparison in results.comparisons] == [
        "mlp [tasks=0-1]", "mlp [tasks=2-]", "mlp [tasks=all]"
    ]  # fmt: skip
    assert sorted(group.label for group in results.comparisons[1].groups) == ["finetune", "lwf"]
    (alone,) = Results([record("lwf", tasks="2-")]).comparisons
    assert alone.model == "mlp [tasks=2-]"


@pytest.mark.parametrize("tasks", [None, "0-1"])
def test_a_record_of_some_tasks_is_read_back(tasks: str | None) -> None:
    one = record("lwf", **({} if tasks is None else {"tasks": tasks}))
    assert parse_record(record_text(one).encode()).spec.get("tasks") == tasks
