"""How fast clbench is, as ratios: beside hand-written loops, its own matrix products, and Avalanche, in turn.

python tests/benchmarks/ratios.py [NAME…] [--rounds 5]     measure, and write results/performance.json
python tests/benchmarks/ratios.py describe                 write README's table and figure from that file

Absolute times drift on shared machines; what is compared here is measured in turn, and the ratio is that of medians.
Real MNIST is needed, in CLBENCH_DATA_ROOT.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bare
import torch
from torch import nn

from clbench import registry
from clbench.runner import _processor
from clbench.sequences import PermutedMNIST, SplitMNIST, Task
from clbench.training import Training, run_sequence

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "performance.json"
FIGURE = ROOT / "results" / "performance.png"
BEGIN, END = "<!-- ratios: written by tests/benchmarks/ratios.py describe -->", "<!-- end of ratios -->"
TRAINING = Training(epochs=1, batch_size=128, lr=0.01, momentum=0.9, weight_decay=5e-4)
SWEEP = "run --sequence split-mnist --methods core --set mlp.dropout=0.5 --quiet --seeds"
Measured = dict[str, list[float]]  # seconds of each contender, by round


def in_turn(rounds: int, **contenders: Callable[[], float | None]) -> Measured:
    """Call each contender once per round, after one that doesn't count; a contender may return its own seconds."""
    seconds: Measured = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            start = time.perf_counter()
            own = contender()
            if number:
                seconds[name].append(time.perf_counter() - start if own is None else own)
    return seconds


def our_run(tasks: list[Task], method: str, model: str = "mlp", **settings: Any) -> float:
    """Return the seconds of one run."""
    backbone = registry.find("model", model)(**settings)
    start = time.perf_counter()
    run_sequence(tasks, registry.find("method", method)(), backbone, TRAINING, "task", 0)
    return time.perf_counter() - start


# What is measured


def steps(rounds: int) -> dict[str, Measured]:
    """An epoch of the second task by the training core and by a hand-written loop."""
    tasks = SplitMNIST().load(None, 0, None)[:2]
    train = tasks[1].train
    images = train.batch(torch.arange(len(train)))

    def ours(method: str, model: str) -> float:
        backbone = registry.find("model", model)(dropout=0.5)
        outcome = run_sequence(tasks, registry.find("method", method)(), backbone, TRAINING, "task", 0)
        return outcome.train_seconds[1]

    def theirs(method: str, model: str) -> float:
        backbone = registry.find("model", model)(dropout=0.5).build((1, 28, 28))
        old, head = nn.Linear(256, 2), nn.Linear(256, 2)
        trained = [*backbone.parameters(), *head.parameters(), *(old.parameters() if method == "lwf" else [])]
        optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
        start = time.perf_counter()
        if method == "lwf":
            bare.lwf(backbone, old, head, images, train.y, optimizer, 128)
        else:
            bare.finetune(backbone, head, images, train.y, optimizer, 128)
        return time.perf_counter() - start

    return {
        f"{method}, {model}": in_turn(
            rounds, clbench=lambda m=method, b=model: ours(m, b), bare=lambda m=method, b=model: theirs(m, b)
        )
        for model in ("mlp", "cnn")
        for method in ("finetune", "lwf")
    }


