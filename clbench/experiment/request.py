"""What is asked of a sweep, in one object. The command line and the Python functions take their options from here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from clbench.errors import UsageError, did_you_mean, quoted, shown
from clbench.experiment import config, early, presets, registry
from clbench.experiment.fields import reason
from clbench.experiment.preset import ORDER_RULES, Evaluate, Precision, Preset, Scenario
from clbench.experiment.seeds import parse_seeds, parse_tasks
from clbench.experiment.tuned import Protocol, SearchBy, parse_protocol, parse_searches
from clbench.search import Search


def parse_names(value: str | type | Sequence[str | type]) -> list[str]:
    """Split a comma list; a class stands for its module and name."""
    if isinstance(value, str):
        items = [item.strip() for item in value.split(",")]
    else:
        things = value if isinstance(value, Sequence) else [value]
        items = [thing if isinstance(thing, str) else _reference(thing) for thing in things]
    if not items or not all(items):
        raise UsageError(f"an empty name in the list {quoted(value)}")
    return items


def _reference(thing: Any) -> str:
    if not inspect.isclass(thing):
        raise UsageError(f"{shown(thing)} is neither a name nor a class")
    name = thing.__qualname__
    if thing.__module__ == "__main__":
        raise UsageError(f"{name} is defined in a session, where workers can't find it: put it into a file")
    own = str(getattr(thing, "name", ""))
    builtin = any(registry.builtin(kind).get(own) is thing for kind in get_args(registry.Kind))
    return own if builtin else f"{thing.__module__}:{name}"


def parse_class_order(value: str | Sequence[int]) -> str | tuple[int, ...]:
    """Read a class order: a rule of `full_class_order` by name, or the classes themselves."""
    if isinstance(value, str) and re.fullmatch(ORDER_RULES, value):
        return value
    items = value.split(",") if isinstance(value, str) else getattr(value, "tolist", lambda: value)()
    if not isinstance(items, Sequence) or not all(str(item).strip().isdecimal() for item in items):
        raise UsageError(
            f"class order {quoted(value)}: write seed, fixed, seed:7, numpy:1993, or classes such as 3,1,4"
        )
    return tuple(int(item) for item in items)


def _known(name: str) -> str:
    """Return the name that clbench knows something by, whatever it is."""
    return next((found for kind in early.KINDS if (found := early.known_name(kind, name)) != name), name)


def parse_settings(settings: Mapping[str, Any] | Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Read NAME.FIELD=VALUE settings into {name: {field: values}}; a comma list is a grid."""
    if isinstance(settings, str) or not isinstance(settings, (Mapping, Sequence)):
        raise UsageError(f"settings={quoted(settings)}: they are written as {{'lwf.temperature': 4, …}}")
    if isinstance(settings, Mapping):
        pairs = [(str(key), list(v) if isinstance(v, (list, tuple)) else [v]) for key, v in settings.items()]
    else:
        split = [str(setting).partition("=") for setting in settings]
        pairs = [(key.strip(), [part.strip() for part in value.split(",")]) for key, _, value in split]
    parsed: dict[str, dict[str, list[Any]]] = {}
    for key, values in pairs:
        name, _, field = key.rpartition(".")
        name = _known(name)
        if not values:
            raise UsageError(f"settings {key}: the list of values is empty")
        if not (name and field) or any(isinstance(value, str) and not value for value in values):
            raise UsageError(f"cannot read --set {shown(key)}: write NAME.FIELD=VALUE, as in lwf.temperature=4")
        if field in parsed.setdefault(name, {}):
            raise UsageError(f"--set {key} is given twice: write a comma list for a grid")
        parsed[name][field] = values
    return parsed


def parse_scenarios(value: str | Sequence[str]) -> list[str]:
    """Read scenarios, each once."""
    found = list(dict.fromkeys(parse_names(value)))
    for name in found:
        if name not in presets.SCENARIOS:
            raise UsageError(f"unknown scenario {quoted(name)}{did_you_mean(name, presets.SCENARIOS)}")
    return found


