"""The commands that train: run and verify."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clbench.cli.options import Quiet, say, takes
from clbench.experiment import config
from clbench.experiment.request import RUN, TUNE, TUNE_DEFAULTS, VERIFY, Request, chosen_preset

MOST_LINES = 40  # of a plan

if TYPE_CHECKING:
    from clbench.execution.progress import Progress
    from clbench.execution.sweep import Sweep

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be run, and stop.")]


@takes(RUN)
def run(
    request: Request,
    save_config: Annotated[
        Path | None,
        typer.Option("--save-config", metavar="FILE.toml", help="Write these options to a file, and go on."),
    ] = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Train and evaluate methods × seeds × task sequences × scenarios; runs that are there already are not repeated."""
    from clbench.execution.sweep import prepare
    from clbench.results.wording import count_of

    sweep = prepare(request)
    if save_config is not None:
        say(f"these options are in {config.write(request, save_config)}: clbench run --config {save_config}")
    if dry_run:
        _print_plan(sweep)
        return
    progress = _go(sweep, quiet)
    _print_results(sweep, quiet)
    if progress.failed:
        where = sweep.store.folder
        say(f"{progress.failed} of {count_of(len(sweep.jobs), 'run')} failed; the records in {where} say why")
        raise typer.Exit(1)


@takes(VERIFY, argument="preset")
def verify(request: Request, dry_run: DryRun = False, quiet: Quiet = False) -> None:
    """Compare a preset's rows with the numbers that its paper published; exit code 1 if any disagrees.

    The table is of all the preset's records that are in the folder.
    """
    from clbench.execution.sweep import prepare, whole_preset
    from clbench.results.wording import console, count_of
    from clbench.verification.comparison import compare
    from clbench.verification.tables import print_verification, write

    preset = chosen_preset(request)
    sweep = prepare(request)
    if dry_run:
        _print_plan(sweep)
        return
    _go(sweep, quiet)
    told = len(sweep.notes)
    found = compare(preset, whole_preset(sweep).records)
    say(*sweep.notes[told:])
    print_verification(found, console())
    paths = write(found, request.out)
    say(f"the table is in {paths[1]} and {paths[0]}")
    if found.tests:
        say(f"{found.agreeing} of {count_of(found.tests, 'published number')} that were tested agree")
    if found.disagreeing:
        say(f"{len(found.disagreeing)} disagree: {'; '.join(found.disagreeing)}")
    if found.failed:
        say(f"{count_of(found.failed, 'run')} failed; the records in {request.out} say why")
    if found.disagreeing or found.failed:
        raise typer.Exit(1)


@takes(TUNE, defaults=TUNE_DEFAULTS)
def tune(request: Request, dry_run: DryRun = False, quiet: Quiet = False) -> None:
    """Choose settings of methods on validation images, at equal budgets, and write a preset that has them."""
    from clbench.tuning.telling import of_plan, print_findings
    from clbench.tuning.tune import make_plan

    plan = make_plan(request)
    say(*plan.notes, *of_plan(plan))
    if dry_run:
        return
    from clbench.tuning.carry_out import carry_out  # here, since it needs Optuna

    try:
        with _ending_on_signals():
            findings = carry_out(plan, quiet, fork=True)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        say(f"stopped; what was done is in {plan.folder}. Run it again to go on.")
        raise typer.Exit(130) from None
    if findings.studies:
        print_findings(findings)
        say(*findings.warnings, f"all trials, and a figure for each method, are in {plan.folder}")
    say(f"the preset is {plan.preset}: clbench run --preset {plan.preset} --seeds 10")


def _go(sweep: Sweep, quiet: bool) -> Progress:
    """Run what is missing of a sweep and say how it goes; Ctrl-C ends the command with what there is."""
    from clbench.execution.progress import carry_out

    before = len(sweep.done)
    try:
        with _ending_on_signals():
            return carry_out(sweep, quiet, fork=True)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        new = len(sweep.done) - before
        say(f"stopped; {new} new records are in {sweep.store.folder}. Run it again to go on.")
        raise typer.Exit(130) from None


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
    from clbench.results.wording import count_of

    for note in sweep.notes:
        print(f"note: {note}", file=sys.stderr)
    seeds: dict[str, list[int]] = {}
    for job in sweep.jobs:
        spec = job.spec
        state = "done" if spec.key in sweep.done else "to do"
        where = spec.sequence_label + (f" [tasks={spec.tasks}]" if spec.tasks else "")
        run = [state, where, spec.scenario, spec.model_label, sweep.told_apart[spec.key]]
        seeds.setdefault("  ".join(run), []).append(spec.seed)
    for line, numbers in list(seeds.items())[:MOST_LINES]:
        typer.echo(f"{line}  seed{'s' * (len(numbers) > 1)} {_ranges(numbers)}")
    if len(seeds) > MOST_LINES:
        typer.echo(f"… and {len(seeds) - MOST_LINES} more lines like these")
    there = f"{len(sweep.missing)} to do, {len(sweep.done)} done"
    side_by_side = f"; {min(sweep.workers, len(sweep.missing))} at a time on {sweep.place}" if sweep.missing else ""
    typer.echo(f"{count_of(len(sweep.jobs), 'run')}: {there}{side_by_side}")


def _ranges(numbers: list[int]) -> str:
    """Write seeds as they are typed: 0-4, 7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _print_results(sweep: Sweep, quiet: bool) -> None:
    from clbench.report.writer import print_tables
    from clbench.results.frames import Results

    results = Results(sweep.records, order=sweep.labels)
    print_tables(results)
    if not quiet:
        out = str(sweep.store.folder)
        options = "" if out == "results/runs" else f" {out}"
        say(*results.warnings, f"records are in {out}; tables and figures: clbench report{options}")
