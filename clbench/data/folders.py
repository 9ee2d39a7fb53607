"""Where data lie: the folder of the data sets' files, and the cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from clbench.errors import UsageError


def data_root_folder(given: Path | None) -> Path:
    """Return the data root: as given, else CLBENCH_DATA_ROOT, else `datasets` in the cache folder."""
    named = given or os.environ.get("CLBENCH_DATA_ROOT")
    if not named:
        return cache_folder() / "datasets"
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise UsageError(f"the data root {named} is not a folder: make it, or name another with --data-root")
    return folder.resolve()


def cache_folder() -> Path:
    """Return the folder of materialised data: CLBENCH_CACHE, else the user's cache folder."""
    named = os.environ.get("CLBENCH_CACHE")
    return Path(named).expanduser().absolute() if named else Path(platformdirs.user_cache_dir("clbench"))
