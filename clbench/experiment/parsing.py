"""What was typed → values: seeds, class orders, settings, device, folder, workers. Needs nothing of a sweep."""

from __future__ import annotations

import numbers
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch

from clbench.errors import UsageError

PACKAGES = {"dask": "distributed", "ray": "ray"}  # of the backends that are clusters
MAX_SEED = 2**32 - 1  # the largest that NumPy's RandomState takes


def parse_seeds(value: int | str | Sequence[int]) -> list[int]:
    """Read seeds: a count n (0…n−1), a list `0,4,9`, ranges `10-19`, or a sequence of integers."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, bool) or not isinstance(value, (int, str, Sequence, range)):
        raise UsageError(f"seeds={value!r}: give a number of seeds, a list such as 0,4,9 or a range such as 10-19")
    if isinstance(value, int) or (isinstance(value, str) and re.fullmatch(r"\s*\d+\s*", value)):
        count = int(value)
        if count < 1:
            raise UsageError(f"seeds={count}: at least one seed is needed (5 means 0…4)")
        if count > 100_000:
            raise UsageError(
                f"seeds={count} is a number of seeds, 0…{count - 1}: for a single seed write {count}-{count}"
            )
        return list(range(count))
    seeds: list[int] = []
    for item in value.split(",") if isinstance(value, str) else value:
        single = isinstance(item, numbers.Integral) and not isinstance(item, bool)
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", str(item)) if single or isinstance(item, str) else None
        if match is None:
            raise UsageError(f"seeds={value!r}: cannot read {item!r}; write 5, 0,4,9 or 10-19")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"seeds={value!r}: the range {item} runs backwards")
        if last - first >= 100_000:
            raise UsageError(f"seeds={value!r}: {item} is more than 100,000 seeds")
        if last > MAX_SEED:
            raise UsageError(f"seeds={value!r}: {last} is too large, the largest seed is {MAX_SEED}")
        seeds += range(first, last + 1)
    if not seeds:
        raise UsageError("seeds: at least one is needed")
    return list(dict.fromkeys(seeds))


def parse_class_order(value: str | Sequence[int]) -> str | tuple[int, ...]:
    """Read a class order: `seed`, `fixed`, or the classes themselves."""
    if isinstance(value, str) and value in ("seed", "fixed"):
        return value
    try:
        items = value.split(",") if isinstance(value, str) else list(value)
        if not all(isinstance(item, (str, numbers.Integral)) for item in items):
            raise ValueError("not all are integers")
        return tuple(int(item) for item in items)
    except (TypeError, ValueError):
        raise UsageError(f"class order {value!r}: write seed, fixed, or classes such as 3,1,4") from None


def parse_settings(settings: Mapping[str, Any] | Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Read NAME.FIELD=VALUE settings into {name: {field: values}}; a comma list is a grid."""
    if isinstance(settings, Mapping):
        pairs = [(str(key), list(v) if isinstance(v, (list, tuple)) else [v]) for key, v in settings.items()]
        if empty := [key for key, values in pairs if not values]:
            raise UsageError(f"settings {empty[0]}: the list of values is empty")
    else:
        pairs = []
        for setting in settings:
            key, equals, value = setting.partition("=")
            values = [part.strip() for part in value.split(",")]
            if not equals or not all(values):
                raise UsageError(f"cannot read --set {setting}: write NAME.FIELD=VALUE, as in lwf.temperature=4")
            pairs.append((key.strip(), values))
    parsed: dict[str, dict[str, list[Any]]] = {}
    for key, values in pairs:
        name, dot, field_name = key.rpartition(".")
        if not (dot and name and field_name):
            raise UsageError(f"cannot read --set {key}: write NAME.FIELD=VALUE, as in lwf.temperature=4")
        if field_name in parsed.setdefault(name, {}):
            raise UsageError(f"--set {key} is given twice: write a comma list for a grid")
        parsed[name][field_name] = values
    return parsed


def check_device(device: str) -> list[str]:
    """Return the devices to run on: "cpu", every "cuda:N" there is, or the one that was named."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return ["cpu"]
    match = re.fullmatch(r"cuda(?::(\d+))?", "cuda" if device == "auto" else device)
    if match is None:
        raise UsageError(f"unknown device {device!r}: choose from auto, cpu, cuda, cuda:N")
    if not torch.cuda.is_available():
        raise UsageError(f"device {device!r}: PyTorch finds no CUDA device here; use --device cpu")
    if match[1] is None:
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    index = int(match[1])
    if index >= torch.cuda.device_count():
        raise UsageError(f"device {device!r}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    return [f"cuda:{index}"]


def check_folder(folder: Path) -> None:
    """Raise UsageError if a folder can't be made or written to; makes nothing."""
    try:
        existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
        if not existing.is_dir():
            raise UsageError(f"the output folder {folder} cannot be made: {existing} is a file")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise UsageError(f"the output folder {folder} cannot be written: no permission for {existing}")
        with tempfile.TemporaryFile(dir=existing):
            pass  # some file systems say no only when asked
    except OSError as error:
        raise UsageError(f"the output folder {str(folder)[:80]} cannot be used: {error.strerror or error}") from None


def check_timeout(timeout: float | None) -> None:
    """Raise UsageError unless it is a number of seconds."""
    if timeout is not None and not 0 < timeout < 1e8:
        raise UsageError(f"timeout={timeout}: a run needs some seconds, fewer than three years of them")


def check_eval_every(updates: int | None) -> None:
    """Raise UsageError unless it is a number of updates."""
    if updates is None:
        return
    if isinstance(updates, bool) or not isinstance(updates, int) or not 1 <= updates <= 2**31:
        raise UsageError(f"eval_every={updates}: give the updates between two evaluations, from 1 to {2**31}")


def check_workers(jobs: int | None, threads: int, device: str, backend: str) -> int:
    """Return how many runs go side by side on a device: one on `threads` cores or a GPU, unless told."""
    if jobs is not None and (isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1):
        raise UsageError(f"jobs={jobs}: at least one worker is needed")
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise UsageError(f"threads={threads}: a run has at least one")
    cores = joblib.cpu_count()
    if threads > 1:
        if backend != "local":
            raise UsageError(f"threads={threads} are of this machine's cores, and a run on {backend} has one")
        if device != "cpu":
            raise UsageError(f"threads={threads} are the CPU's, and these runs are on {device}: leave it out")
        if threads * (jobs or 1) > cores:  # threads that wait for a core hold the others up many times over
            side_by_side = f"{jobs} runs of {threads} threads" if jobs and jobs > 1 else f"threads={threads}"
            raise UsageError(f"{side_by_side}: this machine has {cores} core{'s' * (cores > 1)}")
    if jobs is not None:
        return jobs
    return 1 if device.startswith("cuda") else cores // threads


def check_backend(backend: str, scheduler: str | None) -> None:
    """Raise UsageError unless runs can be sent there, as far as can be told without asking it."""
    if backend not in ("local", *PACKAGES):
        raise UsageError(f"unknown backend {backend!r}: choose from local, {', '.join(PACKAGES)}")
    if backend == "local" and scheduler is not None:
        raise UsageError("--scheduler is the address of a cluster: give --backend dask or ray with it")
    if backend == "dask" and not scheduler:
        raise UsageError("--backend dask needs --scheduler ADDRESS, as in tcp://10.0.0.1:8786")


def check_cluster_device(device: str) -> str:
    """Return the device of a run on a cluster, "cpu" or the first of those that its worker sees."""
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {device!r}: each worker of a cluster has its own, choose from cpu (as auto), cuda")
    return "cuda:0" if device == "cuda" else "cpu"
