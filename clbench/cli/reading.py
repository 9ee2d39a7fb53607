"""The commands that read records: report, compare and merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clbench import api
from clbench.cli.options import Interval, Test, say
from clbench.errors import ClbenchError, UsageError


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
    test: Test = "t",
    interval: Interval = "t",
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

    results = load(records, methods=_list(methods))
    baseline = None if baseline is None else results.label_of(baseline)
    choices = Choices(_list(columns), baseline, test, interval)  # type: ignore[arg-type]
    check_labels(results, baseline)
    say(*results.problems, *results.warnings)
    if results.records and len(results.failed) == len(results.records):
        say("every run failed: there is nothing to compare")
    tables = Tables(results, choices)
    report = Report(results, out, tables, _list(formats), width)  # type: ignore[arg-type]
    paths = report.write_tables()
    print_tables(results, tables)
    if report.waiting:
        say(f"tables and page are in {out}; drawing the figures")
    paths += report.draw()
    say(f"{len(paths)} files are in {out}; begin with {out / 'report.html'}")


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A method's label, as in the tables.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The label of the method that it is compared with.")],
    metric: Annotated[str, typer.Option(metavar="METRIC", help="Any of the table of results.")] = "average_accuracy",
    test: Test = "t",
    interval: Interval = "t",
    records: Annotated[Path, typer.Option(metavar="DIR", help="Folder of records.")] = Path("results/runs"),
) -> None:
    """Say whether A is better than B, a line per task sequence and scenario; differences are paired by seed."""
    results = api.load(records)
    a, b = results.label_of(a), results.label_of(b)
    lines = api.compare(results, a, b, metric, test, interval)
    say(*results.problems, *(line for line in results.warnings if a in line or b in line))
    for line in lines:
        typer.echo(line)


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
    say(*(f"skipped {problem}" for problem in problems), f"{count} records were added to {out}")


def _list(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]
