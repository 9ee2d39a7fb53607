"""Search spaces: as fields declare them, as people write them, and as a grid."""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from annotated_types import Ge

from clbench.errors import UsageError
from clbench.experiment import registry
from clbench.experiment.fields import hints_of, search_of
from clbench.experiment.points import rows_asked
from clbench.experiment.request import Request
from clbench.method import Search, Training
from clbench.search import parse_search
from clbench.tuning.spaces import Candidate, Dimension, candidates, points

UNIT = Dimension("x", Search(0.0, 1.0), False, (True, False))
LOG = Dimension("y", Search(0.1, 1e6, log=True), False, (False, False))
WHOLE = Dimension("n", Search(1, 5), True, (False, False))
NAMED = Dimension("z", Search(choices=("a", None, True)), False, (False, False))


def all_candidates(**options: Any) -> list[Candidate]:
    request = Request(**options)
    return candidates(rows_asked(request).rows, request, Training())


@pytest.mark.parametrize("text", ["0.1..1e6:log", "-1..1", "1..5", "1e-5..0.5:log", "1,2,4", "none,true,joined"])
def test_a_space_is_written_as_it_is_read(text: str) -> None:
    space = parse_search(text)
    assert parse_search(str(space)) == space
    assert str(space) == text.replace("-0", "-")


def test_what_a_space_says() -> None:
    assert parse_search("1e-1..1e6:log") == Search(0.1, 1e6, log=True)
    assert parse_search([1, None]) == Search(choices=(1, None))
    assert Search(0.1, 1e6, log=True).place(10 ** np.mean([-1, 6])) == pytest.approx(
        0.5
    )  # the middle, by its logarithm
    assert Search(2, 6).place(3) == 0.25


@pytest.mark.parametrize(
    "text", ["", "1,,2", "..3", "1..", "a..b", "1:log", "1..2:lg", "1..inf", "0..1:log", "2..1", "1..1"]
)
def test_what_is_no_space_is_one_line(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_search(text)
    assert "\n" not in str(error.value)


def test_the_space_of_a_type() -> None:
    assert search_of(Annotated[float, Ge(0), Search(1, 2)]) == Search(1, 2)
    assert search_of(Annotated[float, Search(1, 2)] | None) == Search(1, 2)
    assert search_of(Annotated[Literal["a", "b"], Search()]) == Search(choices=("a", "b"))
    assert search_of(Annotated[bool, Search()]) == Search(choices=(False, True))
    assert search_of(float) is search_of(Annotated[float, Ge(0)]) is search_of(float | None) is None


def test_what_built_in_methods_declare_can_be_set_and_holds_the_default() -> None:
    declared = 0
    for name, cls in registry.builtin("method").items():
        for field, hint in hints_of(cls).items():
            space = search_of(hint)
            if space is None:
                continue
            declared += 1
            for value in space.choices or (space.low, space.high):
                registry.configure(name, cls, {field: value})
            assert (
                registry.defaults(cls)[field] in space.choices or 0 <= space.place(registry.defaults(cls)[field]) <= 1
            )
    assert declared > 20


def test_every_penalty_has_a_strength_to_search() -> None:
    found = {one.label: [space.name for space in one.space] for one in all_candidates(methods="penalties")}
    assert set(found) == {"ewc", "ewc++", "l2", "mas", "online-ewc", "rwalk", "si"}
    assert all("strength" in names for names in found.values())


def test_sizes_of_memories_are_budgets_and_not_searched() -> None:
    names = {space.name for one in all_candidates(methods="all") for space in one.space}
    assert not names & {"images", "memory_batch", "candidates", "samples", "passes", "bias_epochs", "retrain_epochs"}


def test_what_is_asked_for_goes_before_what_is_declared() -> None:
    search = {"lwf.weight": "1..2", "training.lr": "0.001..1:log"}
    (lwf,) = all_candidates(methods="lwf@temperature=3", search=search, settings={"lwf.scope": "joined"})
    assert {one.name: str(one.search) for one in lwf.space} == {"weight": "1..2", "training.lr": "0.001..1:log"}
    assert lwf.fixed == {"temperature": 3.0, "scope": "joined"}
    assert lwf.default == {"weight": 1.0, "training.lr": Training().lr}
    row = lwf.row({"weight": 1.5, "training.lr": 0.01})
    assert row.fields == {"temperature": 3.0, "scope": "joined", "weight": 1.5}
    assert row.training == {"lr": 0.01}
    (far,) = all_candidates(methods="lwf", search={"lwf.weight": "5..7"})
    assert far.default is None


def test_choices_have_the_types_of_the_field(tmp_path: Path) -> None:
    (er,) = all_candidates(methods="er", search={"er.memory_batch": "none,8"})
    assert next(one.search.choices for one in er.space if one.name == "memory_batch") == (None, 8)


@pytest.mark.parametrize(("dimension", "n"), [(UNIT, 5), (LOG, 8)])
def test_a_grid_shares_a_range_evenly(dimension: Dimension, n: int) -> None:
    low, high = dimension.search.low, dimension.search.high
    assert low is not None
    assert high is not None
    even = np.geomspace(low, high, n) if dimension.search.log else np.linspace(low, high, n)
    np.testing.assert_allclose(dimension.grid(n), even, rtol=5e-3)  # three digits


def test_a_grid_has_as_many_points_as_there_is_room_for() -> None:
    assert len(points([UNIT], 7)) == 7
    assert len(points([UNIT, LOG], 30)) == 25
    assert len(points([UNIT, NAMED], 30)) == 30
    assert [point["n"] for point in points([WHOLE], 30)] == [1, 2, 3, 4, 5]
    assert points([], 5) == [{}]
    with pytest.raises(UsageError, match="a grid over x, z has 6 points at least"):
        points([UNIT, NAMED], 5)


def test_drawn_values_are_short_and_within_the_range() -> None:
    assert LOG.rounded(1234.5678) == 1230.0
    assert Dimension("x", Search(0.12345, 0.5), False, (False, False)).rounded(0.123451) == 0.12345
    assert WHOLE.rounded(3.0) == 3
    assert isinstance(WHOLE.rounded(3.0), int)


def test_the_edge_of_a_range_is_said_unless_the_field_ends_there() -> None:
    assert [LOG.edge(value) for value in (0.1, 0.11, 1000, 9e5, 1e6)] == ["lower", "lower", "", "upper", "upper"]
    assert [UNIT.edge(value) for value in (0.0, 0.5, 1.0)] == ["", "", "upper"]
    assert NAMED.edge("a") == ""
    (lwf,) = all_candidates(methods="lwf", search={"lwf.alpha": "0..1", "lwf.weight": "0..1"})
    ends = {one.name: (one.edge(0.0), one.edge(1.0)) for one in lwf.space if one.name != "temperature"}
    assert ends == {"alpha": ("", ""), "weight": ("", "upper")}


def test_a_field_of_whole_numbers_is_drawn_so() -> None:
    (lucir,) = all_candidates(methods="lucir", search={"lucir.rivals": "1..8"})
    assert next(one for one in lucir.space if one.name == "rivals").integer
    assert not any(one.integer for one in lucir.space if one.name != "rivals")