def parse_preset(value: str | Path | Preset) -> Preset:
    """Read a preset, by its name or from its file."""
    if isinstance(value, Preset):
        return value
    if not isinstance(value, (str, Path)):
        raise UsageError(f"preset={shown(value)}: a name or a file is needed, see 'clbench list presets'")
    return presets.load(value)


def parse_device(value: str) -> str:
    """Read a device, which may not be there."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(value)):
        known = ("auto", "cpu", "cuda", "cuda:N")
        raise UsageError(f"unknown device {quoted(value)}: choose from {', '.join(known)}")
    return str(value)


def _items_of(kind: registry.Kind) -> BeforeValidator:
    return BeforeValidator(lambda value: [early.item_of(kind, item) for item in parse_names(value)])


def _tasks(value: int | str) -> str:
    """Read a range of tasks; all of them is one too, as it stands above a preset's."""
    return parse_tasks(value) or "0-"


def _searches(value: Any) -> dict[str, dict[str, Search]]:
    """Read what is searched, methods by the names that clbench knows."""
    return {_known(name): fields for name, fields in parse_searches(value).items()}


Labels = Annotated[list[str] | None, BeforeValidator(parse_names)]
Methods = Annotated[list[str] | None, _items_of("method")]
Sequences = Annotated[list[str] | None, _items_of("sequence")]
Models = Annotated[list[str] | None, _items_of("model")]


def option(default: Any, form: str, meaning: str, **bounds: Any) -> Any:
    """Describe an option: its default, how it is written, what it means, and pydantic's bounds of its value."""
    return Field(default, description=meaning, json_schema_extra={"form": form}, **bounds)


