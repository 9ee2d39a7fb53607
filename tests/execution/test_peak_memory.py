"""Peak memory of a run, and memory that workers keep."""

import ctypes
import multiprocessing
import resource
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from asking import prepared as plan

from clbench.execution.memory import keep_freed_memory
from clbench.execution.run import run_one


def test_peak_memory_is_the_runs_own(tmp_path: Path) -> None:
    """A network of 100 MB in weights needs these, their gradients and their momentum; a small one much less."""
    big, little = (
        run_one(plan("finetune", seeds=1, training={"iterations": 1}, settings=settings, out=tmp_path).jobs[0])
        for settings in (["split-digits.tasks=2", "mlp.width=5000", "mlp.depth=2"], ["split-digits.tasks=2"])
    )
    if big.peak_memory_bytes is None or little.peak_memory_bytes is None:
        pytest.skip("peak memory cannot be told on this system")
    weights = 4 * (big.parameters or 0)
    assert weights > 100e6
    assert 3 * weights < big.peak_memory_bytes < 5 * weights
    assert little.peak_memory_bytes < 0.2 * weights


def faults_of_a_later_step(connection: Connection) -> None:
    """Count the pages that had to be found for memory which the step before had freed, of about 20,000."""
    keep_freed_memory()
    for _step in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        activations = [bytearray(20_000_000) for _layer in range(4)]
        del activations
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_a_worker_keeps_the_memory_that_a_step_has_freed() -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=faults_of_a_later_step, args=(theirs,))
    process.start()
    assert ours.recv() < 1000
    process.join()
