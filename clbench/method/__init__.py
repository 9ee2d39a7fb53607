"""The contract of a method: what it defines, and what it is given."""

from clbench.method.base import SCENARIOS, Batch, Criterion, Method, OldNetwork, Run, Scenario

__all__ = ["SCENARIOS", "Batch", "Criterion", "Method", "OldNetwork", "Run", "Scenario"]
