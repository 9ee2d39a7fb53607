"""Task sequences: which images and labels come when."""

from clbench.sequences.tasks import Part, Split, Task, TaskSequence

__all__ = ["Part", "Split", "Task", "TaskSequence"]
