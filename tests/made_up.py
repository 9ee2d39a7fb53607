"""Made-up records whose numbers are known."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from clbench.results.record import RunRecord

N = None
FINETUNE = [[[N, N], [0.9, N], [0.5, 1.0]], [[N, N], [1.0, N], [0.8, 0.8]]]  # by seed
LWF = [[[N, N], [0.9, N], [0.9, 0.9]], [[N, N], [1.0, N], [0.9, 0.8]]]
JOINT = [[[N, N], [0.9, N], [1.0, 1.0]], [[N, N], [1.0, N], [1.0, 1.0]]]
HOSTILE = r"a|b_c*<script>alert(1)</script>$x$ \input{/etc/passwd} [d](e) #1 100% ~^&{`f`"
ENDS = {  # average accuracy at the end by seed, for `ending_at`
    "finetune": [0.80, 0.85, 0.70, 0.90, 0.75, 0.82],
    "lwf": [0.95, 0.97, 0.88, 0.99, 0.93, 0.95],
    "joint": [0.99, 0.98, 0.99, 1.00, 0.98, 0.99],
}
T2 = 12.7062  # Student's 97.5 % quantile for two seeds
FIELDS = {field.name for field in dataclasses.fields(RunRecord)}


def record(label: str, seed: int = 0, R: Any = LWF[0], error: str | None = None, **changes: Any) -> RunRecord:
    """Make a record; `changes` are to it if it has such a field, else to its spec."""
    own = {name: changes.pop(name) for name in list(changes) if name in FIELDS}
    spec = {
        "sequence": "split-digits",
        "sequence_label": "split-digits",
        "sequence_params": {},
        "scenario": "task",
        "method": label.split("@")[0],
        "label": label,
        "params": {"of": label},
        "model": "mlp",
        "model_label": "mlp",
        "model_params": {"width": 256},
        "seed": seed,
        "class_order_rule": "seed",
        "class_order": [seed, seed + 1],
        "training": {"epochs": 10, "iterations": None, "lr": 0.1},
        "device": "cpu",
        "data": "ab" * 32,
        "numbers": 1,
        "code": {},
        "precision": "fp32",
        "kernels": "pytorch",
        "threads": 1,
        "eval_every": None,
        "preset": None,
        **changes,
    }
    key = hashlib.sha256(json.dumps(spec).encode()).hexdigest()[:20]
    if error is not None:
        return RunRecord(key, spec, "failed", error)
    tasks = len(R) - 1
    content: dict[str, Any] = {
        "accuracy": {"task_aware": R, "task_agnostic": [[x if x is None else x / 2 for x in row] for row in R]},
        "seconds": {"train": [1.25] * tasks, "evaluate": [0.5] * (tasks + 1)},
        "updates": [100] * tasks,
        "images": [1600] * tasks,
        "forward_passes": [1600] * tasks,
        "backward_passes": [1500] * tasks,
        "parameters": 1000,
        "stored_bytes": 2048,
        "stored_images": 8,
        "weights_hash": "cd" * 32,
        "environment": {},
    }
    return RunRecord(key, spec, "ok", **(content | own))


def three_methods(**changes: Any) -> list[RunRecord]:
    by_label = {"finetune": FINETUNE, "lwf": LWF, "joint": JOINT}
    return [record(label, seed, R, **changes) for label, some in by_label.items() for seed, R in enumerate(some)]


def ending_at(label: str, finals: Sequence[float], **changes: Any) -> list[RunRecord]:
    """Make a run per seed that learns both tasks and ends at a mean accuracy; the first task is what it forgets."""
    return [
        record(label, seed, [[N, N], [1.0, N], [2 * final - 1.0, 1.0]], **changes) for seed, final in enumerate(finals)
    ]


def with_curve(label: str, seed: int, lowest: float) -> RunRecord:
    """Make a run that evaluates twice a task: task 1 falls to `lowest` in the middle of task 2, and recovers."""
    curves = [
        {"updates": [50, 100], "task_aware": [[0.7, N], [0.9, N]]},
        {"updates": [50, 100], "task_aware": [[lowest, 0.6], [0.8, 1.0]]},
    ]
    both = [{**one, "task_agnostic": one["task_aware"]} for one in curves]
    return record(label, seed, [[N, N], [0.9, N], [0.8, 1.0]], eval_every=50, curves=both)


def sealed(content: dict[str, Any]) -> bytes:
    """Write any content as a record, with the checksum that fits."""
    text = json.dumps(content, sort_keys=True)
    return f'{text[:-1]}, "checksum": "{hashlib.sha256(text.encode()).hexdigest()}"}}\n'.encode()
