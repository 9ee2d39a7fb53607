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
from dataclasses import dataclass
from pathlib import Path

from clbench.results.store import SAME, RunRecord, Store

METHODS = "finetune,lwf,si,replay"
WORDS = f"run --methods {METHODS} --seeds 3 --epochs 3 --jobs 2 --quiet --out".split()
TABLE = Path(__file__).parents[1] / "results" / "faults.md"

BAD_METHODS = '''
import torch
from clbench.method.base import Method


class Raises(Method):
    """Raises in its second task"""

    name = "raises"

    def start_task(self, model, task):
        if task.index == 1:
            raise ZeroDivisionError("a bug")


class ReturnsNaN(Method):
    """Has a loss that is not a number"""

    name = "nan"

    def loss(self, model, batch, criterion):
        return criterion(model, batch) * float("nan")


class Hangs(Method):
    """Never comes back"""

    name = "hangs"

    def after_step(self, model):
        while True:
            pass


class AllocatesTooMuch(Method):
    """Asks for more memory than any machine has"""

    name = "allocates"

    def start_task(self, model, task):
        self.waste = torch.zeros(2**50)


class Deaf(Method):
    """Never comes back, and hears no signal"""

    name = "deaf"

    def start_task(self, model, task):
        import signal, time

        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(10**6)
'''
BAD = {
    "Raises": "ZeroDivisionError: a bug, at task 2 of 5",
    "ReturnsNaN": "the loss is nan at task 1, epoch 1",
    "Hangs": "it took longer than the time limit of 20 s, at task 1 of 5",
    "AllocatesTooMuch": "at task 1 of 5",
    "Deaf": "deaf to its time limit of 20 s",
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

    def judge(self, folder: Path, undisturbed: dict[str, RunRecord]) -> None:
        """Count what is not as it was without the fault."""
        records, _ = Store(folder).read()
        for key, record in undisturbed.items():
            found = records.get(key)
            self.wrong += found is None or any(getattr(found, name) != getattr(record, name) for name in SAME)
        self.wrong += len(set(records) - set(undisturbed))


def start(*words: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "clbench", *words]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **{**pipes, **options})  # type: ignore[call-overload]


def finish(folder: Path) -> str:
    """Start the sweep, or what is missing of it, and let it end; return what it said."""
    with start(*WORDS, str(folder)) as process:
        _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"the sweep does not end: {errors}")
    return errors


def good(folder: Path) -> set[str]:
    return {key for key, record in Store(folder).read()[0].items() if record.ok}


