"""The fault campaign: a small sweep is disturbed in every way, and must end as if nothing had happened.

python tests/campaign.py [--kills 100] [--damages 50] [--seed 0]     try, and write results/faults.md

Lost: finished records that a fault took away. Wrong: records that differ, after the sweep was started again, from those
of the undisturbed sweep, in what 'equal bit for bit' means. Linux only; the full disk needs the right to mount one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import children

import clbench
from clbench.results.record import SAME, RunRecord
from clbench.results.store import Store

METHODS = "finetune,lwf,si,replay"
TABLE = Path(__file__).parents[1] / "results" / "faults.md"
LIMIT = 20  # seconds that a run may take

BAD_METHODS = '''
import torch
from clbench.method import Method


class Raises(Method):
    """Raises in its second task"""

    name = "raises"

    def start_task(self, task):
        if task.index == 1:
            raise ZeroDivisionError("a bug")


class ReturnsNaN(Method):
    """Has a loss that is not a number"""

    name = "nan"

    def loss(self, step):
        return step.cross_entropy() * float("nan")


class Hangs(Method):
    """Never comes back"""

    name = "hangs"

    def after_step(self, step):
        while True:
            pass


class AllocatesTooMuch(Method):
    """Asks for more memory than any machine has"""

    name = "allocates"

    def start_task(self, task):
        self.waste = torch.zeros(2**50)


class Deaf(Method):
    """Never comes back, and hears no signal"""

    name = "deaf"

    def start_task(self, task):
        import signal, time

        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        time.sleep(10**6)
'''
BAD = {
    "Raises": "bad_methods.py, line 13, at task 2 of 5",
    "ReturnsNaN": "the loss is nan at task 1, epoch 1",
    "Hangs": "it took longer than the time limit of 20 s",
    "AllocatesTooMuch": "at task 1 of 5",
    "Deaf": "it took longer than the time limit of 20 s",
}


WHAT = {
    "Raises": "raises",
    "ReturnsNaN": "returns NaN",
    "Hangs": "hangs",
    "AllocatesTooMuch": "allocates too much",
    "Deaf": "hangs, deaf to signals",
}


@dataclass
class Tried:
    """What a kind of fault did."""

    fault: str
    tried: int = 0
    lost: int = 0
    wrong: int = 0


def good(folder: Path) -> set[str]:
    """Return the keys of finished records."""
    return {key for key, record in Store(folder).read()[0].items() if record.ok}


@dataclass
class Campaign:
    """A sweep of some seeds, and where it is disturbed."""

    place: Path
    draws: random.Random
    seeds: int
    undisturbed: dict[str, RunRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.finish(self.place / "undisturbed")
        self.undisturbed = Store(self.place / "undisturbed").read()[0]

    def start(self, folder: Path, *words: str, more: str = "", **options: Any) -> subprocess.Popen[str]:
        """Start the sweep as a command with two workers; `more` are methods beside its own."""
        command = [sys.executable, "-P", "-m", "clbench", "run", "--methods", METHODS + more, "--epochs", "3"]
        command += ["--seeds", str(self.seeds), "--jobs", "2", "--quiet", "--out", str(folder), *words]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, **{**pipes, **options})  # type: ignore[call-overload]

    def finish(self, folder: Path, checkpoint: bool = False) -> None:
        """Run the sweep, or what is missing of it, in this process."""
        options: dict[str, Any] = {"seeds": self.seeds, "epochs": 3, "jobs": 1, "checkpoint": checkpoint}
        if failed := clbench.run(METHODS, out=folder, quiet=True, **options).failed:
            raise SystemExit(f"the sweep does not end well: {failed[0].error}")

    def judge(self, tried: Tried, folder: Path) -> None:
        """Count what is not as it was without the fault."""
        records, _ = Store(folder).read()
        for key, record in self.undisturbed.items():
            found = records.get(key)
            tried.wrong += found is None or any(getattr(found, name) != getattr(record, name) for name in SAME)
        tried.wrong += len(set(records) - set(self.undisturbed))

    def kills(self, count_parents: int, count_workers: int) -> list[Tried]:
        """Kill the parent or a worker at random moments, until so many have been killed; then let the sweep end."""
        parents, workers = Tried("kill -9 of the parent"), Tried("kill -9 of a worker")
        left = [parents] * count_parents + [workers] * count_workers
        self.draws.shuffle(left)
        number = 0
        while left:
            number += 1
            folder, checkpoint = self.place / f"kills-{number}", number % 2 == 1
            while left and len(good(folder)) < len(self.undisturbed):
                with self.start(folder, *["--checkpoint"] * checkpoint) as process:
                    while left and self._kill(process, left[-1], folder, left[-1] is parents):
                        if left.pop() is parents:
                            break
                    else:
                        process.communicate()
            self.finish(folder, checkpoint)
            self.judge(parents if parents.tried else workers, folder)
            shutil.rmtree(folder)
        return [parents, workers]

    def _kill(self, process: subprocess.Popen[str], tried: Tried, folder: Path, parent: bool) -> bool:
        """Kill one a random moment after a random number of records; return False if the sweep has ended before.

        To wait for all the records is to let the sweep end. Without that, on a slow machine, the last run would always
        be killed before it is done.
        """
        wanted = self.draws.randint(len(good(folder)), len(self.undisturbed))
        while process.poll() is None and not (children(process.pid) and len(good(folder)) >= wanted):
            time.sleep(0.02)
        time.sleep(self.draws.uniform(0, 0.2))
        found = children(process.pid)
        if process.poll() is not None or not found:
            return False
        there = good(folder)
        try:
            os.kill(process.pid if parent else self.draws.choice(found), signal.SIGKILL)
        except ProcessLookupError:  # it has just ended by itself
            return self._kill(process, tried, folder, parent)
        tried.tried += 1
        tried.lost += len(there - good(folder))
        return True

    def damages(self, count: int) -> list[Tried]:
        """Damage records of a finished sweep; it must run each again, and keep the damaged file."""
        kinds = [Tried(f"a record {what}") for what in ("with flipped bytes", "cut", "emptied", "replaced")]
        folder, number = self.place / "damages", 0
        shutil.copytree(self.place / "undisturbed", folder)
        while number < count:
            some: list[tuple[Tried, Path]] = []
            for path in self.draws.sample(sorted(folder.glob("*.json")), 5):
                kind = kinds[number % 4]
                path.write_bytes(_damaged(number % 4, path.read_bytes(), self.draws))
                some.append((kind, path))
                kind.tried += 1
                number += 1
            bad = {path: path.read_bytes() for _, path in some}
            intact = good(folder)
            self.finish(folder)
            for kind, path in some:
                kind.lost += path.stem in intact  # not seen to be damaged
                kind.lost += not any(kept.read_bytes() == bad[path] for kept in folder.glob(f"{path.name}.damaged*"))
            self.judge(kinds[0], folder)
        return kinds

    def full_disk(self) -> list[Tried]:
        """Run on a file system that has room for some of the records; then make room."""
        tried, folder = Tried("a full disk"), self.place / "small"
        folder.mkdir()
        room = 4 * len(self.undisturbed) * 2 // 3  # a record fills one page of 4 KiB
        mount = ["mount", "-t", "tmpfs", "-o", f"size={room}k", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
            return [tried]
        try:
            records = folder / "records"
            with self.start(records) as process:
                _, errors = process.communicate()
            tried.tried += 1
            tried.wrong += process.returncode != 1 or len(errors.splitlines()) != 1 or str(records) not in errors
            there, problems = Store(records).read()
            tried.wrong += len(problems) + (not 0 < len(there) < len(self.undisturbed))
            subprocess.run(["mount", "-o", "remount,size=10m", str(folder)], check=True)
            tried.lost += len(set(there) - good(records))
            self.finish(records)
            self.judge(tried, records)
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        return [tried]

    def two_writers(self) -> list[Tried]:
        """Start the same sweep twice at once, into one folder."""
        tried, folder = Tried("two sweeps into one folder", tried=1), self.place / "two"
        with self.start(folder) as one, self.start(folder) as other:
            for process in (one, other):
                process.communicate()
        tried.wrong += (one.returncode, other.returncode) != (0, 0)
        self.judge(tried, folder)
        return [tried]

    def bad_methods(self, bad: dict[str, str]) -> list[Tried]:
        """Run methods that raise, return NaN, hang and allocate too much beside good ones, with a limit to memory."""
        folder, file = self.place / "bad", self.place / "bad_methods.py"
        file.write_text(BAD_METHODS)
        more = "".join(f",{file}:{name}" for name in bad)

        def less_memory() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))

        with self.start(folder, "--timeout", str(LIMIT), more=more, preexec_fn=less_memory) as process:
            process.communicate()
        records, problems = Store(folder).read()
        found = []
        for name, message in bad.items():
            tried = Tried(f"a method that {WHAT[name]}")
            failed = [record for record in records.values() if record.spec["method"].endswith(f":{name}")]
            tried.tried = len(failed)
            tried.lost = self.seeds - len(failed) + len(problems)
            tried.wrong = sum(message not in (record.error or "").split("\n")[0] for record in failed)
            found.append(tried)
        for key, record in records.items():
            if ":" in record.spec["method"]:
                (folder / f"{key}.json").unlink()
        found[0].wrong += process.returncode != 1
        self.judge(found[0], folder)
        return found


def _damaged(kind: int, data: bytes, draws: random.Random) -> bytes:
    if kind == 0:
        flipped = bytearray(data)
        for place in draws.sample(range(len(data) - 1), draws.randint(1, 8)):  # the last one ends the line
            flipped[place] ^= 1 << draws.randrange(8)
        return bytes(flipped)
    if kind == 1:
        return data[: draws.randrange(1, len(data) - 2)]
    if kind == 2:
        return b""
    other = json.loads(data)
    return draws.choice(
        [b"null\n", b"[1, 2]\n", os.urandom(100), json.dumps({**other, "schema": 99}).encode(), b'{"key": 1}']
    )


def campaign(
    n_parents: int, n_workers: int, n_damages: int, seed: int, seeds: int = 3, bad: dict[str, str] = BAD
) -> list[Tried]:
    """Try everything; return what came of it. `bad` are methods and what their records should say."""
    with tempfile.TemporaryDirectory(prefix="clbench-campaign-") as name:
        it = Campaign(Path(name), random.Random(seed), seeds)
        return [
            *it.kills(n_parents, n_workers),
            *it.damages(n_damages),
            *it.full_disk(),
            *it.two_writers(),
            *(it.bad_methods(bad) if bad else ()),
        ]


def table(found: list[Tried]) -> str:
    rows = [f"| {tried.fault} | {tried.tried} | {tried.lost} | {tried.wrong} |" for tried in found]
    total = [sum(getattr(tried, name) for tried in found) for name in ("tried", "lost", "wrong")]
    rows.append(f"| all | {total[0]} | {total[1]} | {total[2]} |")
    return "\n".join(["| fault | tried | lost | wrong |", "| --- | ---: | ---: | ---: |", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--damages", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = campaign(
        options.kills * 15 // 100, options.kills - options.kills * 15 // 100, options.damages, options.seed
    )
    words = f"python tests/campaign.py --kills {options.kills} --damages {options.damages} --seed {options.seed}"
    heading = "# Faults\n\nA small sweep (12 runs) disturbed in every way, and started again; what is lost and wrong is"
    TABLE.write_text(
        f"{heading}\ndefined in `tests/campaign.py`. Written by `{words}`.\n\n{table(found)}\n", encoding="utf-8"
    )
    print(table(found))
    sys.exit(any(tried.lost or tried.wrong for tried in found))


if __name__ == "__main__":
    main()
