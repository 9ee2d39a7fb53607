"""clbench: continual-learning baselines, compared over seeds, task sequences and scenarios.

    import clbench

    results = clbench.run(methods=["finetune", "lwf"], sequence="split-digits", seeds=5)
    results.summary()

Importing this package imports neither torch nor Avalanche.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clbench.results.frames import Results
    from clbench.verification.comparison import Verification

__all__ = ["NUMBERS", "__version__", "compare", "load", "run", "verify"]
__version__ = version("clbench")
NUMBERS = 1  # raised from 0.1.0 on with every 'Changed numbers' entry in the changelog; part of every record's key


def run(
    methods: str | Sequence[str | type] | None = None,
    *,
    preset: str | Path | None = None,
    rows: str | Sequence[str] | None = None,
    sequence: str | Sequence[str | type] | None = None,
    scenario: str | Sequence[str] | None = None,
    seeds: int | str | Sequence[int] | None = None,
    class_order: str | Sequence[int] | None = None,
    model: str | Sequence[str | type] | None = None,
    epochs: int | None = None,
    iterations: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    lr: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    later_lr_factor: float | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    jobs: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    threads: int = 1,
    eval_every: int | None = None,
    data_root: str | Path | None = None,
    out: str | Path = "results/runs",
    save_models: bool = False,
    force: bool = False,
    reuse: bool = True,
    checkpoint: bool = False,
    timeout: float | None = None,
    backend: str = "local",
    scheduler: str | None = None,
    quiet: bool = False,
) -> Results:
    """Run a sweep, as `clbench run` does, and return its results; finished records in `out` are not run again.

    `settings` is {"lwf.temperature": 4, …}, a list of values making a grid. Left out, `methods` are "core", `sequence`
    is split-digits and `seeds` are 0 to 4, or what the preset says. With `eval_every`, the tasks seen so far are
    evaluated every so many updates too, and the records have `curves`. Without `reuse`, what runs or steps share is
    computed again; with `checkpoint`, a run that was stopped goes on after its last finished task; none of these
    changes a number. Several `threads` for each run, on the CPU, round otherwise than one: such runs stand apart. A run
    that takes longer than `timeout` seconds has failed. With `backend` "dask" or "ray", runs go to the cluster at the
    address `scheduler`. Raises UsageError, before any training, for anything that cannot be done; a run that fails is
    in the results' `failed`.
    """
    from clbench.execution.progress import Progress
    from clbench.execution.sweep import prepare
    from clbench.results.frames import Results

    sweep = prepare(
        methods,
        sequence=sequence,
        scenario=scenario,
        seeds=seeds,
        class_order=class_order,
        model=model,
        training={
            "epochs": epochs,
            "iterations": iterations,
            "batch_size": batch_size,
            "optimizer": optimizer,
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "later_lr_factor": later_lr_factor,
        },
        settings=settings,
        preset=preset,
        rows=rows,
        device=device,
        precision=precision,
        threads=threads,
        eval_every=eval_every,
        data_root=data_root,
        out=out,
        save_models=save_models,
        force=force,
        reuse=reuse,
        checkpoint=checkpoint,
        timeout=timeout,
        jobs=jobs,
        backend=backend,
        scheduler=scheduler,
    )
    with contextlib.closing(sweep.run()) as records, Progress(sweep, quiet) as progress:
        for record in records:
            progress.landed(record)
    return Results(sweep.records, order=sweep.labels)


def verify(
    preset: str | Path,
    *,
    rows: str | Sequence[str] | None = None,
    scenario: str | Sequence[str] | None = None,
    sequence: str | Sequence[str | type] | None = None,
    model: str | Sequence[str | type] | None = None,
    seeds: int = 10,
    settings: Mapping[str, Any] | Sequence[str] = (),
    controls: bool = False,
    jobs: int | None = None,
    device: str = "auto",
    data_root: str | Path | None = None,
    out: str | Path = "results/runs",
    checkpoint: bool = False,
    timeout: float | None = None,
    backend: str = "local",
    scheduler: str | None = None,
    quiet: bool = False,
) -> Verification:
    """Compare a preset's rows with what was published for them, as `clbench verify` does; only records are written.

    The result's `frame` has a line per row and scenario, `disagreeing` the rows that do not agree. Raises UsageError,
    before any training, for anything that cannot be done.
    """
    from clbench.execution.progress import Progress
    from clbench.execution.sweep import prepare
    from clbench.experiment.presets import load as load_preset
    from clbench.verification.comparison import compare

    chosen = load_preset(preset)
    sweep = prepare(
        preset=chosen,
        rows=rows,
        controls=controls,
        scenario=scenario,
        sequence=sequence,
        model=model,
        seeds=seeds,
        settings=settings,
        device=device,
        data_root=data_root,
        out=out,
        checkpoint=checkpoint,
        timeout=timeout,
        jobs=jobs,
        backend=backend,
        scheduler=scheduler,
    )
    with contextlib.closing(sweep.run()) as records, Progress(sweep, quiet) as progress:
        for record in records:
            progress.landed(record)
    return compare(chosen, sweep.records)


def compare(
    results: Results, a: str, b: str, metric: str = "average_accuracy", test: str = "t", interval: str = "t"
) -> list[str]:
    """Say whether a is better than b, a line per task sequence and scenario, as `clbench compare` does.

    Raises UsageError for labels, metrics, tests and intervals that there are not.
    """
    from clbench.report.tables import Choices
    from clbench.results import analysis

    choices = Choices(test=test, interval=interval)  # type: ignore[arg-type]
    return analysis.compare(results, a, b, metric, choices.test, choices.interval)


def load(folder: str | Path = "results/runs") -> Results:
    """Read the records in a folder; raise UsageError if there is none to read."""
    from clbench.results import frames as results

    return results.load(folder)
