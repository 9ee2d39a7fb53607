"""The command line: parse, call, print. Heavy imports wait until a command needs them."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clbench.errors import ClbenchError, UsageError

if TYPE_CHECKING:
    from clbench.execution.progress import Progress
    from clbench.execution.sweep import Sweep

app = typer.Typer(
    help="Continual-learning baselines, compared over seeds, task sequences and scenarios.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


# options that commands share
Jobs = Annotated[int | None, typer.Option(help="Runs side by side. Default: one per core, one on each GPU.")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda|cuda:N", help="Where to train; cuda: on all.")]
DataRoot = Annotated[
    str | None, typer.Option(metavar="DIR", help="Folder of the data sets. Default: $CLBENCH_DATA_ROOT.")
]
Checkpoint = Annotated[
    bool, typer.Option("--checkpoint", help="Keep each run's state after every task, and go on from there.")
]
Timeout = Annotated[float | None, typer.Option(metavar="SECONDS", help="A run that takes longer has failed.")]
Backend = Annotated[str, typer.Option(metavar="local|dask|ray", help="Whose workers: this machine's, or a cluster's.")]
Scheduler = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Of the cluster. For ray: the one of this machine.")
]


def main() -> None:
    """Run the command line; an error is one line on standard error, exit code 2 where the user can mend it, else 1."""
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        print(end="", flush=True)
    except ClbenchError as error:
        message, code = " ".join(str(error).split()), 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:  # whoever read what is printed has gone
        sys.exit(1)
    except OSError as error:  # there is no room for it
        message, code = str(error), 1
    except Exception as error:  # Typer's own for options and arguments, whichever class of it the version has
        if not hasattr(error, "format_message"):
            raise
        message, code = " ".join(error.format_message().split()), 2
        if "unexpected extra argument" in message:
            message += ": a list has no spaces, as in --methods lwf,finetune"
    else:
        sys.exit(code)
    print(f"clbench: error: {message}", file=sys.stderr)
    sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        from clbench import __version__

        typer.echo(f"clbench {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Continual-learning baselines, compared over seeds, task sequences and scenarios."""


