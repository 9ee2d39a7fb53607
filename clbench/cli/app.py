"""The command `clbench`: its commands, and how it ends. Heavy imports wait until a command needs them."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated, Any

import typer

from clbench.cli.doctor import doctor
from clbench.cli.reading import compare, merge, report
from clbench.cli.running import run, tune, verify
from clbench.cli.showing import list_, show
from clbench.errors import ClbenchError, UsageError
from clbench.results.wording import allow_any_encoding
from clbench.version import __version__

app = typer.Typer(
    help="Continual-learning baselines, compared over seeds, task sequences and scenarios.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
EXAMPLES = {  # of the arguments that a command must be given
    "verify": "note",
    "compare": "lwf finetune",
    "merge": "one/runs other/runs --out results/runs",
    "show": "training",
    "list": "methods",
}
for command in (run, tune, verify, report, compare, merge, show, doctor):
    app.command()(command)
app.command("list")(list_)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clbench {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Continual-learning baselines, compared over seeds, task sequences and scenarios."""


def _instead(context: Any, words: list[str]) -> str:
    """Say what may be meant by words too many: a list with spaces, or a value without the name of its option."""
    lists = {name for option in context.command.params if "," in (option.metavar or "") for name in option.opts}
    for before, value, extra in zip(words, words[1:], words[2:], strict=False):
        if before in lists and not value.startswith("-") and not extra.startswith("-"):
            return f": a list has no spaces, as in {before} {value.rstrip(',')},{extra.lstrip(',')}"
    named = ": values follow the names of their options, as in --methods lwf;" if context.info_name == "run" else ":"
    return f"{named} see '{context.command_path} --help'"


def main() -> None:
    """Run the command line; an error is one line on standard error, exit code 2 where the user can mend it, else 1."""
    allow_any_encoding()
    # said where a machine has no semaphores, as without /dev/shm; runs need none
    warnings.filterwarnings("ignore", message=".*joblib will operate in serial mode")
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="clbench", standalone_mode=False)
        print(end="", flush=True)
    except ClbenchError as error:
        message, code = str(error), 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:  # whoever read what is printed has gone
        sys.exit(1)
    except OSError as error:  # there is no room for it
        message, code = str(error) if error.filename else f"{error}: standard output", 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would try again at its end
    except Exception as error:  # Typer's own for options and arguments, whichever class of it the version has
        if not hasattr(error, "format_message"):
            raise
        message, code = error.format_message(), 2
        if "unexpected extra argument" in message:
            message += _instead(error.ctx, sys.argv[1:])  # type: ignore[attr-defined]
        command = getattr(getattr(error, "ctx", None), "info_name", None)
        if message.startswith("Missing argument") and command in EXAMPLES:
            message = f"{message.rstrip('.')}, as in clbench {command} {EXAMPLES[command]}"
    else:
        sys.exit(code)
    print(f"clbench: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