def products(rounds: int) -> dict[str, Measured]:
    """A fine-tuning run's training, and the matrix products in it alone."""
    tasks = SplitMNIST().load(None, 0, None)
    count = sum(-(-len(task.train) // 128) for task in tasks)
    x, w, g = torch.randn(128, 784), torch.randn(256, 784), torch.randn(128, 256)
    v, h = torch.randn(2, 256), torch.randn(128, 2)

    def alone() -> None:
        for _ in range(count):
            x @ w.T, g.T @ x, g @ v.T, h.T @ g, h @ v

    def training() -> float:
        backbone = registry.find("model", "mlp")(dropout=0.5)
        outcome = run_sequence(tasks, registry.find("method", "finetune")(), backbone, TRAINING, "task", 0)
        return sum(outcome.train_seconds)

    return {"finetune, mlp": in_turn(rounds, clbench=training, products=alone)}


def runs(rounds: int) -> dict[str, Measured]:
    """One run in a process that has imported everything: training, and evaluation of the tasks seen so far."""
    import avalanche_side

    tasks, benchmark = SplitMNIST().load(None, 0, None), avalanche_side.make_benchmark(0)
    return {
        method: in_turn(
            rounds,
            clbench=lambda m=method: our_run(tasks, m, dropout=0.5),
            avalanche=lambda m=method: avalanche_side.run(m, benchmark, 0) and None,
        )
        for method in ("lwf", "finetune")
    }


def sweeps(rounds: int) -> dict[str, Measured]:
    """Five methods, from typing the command to the table; Avalanche's counterparts one after the other."""

    def clbench(seeds: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            _call("-P", "-m", "clbench", *SWEEP.split(), str(seeds), "--out", folder)

    def avalanche(seeds: int) -> None:
        _call(str(Path(__file__).parent / "avalanche_side.py"), str(seeds))

    return {
        f"{seeds} seeds": in_turn(rounds, clbench=lambda n=seeds: clbench(n), avalanche=lambda n=seeds: avalanche(n))
        for seeds in (1, 2, 5)
    }


def start(rounds: int) -> dict[str, Measured]:
    """The default command, and what it spends before and after the runs: the same, with nothing left to do."""
    with tempfile.TemporaryDirectory() as kept:

        def again() -> None:
            _call("-P", "-m", "clbench", "run", "--quiet", "--out", kept)

        def default() -> None:
            with tempfile.TemporaryDirectory() as folder:
                _call("-P", "-m", "clbench", "run", "--quiet", "--out", folder)

        again()
        return {"default command": in_turn(rounds, clbench=default, nothing_to_do=again)}


def growth(rounds: int) -> dict[str, Measured]:
    """Seconds of training per task with more tasks and more images: the first and the last of a sequence."""
    found: dict[str, Measured] = {}
    for count in (5, 20, 50):
        tasks = _fewer(PermutedMNIST(tasks=count).load(None, 0, None), 6000)
        for method in ("finetune", "lwf"):
            measured: Measured = {"second": [], "last": []}
            for _ in range(rounds):
                backbone = registry.find("model", "mlp")()
                outcome = run_sequence(tasks, registry.find("method", method)(), backbone, TRAINING, "domain", 0)
                measured["second"].append(outcome.train_seconds[1])
                measured["last"].append(outcome.train_seconds[-1])
            found[f"{method}, {count} tasks"] = measured
    for images in (3750, 15000, 60000):
        tasks = _fewer(PermutedMNIST(tasks=2).load(None, 0, None), images)
        found[f"lwf, {images} images"] = in_turn(rounds, seconds=lambda t=tasks: our_run(t, "lwf"))
    return found


def _fewer(tasks: list[Task], images: int) -> list[Task]:
    """Keep some of each task's training images, and few to test on."""
    from dataclasses import replace

    rows = torch.arange(images)
    return [replace(t, train=t.train.subset(rows), test=t.test.subset(torch.arange(256))) for t in tasks]


def _call(*arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)


MEASUREMENTS: dict[str, Callable[[int], dict[str, Measured]]] = {
    "steps": steps,
    "products": products,
    "runs": runs,
    "sweeps": sweeps,
    "start": start,
    "growth": growth,
}


def machine() -> str:
    return f"{_processor()}, {os.cpu_count()} cores, {platform.system()}, PyTorch {torch.__version__}"


def ratio(measured: Measured) -> float:
    """Return the second contender's median over the first's."""
    first, second = measured.values()
    return statistics.median(second) / statistics.median(first)


# What is said of it


def table(content: dict[str, Any]) -> list[str]:
    """Return README's table: medians in seconds, and the ratio of the other's median to clbench's."""
    says = {
        "runs": "one run of {}, all imported, one process: Avalanche",
        "sweeps": "five methods × {}, from the command to the table: Avalanche, one run after another",
        "steps": "an epoch of {}: a hand-written loop",
        "products": "training, {}: its matrix products alone",
        "start": "the default command: the same with nothing left to do",
    }
    lines = ["| what, and beside what | clbench | other | ratio |", "| --- | ---: | ---: | ---: |"]
    for name, text in says.items():
        for what, measured in content.get(name, {}).get("seconds", {}).items():
            ours, other = (statistics.median(values) for values in measured.values())
            lines.append(f"| {text.format(what)} | {ours:.2f} s | {other:.2f} s | {other / ours:.2f} |")
    return lines


def described(content: dict[str, Any]) -> str:
    rounds = sorted({part["rounds"] for part in content.values()})
    machines = sorted({part["machine"] for part in content.values()})
    return "\n".join(
        [
            BEGIN,
            f"Medians of {' or '.join(map(str, rounds))} rounds in turn, on {'; '.join(machines)}:",
            "",
            *table(content),
            "",
            "![Seconds against number of runs, clbench and Avalanche](results/performance.png)",
            END,
        ]
    )


def draw(seconds: dict[str, Measured]) -> None:
    """Draw seconds against the number of runs, clbench and Avalanche, as medians with the range of the rounds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    numbers = [5 * int(what.split()[0]) for what in seconds]
    for (who, name), style in zip({"avalanche": "Avalanche", "clbench": "clbench"}.items(), ("s--", "o-"), strict=True):
        values = [measured[who] for measured in seconds.values()]
        medians = [statistics.median(some) for some in values]
        spread = [[m - min(v) for m, v in zip(medians, values, strict=True)]]
        spread += [[max(v) - m for m, v in zip(medians, values, strict=True)]]
        axes.errorbar(numbers, medians, yerr=spread, fmt=style, capsize=3, label=name)
        axes.annotate(
            f"{medians[-1]:.0f} s", (numbers[-1], medians[-1]), (6, 0), textcoords="offset points", va="center"
        )
    axes.set(xlabel="runs (five methods, split-mnist, one epoch)", ylabel="seconds, from command to end", yscale="log")
    axes.set_xticks(numbers)
    axes.margins(x=0.12)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(FIGURE, dpi=150)


def describe() -> None:
    content = json.loads(RESULTS.read_text())
    draw(content["sweeps"]["seconds"])
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    readme.write_text(before + described(content) + rest.split(END)[1], encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(MEASUREMENTS)}, or describe")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.names == ["describe"]:
        describe()
        return
    if unknown := set(options.names) - set(MEASUREMENTS):
        parser.error(f"no measurement {min(unknown)}: choose from {', '.join(MEASUREMENTS)}")
    torch.set_num_threads(1)
    content = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.names or MEASUREMENTS:
        found = MEASUREMENTS[name](options.rounds)
        for what, measured in found.items():
            times = "  ".join(f"{who} {statistics.median(values):.3f} s" for who, values in measured.items())
            print(f"{name}: {what}: {times}" + (f"  ratio {ratio(measured):.2f}" if len(measured) == 2 else ""))
        content[name] = {"machine": machine(), "rounds": options.rounds, "seconds": found}
        RESULTS.write_text(re.sub(r"(\d\.\d{4})\d+", r"\1", json.dumps(content, indent=1)) + "\n")


if __name__ == "__main__":
    main()
