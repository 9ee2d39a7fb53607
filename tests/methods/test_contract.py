"""`check_method` over every registered method, and what it catches."""

import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tiny import new
from torch import Tensor

from clbench.experiment import registry
from clbench.method import (
    SCENARIOS,
    GradientOf,
    Gradients,
    Learner,
    Memory,
    Method,
    Phase,
    Run,
    Scenario,
    Step,
    Training,
)
from clbench.methods.finetune import Finetune
from clbench.methods.joint import Joint
from clbench.methods.lwf import LwF
from clbench.methods.scratch import Scratch
from clbench.sequences.tasks import Task
from clbench.testing import check_method

NAMES = registry.names("method")


def scenarios_of(name: str) -> list[Scenario]:
    return [scenario for scenario in SCENARIOS if scenario in registry.find("method", name).scenarios]


@pytest.mark.parametrize(("name", "scenario"), [(name, some) for name in NAMES for some in scenarios_of(name)])
def test_contract(name: str, scenario: Scenario) -> None:
    check_method(new(name), models=["mlp"], scenarios=[scenario])


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_contract_with_convolutions(number: int) -> None:
    scenarios = scenarios_of(NAMES[number])
    check_method(new(NAMES[number]), models=["cnn"], scenarios=[scenarios[number % len(scenarios)]])


@pytest.mark.parametrize(("name", "scenario"), [("feature-extraction", "class"), ("lwf", "task"), ("ewc", "domain")])
def test_contract_with_batch_norm(name: str, scenario: Scenario) -> None:
    training = Training(batch_size=12, momentum=0.9)
    check_method(registry.find("method", name), models=["resnet18"], scenarios=[scenario], training=training)


@pytest.mark.parametrize(
    ("method", "scenario"),
    [
        (LwF(scope="joined", teacher="train-mode"), "task"),
        (LwF(scope="padded", mixing="share", scale_t2=True, reduction="mean"), "class"),
        (LwF(mixing="convex"), "domain"),
        (Joint(mode="incremental", task_share="equal"), "task"),
        (Joint(mode="final"), "class"),
        (Scratch(networks="latest"), "task"),
    ],
    ids=repr,
)
def test_contract_of_variants(method: Method, scenario: Scenario) -> None:
    check_method(method, models=["mlp"], scenarios=[scenario], tasks=3)


OPTIONS: list[dict[str, Any]] = [
    {"keep_optimizer": True},
    {"full_head": True},
    {"full_head": True, "untouched": "zero"},
    {"full_head": True, "predict_over": "all"},
    {"drop_last": True},
    {"epochs": None, "iterations": 7},
    {"optimizer": "adam"},
    {"optimizer": "adagrad", "warmup_epochs": 1},
    {"optimizer": "adafactor"},
]


