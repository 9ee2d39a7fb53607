"""The published presets against what their papers' codes do, written out again in plain PyTorch.

Each transcription has a network, a loop and an algorithm of its own, in float64, over three tasks with the optimiser
kept. Two things are given: the weights at the start, and the streams that the rows of each batch are drawn from. All
weights after every task have to agree.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clbench.experiment import presets, registry
from clbench.experiment.points import resolve_training
from clbench.experiment.presets import Preset, Row
from clbench.method import Learner, Scenario, Training
from clbench.models import ExpandingHeadModel
from clbench.models.backbones import MLP
from clbench.seeding import stream
from clbench.sequences.tasks import Task
from clbench.testing import tiny_tasks
from clbench.training.run import run_sequence

SEED = 3
TASKS = 3
IMAGES = 20  # per task: batches of 8, 8 and 4
BATCH = 8
EPOCHS = 2  # of Hsu et al.: six steps per task
ITERATIONS = 5  # of van de Ven & Tolias: two whole batches a pass, so three passes
MEMORY = 7  # images: repeated twice beside one old task's 20, then 3 of each
SHAPE = (1, 4, 4)
HIDDEN = MLP(depth=2, width=12)

Weights = dict[str, Tensor]
States = list[Weights]  # after each task, under the names of clbench's network


pytestmark = pytest.mark.usefixtures("double")


def the_tasks() -> list[Task]:
    tasks = tiny_tasks(TASKS, images=IMAGES, shape=SHAPE)
    assert tasks[0].train.images.dtype == torch.float64
    return tasks


def settings(preset: Preset, row: Row, scenario: Scenario, **shrunk: Any) -> Training:
    own = presets.at(preset.training, scenario) | presets.at(row.training, scenario)
    return resolve_training({}, own | {"batch_size": BATCH} | shrunk, [])


def ours(row: Row, scenario: Scenario, training: Training, **shrunk: Any) -> States:
    """What clbench makes of a preset's row."""
    fields = presets.at(row.fields, scenario) | shrunk
    method = registry.configure(row.method, registry.find("method", row.method), fields)
    method.check(scenario, training)
    kept: States = []

    def keep(learner: Learner, task: Task) -> None:
        network = learner.network  # type: ignore[attr-defined]
        kept.append({name: value.detach().clone() for name, value in network.named_parameters()})

    run_sequence(the_tasks(), method, HIDDEN, training, scenario, SEED, after_task=keep)
    return kept


