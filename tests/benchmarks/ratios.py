"""How fast clbench is, as ratios: beside hand-written loops, its own matrix products, Avalanche and others' code.

python tests/benchmarks/ratios.py [NAME…] [--rounds 5] [--threads 1 2]  measure, and write results/performance.json
python tests/benchmarks/ratios.py describe                              write docs/speed.md's tables and figure from it

Absolute times drift on shared machines; what is compared here is measured in turn, and the ratio is that of medians.
Real MNIST is needed, in CLBENCH_DATA_ROOT; for `authors` also a checkout of github.com/GMvandeVen/continual-learning,
in CLBENCH_AUTHORS, with MNIST in its store/datasets/MNIST.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import bare
import torch
from torch import nn

import clbench
from clbench.execution.environment import processor
from clbench.execution.memory import keep_freed_memory
from clbench.experiment import registry
from clbench.method import Training
from clbench.sequences.permuted_rotated import PermutedMNIST
from clbench.sequences.splits import SplitMNIST
from clbench.sequences.tasks import Split, Task
from clbench.training.precision import computing
from clbench.training.run import run_sequence

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "performance.json"
FIGURE = ROOT / "results" / "performance.png"
GUIDE = ROOT / "docs" / "speed.md"
BEGIN, END = "<!-- ratios: written by tests/benchmarks/ratios.py describe -->", "<!-- end of ratios -->"
TRAINING = Training(epochs=1, batch_size=128, lr=0.01, momentum=0.9, weight_decay=5e-4)
SWEEP = "run --sequence split-mnist --methods core --set mlp.dropout=0.5 --quiet --seeds"
THREADS = sorted({1, os.cpu_count() or 1})
Measured = dict[str, list[float]]  # seconds of each contender, by round


def in_turn(rounds: int, first_counts: bool = False, **contenders: Callable[[], float | None]) -> Measured:
    """Call each contender once per round, after one round that doesn't count; it may return its own seconds."""
    seconds: Measured = {name: [] for name in contenders}
    for number in range(first_counts, rounds + 1):
        for name, contender in contenders.items():
            start = time.perf_counter()
            own = contender()
            if number:
                seconds[name].append(time.perf_counter() - start if own is None else own)
    return seconds


@contextlib.contextmanager
def as_in_a_sweep() -> Iterator[None]:
    """Compute as a sweep's workers do: without subnormal numbers."""
    with computing("fp32", "cpu"):
        yield


@as_in_a_sweep()
def our_run(tasks: list[Task], method: str, model: str = "mlp", **settings: Any) -> float:
    """Return the seconds of one run."""
    backbone = registry.find("model", model)(**settings)
    start = time.perf_counter()
    run_sequence(tasks, registry.find("method", method)(), backbone, TRAINING, "task", 0)
    return time.perf_counter() - start


# What is measured


@as_in_a_sweep()
def steps(rounds: int) -> dict[str, Measured]:
    """An epoch of the second task by the training core and by a hand-written loop."""
    keep_freed_memory()  # as a sweep's workers do; else a quarter of a CNN's time may go into it
    tasks = SplitMNIST().load(None, 0, None)[:2]
    train = tasks[1].train
    images = train.batch(torch.arange(len(train)))

    def ours(method: str, model: str) -> float:
        backbone = registry.find("model", model)(dropout=0.5)
        outcome = run_sequence(tasks, registry.find("method", method)(), backbone, TRAINING, "task", 0)
        return outcome.train_seconds[1]

    def theirs(method: str, model: str) -> float:
        settings = registry.find("model", model)(dropout=0.5)
        backbone = settings.build((1, 28, 28))
        backbone.to(memory_format=torch.channels_last)  # the same arithmetic, convolutions included
        old, head = nn.Linear(256, 2), nn.Linear(256, 2)
        trained = [*backbone.parameters(), *head.parameters(), *(old.parameters() if method == "lwf" else [])]
        optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
        start = time.perf_counter()
        if method == "lwf":
            bare.lwf(backbone, old, head, images, train.y, optimizer, 128, settings.chunk)
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


