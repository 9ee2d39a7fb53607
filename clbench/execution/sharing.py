"""First tasks that runs of a sweep share: in which files, and in which order runs should go."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from clbench.errors import UsageError
from clbench.experiment.spec import Job

PREFIX = "clbench-sweep-"  # of temporary folders


def order_jobs(jobs: Sequence[Job], workers: int, folder: Path) -> list[Job]:
    """Order jobs so that few wait for another's first task, and give those that share one its file in `folder`.

    Jobs that train on old data take longest and come early. Groups with the same first task are taken some at a time,
    so that few files are there at once.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.spec.first_task_key if job.plain_first_task else job.spec.key, []).append(job)
    ordered: list[Job] = []
    some = max(16, 2 * workers)
    for start in range(0, len(groups), some):
        leading, following = [], []
        for name, group in list(groups.items())[start : start + some]:
            path = folder / f"{name}.pt" if len(group) > 1 else None
            first, *rest = sorted(
                (dataclasses.replace(job, first_task=path) for job in group), key=lambda job: not job.memory
            )
            leading.append(first)
            following += rest
        ordered += [*leading, *sorted(following, key=lambda job: not job.memory)]
    return ordered


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder that is removed with this context; remove those that killed sweeps have left."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=PREFIX)
    except OSError as error:
        raise UsageError(f"no temporary folder can be made ({error.strerror}): set TMPDIR to one") from None
    with folder as name, FileLock(Path(name) / ".lock"):
        for other in Path(name).parent.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError, Timeout):
                if time.time() - other.stat().st_mtime > 60:  # a younger one may not be locked yet
                    with FileLock(other / ".lock", timeout=0):
                        shutil.rmtree(other)
        yield Path(name)
