"""The CUDA path: on a real device where there is one, and its placement under fake tensors everywhere."""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import new, same_as
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from clbench.experiment import registry
from clbench.method import (
    SCENARIOS,
    Batch,
    Costs,
    Criterion,
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
    can_be_captured,
    in_chunks,
)
from clbench.method import importance as importance_module
from clbench.method import rehearsal as rehearsal_module
from clbench.models import Backbone, ExpandingHeadModel
from clbench.models.backbones import CNN, MLP, ResNet18
from clbench.seeding import seed_default, stream, stream_seed
from clbench.sequences.tasks import Split, Task, to_device
from clbench.testing import tiny_tasks
from clbench.training.loop import set_trainable
from clbench.training.precision import computing
from clbench.training.run import Outcome, run_sequence
from clbench.training.snapshots import SnapshotFile

CUDA = torch.device("cuda:0")
NAMES = registry.names("method")
SMALL: dict[str, Backbone] = {"mlp": MLP(width=16), "cnn": CNN(channels=4, width=16), "resnet18": ResNet18(channels=8)}


ALL = [(name, scenario) for name in NAMES for scenario in SCENARIOS if scenario in new(name).scenarios]


# ---------------------------------------------------------------------------------------------------------------------
# On a device


def on_cuda(test: Any) -> Any:
    return pytest.mark.cuda(pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")(test))


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute on the device as runs do: every operation gives the same again."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def go(method: Learner, scenario: Scenario, model: str, device: str, **options: Any) -> Outcome:
    terms = {"training": Training(epochs=2, batch_size=8, lr=0.02, momentum=0.9)} | options
    tasks = to_device(tiny_tasks(3), torch.device(device))
    with computing("fp32", device):  # as runs do; PyTorch allows tf32 in convolutions by itself
        return run_sequence(tasks, method, SMALL[model], scenario=scenario, seed=0, device=device, **terms)


BATCH_NORM: list[tuple[str, Scenario]] = [("finetune", "task"), ("replay", "class"), ("lwf", "domain")]


@on_cuda
@pytest.mark.parametrize(
    ("name", "scenario", "model"),
    [
        *[(name, scenario, model) for model in ("mlp", "cnn") for name, scenario in ALL],
        *[(name, scenario, "resnet18") for name, scenario in BATCH_NORM],
    ],
)
def test_in_float64_a_run_on_cuda_is_that_of_the_cpu(
    double: None, deterministic: None, name: str, scenario: Scenario, model: str
) -> None:
    weights: dict[str, dict[str, Tensor]] = {}

    def keep(learner: Learner, task: Task) -> None:
        weights[str(task.index)] = {name: value.cpu().clone() for name, value in learner.weights().items()}

    found = []
    for device in ("cpu", "cuda:0"):
        outcome = go(new(name), scenario, model, device, after_task=keep)
        found.append((outcome, weights.copy()))
    (one, theirs), (other, ours) = found
    for task, values in theirs.items():
        for name, value in values.items():
            torch.testing.assert_close(ours[task][name], value, rtol=1e-8, atol=1e-8)
    same_as(one, other, "updates", "images", "forward_passes", "backward_passes", "stored_bytes", "task_aware")
    for a, b in zip(one.history, other.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-8, abs=1e-8)


@on_cuda
@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize(("name", "scenario"), [pair for pair in ALL if can_be_captured(new(pair[0]))])
def test_captured_steps_are_those_one_by_one(deterministic: None, name: str, scenario: Scenario, model: str) -> None:
    training = Training(epochs=4, batch_size=8, lr=0.05, momentum=0.9)
    one, other = (go(new(name), scenario, model, "cuda:0", training=training, capture=c) for c in (False, True))
    assert one.weights_hash == other.weights_hash
    assert other.replayed_steps > 10
    same_as(one, other, "updates", "images", "forward_passes", "backward_passes", "history", "task_aware")


@on_cuda
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "nadam", "radam", "rmsprop", "adagrad", "adafactor"])
def test_every_optimiser_on_cuda(double: None, deterministic: None, optimizer: Any) -> None:
    training = Training(epochs=2, batch_size=8, lr=0.001, optimizer=optimizer, keep_optimizer=True)
    one, other = (go(new("ewc"), "class", "mlp", device, training=training) for device in ("cpu", "cuda:0"))
    for a, b in zip(one.history, other.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6, abs=1e-6)


@on_cuda
@pytest.mark.parametrize(("name", "scenario"), BATCH_NORM)
def test_batch_norm_gives_the_same_again(deterministic: None, name: str, scenario: Scenario) -> None:
    """In float32 it is that of the CPU to rounding alone, which a few steps of training make large."""
    same_as(*(go(new(name), scenario, "resnet18", "cuda:0") for _ in range(2)))


class Stopped(Exception):
    pass


def stop(_: Learner, task: Task) -> None:
    if task.index == 1:
        raise Stopped