@as_in_a_sweep()
def rehearsal(rounds: int) -> dict[str, Measured]:
    """An epoch of ER's second task in the class scenario by the training core and by a hand-written loop."""
    keep_freed_memory()
    tasks = SplitMNIST().load(None, 0, None)[:2]
    old, new = (task.train.batch(torch.arange(len(task.train))) for task in tasks)

    def ours(training: Training) -> float:
        method = registry.find("method", "er")()
        return run_sequence(tasks, method, registry.find("model", "mlp")(), training, "class", 0).train_seconds[1]

    def theirs(training: Training) -> float:
        backbone = registry.find("model", "mlp")().build((1, 28, 28))
        heads = [nn.Linear(256, 2), nn.Linear(256, 2)]
        parameters = [*backbone.parameters(), *heads[0].parameters(), *heads[1].parameters()]
        optimizer = torch.optim.SGD(parameters, lr=0.01, fused=True)
        kept = torch.randperm(len(old))[:500]
        start = time.perf_counter()
        y = tasks[1].train.y + 2
        bare.er(backbone, heads, new, y, optimizer, training.batch_size, old[kept], tasks[0].train.y[kept], len(old))
        return time.perf_counter() - start

    return {
        f"er, mlp, batches of {size}": in_turn(rounds, clbench=partial(ours, training), bare=partial(theirs, training))
        for size in (10, 128)
        for training in [Training(epochs=1, batch_size=size, lr=0.01)]
    }


@as_in_a_sweep()
def images(rounds: int) -> dict[str, Measured]:
    """An epoch of resnet18 on made-up images, cropped and mirrored, by the training core and by a hand-written loop."""
    keep_freed_memory()
    pixels = torch.randint(0, 256, (640, 3, 32, 32), dtype=torch.uint8)
    y = torch.arange(640) % 5
    splits = [Split(pixels, rows, y[rows], augment="crop+flip") for rows in torch.arange(640).split(320)]
    tasks = [
        Task(index, tuple(range(5 * index, 5 * index + 5)), split, splits[0]) for index, split in enumerate(splits)
    ]
    model = registry.find("model", "resnet18")

    def ours(size: int) -> float:
        training = Training(epochs=1, batch_size=size, lr=0.01)
        method = registry.find("method", "finetune")()
        return run_sequence(tasks, method, model(), training, "task", 0, evaluate="end").train_seconds[1]

    def theirs(size: int) -> float:
        backbone = model().build((3, 32, 32)).to(memory_format=torch.channels_last)
        head = nn.Linear(model_features(backbone), 5)
        optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.01, fused=True)
        new, start = pixels[320:], time.perf_counter()
        bare.finetune(backbone, head, new, y[320:], optimizer, size, bare.crop_and_flip)
        return time.perf_counter() - start

    return {
        f"fine-tuning, resnet18, batches of {size}": in_turn(
            rounds, clbench=partial(ours, size), bare=partial(theirs, size)
        )
        for size in (10, 64)
    }


def model_features(backbone: nn.Module) -> int:
    """Return how many features a backbone gives for an image of 3 × 32 × 32."""
    with torch.no_grad():
        found = backbone.eval()(torch.zeros(1, 3, 32, 32)).shape[1]
    backbone.train()
    return found


@as_in_a_sweep()
def products(rounds: int) -> dict[str, Measured]:
    """A fine-tuning run's training, and the matrix products in it alone, of the same images."""
    tasks = SplitMNIST().load(None, 0, None)
    batches = [
        batch for task in tasks for batch in task.train.batch(torch.arange(len(task.train))).flatten(1).split(128)
    ]
    w, g, v, h = torch.randn(256, 784), torch.randn(128, 256), torch.randn(2, 256), torch.randn(128, 2)

    def alone() -> None:
        for x in batches:
            n = len(x)
            x @ w.T, g[:n].T @ x, g[:n] @ v.T, h[:n].T @ g[:n], h[:n] @ v

    def training() -> float:
        backbone = registry.find("model", "mlp")()
        outcome = run_sequence(tasks, registry.find("method", "finetune")(), backbone, TRAINING, "task", 0)
        return sum(outcome.train_seconds)

    return {"finetune, mlp": in_turn(rounds, clbench=training, products=alone)}


def runs(rounds: int, threads: Sequence[int]) -> dict[str, Measured]:
    """One run in a process that has imported everything: training, and evaluation of the tasks seen so far.

    Both in so many threads; as many as there are cores is what PyTorch, and so Avalanche, has by itself.
    """
    import avalanche_side

    tasks, benchmark = SplitMNIST().load(None, 0, None), avalanche_side.make_benchmark(0)
    found = {}
    for number in threads:
        torch.set_num_threads(number)
        for method in ("lwf", "finetune"):
            found[f"{method}, {_threads(number)}"] = in_turn(
                rounds,
                clbench=lambda m=method: our_run(tasks, m, dropout=0.5),
                avalanche=lambda m=method: avalanche_side.run(m, benchmark, 0) and None,
            )
    torch.set_num_threads(1)
    return found