class Request(BaseModel):
    """All that can be asked of a sweep. None: what the preset says, or else the default.

    The bounds of training settings stand in `Training`, where presets and --set meet them too. Raises UsageError for a
    value that cannot be, and for options that do not go together.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    methods: Methods = option(
        None,
        "NAME[@FIELD=VALUE…],…",
        "Methods to compare; or 'core' (default), 'all', or a family: 'rehearsal', 'penalties', 'distillation', "
        "'masks', 'closed-form'.",
    )
    config: Path | None = option(
        None, "FILE.toml", "Options in a file, by their names in a table [run]; those given beside it go before."
    )
    preset: Annotated[Preset | None, BeforeValidator(parse_preset)] = option(
        None, "NAME|FILE.toml", "A whole experiment; see 'clbench list presets'."
    )
    rows: Labels = option(None, "ROW,…", "The preset's rows. Default: all.")
    controls: bool = option(False, "", "Run the preset's faults too: they should not agree.")
    seeds: Annotated[list[int] | None, BeforeValidator(parse_seeds)] = option(
        None, "N|LIST", "5 means 0…4; or 0,4,9 or 10-19. Default: 5; with a preset its own, or 10."
    )
    sequence: Sequences = option(None, "NAME,…", "Task sequences. Default: the preset's, or split-digits.")
    scenario: Annotated[list[Scenario] | None, BeforeValidator(parse_scenarios)] = option(
        None, "task|class|domain,…", "Scenarios. Default: the preset's, or the sequence's own."
    )
    class_order: Annotated[str | tuple[int, ...] | None, BeforeValidator(parse_class_order)] = option(
        None, "seed|fixed|seed:N|numpy:N|3,1,4,…", "Order in which classes come. Default: seed."
    )
    tasks: Annotated[str | None, BeforeValidator(_tasks)] = option(
        None, "N-N|N-", "Only these tasks of a sequence, from 0: 0-2, or 3- to the last. Default: all."
    )
    model: Models = option(None, "NAME,…", "Backbones. Default: the preset's, or the sequence's own.")
    epochs: int | None = option(None, "N", "Passes over each task. Default: the sequence's own.")
    iterations: int | None = option(None, "N", "Optimiser steps per task, instead of epochs.")
    batch_size: int | None = option(None, "N", "Images per step.")
    optimizer: str | None = option(None, "NAME", "sgd, or one of PyTorch's such as adam, adamw, rmsprop, adagrad.")
    lr: float | None = option(None, "RATE", "Learning rate. Default: the sequence's, or PyTorch's of the optimiser.")
    momentum: float | None = option(None, "X", "Momentum of sgd.")
    weight_decay: float | None = option(None, "X", "Weight decay.")
    later_lr_factor: float | None = option(None, "X", "Times the learning rate, from the second task on.")
    validation: float | None = option(
        None, "SHARE", "Share of each task's training images to evaluate, not to train on."
    )
    settings: Annotated[dict[str, dict[str, list[Any]]], BeforeValidator(parse_settings)] = option(
        {}, "NAME.FIELD=VALUE", "Settings of a method, model, sequence or 'training'; repeatable; a list is a grid."
    )
    jobs: int | None = option(None, "N", "Runs side by side. Default: one per core, one on each GPU.", ge=1)
    device: Annotated[str, BeforeValidator(parse_device)] = option(
        "auto", "auto|cpu|cuda|cuda:N", "Where to train; cuda: on all GPUs."
    )
    precision: Precision | None = option(
        None, "fp32|tf32|bf16", "Of matrix products; tf32: CUDA. Default: the preset's, or fp32."
    )
    kernels: Literal["pytorch", "onednn"] = option("pytorch", "pytorch|onednn", "Of matrix products on the CPU.")
    threads: int = option(1, "N", "Threads of each run on the CPU; another number rounds otherwise.", ge=1)
    capture: bool = option(False, "", "Take steps from CUDA graphs where a method allows it; changes no number.")
    side_by_side: int = option(
        1, "N", "Runs of a small mlp that differ in their seed, trained as one batch of networks.", ge=1, le=1000
    )
    eval_every: int | None = option(
        None, "N", "Evaluate the tasks seen so far every N updates too: curves.", ge=1, le=2**31
    )
    probe: bool = option(False, "", "Probe the final features: a linear classifier of all tasks' images, per task.")
    evaluate: Evaluate | None = option(
        None,
        "all|seen|end",
        "After each task all tasks, or those seen; or all at the end. Default: all.",
    )
    data_root: Path | None = option(None, "DIR", "Folder of the data sets. Default: $CLBENCH_DATA_ROOT.")
    out: Path = option(Path("results/runs"), "DIR", "Folder for the records.")
    save_models: bool = option(False, "", "Keep the network after each task.")
    track: Labels = option(
        None,
        "tensorboard|FILE.py:CLASS,…",
        "Who is told of losses and accuracies as runs go on.",
    )
    force: bool = option(False, "", "Run again what is there already.")
    checkpoint: bool = option(False, "", "Keep each run's state after every task, and go on from there.")
    timeout: float | None = option(None, "SECONDS", "A run that takes longer has failed.", gt=0, lt=1e8)
    backend: Literal["local", "dask", "ray"] = option(
        "local", "local|dask|ray", "Workers of this machine, or of a cluster."
    )
    scheduler: str | None = option(
        None, "ADDRESS", "Address of the cluster. Default for ray: one started on this machine."
    )

    trials: int = option(30, "N", "Settings that are tried of each method.", ge=1, le=100_000)
    protocol: Annotated[Protocol, BeforeValidator(parse_protocol)] = option(
        Protocol(),
        "first-tasks[@tasks=K]|stream-validation|none",
        "What settings are chosen on: validation images of the first tasks, or of all.",
    )
    search: Annotated[dict[str, dict[str, Search]], BeforeValidator(_searches)] = option(
        {}, "NAME.FIELD=SPACE", "Over what: 0.1..1e6, 0.1..1e6:log or 1,2,4; repeatable; also of 'training'."
    )
    search_by: SearchBy = option("tpe", "tpe|random|grid", "How settings are searched, by Optuna.")

    def __init__(self, **options: Any) -> None:
        given = {name: value for name, value in options.items() if value is not None}
        if "config" in given:
            path = given.pop("config")
            options = config.options_in(path)
            if other := [name for name in options if name not in RUN]:
                what = f"the config {shown(str(path))}: 'clbench run' has no option {quoted(other[0])}"
                raise UsageError(f"{what}{did_you_mean(other[0], RUN)}")
            given = {**options, **given}
        for name, value in given.items():
            if name not in Request.model_fields:
                raise UsageError(f"there is no option {quoted(name)}{did_you_mean(name, Request.model_fields)}")
            if isinstance(value, str) and not value:
                raise UsageError(f"{name} is empty: leave it out, or give a value (the working folder is .)")
            if isinstance(value, bool) and Request.model_fields[name].annotation is not bool:
                raise UsageError(f"{name}={str(value).lower()}: a value is needed, not true or false")
        try:
            super().__init__(**given)
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(f"{first['loc'][0]}={shown(first['input'])}: the value {reason(error)}") from None

    @model_validator(mode="after")
    def _goes_together(self) -> Request:
        if self.preset is None and self.rows is not None:
            raise UsageError("--rows names rows of a preset: give --preset, or --methods")
        if self.preset is not None and self.methods is not None:
            raise UsageError(f"the methods of preset {self.preset.name} are its rows: name some with --rows")
        given, assigned = self.training, self.settings.get("training", {})
        if both := sorted(set(given) & set(assigned)):
            raise UsageError(f"{both[0]} is given twice: by its own option and by --set training.{both[0]}")
        if {"epochs", "iterations"} <= {*given, *assigned}:
            raise UsageError("epochs and iterations are both given: choose one")
        if self.eval_every is not None and self.evaluate == "end":
            raise UsageError("--eval-every evaluates tasks as they are learnt: --evaluate end does not go with it")
        if self.backend == "local" and self.scheduler is not None:
            raise UsageError("--scheduler is the address of a cluster: give --backend dask or ray with it")
        if self.backend == "dask" and not self.scheduler:
            raise UsageError("--backend dask needs --scheduler ADDRESS, as in tcp://10.0.0.1:8786")
        if self.backend != "local" and (self.checkpoint or self.save_models or self.track):
            what = "--checkpoint" if self.checkpoint else "--save-models" if self.save_models else "--track"
            raise UsageError(f"{what} writes to folders of this machine: leave it out with --backend {self.backend}")
        early.check(self)
        return self

    @property
    def training(self) -> dict[str, Any]:
        """The training settings that have an option of their own and were given."""
        names = (
            *("epochs", "iterations", "batch_size", "optimizer", "lr", "momentum", "weight_decay"),
            *("later_lr_factor", "validation"),
        )
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


OF_TUNING = ["trials", "protocol", "search", "search_by"]
RUN = [name for name in Request.model_fields if name not in ("controls", *OF_TUNING)]
TUNE = [
    *("methods", "sequence", "scenario", *OF_TUNING, "seeds", "class_order", "model", "epochs", "iterations"),
    *("batch_size", "optimizer", "lr", "momentum", "weight_decay", "later_lr_factor", "validation", "settings", "jobs"),
    *("device", "precision", "kernels", "threads", "data_root", "out", "checkpoint", "timeout", "backend", "scheduler"),
]
TUNE_DEFAULTS = {"seeds": "1000-1002", "out": "results/tuned"}  # where they are others than those of a run
VERIFY = [
    *("preset", "rows", "controls", "seeds", "sequence", "scenario", "model", "settings", "jobs", "device"),
    *("data_root", "out", "checkpoint", "timeout", "backend", "scheduler"),
]


def chosen_preset(request: Request) -> Preset:
    """Return the preset to verify; raise UsageError if none was named."""
    if request.preset is None:
        raise UsageError("verify needs a preset: name one, see 'clbench list presets'")
    return request.preset
