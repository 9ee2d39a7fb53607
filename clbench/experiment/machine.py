"""What this machine has for a sweep: devices, cores, kernels, a folder that can be written to."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import joblib
import torch

from clbench.errors import UsageError
from clbench.experiment.request import Request
from clbench.training.precision import check_precision


def check_machine(request: Request) -> tuple[list[str], int]:
    """Return the devices of a sweep and how many runs go side by side; raise UsageError for what there is not."""
    devices = check_device(request.device) if request.backend == "local" else [check_cluster_device(request.device)]
    check_precision(request.precision, devices[0])
    if request.kernels == "onednn" and devices[0] != "cpu":
        raise UsageError(f"kernels onednn are the CPU's, and these runs are on {devices[0]}: leave it out")
    if request.kernels == "onednn" and not torch.backends.mkldnn.is_available():
        raise UsageError("kernels onednn: this PyTorch has no oneDNN; leave it out")
    workers = check_workers(request, devices[0])
    check_folder(request.out)
    return devices, workers * len(devices)


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


def check_cluster_device(device: str) -> str:
    """Return the device of a run on a cluster, "cpu" or the first of those that its worker sees."""
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {device!r}: each worker of a cluster has its own, choose from cpu (as auto), cuda")
    return "cuda:0" if device == "cuda" else "cpu"


def check_workers(request: Request, device: str) -> int:
    """Return how many runs go side by side on a device: one on its threads' cores or a GPU, unless told."""
    jobs, threads, cores = request.jobs, request.threads, joblib.cpu_count()
    if threads > 1:
        if request.backend != "local":
            raise UsageError(f"threads={threads} are of this machine's cores, and a run on {request.backend} has one")
        if device != "cpu":
            raise UsageError(f"threads={threads} are the CPU's, and these runs are on {device}: leave it out")
        if threads * (jobs or 1) > cores:  # threads that wait for a core hold the others up many times over
            side_by_side = f"{jobs} runs of {threads} threads" if jobs and jobs > 1 else f"threads={threads}"
            raise UsageError(f"{side_by_side}: this machine has {cores} core{'s' * (cores > 1)}")
    if jobs is not None:
        return jobs
    return 1 if device.startswith("cuda") else cores // threads


def check_folder(folder: Path) -> None:
    """Raise UsageError if a folder can't be made or written to; makes nothing."""
    try:
        existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UsageError(f"the output folder {str(folder)[:80]} cannot be used: {error.strerror or error}") from None
