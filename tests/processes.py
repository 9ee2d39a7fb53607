"""Commands of clbench in processes of their own, and what becomes of their workers; Linux only."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

LONG = 600  # seconds that nothing takes: reached only where a test would wait for ever


@contextlib.contextmanager
def command(*words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start `clbench` with these words; kill it at the end if it still runs."""
    options: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    options |= {"env": {**os.environ, **environment}, "preexec_fn": heed_signals}
    with subprocess.Popen([sys.executable, "-P", "-m", "clbench", *words], **options) as process:
        try:
            yield process
        finally:
            process.kill()


def heed_signals() -> None:
    """Undo what a process in the background inherits: it ignores Ctrl-C, and after nohup the terminal's end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def until(condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Wait for a condition; fail if the process ends before."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started; none if it has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def all_end(pids: Iterable[int]) -> None:
    """Wait until none of these processes is alive."""
    until(lambda: not any(map(alive, pids)))