@on_cuda
@pytest.mark.parametrize("name", NAMES)
def test_a_run_on_cuda_goes_on_from_a_checkpoint_and_a_shared_first_task(
    deterministic: None, name: str, tmp_path: Path
) -> None:
    scenario: Scenario = "task"
    training = Training(epochs=2, batch_size=8, optimizer="adam", lr=0.001, keep_optimizer=True)
    first, checkpoint = (SnapshotFile(tmp_path / file, "cuda:0") for file in ("first.pt", "run.pt"))
    plain = go(new(name), scenario, "mlp", "cuda:0", training=training)
    with contextlib.suppress(Stopped):
        go(new(name), scenario, "mlp", "cuda:0", training=training, checkpoint=checkpoint, after_task=stop)
    same_as(plain, go(new(name), scenario, "mlp", "cuda:0", training=training, checkpoint=checkpoint))
    if vars(type(new(name))).get("first_task_is_finetuning"):
        go(new("finetune"), scenario, "mlp", "cuda:0", training=training, first_task=first)
        shared = go(new(name), scenario, "mlp", "cuda:0", training=training, first_task=first)
        assert shared.shared_first_task
        same_as(plain, shared)


class Rehearsal(Method):
    """Fills a memory while it trains, with the outputs of that time, and stays near them: dark experience replay."""

    memory = True

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.buffer = Memory(20, run)

    def loss(self, step: Step) -> Tensor:
        loss = step.cross_entropy()
        if len(self.buffer):
            old = step.on(self.buffer.sample(8))
            width = old.batch.extras["logits"].shape[1]
            loss = loss + old.cross_entropy() + (old.outputs[:, :width] - old.batch.extras["logits"]).square().mean()
        return loss

    def after_step(self, step: Step) -> None:
        self.buffer.add(step.batch, logits=step.outputs)

    def state(self) -> dict[str, Any]:
        return self.buffer.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.buffer.load_state(state)


@on_cuda
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_memory_on_cuda(double: None, deterministic: None, scenario: Scenario, tmp_path: Path) -> None:
    one, other, again = (Rehearsal() for _ in range(3))
    on_cpu, on_device = go(one, scenario, "mlp", "cpu"), go(other, scenario, "mlp", "cuda:0")
    for a, b in zip(on_cpu.history, on_device.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-8, abs=1e-8)
    assert one.buffer.images is not None
    assert other.buffer.images is not None
    assert other.buffer.images.device == CUDA
    assert torch.equal(one.buffer.images, other.buffer.images.cpu())
    assert torch.equal(one.buffer.y, other.buffer.y)
    drawn = other.buffer.sample(6)
    for tensor in (drawn.x, drawn.y, drawn.task_ids, drawn.index, *drawn.extras.values()):
        assert tensor.device == CUDA
    checkpoint = SnapshotFile(tmp_path / "run.pt", "cuda:0")
    with contextlib.suppress(Stopped):
        go(again, scenario, "mlp", "cuda:0", checkpoint=checkpoint, after_task=stop)
    same_as(on_device, go(again, scenario, "mlp", "cuda:0", checkpoint=checkpoint))


# ---------------------------------------------------------------------------------------------------------------------
# Without a device


# gem's programme is solved on the CPU, bic counts the images of each class, and pnn moves modules: fake tensors cannot
UNFIT = ("gem", "bic", "pnn")


