"""Made-up runs that were evaluated within tasks, whose numbers are known."""

from made_up import N, record

from clbench.results.store import RunRecord


def within_tasks() -> list[RunRecord]:
    """Two updates' worth of points a task; task 1 falls to 40 % right after the switch, and mends."""
    records = []
    for seed, late in enumerate((0.8, 0.9)):
        first = {"updates": [50, 100], "task_aware": [[0.5, N], [0.9, N]], "task_agnostic": [[0.2, N], [0.4, N]]}
        second = {"updates": [50, 100], "task_aware": [[0.4, 0.6], [late, 0.7]], "task_agnostic": [[0.1, 0.2]] * 2}
        R = [[N, N], [0.9, N], [late, 0.7]]
        records += [record(label, seed, R, curves=[first, second]) for label in ("lwf", "finetune")]
    return records