class Net(nn.Module):
    """Two hidden layers under a layer of outputs, or under several."""

    def __init__(self, outputs: dict[str, int]):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU())
        self.last = nn.ModuleDict({name: nn.Linear(12, count) for name, count in outputs.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.body(x)
        return {name: layer(h) for name, layer in self.last.items()}

    def begin_like_ours(self, scenario: Scenario) -> None:
        model = ExpandingHeadModel(HIDDEN, SHAPE, SEED, "weights")
        for _ in range(1 if scenario == "domain" else TASKS):
            model.expand(2)
        start = dict(model.named_parameters())
        with torch.no_grad():
            for number in (1, 3):
                self.body[number].weight.copy_(start[f"backbone.{number}.weight"])
                self.body[number].bias.copy_(start[f"backbone.{number}.bias"])
            blocks = list(model.head)
            if len(self.last) == 1:
                self.last["All"].weight.copy_(torch.cat([block.weight for block in blocks]))
                self.last["All"].bias.copy_(torch.cat([block.bias for block in blocks]))
            else:
                for layer, block in zip(self.last.values(), blocks, strict=True):
                    layer.load_state_dict(block.state_dict())

    def in_our_names(self) -> Weights:
        named = {f"backbone.{name}": value for name, value in self.body.state_dict().items()}
        for kind in ("weight", "bias"):
            rows = torch.cat([getattr(layer, kind) for layer in self.last.values()])
            named |= {f"head.{t}.{kind}": part for t, part in enumerate(rows.split(2))}
        return {name: value.detach().clone() for name, value in named.items()}


def assert_same(found: States, expected: States) -> None:
    assert len(found) == len(expected)
    for task, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert value.dtype == torch.float64
            torch.testing.assert_close(
                one[name], value, rtol=1e-9, atol=1e-9, msg=lambda m, t=task, n=name: f"task {t + 1}, {n}: {m}"
            )


def images_of(task: Task) -> Tensor:
    return task.train.images[task.train.rows]


# ---------------------------------------------------------------------------------------------------------------------
# Hsu et al. 2018 (scripts/split_MNIST_incremental_*.sh, agents/*.py)

HSU = presets.load("hsu2018-split-mnist")
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "finetune (SGD)": lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    "finetune (Adagrad)": lambda parameters: torch.optim.Adagrad(parameters, lr=0.01),
}
# '--reg_coef' of the scripts
COEFFICIENTS: dict[str, dict[str, float]] = {
    "L2": {"task": 0.01, "domain": 0.5, "class": 100},
    "EWC": {"task": 100, "domain": 100, "class": 600},
    "online EWC": {"task": 400, "domain": 700, "class": 100},
    "SI": {"task": 300, "domain": 3000, "class": 600},
    "MAS": {"task": 1, "domain": 10000, "class": 1},
}


class Hsu:
    """An agent: `label` says which."""

    def __init__(self, label: str, scenario: Scenario):
        self.label, self.scenario = label, scenario
        heads = {str(t): 2 for t in range(TASKS)}
        self.net = Net({"task": heads, "domain": {"All": 2}, "class": {"All": 2 * TASKS}}[scenario])
        self.net.begin_like_ours(scenario)
        self.params = dict(self.net.named_parameters())
        make = OPTIMIZERS.get(label, lambda parameters: torch.optim.Adam(parameters, lr=0.001))
        self.optimizer = make(list(self.net.parameters()))
        self.coefficient = COEFFICIENTS.get(label, {}).get(scenario)
        self.terms: list[tuple[Weights, Weights]] = []  # importance, weights: of each task, or one pair for all
        self.valid: int | None = None  # outputs in use, in the class scenario
        self.w = {name: torch.zeros_like(p) for name, p in self.params.items()}  # of SI
        self.first = self.copy()
        self.memory: list[tuple[Tensor, Tensor, Tensor]] = []  # images, targets and tasks, by task

    def copy(self) -> Weights:
        return {name: p.detach().clone() for name, p in self.params.items()}

    def criterion(self, outputs: dict[str, Tensor], y: Tensor, owner: Tensor) -> Tensor:
        if self.scenario != "task":
            return F.cross_entropy(outputs["All"][:, : self.valid], y)
        loss = torch.zeros(())
        for t in owner.unique().tolist():
            mine = owner == t
            loss = loss + F.cross_entropy(outputs[str(t)][mine], y[mine]) * mine.sum()
        return loss / len(y)

    def penalty(self) -> Tensor:
        sums = [(F_[n] * (p - old[n]) ** 2).sum() for F_, old in self.terms for n, p in self.params.items()]
        return self.coefficient * torch.stack(sums).sum()

    def gradient(self, loss: Tensor) -> None:
        """Backward after the zero_grad of old: what had a gradient once has one of zero from then on."""
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward(retain_graph=True)

    def step(self, x: Tensor, y: Tensor, owner: Tensor) -> None:
        loss = self.criterion(self.net(x), y, owner)
        before, plain = self.copy(), {}
        if self.label == "SI":  # the gradient of the loss alone, taken on its own
            self.gradient(loss)
            plain = {n: p.grad.clone() for n, p in self.params.items() if p.grad is not None}
        self.gradient(loss + self.penalty() if self.terms else loss)
        self.optimizer.step()
        for n, g in plain.items():
            self.w[n] -= g * (self.params[n].detach() - before[n])

    def train(self, x: Tensor, y: Tensor, owner: Tensor, task: int) -> None:
        for epoch in range(EPOCHS):
            order = torch.randperm(len(x), generator=stream(SEED, "batches", task, epoch))
            for rows in order.split(BATCH):
                self.step(x[rows], y[rows], owner[rows])

    def learn(self, task: Task) -> None:
        x, y = images_of(task), task.train.y
        if self.scenario == "class":
            self.valid = (self.valid or 0) + 2
            y = y + 2 * task.index
        owner = torch.full_like(y, task.index)
        if not self.label.startswith("naive rehearsal"):
            self.train(x, y, owner, task.index)
            self.after(x, y, owner, task.index)
            return
        old = self.memory * max(len(x) // MEMORY, 1)
        mixed = [torch.cat(parts) for parts in zip(*old, (x, y, owner), strict=True)]
        self.train(*mixed, task.index)
        share = min(MEMORY // (task.index + 1), len(x))
        self.memory = [tuple(part[:share] for part in parts) for parts in self.memory]
        chosen = torch.randperm(len(x), generator=stream(SEED, "method", "memory", task.index))[:share]
        self.memory.append((x[chosen], y[chosen], owner[chosen]))

    def after(self, x: Tensor, y: Tensor, owner: Tensor, task: int) -> None:
        """Work out the importances after a task, and what the next ones are pulled towards."""
        now = self.copy()
        total = {n: v.clone() for n, v in self.terms[-1][0].items()} if self.terms else {}
        total = total or {n: torch.zeros_like(v) for n, v in now.items()}
        if self.label == "L2":
            self.terms = [({n: torch.ones_like(v) for n, v in now.items()}, now)]
        elif self.label == "EWC":
            self.terms.append((self.fisher(x, owner), now))
        elif self.label == "online EWC":
            self.terms = [({n: total[n] + v for n, v in self.fisher(x, owner).items()}, now)]
        elif self.label == "SI":
            old = self.terms[0][1] if self.terms else self.first
            self.terms = [({n: total[n] + self.w[n] / ((now[n] - old[n]) ** 2 + 0.1) for n in now}, now)]
            self.w = {n: torch.zeros_like(v) for n, v in now.items()}
        elif self.label == "MAS":
            order = torch.randperm(len(x), generator=stream(SEED, "method", "importance batches", task))
            batches = order.split(BATCH)
            for rows in batches:
                self.gradient(self.outputs(x[rows], task).pow(2).mean())
                for n, p in self.params.items():
                    if p.grad is not None:
                        total[n] += p.grad.abs() / len(batches)
            self.terms = [(total, now)]

    def outputs(self, x: Tensor, task: int) -> Tensor:
        return self.net(x)[str(task) if self.scenario == "task" else "All"][:, : self.valid]

    def fisher(self, x: Tensor, owner: Tensor) -> Weights:
        """Squared gradients of the loss, image by image, as if the likeliest class were the right one."""
        found = {n: torch.zeros_like(p) for n, p in self.params.items()}
        for i in range(len(x)):
            likeliest = self.outputs(x[i : i + 1], int(owner[i])).argmax(1)
            self.gradient(self.criterion(self.net(x[i : i + 1]), likeliest, owner[i : i + 1]))
            for n, p in self.params.items():
                if p.grad is not None:
                    found[n] += p.grad**2 / len(x)
        return found


def hsu(label: str, scenario: Scenario) -> States:
    agent, tasks, states = Hsu(label, scenario), the_tasks(), []
    if label == "offline":  # all outputs in use, all tasks at once
        states = [agent.net.in_our_names()] * (TASKS - 1)
        x = torch.cat([images_of(task) for task in tasks])
        y = torch.cat([task.train.y + 2 * task.index * (scenario == "class") for task in tasks])
        owner = torch.cat([torch.full_like(task.train.y, task.index) for task in tasks])
        agent.train(x, y, owner, TASKS - 1)
        return [*states, agent.net.in_our_names()]
    for task in tasks:
        agent.learn(task)
        states.append(agent.net.in_our_names())
    return states


@pytest.mark.parametrize("scenario", HSU.scenarios)
@pytest.mark.parametrize("label", [row.label for row in HSU.choose(None)])
def test_hsu_2018(label: str, scenario: Scenario) -> None:
    (row,) = HSU.choose([label])
    shrunk = {"naive rehearsal": {"images": MEMORY}, "naive rehearsal-C": {"images": MEMORY}, "MAS": {"batch": BATCH}}
    training = settings(HSU, row, scenario, epochs=EPOCHS)
    assert_same(ours(row, scenario, training, **shrunk.get(label, {})), hsu(label, scenario))


# ---------------------------------------------------------------------------------------------------------------------
# van de Ven & Tolias 2018 (compare_MNIST.py, train.py, encoder.py, continual_learner.py, utils.py)

VDV = presets.load("vandeven2018-split-mnist")
# '--c' is not on record for the table; these are the preset's
SI_STRENGTH = {"task": 50, "domain": 500, "class": 0.5}


def rows_of_passes(count: int, size: int, task: int) -> list[Tensor]:
    """The rows of each iteration: passes without a smaller last batch."""
    steps: list[Tensor] = []
    for number in range(ITERATIONS):
        order = torch.randperm(count, generator=stream(SEED, "batches", task, number))
        steps += list(order.split(size))[: count // size]
    return steps[:ITERATIONS]


def rows_of_each_task(tasks: int, task: int) -> list[list[Tensor]]:
    """For each iteration, the rows of each task: ⌈batch/t⌉ of it, in permutation after permutation."""
    share, per_pass = math.ceil(BATCH / tasks), tasks * IMAGES // BATCH
    steps: list[list[Tensor]] = []
    number = 0
    while len(steps) < ITERATIONS:
        draws = stream(SEED, "batches", task, number)
        wanted = min(per_pass, ITERATIONS - len(steps))
        columns = []
        for _ in range(tasks):
            turns = [torch.randperm(IMAGES, generator=draws) for _ in range(math.ceil(wanted * share / IMAGES))]
            columns.append(torch.cat(turns)[: wanted * share].split(share))
        steps += [list(parts) for parts in zip(*columns, strict=True)]
        number += 1
    return steps


def knowledge(scores: Tensor, target_scores: Tensor, t: float = 2.0) -> Tensor:
    targets = torch.zeros_like(scores)  # new classes have a probability of zero
    targets[:, : target_scores.shape[1]] = torch.softmax(target_scores / t, 1)
    return -(targets * torch.log_softmax(scores / t, 1)).mean() * t**2


class VanDeVen:
    """A classifier with one layer of outputs; `label` says what it does against forgetting."""

    def __init__(self, label: str, scenario: Scenario):
        self.label, self.scenario = label, scenario
        self.net = Net({"All": 2 if scenario == "domain" else 2 * TASKS})
        self.net.begin_like_ours(scenario)
        self.params = dict(self.net.named_parameters())
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.001, betas=(0.9, 0.999))
        self.previous: Net | None = None
        self.omega = {n: torch.zeros_like(p) for n, p in self.params.items()}
        self.anchor = {n: p.detach().clone() for n, p in self.params.items()}

    def active(self, task: int) -> slice:
        """The outputs that are right or wrong for images of a task, when it is the last one."""
        return {"task": slice(2 * task, 2 * task + 2), "domain": slice(0, 2), "class": slice(0, 2 * task + 2)}[
            self.scenario
        ]

    def replayed(self, x: Tensor, task: int) -> Tensor:
        """Distillation from the network as it was before this task, which looks at the batch at hand."""
        assert self.previous is not None
        with torch.no_grad():
            old = self.previous(x)["All"]
        new = self.net(x)["All"]
        if self.scenario == "task":
            heads = [slice(2 * t, 2 * t + 2) for t in range(task)]
            return torch.stack([knowledge(new[:, head], old[:, head]) for head in heads]).sum() / len(heads)
        if self.scenario == "class":
            return knowledge(new[:, : 2 * task + 2], old[:, : 2 * task])
        return knowledge(new, old)

    def step(self, loss: Tensor) -> None:
        if self.label == "SI":
            moved = [(self.omega[n] * (p - self.anchor[n]) ** 2).sum() for n, p in self.params.items()]
            loss = loss + SI_STRENGTH[self.scenario] * torch.stack(moved).sum()
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward()
        self.optimizer.step()

    def learn(self, tasks: list[Task]) -> None:
        """Train on the last of these tasks; offline, on all of them."""
        n = len(tasks)
        labels = [task.train.y + 2 * task.index * (self.scenario == "class") for task in tasks]
        if self.label == "offline" and self.scenario == "task" and n > 1:
            for parts in rows_of_each_task(n, n - 1):
                losses = []
                for task, y, rows in zip(tasks, labels, parts, strict=True):
                    scores = self.net(images_of(task)[rows])["All"][:, self.active(task.index)]
                    losses.append(F.cross_entropy(scores, y[rows]))
                self.step(torch.stack(losses).sum() / n)
            return
        used = range(n) if self.label == "offline" else range(n - 1, n)
        x, y = torch.cat([images_of(tasks[t]) for t in used]), torch.cat([labels[t] for t in used])
        path = {name: torch.zeros_like(p) for name, p in self.params.items()}
        for rows in rows_of_passes(len(x), BATCH, n - 1):
            loss = F.cross_entropy(self.net(x[rows])["All"][:, self.active(n - 1)], y[rows])
            if self.label == "LwF" and n > 1:
                loss = loss / n + (1 - 1 / n) * self.replayed(x[rows], n - 1)
            before = {name: p.detach().clone() for name, p in self.params.items()}
            self.step(loss)
            for name, p in self.params.items():
                path[name] -= p.grad * (p.detach() - before[name])  # the gradient of the total loss
        for name, p in self.params.items():
            now = p.detach().clone()
            self.omega[name] += path[name] / ((now - self.anchor[name]) ** 2 + 0.1)
            self.anchor[name] = now
        self.previous = copy.deepcopy(self.net).eval()


@pytest.mark.parametrize("scenario", VDV.scenarios)
@pytest.mark.parametrize("label", [row.label for row in VDV.choose(None)])
def test_van_de_ven_2018(label: str, scenario: Scenario) -> None:
    (row,) = VDV.choose([label])
    classifier, states = VanDeVen(label, scenario), []
    for n in range(1, TASKS + 1):
        classifier.learn(the_tasks()[:n])
        states.append(classifier.net.in_our_names())
    assert_same(ours(row, scenario, settings(VDV, row, scenario, iterations=ITERATIONS)), states)
