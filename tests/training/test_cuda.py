"""The CUDA path: on a real device where there is one, and its placement under fake tensors everywhere."""

import multiprocessing
import queue
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from clbench.errors import UsageError
from clbench.execution import runner
from clbench.execution.job import _with_device
from clbench.execution.sweep import prepare as plan
from clbench.experiment import registry
from clbench.experiment.parsing import check_device
from clbench.experiment.spec import Job
from clbench.method import penalty
from clbench.method.base import SCENARIOS, Batch, Criterion, Method, Run, Scenario, in_chunks
from clbench.method.schedule import Training
from clbench.models.networks import ExpandingHeadModel
from clbench.seeding import seed_default, stream, stream_seed
from clbench.sequences.tasks import Task, to_device
from clbench.testing import tiny_tasks
from clbench.training.loop import run_sequence, set_trainable

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CUDA = torch.device("cuda:0")


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("name", registry.names("method"))
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_run_on_cuda_agrees_with_the_cpu(name: str, scenario: Scenario) -> None:
    if scenario not in registry.find("method", name).scenarios:
        pytest.skip(f"{name} is not defined for {scenario}")

    def go(device: str, tasks: Sequence[Task]) -> list[dict[str, list[float]]]:
        method = registry.find("method", name)()
        backbone = registry.find("model", "cnn")()
        return run_sequence(tasks, method, backbone, Training(batch_size=8), scenario, 0, device).history

    on_cpu, on_cuda = go("cpu", tiny_tasks(3)), go("cuda:0", to_device(tiny_tasks(3), CUDA))
    for one, other in zip(on_cpu, on_cuda, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


@pytest.mark.parametrize("name", registry.names("method"))
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("model_name", ["mlp", "cnn", "resnet18"])
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # deepcopy asks for it
def test_placement_without_a_device(
    name: str, scenario: Scenario, model_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor up to the loss lies on CUDA: fake tensors compute nothing, but refuse to mix devices.

    The backward pass needs a real device: gradients of zero stand for what it would give."""
    if scenario not in registry.find("method", name).scenarios:
        pytest.skip(f"{name} is not defined for {scenario}")
    monkeypatch.setattr(torch.autograd, "grad", lambda y, xs, **_: [torch.zeros_like(x) for x in xs])
    monkeypatch.setattr(penalty, "_of_any_layers", _no_gradients)
    training = Training(batch_size=8)
    backbone = registry.find("model", model_name)()
    tasks = tiny_tasks(2)
    model = ExpandingHeadModel(backbone, (1, 8, 8), 0)
    for _ in range(1 if scenario == "domain" else 2):
        model.expand(2)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = [replace(task, train=_fake(task.train, mode), test=_fake(task.test, mode)) for task in tasks]
        model = mode_model(model, mode)
        method = registry.find("method", name)()
        method.begin(Run(scenario, 2, 0, CUDA, training))
        first, second = fake
        model.seen = 1
        method.start_task(model.eval(), first)
        _step(method, model)
        method.finish_task(model, first)
        method.start_task(model, second)
        model.seen = len(model.head)
        used = method.training_tasks(fake) or [second]
        set_trainable(model, method.trainable(model, second, 0))
        index = torch.arange(8, device=CUDA)
        present = [task.index for task in used]
        batch = Batch(
            model,
            second.train,
            index,
            torch.full_like(index, model.columns(model.seen - 1).start),
            index * 0 + 1,
            present,
        )
        loss = method.loss(model, batch, Criterion(scenario))
        assert loss.device == CUDA
        _step(method, model)
        method.finish_task(model, second)
        scores = in_chunks(lambda x: method.predict(model, x, second), second.test, model.chunk)
        assert scores.device == CUDA
        assert all(parameter.device == CUDA for parameter in model.parameters())


def _step(method: Method, model: ExpandingHeadModel) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.after_backward(model)
    method.after_step(model)


def _no_gradients(model: ExpandingHeadModel, x: Tensor, rows: Tensor, outputs: slice, *rest: Any) -> dict[str, Tensor]:
    scores = rest[0](model(x)[:, outputs], rows)
    assert scores.device == CUDA
    return {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}


def _fake(split: object, mode: FakeTensorMode) -> object:
    moved = {
        name: mode.from_tensor(value).to(CUDA) for name, value in vars(split).items() if isinstance(value, torch.Tensor)
    }
    return replace(split, **moved)  # type: ignore[type-var]


def mode_model(model: ExpandingHeadModel, mode: FakeTensorMode) -> ExpandingHeadModel:
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(mode.from_tensor(parameter.detach()).to(CUDA)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, mode.from_tensor(buffer).to(CUDA))
    return model


class _Waits(TorchDispatchMode):
    """Counts operations that make a program wait for the device: those that bring a value, or a size, to the host."""

    WAITING = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += any(name in str(func) for name in self.WAITING)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", registry.names("method"))
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_step_waits_for_the_device(name: str, scenario: Scenario) -> None:
    """However many steps an epoch has, as many values are asked for."""
    if scenario not in registry.find("method", name).scenarios:
        pytest.skip(f"{name} is not defined for {scenario}")
    waits = []
    for batch_size in (24, 12, 4):
        training = Training(batch_size=batch_size, optimizer="adam", lr=0.001)
        with _Waits() as mode:
            backbone = registry.find("model", "mlp")(width=8)
            run_sequence(tiny_tasks(2), registry.find("method", name)(), backbone, training, scenario, 0)
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


def test_all_devices_are_used_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert check_device("cuda") == check_device("auto") == ["cuda:0", "cuda:1", "cuda:2"]
    assert check_device("cuda:1") == ["cuda:1"]
    assert check_device("cpu") == ["cpu"]
    with pytest.raises(UsageError, match="there are 3 CUDA devices"):
        check_device("cuda:3")


def hold(job: Job, devices: Any) -> None:
    with _with_device(job) as mine:
        devices.put(mine.device)
        time.sleep(60)


def test_runs_wait_for_a_device_with_room_and_a_killed_one_makes_room(tmp_path: Path) -> None:
    """Two devices with one run each: never more, whichever worker is quick."""
    slots = [(str(tmp_path / f"{device}.slot"), f"cuda:{device}") for device in range(2)]
    job = replace(plan("finetune", seeds=1, out=tmp_path).jobs[0], slots=slots)
    context = multiprocessing.get_context("spawn")
    devices = context.Queue()
    holders = [context.Process(target=hold, args=(job, devices), daemon=True) for _ in range(3)]
    try:
        for holder in holders[:2]:
            holder.start()
        assert {devices.get(timeout=60), devices.get(timeout=60)} == {"cuda:0", "cuda:1"}
        holders[2].start()
        with pytest.raises(queue.Empty):
            devices.get(timeout=8)
        holders[0].kill()
        assert devices.get(timeout=60) in ("cuda:0", "cuda:1")
        holders[1].kill()
        with _with_device(job) as mine:
            assert mine.device in ("cuda:0", "cuda:1")
    finally:
        for holder in holders:
            if holder.pid is not None:
                holder.kill()
                holder.join()


def test_a_sweep_over_several_devices_gives_each_run_its_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = plan("finetune", seeds=2, out=tmp_path, jobs=2)
    sweep = replace(sweep, devices=["cuda:0", "cuda:1"], workers=4)
    seen: list[Job] = []
    monkeypatch.setattr(runner, "surviving", lambda jobs, workers, backend: [None, *map(seen.append, jobs)])
    list(sweep.run())
    assert len(seen) == 2
    assert [device for _, device in seen[0].slots] == ["cuda:0", "cuda:1"] * 2
    assert len({path for path, _ in seen[0].slots}) == 4
