"""What Avalanche has: its supervised strategies and plugins, and which of their arguments are fields of a method."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

from avalanche.core import BaseSGDPlugin
from avalanche.training import plugins, supervised
from avalanche.training.templates.base import BaseTemplate
from torch import nn

from clbench.errors import UsageError, did_you_mean

# arguments that a run gives: the network or its parts, the optimiser, the budget, and what belongs to evaluation
GIVEN = (
    *("model", "slda_model", "feature_extractor", "classifier", "buffer_transform", "input_size", "num_classes"),
    *("optimizer", "criterion", "train_mb_size", "train_epochs", "eval_mb_size", "device", "plugins", "evaluator"),
    *("eval_every", "peval_mode", "verbose", "num_workers"),
)
NETWORKS = ("model", "slda_model", "feature_extractor")
# those that cannot be made of settings, where their arguments do not tell; and why
REFUSED = {
    "AETraining": "it trains an autoencoder, and classifies nothing",
    "VAETraining": "it trains a generator, and classifies nothing",
    "CoPE": "it needs a loss of its own over prototypes, and a network whose outputs are normalised",
    "ExpertGateStrategy": "it needs a network of its own, with an expert for each task",
    "GenerativeReplay": "it needs a generator, a network of its own",
    "JointTraining": "it trains on all tasks in one call, and tasks come one by one here: take joint, or Cumulative",
    "PNNStrategy": "it needs a network of its own, with a column for each task",
    "CoPEPlugin": "it needs a loss of its own over prototypes",
    "CurrentDataFeCAMUpdate": "it needs a FeCAM classifier in the network",
    "CurrentDataNCMUpdate": "it needs a nearest-mean classifier in the network",
    "EarlyStoppingPlugin": "it goes by a stream for validation and by metrics, which are not Avalanche's here",
    "EvaluationPlugin": "evaluation is clbench's",
    "FeCAMOracle": "it needs a FeCAM classifier in the network",
    "GenerativeReplayPlugin": "it needs a generator, a network of its own",
    "LRSchedulerPlugin": "it needs a scheduler, an object of its own",
    "MemoryFeCAMUpdate": "it needs a FeCAM classifier in the network",
    "MemoryNCMUpdate": "it needs a nearest-mean classifier in the network",
    "NCMOracle": "it needs a nearest-mean classifier in the network",
    "SupervisedPlugin": "it is the base of the others, and does nothing",
    "TrainGeneratorAfterExpPlugin": "it needs a generator, a network of its own",
}
SEE = "; see clbench list methods --all"
SIMPLE = (bool, int, float, str, type(None))
Number = int | float


@dataclass(frozen=True)
class Offered:
    """A strategy or plugin."""

    cls: type
    fields: Mapping[str, tuple[Any, Any]]  # type and default of each argument that is a setting; empty: none
    given: tuple[str, ...]  # arguments that a run gives
    refused: str = ""  # why it cannot be used; empty if it can

    @property
    def title(self) -> str:
        """The first sentence of its docstring on one line."""
        paragraph = inspect.cleandoc(self.cls.__doc__ or "").split("\n\n")[0]
        return " ".join(paragraph.split()).split(". ")[0].rstrip(".")


@cache
def strategies() -> dict[str, Offered]:
    """Return the supervised strategies by name."""
    return _all(supervised, BaseTemplate)


@cache
def all_plugins() -> dict[str, Offered]:
    """Return the plugins of training by name."""
    return _all(plugins, BaseSGDPlugin)


def _all(module: types.ModuleType, base: type) -> dict[str, Offered]:
    found = inspect.getmembers(module, lambda thing: inspect.isclass(thing) and issubclass(thing, base))
    return {name: _with_defaults(name, _offered(name, cls)) for name, cls in found}


def _with_defaults(name: str, offered: Offered) -> Offered:
    """Give an argument without a default that of the plugin of the same name, as LwF's are LwFPlugin's."""
    plugin = getattr(plugins, f"{name}Plugin", None)
    theirs = {} if plugin is None else _offered("", plugin).fields
    empty = inspect.Parameter.empty
    fields = {
        argument: (kind, theirs.get(argument, (kind, empty))[1] if default is empty else default)
        for argument, (kind, default) in offered.fields.items()
    }
    return replace(offered, fields=fields)


def _offered(name: str, cls: type) -> Offered:
    """Sort a constructor's arguments into settings and those that a run gives; what is left over is a reason."""
    parameters = dict(inspect.signature(cls).parameters)
    reason, fields, given = REFUSED.get(name, ""), {}, []
    if issubclass(cls, BaseTemplate) and not reason and not set(NETWORKS) & set(parameters):
        reason = "it brings a network of its own"
    for argument, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if argument in GIVEN:
            given.append(argument)
            if argument == "model" and parameter.annotation not in (nn.Module, inspect.Parameter.empty):
                reason = reason or f"it needs a network of its own kind, {_in_words(parameter.annotation)}"
            continue
        kind, required = _kind(parameter), parameter.default is inspect.Parameter.empty
        if kind is not None:
            fields[argument] = (kind, parameter.default)
        elif required:
            reason = reason or f"it needs {argument}, an object ({_in_words(parameter.annotation)})"
    return Offered(cls, fields, tuple(given), reason)


