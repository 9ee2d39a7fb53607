"""The commands that read records: report, compare and merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clbench import api
from clbench.cli.options import Interval, Test, say

Sequences = Annotated[str | None, typer.Option(metavar="NAME,…", help="Only runs of these task sequences.")]
Scenarios = Annotated[str | None, typer.Option(metavar="NAME,…", help="Only runs of these scenarios.")]
Models = Annotated[str | None, typer.Option(metavar="NAME,…", help="Only runs of these models.")]
Where = Annotated[
    list[str] | None,
    typer.Option(metavar="SETTING=VALUE,…", help="Only runs with these: training.epochs=2, lwf.temperature=4, seed=0."),
]


def report(
    records: Annotated[
        Path, typer.Argument(metavar="[RECORDS_DIR]", help="Folder of records, and all below it.")
    ] = Path("results/runs"),
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for tables and figures.")] = Path("results/report"),
    methods: Annotated[
        str | None, typer.Option(metavar="LABEL,…", help="Only these, in this order. Default: all, by name.")
    ] = None,
    sequence: Sequences = None,
    scenario: Scenarios = None,
    model: Models = None,
    where: Where = None,
    columns: Annotated[
        str | None, typer.Option(metavar="METRIC|COST,…", help="Columns of the table of results. Default: all metrics.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="LABEL", help="What methods are compared with. Default: finetune.")
    ] = None,
    test: Test = "t",
    interval: Interval = "t",
    formats: Annotated[str, typer.Option(metavar="png,pdf,svg", help="Of the figures.")] = "png,pdf",
    width: Annotated[str, typer.Option(metavar="column|page", help="Of the figures.")] = "column",
) -> None:
    """Write tables, figures and a page from a folder of records."""
    from clbench.report.figures.files import check_format
    from clbench.report.tables import Choices, Tables
    from clbench.report.writer import make_folder, print_tables, write_report
    from clbench.results.frames import load
    from clbench.results.narrowing import names_in

    choices = Choices(names_in(columns), baseline, test, interval)  # type: ignore[arg-type]
    check_format(names_in(formats), width)
    places = {"sequence": sequence or (), "scenario": scenario or (), "model": model or ()}
    results = load(records, methods=methods or (), where=where, **places)
    if baseline is not None:
        results.resolve(baseline)  # raises before anything is written
    make_folder(out)
    say(*_read(records), *results.problems, *results.warnings)
    if results.records and len(results.failed) == len(results.records):
        say("every run failed: there is nothing to compare")
    tables = Tables(results, choices)
    print_tables(results, tables)
    say(*tables.notes)
    paths = write_report(results, out, tables, names_in(formats), width)  # type: ignore[arg-type]
    say(f"{len(paths)} files are in {out}; begin with {out / 'report.html'}")


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A method's label, as in the tables.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The label of the method that it is compared with.")],
    metric: Annotated[str, typer.Option(metavar="METRIC", help="Any of the table of results.")] = "average_accuracy",
    test: Test = "t",
    interval: Interval = "t",
    baseline: Annotated[
        str | None, typer.Option(metavar="LABEL", help="Of the report that has the same verdict. Default: finetune.")
    ] = None,
    sequence: Sequences = None,
    scenario: Scenarios = None,
    model: Models = None,
    where: Where = None,
    records: Annotated[Path, typer.Option(metavar="DIR", help="Folder of records.")] = Path("results/runs"),
) -> None:
    """Say whether A is better than B, a line per task sequence and scenario; differences are paired by seed."""
    from clbench.results.analysis import doubtful_baselines

    results = api.load(records, sequence=sequence or (), scenario=scenario or (), model=model or (), where=where)
    lines = api.compare(results, a, b, metric, test, interval, baseline)
    labels = [results.resolve(name) for name in (a, b)]
    warnings = [line for line in results.warnings if any(label in line for label in labels)]
    doubtful = doubtful_baselines(results) if baseline is None else []
    say(*_read(records), *results.problems, *warnings, *doubtful)
    for line in lines:
        print(line)


def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="RECORDS_DIR…", help="Folders of records, of any machines.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for all of them; it may have records already.")],
) -> None:
    """Join folders of records; refuse if finished records of the same run disagree."""
    count, problems = api.merge(folders, out)
    say(*(f"skipped {problem}" for problem in problems), f"{count} records were added to {out}")


def _read(place: Path) -> list[str]:
    """Say which folders of records were read, where it is not the one named."""
    from clbench.results.store import record_folders
    from clbench.results.wording import count_of

    found = record_folders(place)
    return [] if found == [place] else [f"records of {count_of(len(found), 'folder')}: {', '.join(map(str, found))}"]