@pytest.mark.parametrize("number", range(3 * len(NAMES)), ids=lambda number: f"{NAMES[number // 3]}-{number % 3}")
def test_contract_under_training_options(number: int) -> None:
    """Every method under three of the options, in one scenario each; every option with several methods."""
    name, scenarios = NAMES[number // 3], scenarios_of(NAMES[number // 3])
    options = OPTIONS[number % len(OPTIONS)]
    training = Training(**{"epochs": 2, "batch_size": 10, **options})
    scenario = scenarios[number % len(scenarios)]
    check_method(new(name), models=["mlp"], scenarios=[scenario], training=training)


# ------------------------------------------------------------------------------------------ what it catches


def caught(cls: type[Learner], message: str, scenario: Scenario = "task", **options: Any) -> None:
    with pytest.raises(AssertionError, match=message):
        check_method(cls, models=["mlp"], scenarios=[scenario], **options)


class RemembersTheTask(Finetune):
    """Masks the outputs of other tasks, by the one that it was told last."""

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.last: int | None = None

    def scores(self, x: Tensor, task: int | None) -> Tensor:
        if task is not None:
            self.last = task
        scores = self.network(x)
        if self.last is not None:
            masked = torch.full_like(scores, -1e9)
            columns = self.network.columns(self.last)
            masked[:, columns] = scores[:, columns]
            return masked
        return scores


class GuessesTheNextTask(RemembersTheTask):
    """Knows that tasks are asked in their order, each of them not told at first."""

    def scores(self, x: Tensor, task: int | None) -> Tensor:
        if task is None and self.last is not None:
            self.last = (self.last + 1) % self.network.seen
        return super().scores(x, task)


class CountsQuestions(Finetune):
    """Knows the order of the questions too, and counts for all instances together."""

    asked: ClassVar[int] = 0

    def begin(self, run: Run) -> None:
        super().begin(run)
        CountsQuestions.asked = 0

    def finish_task(self, task: Task) -> None:
        CountsQuestions.asked = 0

    def scores(self, x: Tensor, task: int | None) -> Tensor:
        scores = self.network(x)
        if task is None and self.network.seen:
            scores[:, self.network.columns(CountsQuestions.asked % self.network.seen)] += 1e6
            CountsQuestions.asked += 1
        return scores


class RemembersImages(Finetune):
    """Keeps the task of every image that it was told, and uses it when it is not told."""

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.known: dict[bytes, int] = {}

    def memory_of_images(self) -> dict[bytes, int]:
        return self.known

    def scores(self, x: Tensor, task: int | None) -> Tensor:
        scores, known = self.network(x), self.memory_of_images()
        for row, image in enumerate(x):
            key = image.numpy().tobytes()
            if task is not None:
                known[key] = task
            if key in known:
                columns = self.network.columns(known[key])
                scores[row, columns] += 1e6
        return scores


class RemembersImagesForever(RemembersImages):
    everything: ClassVar[dict[bytes, int]] = {}

    def memory_of_images(self) -> dict[bytes, int]:
        return self.everything


@pytest.mark.parametrize(
    "cls",
    [RemembersTheTask, GuessesTheNextTask, CountsQuestions, RemembersImages, RemembersImagesForever],
    ids=lambda cls: cls.__name__,
)
@pytest.mark.parametrize("scenario", ["task", "class"])
def test_an_answer_that_depends_on_earlier_questions_is_caught(cls: type[Method], scenario: Scenario) -> None:
    RemembersImagesForever.everything.clear()
    caught(cls, "depend on what it was asked before", scenario)


class LearnsFromQuestions(Finetune):
    """Each question moves it."""

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.asked = 0

    def scores(self, x: Tensor, task: int | None) -> Tensor:
        self.asked += 1
        return self.network(x)

    def loss(self, step: Step) -> Tensor:
        return super().loss(step) * (1 + self.asked / 100)


def test_a_method_that_learns_from_questions_is_caught() -> None:
    caught(LearnsFromQuestions, "being asked for scores changes what is learnt")


class CurvesMatter(LearnsFromQuestions):
    """As many questions as without curves, but for those within a task."""

    def scores(self, x: Tensor, task: int | None) -> Tensor:
        if self.under_way:
            self.asked += 1
        return self.network(x)

    def start_task(self, task: Task) -> None:
        self.under_way = True

    def finish_task(self, task: Task) -> None:
        self.under_way = False

    under_way = False


def test_a_method_that_minds_curves_is_caught() -> None:
    caught(CurvesMatter, "a run with curves differs")


class KeepsTasks(Method):
    def start_task(self, task: Task) -> None:
        self.kept = [*getattr(self, "kept", []), task] if task.index else [task]

    def loss(self, step: Step) -> Tensor:
        return step.cross_entropy() + 0 * self.kept[0].train.images.sum()


class TrainsOnEarlierTasks(Method):
    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        self.kept = [*getattr(self, "kept", []), task] if task.index else [task]
        return [Phase(tasks=self.kept)]


class NeverResets(Method):
    steps = 0

    def loss(self, step: Step) -> Tensor:
        self.steps += 1
        return step.cross_entropy() * (1 + self.steps)


class DrawsFromNowhere(Method):
    def loss(self, step: Step) -> Tensor:
        torch.seed()
        return step.cross_entropy() * torch.rand(())


class NoSuper(Method):
    def begin(self, run: Run) -> None:
        self.network = run.new_network()


class MeddlesBeforeATask(Method):
    def start_task(self, task: Task) -> None:
        with torch.no_grad():
            next(self.network.parameters()).add_(1)


class MeddlesWithAModule(Method):
    def scores(self, x: Tensor, task: int | None) -> Tensor:
        return self.network.train()(x)


class NothingToTrain(Method):
    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        return [Phase(tasks=[task], trainable=[])]


class TrainsAnotherNetwork(Method):
    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        return [Phase(tasks=[task], trainable=[torch.nn.Parameter(torch.zeros(2))])]


class KeepsWhatCannotBeSaved(Method):
    def state(self) -> dict[str, Any]:
        return {"network": self.network}


class ForgetsAtACheckpoint(Method):
    def finish_task(self, task: Task) -> None:
        self.scale = 2.0

    def loss(self, step: Step) -> Tensor:
        return step.cross_entropy() * (getattr(self, "scale", 1.0) if step.network.seen > 1 else 1.0)


class NoLoadState(ForgetsAtACheckpoint):
    def state(self) -> dict[str, Any]:
        return {"scale": 2.0}


class ClaimsAPlainFirstTask(Method):
    first_task_is_finetuning: ClassVar[bool] = True

    def loss(self, step: Step) -> Tensor:
        return 2 * step.cross_entropy()


class AnswersTheFirstClass(Method):
    """Under `patience`, how it answers decides how long the first task is trained."""

    first_task_is_finetuning: ClassVar[bool] = True

    def scores(self, x: Tensor, task: int | None) -> Tensor:
        scores = torch.zeros_like(self.network(x))
        scores[:, 0] = 1
        return scores


class CallsBackward(Method):
    def loss(self, step: Step) -> Tensor:
        loss = step.cross_entropy()
        loss.backward(retain_graph=True)
        return loss


class CallsBackwardInTheEnd(Method):
    """As an estimate of the Fisher information may be written, whose gradients the next task's first step would get."""

    def finish_task(self, task: Task) -> None:
        torch.autograd.backward([self.network(task.train.batch(torch.arange(4))).logsumexp(1).sum()])


class CallsBackwardForItsGradients(Method):
    def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
        step.cross_entropy().backward(retain_graph=True)
        return gradient_of(self.loss(step))


class StepsAnOptimiser(Method):
    def loss(self, step: Step) -> Tensor:
        optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1)
        parameters = list(self.network.parameters())
        gradients = torch.autograd.grad(step.cross_entropy(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        return step.cross_entropy()


class GuessesTheTaskFromTheBatch(Finetune):
    """All images that are asked about at once are of one task: the most likely one answers for all of them."""

    def scores(self, x: Tensor, task: int | None) -> Tensor:
        scores = self.network(x)
        share = scores.softmax(1).sum(0)
        tasks = range(len(self.network.widths))
        likely = max(tasks, key=lambda index: share[self.network.columns(index)].sum().item())
        scores[:, self.network.columns(likely)] += 1e6
        return scores


class AsksWhoIsAsking(Finetune):
    """Reads the task's number from its caller's variables."""

    def scores(self, x: Tensor, task: int | None) -> Tensor:
        scores, frame = self.network(x), sys._getframe()
        for _ in range(6):
            frame = frame.f_back or frame
            place = frame.f_locals.get("task") if frame.f_code.co_name == "_answers" else None
            if isinstance(place, int) and place < self.network.seen:
                scores[:, self.network.columns(place)] += 1e6
        return scores


class MistypedHook(Method):
    def los(self, step: Step) -> Tensor:
        return 2 * step.cross_entropy()


class AsksForNoGradient(Method):
    def gradients(self, step: Step, gradient_of: Any) -> dict[str, Tensor]:
        return {}


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (KeepsTasks, "without declaring `memory = True`"),
        (TrainsOnEarlierTasks, "without declaring `memory = True`"),
        (NeverResets, "reset everything in `begin`"),
        (DrawsFromNowhere, "differ"),
        (NoSuper, "must call super"),
        (MeddlesBeforeATask, "start_task changes the network"),
        (MeddlesWithAModule, "scores changes a module's train/eval mode"),
        (NothingToTrain, "no parameter to train"),
        (TrainsAnotherNetwork, "parameters of another network"),
        (KeepsWhatCannotBeSaved, "something else than tensors and plain values"),
        (ForgetsAtACheckpoint, "goes on from its checkpoint differs"),
        (NoLoadState, "no load_state"),
        (ClaimsAPlainFirstTask, "its first task is not that of fine-tuning"),
        (AnswersTheFirstClass, "its first task is not that of fine-tuning"),
        (CallsBackward, r"`loss` \(.*test_contract.py, line \d+\) calls .backward\(\): the loop does"),
        (CallsBackwardInTheEnd, "`finish_task` .* calls .backward"),
        (CallsBackwardForItsGradients, "`gradients` .* calls .backward"),
        (StepsAnOptimiser, "`loss` .* steps an optimiser"),
        (GuessesTheTaskFromTheBatch, "must look at each alone"),
        (AsksWhoIsAsking, "must look at each alone"),
        (MistypedHook, r"test_contract.py, line \d+: MistypedHook.los is no hook of a method, .* did you mean loss"),
        (AsksForNoGradient, "asks for the gradient of no loss"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_breaks_the_contract_is_caught(cls: type[Method], message: str) -> None:
    caught(cls, message)


class ReturnsAFloat(Method):
    def loss(self, step: Step) -> Tensor:
        return 1.5  # type: ignore[return-value]


class MistypedField(Method):
    strength = 1.0

    def loss(self, step: Step) -> Tensor:
        return self.strenght * step.cross_entropy()  # type: ignore[attr-defined, no-any-return]


class DrawsFromNumPy(Method):
    def loss(self, step: Step) -> Tensor:
        return step.cross_entropy() * np.random.rand()  # noqa: NPY002


class RaisesInManyLines(Method):
    def loss(self, step: Step) -> Tensor:
        raise ValueError("the useful line\nand more\nof them")


class MistypedScenario(Method):
    scenarios: ClassVar[frozenset[str]] = frozenset({"task", "clas"})


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (
            ReturnsAFloat,
            r"^ReturnsAFloat, mlp, scenario task: ReturnsAFloat.loss \(test_contract.py, line \d+\) returns f",
        ),
        (MistypedField, "it raises AttributeError: 'MistypedField' object has no attribute 'strenght'.* in .*py, line"),
        (DrawsFromNumPy, "from a global generator, such as np.random .*self.run.stream"),
        (RaisesInManyLines, r"it raises ValueError: the useful line, in .*test_contract.py, line \d+$"),
        (
            MistypedScenario,
            r"^.*test_contract.py, line \d+: MistypedScenario.scenarios has 'clas', .* did you mean class",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_fault_is_one_line_of_the_users_names(cls: type[Method], message: str) -> None:
    with pytest.raises(AssertionError, match=message) as error:
        check_method(cls, models=["mlp"], scenarios=["task"])
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------ what it lets pass


class SetsWeightsInTheEnd(Method):
    """Makes the rows of the newest block as long as those of the oldest, as in weight alignment."""

    def finish_task(self, task: Task) -> None:
        with torch.no_grad():
            old, new = self.network.head[0].weight, self.network.newest.weight
            new.mul_(old.norm(dim=1).mean() / new.norm(dim=1).mean())  # type: ignore[operator, union-attr]


def test_weights_may_be_set_in_the_end_of_a_task() -> None:
    check_method(SetsWeightsInTheEnd, models=["mlp"], scenarios=["class"])


def test_a_memory_must_be_declared() -> None:
    class Undeclared(Method):
        name = "undeclared"

        def begin(self, run: Run) -> None:
            super().begin(run)
            self.kept = Memory(4, run)

    with pytest.raises(AssertionError, match="keeps a Memory, `kept`, without declaring"):
        check_method(Undeclared, models=["mlp"], scenarios=["class"])


# ------------------------------------------------------------------------------------------ what it says


class SaysNothing(Method):
    """Its hooks change nothing."""

    def loss(self, step: Step) -> Tensor:
        return step.cross_entropy()


class SaysSomethingInClass(Method):
    def loss(self, step: Step) -> Tensor:
        return step.cross_entropy() * (2 if self.run.scenario == "class" else 1)


EQUAL = "equals fine-tuning to the last bit in every run"


@pytest.mark.parametrize(
    ("method", "equal"),
    [(SaysNothing, True), (LwF(weight=0), True), (SaysSomethingInClass, False), (Finetune, False)],
    ids=str,
)
def test_a_method_that_changes_nothing_is_said_to(
    method: type[Method] | Method, equal: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    check_method(method, models=["mlp"], scenarios=["task", "class"])
    said = capsys.readouterr().err
    assert (EQUAL in said) == equal
    name = method.__name__ if isinstance(method, type) else type(method).__name__
    assert [line.split(":")[0] for line in said.splitlines()[:2]] == [
        f"{name}, mlp, scenario {s}" for s in ("task", "class")
    ]


def test_it_computes_with_one_thread_and_restores_their_number(capsys: pytest.CaptureFixture[str]) -> None:
    seen, before = [], torch.get_num_threads()

    class Threads(Method):
        def finish_task(self, task: Task) -> None:
            seen.append(torch.get_num_threads())

    torch.set_num_threads(2)
    try:
        check_method(Threads, models=["mlp"], scenarios=["domain"], quiet=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}
    assert capsys.readouterr().err == ""
