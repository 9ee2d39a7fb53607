"""Planning: a request, checked in full, becomes the jobs of a sweep. Nothing is trained here."""

from __future__ import annotations

from dataclasses import dataclass

from clbench.errors import UsageError, did_you_mean
from clbench.experiment.checks import check_checkpoint
from clbench.experiment.jobs import make_jobs
from clbench.experiment.machine import check_machine
from clbench.experiment.points import points
from clbench.experiment.preset_points import preset_points
from clbench.experiment.request import Request
from clbench.experiment.spec import Job


@dataclass
class Planned:
    """The jobs of a sweep in order, what the user should hear, and where they may run."""

    jobs: list[Job]
    notes: list[str]
    workers: int
    devices: list[str]


def plan(request: Request) -> Planned:
    """Work out every run that was asked for; raise UsageError for anything that cannot be done."""
    devices, workers = check_machine(request)
    notes: list[str] = []
    runs = preset_points(request.preset, request, notes) if request.preset else points(request, notes)
    names = {"training", *(choice.reference for run in runs for choice in run.chosen().values())}
    if unused := sorted(set(request.settings) - names):
        raise UsageError(f"--set {unused[0]}.… names nothing in this sweep{did_you_mean(unused[0], sorted(names))}")
    if request.checkpoint:
        for run in runs:
            check_checkpoint(run.method)
    # runs that are not on the CPU are given one of the devices when they begin
    return Planned(make_jobs(runs, request, devices[0]), list(dict.fromkeys(notes)), workers, devices)
