"""Task sequences: which images and labels come when."""

from clbench.sequences.orders import full_class_order
from clbench.sequences.splits import split_by_class, train_and_test
from clbench.sequences.tasks import ClassOrder, Split, Task, TaskSequence

__all__ = ["ClassOrder", "Split", "Task", "TaskSequence", "full_class_order", "split_by_class", "train_and_test"]
