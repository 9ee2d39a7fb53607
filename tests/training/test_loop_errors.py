"""What the loop refuses of a method's hooks, in words that name the hook."""

from dataclasses import dataclass
from typing import Any

import pytest
from tiny import go

from clbench.errors import ClbenchError
from clbench.method import GradientOf, Gradients, Method, Step
from clbench.sequences.tasks import Task


@dataclass
class Elsewhere(Method):
    """Starts from weights that there are not"""

    def start_from(self, task: Task) -> Any:
        return "scratch"


@dataclass
class Renamed(Method):
    """Returns gradients of other names"""

    def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
        return {f"x{name}": g for name, g in gradient_of(self.loss(step)).items()}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Elsewhere(), "Elsewhere.start_from returns 'scratch': choose from previous, initial, fresh"),
        (Renamed(), "Renamed.gradients returns one of 'xbackbone.1.bias', which is no parameter"),
    ],
)
def test_what_a_hook_may_return(method: Method, message: str) -> None:
    with pytest.raises(ClbenchError, match=message):
        go(method)