@pytest.mark.parametrize(
    ("name", "scenario", "model"),
    [
        *[(name, scenario, "mlp") for name, scenario in ALL if name not in UNFIT],
        *[(name, scenario, "cnn") for name, scenario in ALL if name in ("ewc", "mas", "finetune-fc")],
        *[(name, "task", "resnet18") for name in ("feature-extraction", "lwf")],
    ],
)
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # deepcopy asks for it
def test_placement_without_a_device(name: str, scenario: Scenario, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor up to the loss lies on CUDA: fake tensors compute nothing, but refuse to mix devices.

    The backward pass needs a real device: gradients of zero stand for what it would give."""
    monkeypatch.setattr(torch.autograd, "grad", lambda y, xs, **_: [torch.zeros_like(x) for x in xs])
    monkeypatch.setattr(importance_module, "_of_any_layers", _no_gradients)
    network = ExpandingHeadModel(SMALL[model], (1, 8, 8), 0)
    for _ in range(1 if scenario == "domain" else 2):
        network.expand(2)
    _fake_memory(monkeypatch)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = [replace(task, train=_fake(task.train, mode), test=_fake(task.test, mode)) for task in tiny_tasks(2)]
        network = _fake_network(network, mode)
        method = new(name)
        method.begin(Run(scenario, 2, 0, CUDA, Training(batch_size=8), lambda: network, lambda task: Costs()))
        first, second = fake
        network.seen = 1
        network.eval()
        method.start_task(first)
        _train(method, network, first, [], scenario)
        method.finish_task(first)
        method.start_task(second)
        network.seen = len(network.head)
        loss = _train(method, network, second, [first] if method.memory else [], scenario)
        assert loss is None or loss.device == CUDA
        method.finish_task(second)
        for told in (None, 1):
            answers = method.scores(second.test.batch(torch.arange(8, device=CUDA)), told)
            assert answers is None or answers.device == CUDA
        assert all(parameter.device == CUDA for parameter in network.parameters())


def _train(
    method: Method, network: ExpandingHeadModel, task: Task, earlier: Sequence[Task], scenario: Scenario
) -> Tensor | None:
    """Take one step, as the loop does it; the gradients are zero. Return the loss, or None if there is no phase."""
    phases = method.phases(task, earlier)
    if not phases:
        return None
    phase = phases[0]
    frozen = set_trainable(method, phase.trainable)
    recorded = in_chunks(network.features, task.train, 16)[:8] if frozen else None
    index = torch.arange(8, device=CUDA)
    present = [other.index for other in phase.tasks]
    columns = torch.full_like(index, network.columns(network.seen - 1).start)
    batch = Batch(task.train.batch(index), columns, index * 0 + task.index, present, index, task.train)
    step = Step(network, batch, Criterion(scenario), Phase(tasks=phase.tasks), 0.1, 0.0, recorded)
    losses = []

    def gradient_of(loss: Tensor) -> Gradients:
        losses.append(loss)
        return {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}

    gradients: GradientOf = gradient_of
    method.gradients(step, gradients)
    method.after_step(step)
    network.eval()
    return losses[0]


def _fake_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a memory take nothing and give samples without values: which it holds depends on values."""

    def sample(memory: Memory, *_: Any) -> Batch:
        ids = torch.zeros(8, dtype=torch.long, device=CUDA)
        outputs = {"outputs": torch.zeros(8, 2, device=CUDA), "count": ids + 2}
        return Batch(torch.zeros(8, 1, 8, 8, device=CUDA), ids, ids, [0], ids - 1, extras=outputs)

    for name in ("add", "add_task"):
        monkeypatch.setattr(Memory, name, lambda *_, **__: None)
    monkeypatch.setattr(rehearsal_module.Rehearsal, "keep", lambda *_, **__: None)
    monkeypatch.setattr(Memory, "tasks", lambda _, earlier: list(earlier))
    for name in ("places", "places_before"):
        monkeypatch.setattr(Memory, name, lambda *_: torch.arange(8))
    monkeypatch.setattr(Memory, "sample", sample)
    monkeypatch.setattr(Memory, "at", sample)
    monkeypatch.setattr(Memory, "__len__", lambda _: 8)


def _no_gradients(
    network: ExpandingHeadModel, x: Tensor, rows: Tensor, outputs: slice, *rest: Any
) -> dict[str, Tensor]:
    scores = rest[0](network(x)[:, outputs], rows)
    assert scores.device == CUDA
    return {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}


def _fake(split: Split, mode: FakeTensorMode) -> Split:
    moved: dict[str, Any] = {
        name: mode.from_tensor(value).to(CUDA) for name, value in vars(split).items() if isinstance(value, Tensor)
    }
    return replace(split, **moved)


def _fake_network(network: ExpandingHeadModel, mode: FakeTensorMode) -> ExpandingHeadModel:
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(mode.from_tensor(parameter.detach()).to(CUDA)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, mode.from_tensor(buffer).to(CUDA))
    return network


class _Waits(TorchDispatchMode):
    """Counts operations that make a program wait for the device: those that bring a value, or a size, to the host."""

    WAITING = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += any(name in str(func) for name in self.WAITING)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "scenario"), [case for case in ALL if case[0] != "gem"])
def test_no_step_waits_for_the_device(name: str, scenario: Scenario) -> None:
    """However many steps an epoch has, as many values are asked for."""
    waits = []
    for batch_size in (24, 6):
        training = Training(batch_size=batch_size, optimizer="adam", lr=0.001)
        with _Waits() as mode:
            run_sequence(tiny_tasks(2), new(name), MLP(width=8), training, scenario, 0)
        waits.append(mode.count)
    assert waits[0] > 0
    assert len(set(waits)) == 1, waits


def test_seeds_reach_the_cpu_and_the_device_of_the_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[tuple[torch.device, int]] = []
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: chosen.append(device) or nullcontext())
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda number: seeded.append((chosen[-1], number)))
    for device in (None, torch.device("cpu"), torch.device("cuda:1")):
        with torch.random.fork_rng(devices=[]):
            seed_default(3, "dropout", 0, device=device)
            assert torch.equal(torch.rand(5), torch.rand(5, generator=stream(3, "dropout", 0)))
    assert seeded == [(torch.device("cuda:1"), stream_seed(3, "dropout", 0))]