def kills(count: int, draws: random.Random, undisturbed: dict[str, RunRecord], place: Path) -> list[Tried]:
    """Kill the parent or a worker at random moments until `count` have been killed; then let the sweep end."""
    parents, workers = Tried("kill -9 of the parent"), Tried("kill -9 of a worker")
    round_ = 0
    while parents.tried + workers.tried < count:
        round_ += 1
        folder, ended = place / f"kills-{round_}", False
        options = ["--checkpoint"] * (round_ % 2)
        while not ended and parents.tried + workers.tried < count:
            with start(*WORDS, str(folder), *options) as process:
                while parents.tried + workers.tried < count:
                    parent = draws.random() < 0.15  # workers are rarely there long enough
                    if parent:
                        time.sleep(draws.uniform(0, 5))
                    else:  # there are none while the sweep is being planned
                        while process.poll() is None and not _children(process.pid):
                            time.sleep(0.01)
                        time.sleep(draws.uniform(0, 1.5))
                    children = _children(process.pid)
                    if process.poll() is not None or not (parent or children):
                        ended = process.poll() is not None
                        break
                    there = good(folder)
                    tried = parents if parent else workers
                    victim = process.pid if parent else draws.choice(children)
                    try:
                        os.kill(victim, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
                    tried.tried += 1
                    tried.lost += len(there - good(folder))
                    if parent:
                        break
                else:
                    process.communicate()
        finish(folder)
        (parents if parents.tried else workers).judge(folder, undisturbed)
        shutil.rmtree(folder)
    return [parents, workers]


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def damages(count: int, draws: random.Random, undisturbed: dict[str, RunRecord], place: Path) -> list[Tried]:
    """Damage records of a finished sweep; it must name each, run it again, and keep the damaged file."""
    kinds = [Tried(f"a record {what}") for what in ("with flipped bytes", "cut", "emptied", "replaced")]
    folder, number = place / "damages", 0
    finish(folder)
    while number < count:
        some: list[tuple[Tried, Path]] = []
        for path in draws.sample(sorted(folder.glob("*.json")), 5):
            kind = kinds[number % 4]
            path.write_bytes(_damaged(number % 4, path.read_bytes(), draws))
            some.append((kind, path))
            kind.tried += 1
            number += 1
        bad = {path: path.read_bytes() for _, path in some}
        intact = good(folder)
        finish(folder)
        for kind, path in some:
            kind.lost += path.stem in intact  # not seen to be damaged
            kind.lost += not any(kept.read_bytes() == bad[path] for kept in folder.glob(f"{path.name}.damaged*"))
        for kind in kinds[:1]:
            kind.judge(folder, undisturbed)
    return kinds


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


def full_disk(undisturbed: dict[str, RunRecord], place: Path) -> list[Tried]:
    """Run on a file system that has room for some of the records; then make room."""
    tried, folder = Tried("a full disk"), place / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        return [tried]
    try:
        records = folder / "records"
        with start(*WORDS, str(records)) as process:
            _, errors = process.communicate()
        tried.tried += 1
        tried.wrong += process.returncode != 1 or len(errors.splitlines()) != 1 or str(records) not in errors
        there, problems = Store(records).read()
        tried.wrong += len(problems) + (not 0 < len(there) < len(undisturbed))
        subprocess.run(["mount", "-o", "remount,size=10m", str(folder)], check=True)
        tried.lost += len(set(there) - good(records))
        finish(records)
        tried.judge(records, undisturbed)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    return [tried]


def two_writers(undisturbed: dict[str, RunRecord], place: Path) -> list[Tried]:
    """Start the same sweep twice at once, into one folder."""
    tried, folder = Tried("two sweeps into one folder", tried=1), place / "two"
    with start(*WORDS, str(folder)) as one, start(*WORDS, str(folder)) as other:
        for process in (one, other):
            process.communicate()
    tried.wrong += (one.returncode, other.returncode) != (0, 0)
    tried.judge(folder, undisturbed)
    return [tried]


def bad_methods(undisturbed: dict[str, RunRecord], place: Path, bad: dict[str, str]) -> list[Tried]:
    """Run methods that raise, return NaN, hang and allocate too much beside good ones, with a limit to memory."""
    folder, file = place / "bad", place / "bad_methods.py"
    file.write_text(BAD_METHODS)
    names = ",".join([METHODS, *(f"{file}:{name}" for name in bad)])
    words = [names if word == METHODS else word for word in WORDS]

    def less_memory() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))

    with start(*words, str(folder), "--timeout", "20", preexec_fn=less_memory) as process:
        process.communicate()
    records, problems = Store(folder).read()
    found = []
    for name, message in bad.items():
        tried = Tried(f"a method that {WHAT[name]}")
        failed = [record for record in records.values() if record.spec["method"].endswith(f":{name}")]
        tried.tried = len(failed)
        tried.lost = 3 - len(failed) + len(problems)
        tried.wrong = sum(message not in (record.error or "").split("\n")[0] for record in failed)
        found.append(tried)
    others = {key: record for key, record in records.items() if ":" not in record.spec["method"]}
    found[0].wrong += process.returncode != 1 or set(others) != set(undisturbed)
    found[0].wrong += sum(
        any(getattr(others[key], name) != getattr(record, name) for name in SAME)
        for key, record in undisturbed.items()
        if key in others
    )
    return found


def campaign(n_kills: int, n_damages: int, seed: int, bad: dict[str, str] = BAD) -> list[Tried]:
    """Try everything; return what came of it. `bad` are methods and what their records should say."""
    draws = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="clbench-campaign-") as name:
        place = Path(name)
        finish(place / "undisturbed")
        undisturbed = Store(place / "undisturbed").read()[0]
        return [
            *kills(n_kills, draws, undisturbed, place),
            *damages(n_damages, draws, undisturbed, place),
            *full_disk(undisturbed, place),
            *two_writers(undisturbed, place),
            *bad_methods(undisturbed, place, bad),
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
    found = campaign(options.kills, options.damages, options.seed)
    words = f"python tests/campaign.py --kills {options.kills} --damages {options.damages} --seed {options.seed}"
    heading = "# Faults\n\nA small sweep (12 runs) disturbed in every way, and started again; what is lost and wrong is"
    TABLE.write_text(
        f"{heading}\ndefined in `tests/campaign.py`. Written by `{words}`.\n\n{table(found)}\n", encoding="utf-8"
    )
    print(table(found))
    sys.exit(any(tried.lost or tried.wrong for tried in found))


if __name__ == "__main__":
    main()
