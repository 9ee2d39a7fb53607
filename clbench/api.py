"""The Python functions, as `clbench.run` and so on. What they need is imported when they are called."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from clbench.errors import ClbenchError, UsageError, did_you_mean, quoted
from clbench.experiment import early
from clbench.experiment.request import RUN, TUNE, TUNE_DEFAULTS, VERIFY, Request, chosen_preset
from clbench.results.names import spelled

if TYPE_CHECKING:
    from clbench.execution.saved import LoadedModel
    from clbench.execution.sweep import Sweep
    from clbench.report.plotted import PlottedResults
    from clbench.results.frames import Results
    from clbench.results.narrowing import Where
    from clbench.results.record import RunRecord
    from clbench.tuning.findings import Findings
    from clbench.verification.comparison import Verification

T = TypeVar("T")


def _taking(
    names: Sequence[str], defaults: Mapping[str, Any] = MappingProxyType({})
) -> Callable[[Callable[[Request, bool], T]], Callable[..., T]]:
    """Give a function of a request these options and `quiet` as keyword arguments, explained in its docstring.

    `defaults` are those that are not the request's.
    """
    fields = {name: Request.model_fields[name] for name in names}
    options = {**{name: defaults.get(name, field.default) for name, field in fields.items()}, "quiet": False}
    meanings = [*(f"{name}: {field.description}" for name, field in fields.items()), "quiet: No progress."]
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=options[name]) for name in options]
    parameters[0] = parameters[0].replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.Signature(parameters)

    def decorate(function: Callable[[Request, bool], T]) -> Callable[..., T]:
        def call(*values: Any, **options: Any) -> T:
            for name in options:
                if name not in signature.parameters:
                    raise UsageError(f"{function.__name__} has no option {name!r}{did_you_mean(name, names)}")
            options = signature.bind(*values, **options).arguments
            quiet = options.pop("quiet", False)
            return function(Request(**{**defaults, **options}), quiet)

        lines = [textwrap.fill(meaning, 100, subsequent_indent="    ") for meaning in meanings]
        call.__name__ = call.__qualname__ = function.__name__
        call.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", *lines])
        call.__signature__ = signature  # type: ignore[attr-defined]
        return call

    return decorate


@_taking(RUN)
def run(request: Request, quiet: bool) -> PlottedResults:
    """Run a sweep, as `clbench run` does, and return its results; finished records in `out` are not run again.

    Names are text with commas, or lists of names and classes. `settings` is {"lwf.temperature": 4, …}, a list of values
    making a grid. Several `threads`, other `kernels` or another `precision` round otherwise: such runs stand apart.
    Raises UsageError, before any training, for anything that cannot be done; a run that fails is in the results'
    `failed`.
    """
    from clbench.report.plotted import PlottedResults

    sweep = _done(request, quiet)
    return PlottedResults(sweep.records, order=sweep.labels)


@_taking(VERIFY)
def verify(request: Request, quiet: bool) -> Verification:
    """Compare a preset's rows with what was published for them, as `clbench verify` does; only records are written.

    What is compared are all the preset's records in `out`, those of earlier calls too.
    The result's `frame` has a line per row and scenario, `disagreeing` the rows that do not agree. Raises UsageError,
    before any training, for anything that cannot be done.
    """
    from clbench.execution.sweep import whole_preset
    from clbench.verification.comparison import compare

    preset = chosen_preset(request)
    return compare(preset, whole_preset(_done(request, quiet)).records)


@_taking(TUNE, TUNE_DEFAULTS)
def tune(request: Request, quiet: bool) -> Findings:
    """Choose settings of methods on validation images, as `clbench tune` does, and write a preset that has them.

    `search` is {"ewc.strength": "0.1..1e6:log", …}, a list of values, or a `clbench.method.Search`. The result's
    `frame` has a line for each trial, `preset_path` is the file to run, `warnings` are lines on what to know of it.
    Raises UsageError, before any training, for anything that cannot be done.
    """
    from clbench.tuning.tune import make_plan

    plan = make_plan(request)
    from clbench.tuning.carry_out import carry_out  # here, since it needs Optuna, which may not be there

    return carry_out(plan, quiet)


def _done(request: Request, quiet: bool) -> Sweep:
    from clbench.execution.progress import carry_out
    from clbench.execution.sweep import prepare

    sweep = prepare(request)
    carry_out(sweep, quiet)
    return sweep


def compare(
    results: Results | str | Path,
    a: str,
    b: str,
    metric: str = "average_accuracy",
    test: str = "t",
    interval: str = "t",
    baseline: str | None = None,
) -> list[str]:
    """Say whether a is better than b, a line per task sequence and scenario, as `clbench compare` does.

    `results` are those of `run` or `load`, or a folder of records. The verdict is that of a report with the same
    baseline. Raises UsageError for labels, metrics, tests and intervals
    that there are not.
    """
    from clbench.report.tables import Choices
    from clbench.results import sentences
    from clbench.results.frames import Results

    if isinstance(results, str | Path):
        results = load(results)
    if not isinstance(results, Results):
        raise UsageError(
            f"compare takes the results of clbench.load or run, or a folder of records, not {quoted(results)}"
        )
    choices = Choices(test=test, interval=interval)  # type: ignore[arg-type]
    return sentences.compare(results, a, b, metric, choices.test, choices.interval, baseline)


def write_report(
    results: Results | str | Path = "results/runs",
    out: str | Path = "results/report",
    *,
    columns: Sequence[str] = (),
    baseline: str | None = None,
    test: str = "t",
    interval: str = "t",
    formats: Sequence[str] = ("png", "pdf"),
    width: str = "column",
) -> list[Path]:
    """Write tables, figures and a page of results, or of a folder of records, as `clbench report` does.

    Returns the files; `report.html` shows all. Which runs and methods are in it, `load` chooses. Raises UsageError for
    columns, labels, formats and the like that there are not, and if the folder cannot be written or holds records.
    """
    from clbench.report import writer
    from clbench.report.tables import Choices, Tables

    if isinstance(results, (str, Path)):
        results = load(results)
    if baseline is not None:
        results.resolve(baseline)  # raises before anything is written
    choices = Choices(_listed(columns), baseline, test, interval)  # type: ignore[arg-type]
    return writer.write_report(results, out, Tables(results, choices), _listed(formats), width)  # type: ignore[arg-type]


def merge(folders: Sequence[str | Path], out: str | Path) -> tuple[int, list[str]]:
    """Join folders of records in another, as `clbench merge` does; return how many came in, and lines on damaged ones.

    Raises UsageError if a folder has no records, or if finished records of the same run disagree.
    """
    from clbench.results import store

    places = [Path(folder) for folder in ([folders] if isinstance(folders, (str, Path)) else folders)]
    for place in places:
        if not any(store.Store(place).paths()):
            raise UsageError(f"no records in {place}: name the folders that 'clbench run --out' wrote to")
    try:
        return store.merge(places, Path(out))
    except OSError as error:
        raise ClbenchError(f"cannot write to {out}: {error.strerror or error}") from None


def sequence_from_arrays(train: Any, test: Any, *, file: str | Path, **fields: Any) -> str:
    """Keep images and labels in a .npz file, and return the name of their task sequence, for `run(sequence=…)`.

    `train` and `test` are each a pair (images, labels) of NumPy arrays or tensors, or a data set whose items are an
    image and its label, as torch.utils.data has them. Images are bytes (uint8), floats or PIL's: [height, width],
    [height, width, channels] or [channels, height, width]; labels are whole numbers or text. `fields` are those of
    `clbench show npz:FILE`, such as tasks=5 or classes="50+10x5". A data set is written image by image, and need not
    fit into memory. Raises UsageError for what cannot be kept, and for fields that there are not; a file that is
    there stays as it is then.
    """
    from clbench.data.arrays import write_npz

    path = Path(file).expanduser().resolve()
    if path.suffix != ".npz" or set("@,") & set(str(path)):
        raise UsageError(f"file={str(path)[:80]}: a path that ends in .npz is needed, without @ and commas")
    settings = "".join(f"@{name}={spelled(value)}" for name, value in fields.items() if value is not None)
    early.check_fields("sequence", f"npz:{path}", fields)  # before anything is written
    write_npz(path, {"train": train, "test": test})
    return early.item_of("sequence", f"npz:{path}{settings}")


def load_model(
    record: RunRecord | str | Path, task: int | None = None, folder: str | Path = "results/runs"
) -> LoadedModel:
    """Return a run's learner after a task, counted from 1 and by default the last, as --save-models has kept it.

    `record` is one of `results.records`, whose sweep wrote to `folder`; or the path of a record; or of a .safetensors
    file. Its `scores(x, task)` are the method's own, `predict(x, task)` names classes, and `prepare(images)` makes x of
    images as the data set stores them. Raises UsageError if there is no such file.
    """
    from clbench.execution import saved

    return saved.load_model(record, task, folder)


def _listed(names: str | Sequence[str]) -> list[str]:
    parts = names.split(",") if isinstance(names, str) else names
    return [part.strip() for part in parts if part.strip()]


def load(
    folder: str | Path = "results/runs",
    *,
    methods: str | Sequence[str] = (),
    sequence: str | Sequence[str] = (),
    scenario: str | Sequence[str] = (),
    model: str | Sequence[str] = (),
    where: Where = None,
) -> PlottedResults:
    """Read the records in a folder and those below it; raise UsageError if there is none to read.

    `methods` are names: only these, in this order. `sequence`, `scenario` and `model` are names, and `where` is
    {"training.epochs": 2, …} or text as in --where: only runs of these and with these settings, a list of values
    meaning any of them. Names are text with commas, or lists.
    """
    from clbench.report.plotted import PlottedResults

    return PlottedResults.load(folder, methods=methods, sequence=sequence, scenario=scenario, model=model, where=where)