@app.command()
def run(
    methods: Annotated[
        str | None,
        typer.Option(metavar="NAME[@FIELD=VALUE…],…", help="Methods to compare; 'all', or 'core', the default."),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="N|LIST", help="5 means 0…4; or 0,4,9 or 10-19. Default: 5, or 10 with a preset."),
    ] = None,
    sequence: Annotated[
        str | None, typer.Option(metavar="NAME,…", help="Task sequences. Default: split-digits.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME|FILE.toml", help="A whole experiment; see 'clbench list presets'.")
    ] = None,
    rows: Annotated[str | None, typer.Option(metavar="ROW,…", help="The preset's rows to run. Default: all.")] = None,
    scenario: Annotated[
        str | None, typer.Option(metavar="task|class|domain,…", help="Default: the sequence's own.")
    ] = None,
    class_order: Annotated[
        str | None, typer.Option(metavar="seed|fixed|3,1,4,…", help="Order in which classes come. Default: seed.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Backbone. Default: the sequence's own.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over each task. Default: the sequence's own.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Optimiser steps per task, instead of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    optimizer: Annotated[str | None, typer.Option(metavar="sgd|adam|adagrad", help="Optimiser.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of sgd.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay.")] = None,
    later_lr_factor: Annotated[float | None, typer.Option(help="Times lr, from the second task on.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME.FIELD=VALUE",
            help="A method's, model's, sequence's or 'training' setting; repeatable; a comma list is a grid.",
        ),
    ] = None,
    jobs: Jobs = None,
    device: Device = "auto",
    precision: Annotated[
        str, typer.Option(metavar="fp32|tf32|bf16", help="Of matrix products; tf32 on CUDA only.")
    ] = "fp32",
    threads: Annotated[
        int,
        typer.Option(metavar="N", help="Of each run, on the CPU; other numbers round otherwise."),
    ] = 1,
    eval_every: Annotated[
        int | None, typer.Option(metavar="N", help="Evaluate the tasks seen so far every N updates too: curves.")
    ] = None,
    data_root: DataRoot = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for the records.")] = "results/runs",
    save_models: Annotated[bool, typer.Option("--save-models", help="Keep the network after each task.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run again what is there already.")] = False,
    no_reuse: Annotated[
        bool, typer.Option("--no-reuse", help="Compute again what runs or steps share; numbers stay the same.")
    ] = False,
    checkpoint: Checkpoint = False,
    timeout: Timeout = None,
    backend: Backend = "local",
    scheduler: Scheduler = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run, and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the results.")] = False,
) -> None:
    """Train and evaluate methods × seeds × task sequences × scenarios; runs that are there already are not repeated."""
    from clbench.execution.sweep import prepare

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
        settings=set_ or (),
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
        reuse=not no_reuse,
        checkpoint=checkpoint,
        timeout=timeout,
        jobs=jobs,
        backend=backend,
        scheduler=scheduler,
    )
    if dry_run:
        _print_plan(sweep)
        return
    progress = _go(sweep, out, quiet)
    _print_results(sweep, out, quiet)
    if progress.failed:
        print(
            f"clbench: {progress.failed} of {len(sweep.jobs)} runs failed; their records in {out} say why",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def _go(sweep: Sweep, out: str, quiet: bool) -> Progress:
    """Run what is missing of a sweep and say how it goes; Ctrl-C ends the command with what there is."""
    from clbench.execution.progress import Progress

    progress = Progress(sweep, quiet)
    try:
        with contextlib.closing(sweep.run(fork=True)) as records, _ending_on_signals(), progress:
            for record in records:
                progress.landed(record)
    except KeyboardInterrupt:
        print(f"\nclbench: stopped; {progress.done} new records are in {out}. Run it again to go on.", file=sys.stderr)
        raise typer.Exit(130) from None
    return progress


@contextlib.contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Let requests to end be Ctrl-C's, so that workers and temporary files go."""
    numbers = (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
    changed = [number for number in set(numbers) if signal.getsignal(number) == signal.SIG_DFL]  # not under nohup
    for number in changed:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def _print_plan(sweep: Sweep) -> None:
    for note in sweep.notes:
        print(f"note: {note}", file=sys.stderr)
    for job in sweep.jobs:
        spec = job.spec
        state = "done" if spec.key in sweep.done else "to do"
        typer.echo(
            f"{state}  {spec.sequence_label}  {spec.scenario}  {spec.model_label}  {spec.label}  seed {spec.seed}"
        )
    typer.echo(f"{len(sweep.jobs)} runs: {len(sweep.missing)} to do, {len(sweep.done)} done")


def _print_results(sweep: Sweep, out: str, quiet: bool) -> None:
    from clbench.report.writer import print_tables
    from clbench.results.frames import Results

    results = Results(sweep.records, order=sweep.labels)
    print_tables(results)
    if not quiet:
        for line in results.warnings:
            print(f"clbench: {line}", file=sys.stderr)
        options = "" if out == "results/runs" else f" {out}"
        print(f"clbench: records are in {out}; tables and figures: clbench report{options}", file=sys.stderr)


@app.command()
def verify(
    preset: Annotated[str, typer.Argument(metavar="PRESET|FILE.toml", help="See 'clbench list presets'.")],
    rows: Annotated[str | None, typer.Option(metavar="ROW,…", help="The rows to compare. Default: all.")] = None,
    scenario: Annotated[
        str | None, typer.Option(metavar="task|class|domain,…", help="Default: the preset's own.")
    ] = None,
    sequence: Annotated[
        str | None, typer.Option(metavar="NAME", help="Task sequence, where the preset leaves it open.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Backbone, where the preset leaves it open.")
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="Seeds 0 to N − 1.")] = 10,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME.FIELD=VALUE", help="A setting in place of the preset's; it is recorded."),
    ] = None,
    controls: Annotated[
        bool, typer.Option("--controls", help="Run the preset's faults too: they should not agree.")
    ] = False,
    jobs: Jobs = None,
    device: Device = "auto",
    data_root: DataRoot = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for the records and the table.")] = "results/runs",
    checkpoint: Checkpoint = False,
    timeout: Timeout = None,
    backend: Backend = "local",
    scheduler: Scheduler = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the table.")] = False,
) -> None:
    """Compare a preset's rows with the numbers that its paper published; exit code 1 if any disagrees."""
    from clbench.execution.sweep import prepare
    from clbench.experiment.presets import load
    from clbench.verification.comparison import compare, print_verification

    chosen = load(preset)
    sweep = prepare(
        preset=chosen,
        rows=rows,
        controls=controls,
        sequence=sequence,
        model=model,
        settings=set_ or (),
        scenario=scenario,
        seeds=seeds,
        device=device,
        data_root=data_root,
        out=out,
        checkpoint=checkpoint,
        timeout=timeout,
        jobs=jobs,
        backend=backend,
        scheduler=scheduler,
    )
    _go(sweep, out, quiet)
    found = compare(chosen, sweep.records)
    print_verification(found)
    paths = found.write(Path(out))
    print(f"clbench: the table is in {paths[1]} and {paths[0]}", file=sys.stderr)
    if found.disagreeing:
        print(f"clbench: {len(found.disagreeing)} disagree: {'; '.join(found.disagreeing)}", file=sys.stderr)
    if found.failed:
        print(f"clbench: {found.failed} runs failed; their records in {out} say why", file=sys.stderr)
    if found.disagreeing or found.failed:
        raise typer.Exit(1)