def sweeps(rounds: int) -> dict[str, Measured]:
    """Five methods, from typing the command to the table; Avalanche's counterparts one after the other, in one thread.

    Its runs are hardly faster in two (see `runs`).
    """
    numbers = (1, 2, 5)
    found: dict[str, Measured] = {f"{seeds} seeds": {"clbench": [], "avalanche": []} for seeds in numbers}
    for _ in range(rounds):
        for seeds in numbers:
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                _call("-P", "-m", "clbench", *SWEEP.split(), str(seeds), "--out", folder)
            found[f"{seeds} seeds"]["clbench"].append(time.perf_counter() - start)
        start = time.perf_counter()
        command = [sys.executable, str(Path(__file__).parent / "avalanche_side.py"), str(max(numbers))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=_environment(1)) as process:
            assert process.stdout is not None
            landed = [time.perf_counter() - start for _ in process.stdout]  # a line per run
        assert process.returncode == 0
        for seeds in numbers:
            found[f"{seeds} seeds"]["avalanche"].append(landed[5 * seeds - 1])
    return found


def authors(rounds: int, threads: Sequence[int]) -> dict[str, Measured]:
    """The LwF run of van de Ven & Tolias 2018, from the command to the result: their public code beside the preset.

    Both in so many threads; as many as there are cores is what the authors' code has by itself.
    """
    checkout = Path(os.environ["CLBENCH_AUTHORS"])

    def clbench(number: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            ours = "run --preset vandeven2018-split-mnist --rows LwF --scenario task --seeds 1 --quiet"
            _call("-P", "-m", "clbench", *ours.split(), "--threads", str(number), "--out", folder)

    def theirs(number: int) -> None:
        command = "main.py --experiment=splitMNIST --scenario=task --contexts=5 --iters=2000 --lwf --no-gpus"
        _call(*command.split(), folder=checkout, threads=number)

    return {
        f"lwf, 5 × 2,000 steps, {_threads(n)}": in_turn(
            rounds, first_counts=True, clbench=partial(clbench, n), authors=partial(theirs, n)
        )
        for n in threads
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


@as_in_a_sweep()
def growth(rounds: int) -> dict[str, Measured]:
    """Seconds of training: the second task of a sequence beside its last; some images beside more of them."""
    found: dict[str, Measured] = {}
    for count in (5, 20, 50):
        tasks = _fewer(PermutedMNIST(tasks=count).load(None, 0, None), 6000)
        for method in ("finetune", "lwf"):
            measured: Measured = {"second": [], "last": []}
            for _ in range(rounds):
                backbone = registry.find("model", "mlp")()
                outcome = run_sequence(tasks, registry.find("method", method)(), backbone, TRAINING, "domain", 0)
                measured["second"].append(statistics.median(outcome.train_seconds[1:4]))
                measured["last"].append(statistics.median(outcome.train_seconds[-3:]))
            found[f"{method}, tasks 2 to 4 and the last 3 of {count}"] = measured
    several = {images: _fewer(PermutedMNIST(tasks=2).load(None, 0, None), images) for images in (3750, 15000, 60000)}
    for images in (15000, 60000):
        found[f"lwf, 3,750 and {images:,} images a task"] = in_turn(
            rounds,
            some=lambda: our_run(several[3750], "lwf"),
            more=lambda n=images: our_run(several[n], "lwf"),
        )
    return found


def memory(rounds: int) -> dict[str, Measured]:
    """The most memory of a run's own, in MiB, over a shorter and a longer sequence; one round tells."""
    found: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as folder:
        for method in ("finetune", "lwf"):
            for what, count in (("shorter", 5), ("longer", 50)):
                sequence = f"permuted-mnist@tasks={count}"
                results = clbench.run(method, sequence=sequence, seeds=1, iterations=20, out=folder, jobs=1, quiet=True)
                peak = next(r.peak_memory_bytes for r in results.records if r.spec["method"] == method)
                found.setdefault(f"{method}, 5 and 50 tasks", {})[what] = [(peak or 0) / 2**20]
    return found


def _fewer(tasks: list[Task], images: int) -> list[Task]:
    """Keep some of each task's training images, and few to test on."""
    rows = torch.arange(images)
    return [replace(t, train=t.train.subset(rows), test=t.test.subset(torch.arange(256))) for t in tasks]


def _threads(number: int) -> str:
    return f"{number} thread{'s' * (number > 1)}"


def _environment(threads: int) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads)}


def _call(*arguments: str, folder: Path | None = None, threads: int = 1) -> None:
    quiet, others = subprocess.DEVNULL, subprocess.DEVNULL if folder else None
    command = [sys.executable, *arguments]
    subprocess.run(command, check=True, stdout=quiet, stderr=others, env=_environment(threads), cwd=folder)


