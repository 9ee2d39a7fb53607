"""Whether a device computes what the CPU does, and how fast it is.

python tests/device.py [--cpu] [--out DIR] [--parts tests,agreement,speed,command,published] [--methods NAME,…]
    [--limit SECONDS]

tests: the tests marked `cuda`. agreement: every method, scenario and backbone, some settings and designs, in float64 on
both, and twice on the device. speed: training steps per second. command: `clbench run` on the device.
published: a row of a paper, if real MNIST is there.
With --cpu the CPU takes the device's place, and everything is small. It needs clbench, pytest and a CUDA device, but no
network and no Avalanche; with real MNIST in CLBENCH_DATA_ROOT speed is measured on it, else on made-up images. Each
part is a process of its own with a time limit. What is done so far stands in DIR/device.json and DIR/device.md.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from device_cases import GENTLE, cases_of_methods, compare, further_cases, new
from device_report import faults, report
from device_speed import speed

from clbench.execution.environment import processor
from clbench.experiment import registry
from clbench.method import Learner, Method, can_be_captured, can_go_beside
from clbench.results.store import Store

PRESET = "vandeven2018-split-mnist"
RESULTS = Path(__file__).resolve().parents[1] / "results"
PARTS = ("tests", "agreement", "speed", "command", "published")
FEW = ("finetune", "lwf", "ewc", "replay")


def say(part: str, **values: Any) -> None:
    """Hand a result to the process that has started this one."""
    print(json.dumps({"part": part, **values}), flush=True)


def _in_several_ways(learner: Learner) -> bool:
    return isinstance(learner, Method) and (can_be_captured(learner) or can_go_beside(learner))


def agreement(device: str, options: argparse.Namespace, share: int, shares: int) -> None:
    """Compare every case of this process's share."""
    names = options.methods.split(",") if options.methods else FEW if options.cpu else registry.names("method")
    cases = [*cases_of_methods(names, options.cpu), *([] if options.methods else further_cases())]
    if options.cpu and not options.methods:  # and all those whose steps there are several ways to take
        more = [name for name in registry.names("method") if name not in names and _in_several_ways(new(name))]
        cases += [case for case in cases_of_methods(more, True) if case.label.endswith(", mlp")]
    torch.use_deterministic_algorithms(True)  # and refuse what can't be
    for case in cases[share::shares]:
        start = time.perf_counter()
        try:
            found = compare(case, device)
        except Exception as error:
            torch.set_default_dtype(torch.float32)
            found = {"error": f"{type(error).__name__}: {error}"[:500], "traceback": traceback.format_exc()[-3000:]}
        say("agreement", label=case.label, **found, seconds=round(time.perf_counter() - start, 2))


# ---------------------------------------------------------------------------------------------------------------------
# The command


def command(device: str, small: bool) -> None:
    """Let the command run methods on the device, four runs at a time, and on all cores of the CPU."""
    methods = ["--methods", "finetune"] if small else ["--methods", "all", "--scenario", "task,class,domain"]
    gentle = [] if small else [word for name in GENTLE for word in ("--set", f"{name}.strength=1")]
    words = ["--sequence", "split-digits", "--seeds", "1", "--epochs", "1", "--quiet", *methods, *gentle]
    for where, jobs in {device.partition(":")[0]: 2 if small else 4, "cpu": os.cpu_count() or 1}.items():
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            line = [sys.executable, "-P", "-m", "clbench", "run", *words, "--jobs", str(jobs), "--device", where]
            done = subprocess.run([*line, "--out", folder], capture_output=True, text=True, check=False)
            seconds = round(time.perf_counter() - start, 1)
            records = list(Store(Path(folder)).read()[0].values())
        found = {"label": f"{where}, {jobs} at a time", "records": len(records), "seconds": seconds}
        bad = [r for r in records if not r.ok]
        found["failed"] = sorted(f"{r.spec['label']}, {r.spec['scenario']}: {r.error}".splitlines()[0] for r in bad)
        say("command", **found, **({"error": done.stderr[-2000:]} if done.returncode and not bad else {}))


