"""What a worker of a cluster does: compare what it has with what was planned, and run a job.

It needs the installed package and a place for data. A run has failed if its worker has other code or data.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import platform
import subprocess
import sys
import threading
import traceback

from clbench.errors import ClbenchError
from clbench.execution.run import failed, run_one, what_happened
from clbench.execution.workers import end_with, time_is_up
from clbench.experiment.spec import Job
from clbench.results.store import RunRecord
from clbench.version import NUMBERS, __version__

DIED = "its worker died under it twice, perhaps for want of memory"


def run_there(job: Job) -> RunRecord:
    """Run one job on a worker of a cluster, if all is there as it was planned."""
    if job.data_root is not None and not job.data_root.is_dir():
        job = dataclasses.replace(job, data_root=None)  # CLBENCH_DATA_ROOT there
    try:
        _compare(job)
    except (Exception, SystemExit) as error:
        return failed(job, f"on {platform.node()}, {what_happened(error)}\n\n{traceback.format_exc()}")
    return run_one(job) if job.timeout is None else _run_in_process(job, job.timeout)


def _compare(job: Job) -> None:
    """Raise an error unless code and data are those that the run was planned with."""
    if job.spec.numbers != NUMBERS:
        raise ClbenchError(
            f"clbench {__version__} computes numbers of version {NUMBERS}, and the sweep is of version "
            f"{job.spec.numbers}: install the same clbench there"
        )
    for kind in job.references:
        job.instance(kind)
    if job.instance("sequence").prepare(job.data_root, job.spec.seed) != job.spec.data:
        raise ClbenchError(f"the data of {job.spec.sequence_label} are not those of the sweep: look at its data root")


def _run_in_process(job: Job, timeout: float) -> RunRecord:
    """Run a job in a process of its own, which is killed if it takes too long; others of this worker go on.

    It is not one of `multiprocessing`, as Dask's workers may not start such.
    """
    command = [sys.executable, "-c", "from clbench.execution.remote import main; main()", str(os.getpid())]
    try:
        done = subprocess.run(command, input=pickle.dumps(job), capture_output=True, timeout=timeout, check=True)
        return pickle.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return time_is_up(job)
    except subprocess.CalledProcessError as error:
        return failed(job, f"its process died with exit code {error.returncode}")


def main() -> None:
    """Read a job from standard input, run it, and write its record to standard output; end with the parent."""
    threading.Thread(target=end_with, args=(int(sys.argv[1]),), daemon=True).start()
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a method prints must not come between
    pickle.dump(run_one(pickle.load(sys.stdin.buffer)), output)
    output.flush()