@app.command()
def report(
    records: Annotated[Path, typer.Argument(metavar="[RECORDS_DIR]", help="Folder of records.")] = Path("results/runs"),
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for tables and figures.")] = Path("results/report"),
    methods: Annotated[
        str | None, typer.Option(metavar="LABEL,…", help="Only these, in this order. Default: all, by name.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="METRIC|COST,…", help="Columns of the table of results. Default: all metrics.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="LABEL", help="What methods are compared with. Default: finetune.")
    ] = None,
    test: Annotated[str, typer.Option(metavar="t|wilcoxon", help="Test of paired differences.")] = "t",
    interval: Annotated[str, typer.Option(metavar="t|bootstrap", help="95 % intervals of the tables.")] = "t",
    formats: Annotated[str, typer.Option(metavar="png,pdf,svg", help="Of the figures.")] = "png,pdf",
    width: Annotated[
        str | None, typer.Option(metavar="column|page", help="Of the figures. Default: as suits each.")
    ] = None,
) -> None:
    """Write tables, figures and a page from a folder of records."""
    from clbench.report.tables import Choices, Tables
    from clbench.report.writer import Report, print_tables
    from clbench.results.analysis import check_labels
    from clbench.results.frames import load

    choices = Choices(_list(columns), baseline, test, interval)  # type: ignore[arg-type]
    results = load(records, methods=_list(methods))
    check_labels(results, baseline)
    for line in [*results.problems, *results.warnings]:
        print(f"clbench: {line}", file=sys.stderr)
    if results.records and len(results.failed) == len(results.records):
        print("clbench: every run failed: there is nothing to compare", file=sys.stderr)
    tables = Tables(results, choices)
    report = Report(results, out, tables, _list(formats), width)  # type: ignore[arg-type]
    paths = report.write_tables()
    print_tables(results, tables)
    if report.waiting:
        print(f"clbench: tables and page are in {out}; drawing the figures", file=sys.stderr)
    paths += report.draw()
    print(f"clbench: {len(paths)} files are in {out}; begin with {out / 'report.html'}", file=sys.stderr)


def _list(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A method's label, as in the tables.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The label of the method that it is compared with.")],
    metric: Annotated[str, typer.Option(metavar="METRIC", help="Any of the table of results.")] = "average_accuracy",
    test: Annotated[str, typer.Option(metavar="t|wilcoxon", help="Test of paired differences.")] = "t",
    interval: Annotated[str, typer.Option(metavar="t|bootstrap", help="95 % interval.")] = "t",
    records: Annotated[Path, typer.Option(metavar="DIR", help="Folder of records.")] = Path("results/runs"),
) -> None:
    """Say whether A is better than B, a line per task sequence and scenario; differences are paired by seed."""
    from clbench.report.tables import Choices
    from clbench.results.analysis import compare as compared
    from clbench.results.frames import load

    choices = Choices(test=test, interval=interval)  # type: ignore[arg-type]
    results = load(records)
    said = compared(results, a, b, metric, choices.test, choices.interval)
    for line in [*results.problems, *(line for line in results.warnings if a in line or b in line)]:
        print(f"clbench: {line}", file=sys.stderr)
    for line in said:
        typer.echo(line)


@app.command()
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="RECORDS_DIR…", help="Folders of records, of any machines.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for all of them; it may have records already.")],
) -> None:
    """Join folders of records; refuse if finished records of the same run disagree."""
    from clbench.results.store import Store
    from clbench.results.store import merge as join

    for folder in folders:
        if not any(Store(folder).paths()):
            raise UsageError(f"no records in {folder}: name the folders that 'clbench run --out' wrote to")
    try:
        count, problems = join(folders, out)
    except OSError as error:
        raise ClbenchError(f"cannot write to {out}: {error.strerror or error}") from None
    for problem in problems:
        print(f"clbench: skipped {problem}", file=sys.stderr)
    print(f"clbench: {count} records were added to {out}", file=sys.stderr)


@app.command("list")
def list_(
    kind: Annotated[
        Literal["methods", "sequences", "models", "presets"],
        typer.Argument(metavar="methods|sequences|models|presets"),
    ],
) -> None:
    """List what there is: name, what it is, its fields and their defaults."""
    if kind == "presets":
        from clbench.experiment import presets

        for name, title, rows in presets.describe():
            typer.echo(f"{name}: {title}. Scenarios: {rows}")
        return
    from clbench.experiment import registry

    singular: dict[str, registry.Kind] = {"methods": "method", "sequences": "sequence", "models": "model"}
    for name, what, fields in registry.describe(singular[kind]):
        typer.echo(f"{name}: {what}." + (f" Fields: {fields}" if fields else ""))
