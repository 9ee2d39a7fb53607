"""The command `doctor`: what this machine offers, and what clbench will use of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from clbench.errors import UsageError
from clbench.experiment.request import Request
from clbench.version import __version__

PACKAGES = ("torch", "torchvision", "avalanche-lib", "numpy", "pandas", "scipy", "matplotlib")
OPTIONAL = {  # by package: what it is for
    "timm": "--model timm:NAME",
    "optuna": "clbench tune",
    "tensorboard": "--track tensorboard",
    "pyarrow": "Parquet in reports",
    "distributed": "--backend dask",
    "ray": "--backend ray",
}


def doctor(
    data_root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the data sets. Default: $CLBENCH_DATA_ROOT.")
    ] = None,
) -> None:
    """Say what this machine offers, and what runs will use of it."""
    parts = _software(), _processor(), _devices(), _data(data_root)
    typer.echo("\n".join([line for part in parts for line in part]))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _software() -> Iterator[str]:
    yield f"clbench {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield "packages: " + ", ".join(f"{name} {_version(name) or 'MISSING'}" for name in PACKAGES)
    there = {name: _version(name) for name in OPTIONAL}
    yield "for more: " + ", ".join(
        f"{name} {version}" if version else f"no {name}, for {OPTIONAL[name]}" for name, version in there.items()
    )


def _processor() -> Iterator[str]:
    from clbench.execution.environment import processor
    from clbench.experiment.planning import count_cores

    cores = count_cores()
    yield f"processor: {processor()}; {cores} of {os.cpu_count()} cores may be used"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield f"memory: {_gigabytes(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))}"


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _devices() -> Iterator[str]:
    import torch

    from clbench.experiment.planning import check_machine

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
            size, ability = _gigabytes(about.total_memory), f"{about.major}.{about.minor}"
            yield f"cuda:{number}: {about.name}, {size}, compute capability {ability}, {bf16}"
    else:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        yield f"GPU: none that PyTorch finds ({built})"
    try:
        devices, workers = check_machine(Request())
        takes = f"'clbench run' takes {', '.join(devices)}, {workers} runs at a time"
        yield f"{takes}; --device and --jobs choose otherwise"
    except UsageError as error:
        yield f"'clbench run' cannot start here: {error}"
    precisions = "fp32, tf32, bf16" if torch.cuda.is_available() else "fp32, bf16"
    onednn = "pytorch, onednn" if torch.backends.mkldnn.is_available() else "pytorch"
    yield f"--precision {precisions}; --kernels {onednn}"


def _data(data_root: Path | None) -> Iterator[str]:
    from clbench.data.cache import cache_folder, data_root_folder
    from clbench.data.sources import SOURCES, present

    folder = data_root_folder(data_root)
    found = [name for name, source in SOURCES.items() if len(present(source, folder)) == len(source.files)]
    yield f"data sets in {folder}: {', '.join(found) or 'none yet; they are downloaded when they are needed'}"
    cache = cache_folder()
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    yield f"cache: {cache}, {_gigabytes(shutil.disk_usage(existing).free)} free"
