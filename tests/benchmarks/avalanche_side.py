"""The same runs by Avalanche's own strategies, to measure clbench against: python avalanche_side.py SEEDS METHOD…

Split MNIST in the task scenario, one epoch, MLP of 256 units with dropout 0.5; after each task, the tasks seen so far
are evaluated. Its evaluator and logger are those that the strategies have by default; what they print is dropped.
"""

import contextlib
import io
import os
import sys
import warnings
from typing import Any

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # third-party code on its way to be imported
    from avalanche.benchmarks.classic import SplitMNIST
    from avalanche.models import MTSimpleMLP
    from avalanche.training import JointTraining, LwF, Naive

TASKS = 5
COUNTERPARTS = ("scratch", "finetune", "feature-extraction", "joint", "lwf")  # of clbench's core methods


def make_benchmark(seed: int) -> Any:
    return SplitMNIST(TASKS, seed=seed, return_task_id=True, dataset_root=os.environ["CLBENCH_DATA_ROOT"])


def run(method: str, benchmark: Any, seed: int) -> list[float]:
    """Run a counterpart of one of clbench's methods; return its accuracy on each task after the last."""
    torch.manual_seed(seed)
    strategy: Any = None
    results: dict[str, float] = {}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index in range(TASKS):
            if strategy is None or method in ("scratch", "joint"):
                strategy = _strategy(method)
            if method == "joint":
                strategy.train(benchmark.train_stream[: index + 1])
            else:
                strategy.train(benchmark.train_stream[index])
            if method == "feature-extraction":
                strategy.model.features.requires_grad_(False)
            results = strategy.eval(benchmark.test_stream[: index + 1])
    return [value for name, value in sorted(results.items()) if name.startswith("Top1_Acc_Exp")]


def _strategy(method: str) -> Any:
    model = MTSimpleMLP(input_size=784, hidden_size=256)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    common: dict[str, Any] = {"train_mb_size": 128, "train_epochs": 1, "eval_mb_size": 256}
    common |= {"model": model, "optimizer": optimizer, "criterion": torch.nn.CrossEntropyLoss()}
    if method == "lwf":
        return LwF(alpha=1, temperature=2, **common)
    return JointTraining(**common) if method == "joint" else Naive(**common)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for seed in range(int(sys.argv[1])):
        for method in sys.argv[2:] or COUNTERPARTS:
            accuracies = run(method, make_benchmark(seed), seed)
            print(method, seed, f"{sum(accuracies) / len(accuracies):.4f}", flush=True)
