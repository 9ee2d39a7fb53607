"""Do the commands of documents, made small, one after another in this process: do_commands.py FOLDER DOCUMENT….

Everything happens in FOLDER. Each command that does not end with 0 is a line on standard output.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import runpy
import shlex
import sys
from pathlib import Path
from typing import TextIO

from documents import blocks, files, is_planned

from clbench.cli.app import main
from clbench.experiment import registry

SMALL = ("--epochs", "1", "--seeds", "1", "--jobs", "1", "--quiet")  # the last of an option given twice counts
BASE = "clbench run --methods finetune,lwf,joint --seeds 2 --epochs 1 --jobs 1 --quiet"


def clbench(words: list[str]) -> int | str | None:
    sys.argv = words
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    return 0


def do(command: str) -> int | str | None:
    """Do one command, and return its exit code or what went wrong."""
    data_root = os.environ.get("CLBENCH_DATA_ROOT")
    if is_planned(command):
        if not data_root:
            return 0
        return clbench([*shlex.split(command.replace("~/data", data_root)), "--dry-run"])
    program, *words = shlex.split(command.removeprefix(".venv/bin/"))
    if program == "clbench":
        small = SMALL if words[0] in ("run", "tune") and "--dry-run" not in words else ()
        small += ("--trials", "2") if words[0] == "tune" else ()
        if words[0] == "report" and "--formats" not in words:
            small = ("--formats", "svg")
        return clbench([program, *words, *small])
    if program == "pytest":
        import pytest

        return pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *words])
    if program == "python" and words[0] == "-c":
        code = words[1].replace("check_method(Pull)", "check_method(Pull, models=['mlp'])")
        exec(code, {})
        return 0
    if program == "python":
        runpy.run_path(words[0])
        return 0
    return "no way is known to do this: see NOT_RUN in documents.py"


def lay_out(folder: Path) -> None:
    """Write the documents' files, and let clbench find its own ones among them."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    for name, text in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for package in ("clbench.methods", "clbench.sequences"):
        place = "methods" if package == "clbench.methods" else "clbench/sequences"
        importlib.import_module(package).__path__.append(str(folder / place))
    registry.found.cache_clear()


def records(folder: Path) -> None:
    """Make the records that commands read."""
    assert clbench(shlex.split(BASE)) == 0
    for machine, method in (("machine-a", "lwf"), ("machine-b", "joint")):
        assert clbench(shlex.split(f"{BASE} --methods {method} --seeds 2-2 --out {machine}/runs")) == 0
    (folder / "results/reference").symlink_to(Path(__file__).parents[2] / "results/reference")


def do_all(folder: Path, documents: list[str], output: TextIO) -> None:
    """Do all commands of some documents; say which did not end well."""
    lay_out(folder)
    records(folder)
    for command in [command for name in documents for block in blocks(name) for command in block.commands]:
        print(f"\n$ {command}", file=sys.stderr, flush=True)
        try:
            code = do(command)
        except Exception as error:
            code = f"{type(error).__name__}: {error}"
        if code != 0:
            print(f"{command}: {code}", file=output, flush=True)


if __name__ == "__main__":
    place, *names = sys.argv[1:]
    # what commands print is long
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        do_all(Path(place).resolve(), names, sys.__stdout__ or nowhere)
