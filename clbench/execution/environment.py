"""What a record says about where its run was done: versions, processor or GPU, commit; and how its data
differ from those that are known under their name."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from clbench.experiment.spec import Job


def describe_environment(job: Job) -> dict[str, Any]:
    """Return the versions, device and settings of this process, for a job's record."""
    on_gpu = job.device != "cpu"
    return {
        "clbench": importlib.metadata.version("clbench"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": importlib.metadata.version("numpy"),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(job.device) if on_gpu else processor(),
        "threads": torch.get_num_threads(),
        "precision": job.spec.precision,
        "kernels": job.spec.kernels,
        "deterministic": not on_gpu or torch.are_deterministic_algorithms_enabled(),
        "commit": job.commit,
        **({"data": list(job.remarks)} if job.remarks else {}),
    }


@cache
def processor() -> str:
    """Return the processor's name with family, model and vector instructions: sums of two of one name may differ."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        fields = dict(re.findall(r"^(cpu family|model name|model)\s*:\s*(.+?)\s*$", _cpuinfo(), re.MULTILINE))
    name = fields.pop("model name", platform.processor() or platform.machine())
    kind = [f"{field.removeprefix('cpu ')} {value}" for field, value in sorted(fields.items())]
    return f"{name} ({', '.join([*kind, torch.backends.cpu.get_cpu_capability()])})"


def _cpuinfo() -> str:
    return Path("/proc/cpuinfo").read_text()


def checkout_commit() -> str | None:
    """Return the commit of the checkout that clbench is imported from, marked if code changed; None outside of one."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str | None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["git", "-C", str(here.parent), *arguments]
            return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
        return None

    if git("ls-files", "--error-unmatch", here.name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    code = (":/clbench", ":/methods", ":/pyproject.toml")  # results lie in a checkout too, and change
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *code)
    return f"{commit} (changed)" if commit and changed else commit
