"""The contract of a method: what it defines, and what it is given."""

from clbench.method.choices import Choice
from clbench.method.closed_form import ClosedForm
from clbench.method.learner import SCENARIOS, Costs, Learner, Run, Scenario
from clbench.method.memory import Memory
from clbench.method.method import (
    GradientOf,
    Gradients,
    Method,
    can_be_captured,
    can_go_beside,
    check_mixing,
    hook_name,
    shares_first_task,
)
from clbench.method.phase import Phase
from clbench.method.rehearsal import Rehearsal
from clbench.method.settings import Training
from clbench.method.step import Batch, Criterion, Step
from clbench.method.teacher import Teacher, in_chunks
from clbench.search import Search

__all__ = [
    "SCENARIOS",
    "Batch",
    "Choice",
    "ClosedForm",
    "Costs",
    "Criterion",
    "GradientOf",
    "Gradients",
    "Learner",
    "Memory",
    "Method",
    "Phase",
    "Rehearsal",
    "Run",
    "Scenario",
    "Search",
    "Step",
    "Teacher",
    "Training",
    "can_be_captured",
    "can_go_beside",
    "check_mixing",
    "hook_name",
    "in_chunks",
    "shares_first_task",
]
