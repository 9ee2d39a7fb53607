"""Sweeps planned from keyword arguments, for tests that look at their jobs."""

from collections.abc import Mapping
from typing import Any

from clbench.execution.sweep import Sweep, prepare
from clbench.experiment.request import Request


def prepared(methods: Any = None, *, training: Mapping[str, Any] | None = None, **options: Any) -> Sweep:
    """Plan a sweep and take over the records that are there; `training` are options too."""
    return prepare(Request(methods=methods, **(training or {}), **options))
