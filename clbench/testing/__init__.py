"""Checks of methods and sequences from outside, and tiny tasks to try them on."""

from clbench.testing.contract import TRAINING, check_method, check_sequence
from clbench.testing.tiny import tiny_tasks

__all__ = ["TRAINING", "check_method", "check_sequence", "tiny_tasks"]