def _kind(parameter: inspect.Parameter) -> Any:
    """Return the type of an argument that is a number, text, true or false, or none; None for any other.

    The default widens an annotation that does not cover it. Without an annotation an argument is of its default's type,
    where a whole number may stand for any, or is a number.
    """
    annotation, default = parameter.annotation, parameter.default
    required = default is inspect.Parameter.empty
    if annotation is inspect.Parameter.empty:
        if required or (type(default) in (int, float)):
            return Number
        return type(default) if type(default) in (bool, str) else None
    united = get_origin(annotation) in (Union, types.UnionType)
    kinds = [one for one in (get_args(annotation) if united else [annotation]) if _is_simple(one)]
    if kinds in ([], [type(None)]):
        return None
    if not required and not any(one is type(default) or get_origin(one) is Literal for one in kinds):
        if type(default) not in SIMPLE:
            return None
        kinds.append(type(default))
    return Union[tuple(kinds)]  # noqa: UP007 - of a list


def _is_simple(kind: Any) -> bool:
    return kind in SIMPLE or get_origin(kind) is Literal


def _in_words(annotation: Any) -> str:
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(map(_in_words, get_args(annotation)))
    return getattr(annotation, "__name__", str(annotation))


def parts(reference: str) -> list[Offered]:
    """Return the strategy and the plugins that `Naive+EWCPlugin` names; raise UsageError if one cannot be used."""
    first, *rest = reference.split("+")
    found = [_one("strategy", first, strategies()), *(_one("plugin", name, all_plugins()) for name in rest)]
    return found


def _one(kind: str, name: str, known: Mapping[str, Offered]) -> Offered:
    if name not in known:
        usable = sorted(other for other, offered in known.items() if not offered.refused)
        hint = did_you_mean(name, usable)
        raise UsageError(f"unknown {kind} {name!r} of Avalanche{hint if len(hint) < 200 else SEE}")
    if known[name].refused:
        raise UsageError(f"Avalanche's {name} cannot be a method here: {known[name].refused}")
    return known[name]


def fields_of(chosen: list[Offered]) -> dict[str, tuple[Any, Any]]:
    """Return the fields of a method by name: type and default, `inspect.Parameter.empty` where it must be given.

    One that several of its parts have is given to each, and has no default where theirs differ.
    """
    fields: dict[str, tuple[Any, Any]] = {}
    for offered in chosen:
        for name, (kind, default) in offered.fields.items():
            other = fields.get(name, (kind, default))[1]
            fields[name] = (kind, default if other == default else inspect.Parameter.empty)
    return fields