def published(device: str, small: bool) -> None:
    """Let the command compare van de Ven & Tolias' LwF with the number they published, on the device."""
    short = ["--seeds", "2", "--set", "training.iterations=2"] if small else ["--seeds", "5"]
    words = ["--rows", "LwF", "--scenario", "class", *short, "--jobs", "2" if small else "5", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-P", "-m", "clbench", "verify", PRESET, *words, "--device", device, "--out", folder]
        start = time.perf_counter()
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        seconds = round(time.perf_counter() - start, 1)
        try:
            with open(Path(folder) / f"verify-{PRESET}.csv", newline="") as file:
                row = next(csv.DictReader(file))
        except (OSError, StopIteration):
            say("published", label=PRESET, error=done.stderr[-2000:])
            return
    ours, theirs = (float(row[name]) for name in ("mean", "published"))
    agrees = row["verdict"] == "agrees" or small  # two steps agree with nothing
    say(
        "published",
        label=f"{PRESET}, LwF, class{', two steps' if small else ''}",
        ours=round(ours, 2),
        theirs=theirs,
        agrees=agrees,
        seconds=seconds,
    )


# ---------------------------------------------------------------------------------------------------------------------
# All parts


@dataclass
class Process:
    """A part, or a share of one, in a process of its own."""

    name: str
    words: list[str]  # of the command, after the interpreter
    limit: float  # seconds
    folder: Path
    began: float = 0.0
    ended: str = ""
    seconds: float = 0.0
    started: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        self.began = time.monotonic()
        with open(self.folder / f"{self.name}.out", "wb") as out, open(self.folder / f"{self.name}.err", "wb") as err:
            self.started = subprocess.Popen(
                [sys.executable, *self.words], stdout=out, stderr=err, env=environment, start_new_session=True
            )

    def is_over(self, end: float) -> bool:
        """Whether it has ended, or had to be ended because its time was over."""
        assert self.started is not None
        code, now = self.started.poll(), time.monotonic()
        if code is None and now < min(self.began + self.limit, end):
            return False
        if code is None:
            os.killpg(self.started.pid, signal.SIGKILL)
            self.started.wait()
        self.ended = "time over" if code is None else "ok" if code == 0 else f"exit code {code}"
        self.seconds = round(now - self.began, 1)
        return True

    def lines(self, kind: str) -> list[str]:
        path = self.folder / f"{self.name}.{kind}"
        return path.read_text(errors="replace").splitlines() if path.exists() else []


def processes(options: argparse.Namespace, folder: Path) -> Iterator[list[Process]]:
    """Yield the groups of processes that may run side by side."""
    chosen, cpu = options.parts.split(","), options.cpu
    same_options = [*(["--cpu"] if cpu else []), *(["--methods", options.methods] if options.methods else [])]

    def part(name: str, limit: float) -> Process:
        return Process(name.replace("/", "-"), [__file__, "--part", name, *same_options], limit, folder)

    cuda_tests = ["-P", "-m", "pytest", "-q", "-m", "cuda", "-W", "default", "-p", "no:cacheprovider", "--tb", "short"]
    shares = max(1, min(8, (os.cpu_count() or 1) - 2)) if not cpu else 1
    checks = [Process("tests", [*cuda_tests, str(Path(__file__).parent / "training" / "test_cuda.py")], 100, folder)]
    checks = checks if "tests" in chosen else []
    if "agreement" in chosen:
        checks += [part(f"agreement {share}/{shares}", 100) for share in range(shares)]
    yield checks
    if "speed" in chosen:
        yield [part("speed device", 60)]
        if not cpu:
            yield [part("speed cpu", 75)]
    if "command" in chosen:
        yield [part("command", 60)]
    if "published" in chosen and os.environ.get("CLBENCH_DATA_ROOT"):
        yield [part("published", 120)]


def one_part(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    device = "cpu" if options.cpu else "cuda:0"
    name, _, rest = options.part.partition(" ")
    if name == "agreement":
        share, shares = map(int, rest.split("/"))
        agreement(device, options, share, shares)
    elif name == "speed":
        for found in speed("cpu" if rest == "cpu" else device, options.cpu):
            say("speed", **found)
    elif name == "published":
        published(device, options.cpu)
    else:
        command(device, options.cpu)


def machine(cpu: bool) -> dict[str, Any]:
    """Return what was measured: the device, the processor and versions."""
    found: dict[str, Any] = {"device": "cpu"}
    if not cpu:
        found["device"] = torch.cuda.get_device_name(0)
        ask = ["nvidia-smi", "--query-gpu=memory.total,driver_version", "--format=csv,noheader"]
        with contextlib.suppress(OSError):
            found["memory_and_driver"] = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    versions = {"torch": str(torch.__version__), "python": platform.python_version()}
    return found | versions | {"processor": processor(), "cores": os.cpu_count()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--out", type=Path, help="where to write; default: results, and with --cpu results/cpu")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--methods", default="")
    parser.add_argument("--limit", type=float, default=440)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        one_part(options)
        return
    if not options.cpu and not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no CUDA device here: use --cpu")
    options.out = options.out or RESULTS / ("cpu" if options.cpu else "")
    sys.exit(check(options))


def check(options: argparse.Namespace) -> int:
    """Run all parts; return whether anything is wrong."""
    end, about, done = time.monotonic() + options.limit, machine(options.cpu), []
    with tempfile.TemporaryDirectory() as folder:
        for group in processes(options, Path(folder)):
            waiting, running = list(group), list[Process]()
            while waiting or running:
                while waiting and len(running) < (os.cpu_count() or 1):
                    waiting[0].start()
                    running.append(waiting.pop(0))
                over = [process for process in running if process.is_over(end)]
                running = [process for process in running if process not in over]
                done += over
                if over:
                    write(options.out, about, [*done, *running])
                    print(*(f"{p.name}: {p.ended}, {p.seconds} s" for p in over), sep="\n", file=sys.stderr, flush=True)
                time.sleep(0.1)
        content = write(options.out, about, done)
    print(report(content))
    return bool(faults(content))


def write(out: Path, about: dict[str, Any], done: Sequence[Process]) -> dict[str, Any]:
    """Write what the finished parts have said; return it."""
    parts, results = [], []
    for process in done:
        lines = process.lines("out")
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):  # what else a part prints, or a line half written
                results += [json.loads(line)] if line.startswith("{") else []
        said = [] if process.ended in ("ok", "") else [*lines[-40:], *process.lines("err")[-40:]]
        last = lines[-1] if process.name == "tests" and lines else ""
        part = {
            "part": process.name,
            "ended": process.ended or "still running",
            "seconds": process.seconds,
            "last_line": last,
        }
        parts.append(part | ({"said": said} if said else {}))
    content = {"machine": about, "parts": parts, "results": results}
    out.mkdir(parents=True, exist_ok=True)
    (out / "device.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "device.md").write_text(report(content))
    return content


if __name__ == "__main__":
    main()