MEASUREMENTS: dict[str, Callable[..., dict[str, Measured]]] = {
    "steps": steps,
    "rehearsal": rehearsal,
    "images": images,
    "products": products,
    "runs": runs,
    "sweeps": sweeps,
    "start": start,
    "authors": authors,
    "growth": growth,
    "memory": memory,
}
THREADED = ("runs", "authors")  # those that take numbers of threads too


def machine() -> str:
    return f"{processor()}, {os.cpu_count()} cores, {platform.system()}, PyTorch {torch.__version__}"


def ratio(measured: Measured) -> float:
    """Return the second contender's median over the first's."""
    first, second = measured.values()
    return statistics.median(second) / statistics.median(first)


# What is said of it


def table(content: dict[str, Any]) -> list[str]:
    """Return the table of ratios: medians in seconds, and the ratio of the other's median to clbench's."""
    says = {
        "runs": "one run of {}, all imported, one process: Avalanche",
        "sweeps": "five methods × {}, from the command to the table: Avalanche, one run after another",
        "authors": "the run of van de Ven & Tolias ({}), from the command to the result: the authors' public code",
        "steps": "an epoch of {}: a hand-written loop",
        "rehearsal": "an epoch of {}: a hand-written loop",
        "images": "an epoch of {}: a hand-written loop",
        "products": "training, {}: its matrix products alone",
        "start": "the default command: the same with nothing left to do",
    }
    lines: list[str] = []
    for name, text in says.items():
        for what, measured in content.get(name, {}).get("measured", {}).items():
            ours, other = (statistics.median(values) for values in measured.values())
            row = text.format(what.replace("1 seeds", "1 seed"))
            lines.append(f"| {row} | {ours:.2f} s | {other:.2f} s | {other / ours:.2f} |")
    return _under("| what, and beside what | clbench | other | ratio |", lines)


def growth_table(content: dict[str, Any]) -> list[str]:
    """Return the table of growth: seconds of a task, and memory of a run, as tasks and images become more."""
    lines: list[str] = []
    for name, text, unit in (("growth", "seconds of training: {}", "s"), ("memory", "a run's own memory: {}", "MiB")):
        for what, measured in content.get(name, {}).get("measured", {}).items():
            few, many = (statistics.median(values) for values in measured.values())
            lines.append(f"| {text.format(what)} | {few:.3g} {unit} | {many:.3g} {unit} | {many / few:.2f} |")
    return _under("| what grows | fewer | more | ratio |", lines)


def _under(header: str, lines: list[str]) -> list[str]:
    return [header, "| --- | ---: | ---: | ---: |", *lines, ""] if lines else []


def described(content: dict[str, Any]) -> str:
    """Return the tables of docs/speed.md, those of each machine by themselves."""
    lines = [BEGIN]
    for one in sorted({part["machine"] for part in content.values()}):
        parts = {name: part for name, part in content.items() if part["machine"] == one}
        *some, most = map(str, sorted({part["rounds"] for part in parts.values()}))
        rounds = f"{', '.join(some)} or {most}" if some else most
        lines += [f"Medians of {rounds} rounds in turn, on {one}:", "", *table(parts), *growth_table(parts)]
    figure = "![Seconds against number of runs, clbench and Avalanche](../results/performance.png)"
    return "\n".join([*lines, figure, END])


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
    draw(content["sweeps"]["measured"])
    before, rest = GUIDE.read_text(encoding="utf-8").split(BEGIN)
    GUIDE.write_text(before + described(content) + rest.split(END)[1], encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(MEASUREMENTS)}, or describe")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS, help=f"for {' and '.join(THREADED)}")
    options = parser.parse_args()
    if options.names == ["describe"]:
        describe()
        return
    if unknown := set(options.names) - set(MEASUREMENTS):
        parser.error(f"no measurement {min(unknown)}: choose from {', '.join(MEASUREMENTS)}")
    torch.set_num_threads(1)
    content = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.names or MEASUREMENTS:
        more = {"threads": options.threads} if name in THREADED else {}
        found = MEASUREMENTS[name](options.rounds, **more)
        for what, measured in found.items():
            times = "  ".join(f"{who} {statistics.median(values):.3f}" for who, values in measured.items())
            print(f"{name}: {what}: {times}" + (f"  ratio {ratio(measured):.2f}" if len(measured) == 2 else ""))
        content[name] = {"machine": machine(), "rounds": options.rounds, "measured": found}
        RESULTS.write_text(re.sub(r"(\d\.\d{4})\d+", r"\1", json.dumps(content, indent=1)) + "\n")


if __name__ == "__main__":
    main()
