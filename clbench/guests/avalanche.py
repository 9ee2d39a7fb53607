"""Avalanche's strategies as methods: `avalanche:LwF`, `avalanche:Naive+EWCPlugin@ewc_lambda=1`."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import io
import pickle
import random
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from inspect import Parameter
from typing import Any, ClassVar

import numpy as np
import torch
from avalanche.training.utils import trigger_plugins
from torch import Tensor, nn

from clbench.errors import UsageError
from clbench.guests.costs import Steps, Watch, stored
from clbench.guests.data import Experience
from clbench.guests.network import Network, TaskNetwork
from clbench.guests.offered import Offered, fields_of, parts
from clbench.method import Costs, Learner, Run, Training
from clbench.models.head import ExpandingHeadModel
from clbench.seeding import stream_seed
from clbench.sequences.tasks import Task
from clbench.training.evaluation import Stopwatch
from clbench.training.optimizer import OPTIMIZERS

ENGINE = f"Avalanche {importlib.metadata.version('avalanche-lib')}"
# settings of training that reach a strategy; it has no others
CARRIED = (
    *("epochs", "iterations", "batch_size", "drop_last", "optimizer", "lr", "momentum", "weight_decay"),
    *("later_lr_factor", "keep_optimizer", "full_head", "loss_over", "predict_over", "label_smoothing", "validation"),
)
# where a strategy is not made for all scenarios. New classes, on one layer of outputs: MIR replays no class of the last
# batch, so that it would replay nothing where tasks share their labels
CLASS = ("BiC", "BiCPlugin", "ICaRL", "MIR", "MIRPlugin", "StreamingLDA")
# one layer of outputs, which is asked for by name or without a task
ONE_LAYER = (
    *("CWRStar", "CWRStarPlugin", "DER", "ER_AML", "FeatureReplay", "GSS_greedy", "GSS_greedyPlugin", "LFL"),
    *("LFLPlugin", "RARPlugin"),
)
ONLY_IN: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(CLASS, frozenset({"class"})),
    **dict.fromkeys(ONE_LAYER, frozenset({"class", "domain"})),
}
# they keep outputs, or an old network's weights, whose number must not grow
FIXED = ("DER", "ICaRL")
ORDER = (
    "batches are drawn by Avalanche's loaders, in an order of their own, where clbench's methods of a seed share one"
)
RESET = "the optimiser is reset for each task, as all are in this sweep; by default Avalanche keeps its state"
ENDED = (
    "training on a task ends when the sweep's updates are used up, in the middle of a pass of Avalanche's if need be"
)


@dataclasses.dataclass
class AvalancheStrategy(Learner):
    """Base of the methods that Avalanche's strategies are."""

    engine: ClassVar[str] = ENGINE
    reference: ClassVar[str]  # its names in Avalanche, joined by +

    def __deepcopy__(self, memo: Any) -> AvalancheStrategy:
        return self  # some strategies hold iterators, which cannot be copied

    def check(self, scenario: str, training: Training) -> None:
        for field in dataclasses.fields(training):
            now = getattr(training, field.name)
            if now != field.default and field.name not in CARRIED:
                what = f"{self.name} trains by Avalanche's own loop, which has no {field.name}"
                raise UsageError(f"{what}: leave training.{field.name} at {field.default}")
        if training.loss_over == "own":
            raise UsageError(f"{self.name}: loss_over=own is a loss of clbench's: choose from seen, all")
        fixed = [name for name in self.reference.split("+") if name in FIXED]
        if fixed and scenario == "class" and not (training.full_head and training.loss_over == "all"):
            instead = "--set training.full_head=true --set training.loss_over=all"
            raise UsageError(f"{self.name} needs all outputs from the start in the class scenario: give {instead}")
        if training.full_head and scenario == "task":
            raise UsageError(f"{self.name}: Avalanche adds the outputs of a task when it comes: leave full_head out")

    def differs(self) -> list[str]:
        training = self.run.training
        return [
            ORDER,
            *([] if training.keep_optimizer or not (training.momentum or training.optimizer != "sgd") else [RESET]),
            *([] if training.iterations is None else [ENDED]),
        ]

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.strategy: Any = None
        self.widths: list[int] = []  # classes of each task so far
        self.source: ExpandingHeadModel | None = run.new_network()
        self.shape = self.source.input_shape
        self.all_widths = list(self.source.widths) if run.scenario == "class" else []  # where all outputs are there
        self.passes = self.source.passes
        if self.source.widths:  # in `domain`, or where the head does not grow
            self._build(self.source.widths[0])

    # Building

    def _build(self, width: int) -> None:
        """Make network, optimiser and strategy, for a first task of so many classes."""
        run, source = self.run, self.source
        assert source is not None
        if not source.widths:
            source.expand(width)
        shared, masking = run.scenario != "task", run.training.full_head and run.training.loss_over == "seen"
        self.passes = source.passes
        with self._quietly():
            self.network = Network(source, masking) if shared else TaskNetwork(source)
            self.network.to(run.device)
            values = self._given(source, width, run.training)
            chosen, own = parts(self.reference), {name: getattr(self, name) for name in self._names()}
            made = [_make(plugin, own, values) for plugin in chosen[1:]]
            self.watch = Watch(run.training.iterations)
            self.strategy = _make(chosen[0], own, {**values, "plugins": [*made, self.watch]})
        self.source = None

    def _names(self) -> list[str]:
        return [field.name for field in dataclasses.fields(self) if field.init]

    def _given(self, source: ExpandingHeadModel, width: int, training: Training) -> dict[str, Any]:
        """Return what a run gives to constructors, by their arguments' names."""
        options: dict[str, Any] = {"lr": training.lr, "weight_decay": training.weight_decay}
        if training.momentum:
            options["momentum"] = training.momentum
        return {
            "model": self.network,
            "slda_model": self.network.features,
            "feature_extractor": self.network.features,
            "classifier": self.network.classifier,
            "buffer_transform": None,
            "input_size": source.n_features,
            "shape": list(self.shape),
            "num_classes": sum(source.widths) if training.full_head else width * self.run.tasks,
            "optimizer": OPTIMIZERS[training.optimizer](self.network.parameters(), **options),
            "criterion": nn.CrossEntropyLoss(label_smoothing=training.label_smoothing),
            "train_mb_size": training.batch_size,
            "train_epochs": training.epochs or 2**31,  # the watch ends it
            "eval_mb_size": source.chunk,
            "device": self.run.device,
            "evaluator": None,  # evaluation is clbench's
        }

    # Learning

    def learn(self, task: Task) -> Costs:
        watch = Stopwatch(self.run.device)
        if self.strategy is None:
            self._build(len(task.classes))
        self.passes.reset()
        self.watch.begin()
        experience, training, steps = self._experience(task), self.run.training, Steps()
        if task.index == 1:
            for group in self.strategy.optimizer.param_groups if self.strategy.optimizer is not None else ():
                group["lr"] = training.lr * training.later_lr_factor
        options = {"drop_last": training.drop_last, "reset_optimizer_state": not training.keep_optimizer}
        with self._quietly(), self._seeded(task.index), steps.counted():
            self.strategy.train(experience, eval_streams=[], **options)
        self.strategy.model.eval()
        costs = Costs(updates=steps.count, images=self.watch.images)
        costs.forward_passes, costs.backward_passes = self.passes.forward, self.passes.backward
        costs.history = {"loss": self.watch.history, "accuracy": []}
        costs.seconds = watch.seconds()
        costs.stored_images, costs.stored_bytes = stored(self.strategy)
        return costs

    def _experience(self, task: Task) -> Experience:
        classes = range(sum(self.widths))
        self.widths.append(len(task.classes))
        if self.run.scenario == "class":
            return Experience(task, len(classes), 0, self.all_widths or self.widths, classes)
        before = range(max(self.widths[:-1], default=0))
        return Experience(task, 0, task.index if self.run.scenario == "task" else 0, self.widths, before)

    @contextlib.contextmanager
    def _quietly(self) -> Iterator[None]:
        """Drop what Avalanche prints and warns of."""
        nowhere = io.StringIO()
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield

    @contextlib.contextmanager
    def _seeded(self, task: int) -> Iterator[None]:
        """Seed the global generators, from which Avalanche draws; restore those that the run does not."""
        before = random.getstate(), np.random.get_state()  # noqa: NPY002 - Avalanche draws from it
        seed_everything(guest_seed(self.run.seed, task))
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002

    # Answering

    @torch.no_grad()
    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        if self.strategy is None or (not self.widths and self.run.scenario != "domain"):
            return None  # nothing is learnt yet: iCaRL, for one, has no means then
        model = self.strategy.model.eval()
        if self.run.scenario == "task":
            by_task = model(x, None)
            return torch.cat([by_task[index][:, :width] for index, width in enumerate(self.widths)], 1)
        with self._quietly():
            return self._as_evaluated(x)

    def _as_evaluated(self, x: Tensor) -> Tensor:
        """Return what its loop of evaluation makes of a batch, plugins included (BiC's corrects outputs there)."""
        strategy = self.strategy
        strategy.is_training = False
        strategy.mbatch = [x, *(torch.zeros(len(x), dtype=torch.long, device=x.device) for _ in range(2))]
        trigger_plugins(strategy, "before_eval_forward")
        strategy.mb_output = strategy.forward()
        trigger_plugins(strategy, "after_eval_forward")
        scores = strategy.mb_output
        strategy.mbatch = strategy.mb_output = None
        return scores

    # What it keeps

    def weights(self) -> Mapping[str, Tensor]:
        if self.strategy is None:
            return {}
        own = {name: value for name, value in vars(self.strategy).items() if isinstance(value, Tensor)}
        own.pop("loss", None)  # of the last step
        found = {**self.strategy.model.state_dict(), **own}
        return {name: value for name, value in found.items() if value.is_floating_point()}

    def stored_images(self) -> int:
        return stored(self.strategy)[0]

    def state(self) -> dict[str, Any] | None:
        """Return the strategy as it is, pickled into bytes; None if it holds what cannot be, such as an iterator."""
        file = io.BytesIO()
        kept = {"strategy": self.strategy, "network": self.network, "watch": self.watch, "passes": self.passes}
        try:
            torch.save(kept, file)
        except (TypeError, AttributeError, NotImplementedError, pickle.PicklingError):
            return None
        return {"pickled": torch.frombuffer(file.getbuffer(), dtype=torch.uint8).clone(), "widths": list(self.widths)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned: a checkpoint of one's own, which is unpickled."""
        content = io.BytesIO(state["pickled"].cpu().numpy().tobytes())
        found = torch.load(content, map_location=self._place, weights_only=False)
        self.source, self.widths = None, list(state["widths"])
        vars(self).update(found)

    def _place(self, storage: Any, place: str) -> Any:
        """Put a tensor on the run's device, or on the CPU if it was there, such as images."""
        device = str(self.run.device)
        return storage if place == "cpu" else torch.serialization.default_restore_location(storage, device)


def _make(offered: Offered, fields: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """Call a constructor with the fields and with what a run gives."""
    own = {name: fields[name] for name in offered.fields}
    given = {name: values[name] for name in offered.given if name in values}
    if "input_size" in given and "slda_model" not in given:
        given["input_size"] = values["shape"]  # of an image, where it is not of features
    return offered.cls(**own, **given)


def guest_seed(seed: int, task: int) -> int:
    """Return the number that the global generators are seeded with before a task."""
    return stream_seed(seed, "method", "guest", task) % 2**32


def seed_everything(number: int) -> None:
    """Seed the global generators of PyTorch, NumPy and Python."""
    torch.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002 - Avalanche draws from it
    random.seed(number)


@cache
def avalanche_strategy(reference: str) -> type[Learner]:
    """Make the method `avalanche:NAME` or `avalanche:NAME+PLUGIN`; raise UsageError if there is none, and why."""
    chosen = parts(reference)
    names = reference.split("+")
    fields: list[Any] = []
    of_all = fields_of(chosen)
    for name in sorted(of_all, key=lambda name: of_all[name][1] is not Parameter.empty):  # those to be given come first
        kind, default = of_all[name]
        fields.append((name, kind) if default is Parameter.empty else (name, kind, dataclasses.field(default=default)))
    scenarios = frozenset.intersection(*(ONLY_IN.get(name, AvalancheStrategy.scenarios) for name in names))
    namespace: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": f"Avalanche's {reference.replace('+', ' with ')}: {chosen[0].title}.",
        "name": f"avalanche:{reference}",
        "reference": reference,
        "scenarios": scenarios,
        "memory": any("mem" in name or "patterns" in name for part in chosen for name in part.fields),
    }
    return dataclasses.make_dataclass(names[0], fields, bases=(AvalancheStrategy,), namespace=namespace)
