"""The command `clbench`, also as `python -m clbench`."""

import atexit
import contextlib
import os
import sys


def main() -> None:
    """Run the command line in a process of its own."""
    codes: list[int] = []
    atexit.register(_end_at_once, codes)  # before anything that wants to do something at the end, and so after it
    from clbench.cli import app as cli

    try:
        cli.main()
    except SystemExit as end:
        codes.append(end.code if isinstance(end.code, int) else 0)  # an error is a line and a number here
        raise


def _end_at_once(codes: list[int]) -> None:
    """End the process, its cleaning up done: to take PyTorch down costs the interpreter most of a second."""
    if not codes:  # an error of our own, which the interpreter tells
        return
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError):  # told already
            stream.flush()
    os._exit(codes[0])


if __name__ == "__main__":
    main()
