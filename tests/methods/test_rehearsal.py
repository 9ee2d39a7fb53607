"""Methods with a memory: what each becomes without one, and its formula worked out otherwise."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
import torch.nn.functional as F
from tiny import ADAM, SGD, batch_of, begun, go, step_on

from clbench.method import Batch, Criterion, Gradients, Method, Phase, Scenario, Step, Training
from clbench.methods.agem import AGEM
from clbench.methods.agem import project as project_on_one
from clbench.methods.der import DER
from clbench.methods.der_pp import DERPlusPlus
from clbench.methods.er import ER
from clbench.methods.er_ace import ERACE
from clbench.methods.finetune import Finetune
from clbench.methods.gdumb import GDumb
from clbench.methods.gem import GEM
from clbench.methods.gem import project as project_on_many
from clbench.methods.icarl import ICaRL
from clbench.methods.lwf_mc import LwFMC
from clbench.methods.mir import MIR
from clbench.models import ExpandingHeadModel
from clbench.models.backbones import MLP
from clbench.sequences.tasks import Task
from clbench.testing import tiny_tasks

ONLINE = [ER, MIR, DER, DERPlusPlus]
SCENARIOS: list[Scenario] = ["task", "class", "domain"]


def network_of(tasks: int = 2, classes: int = 2) -> ExpandingHeadModel:
    """Make a network in double precision with a block for each task, all of them seen."""
    network = ExpandingHeadModel(MLP(width=6), (1, 8, 8), 0)
    for _ in range(tasks):
        network.expand(classes)
    network.seen = tasks
    return network.double()


def in_double(tasks: int = 2, **options: Any) -> list[Task]:
    """Make tiny tasks in double precision."""
    return [replace(t, train=replace(t.train, images=t.train.images.double())) for t in tiny_tasks(tasks, **options)]


def batch(task: Task, rows: list[int], scenario: Scenario = "class") -> Batch:
    """Make a batch of a task's rows."""
    index = torch.tensor(rows)
    start = 0 if scenario == "domain" else task.index * len(task.classes)
    return batch_of(task.train, index, task.train.y[index] + start, torch.full_like(index, task.index))


def gradient_of_network(network: ExpandingHeadModel) -> Any:
    """Return a function that gives the gradients of a scalar, as the loop's does."""

    def gradient_of(loss: torch.Tensor) -> Gradients:
        names, parameters = zip(*network.named_parameters(), strict=True)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return {name: g for name, g in zip(names, found, strict=True) if g is not None}

    return gradient_of


# --------------------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("training", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("cls", [*ONLINE, AGEM, GEM])
def test_without_a_memory_it_is_fine_tuning(cls: type[Method], scenario: Scenario, training: Training) -> None:
    one, other = go(cls(images=0), scenario, training=training), go(Finetune(), scenario, training=training)  # type: ignore[call-arg]
    assert one.weights_hash == other.weights_hash
    assert one.history == other.history


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_der_pp_without_labels_is_der(scenario: Scenario) -> None:
    """Its second batch is drawn from a stream of its own, so that the first one stays."""
    runs = [
        go(method, scenario, backbone=MLP(width=8)) for method in (DERPlusPlus(12, beta=0.0), DER(12), DERPlusPlus(12))
    ]
    assert runs[0].weights_hash == runs[1].weights_hash != runs[2].weights_hash


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_agem_is_gem_with_one_old_task_and_all_of_the_memory(scenario: Scenario) -> None:
    methods = AGEM(images=20), GEM(images=20, margin=0.0, ridge=0.0)
    runs = [go(method, scenario, 2, backbone=MLP(width=8)) for method in methods]
    for one, other in zip(runs[0].history, runs[1].history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    assert runs[0].history[1] != go(Finetune(), scenario, 2, backbone=MLP(width=8)).history[1]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_gdumb_depends_on_its_memory_alone(scenario: Scenario) -> None:
    """Whatever was trained between: with a memory of everything, the last network is that of joint training at once."""
    seen: list[Any] = []

    class Once(GDumb):
        def phases(self, task: Task, earlier: Any) -> Any:
            phases = super().phases(task, earlier)
            seen.append([one.train.batch(torch.arange(len(one.train))) for one in phases[0].tasks])
            return phases if task.index == 2 else []

    assert go(Once(images=40), scenario).weights_hash == go(GDumb(images=40), scenario).weights_hash
    assert [len(parts) for parts in seen[-3:]] == [1, 2, 3]
    assert sum(map(len, seen[-1])) == 40


# --------------------------------------------------------------------------------------------------- formulas


def test_agem_projects_as_in_closed_form() -> None:
    draws = torch.Generator().manual_seed(0)
    for _ in range(20):
        g, r = torch.randn(2, 7, generator=draws, dtype=torch.double)
        parts = [{"a": v[:3], "b": v[3:].view(2, 2)} for v in (g, r)]
        projected = project_on_one(*parts)
        expected = g - min(g @ r, torch.tensor(0.0)) / (r @ r) * r
        torch.testing.assert_close(torch.cat([projected["a"], projected["b"].flatten()]), expected)
        assert expected @ r > -1e-12
    only = project_on_one({"a": torch.tensor([1.0])}, {"a": torch.tensor([-1.0]), "b": torch.tensor([1.0])})
    assert [only["a"].item(), only["b"].item()] == [0.5, 0.5]  # of [1, 0] along [−1, 1], by hand


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_gem_solves_its_problem_as_scipy_does(margin: float) -> None:
    """Its dual by another solver; without a margin also its primal, the closest gradient that keeps all angles."""
    draws = torch.Generator().manual_seed(1)
    for _ in range(10):
        g, *rows = torch.randn(4, 9, generator=draws, dtype=torch.double)
        found = project_on_many({"a": g}, [{"a": r} for r in rows], margin, 0.0)["a"].numpy()
        G, g_ = torch.stack(rows).numpy(), g.numpy()
        if (G @ g_ >= 0).all():
            assert (found == g_).all()
            continue
        bounds = [(margin, None)] * 3
        dual = scipy.optimize.minimize(lambda v: 0.5 * np.sum((G.T @ v + g_) ** 2), np.full(3, margin), bounds=bounds)  # noqa: B023
        np.testing.assert_allclose(found, g_ + G.T @ dual.x, atol=1e-4)
        if margin == 0:
            kept = {"type": "ineq", "fun": lambda x: G @ x}  # noqa: B023
            primal = scipy.optimize.minimize(lambda x: np.sum((x - g_) ** 2), g_, constraints=kept)  # noqa: B023
            np.testing.assert_allclose(found, primal.x, atol=1e-4)


def test_er_is_the_mean_over_new_and_old_images() -> None:
    tasks, network = in_double(2), network_of()
    method = begun(ER(images=10, memory_batch=4), network, "class")
    method.buffer.add(batch(tasks[0], list(range(10))))
    drawn = begun(ER(images=10), network, "class").buffer
    drawn.add(batch(tasks[0], list(range(10))))
    step = step_on(network, batch(tasks[1], [0, 1, 2]), "class")
    old = drawn.sample(4)
    x, y = torch.cat([step.batch.x, old.x]), torch.cat([step.batch.y, old.y])
    assert len(y) == 7
    torch.testing.assert_close(method.loss(step), F.cross_entropy(network(x), y))


def test_er_with_its_batches_apart_adds_two_means() -> None:
    tasks, network = in_double(2), network_of()
    method = begun(ER(images=10, memory_batch=10, batches="apart"), network, "class")
    new = step_on(network, batch(tasks[1], [0, 1, 2]), "class")
    torch.testing.assert_close(method.loss(new), F.cross_entropy(network(new.batch.x), new.batch.y))
    method.buffer.add(old := batch(tasks[0], list(range(10))))
    expected = F.cross_entropy(network(new.batch.x), new.batch.y) + F.cross_entropy(network(old.x), old.y)
    torch.testing.assert_close(method.loss(new), expected)


def test_in_er_aces_code_classes_that_have_not_come_yet_compete_too() -> None:
    tasks, network = in_double(2, classes=3, images=30), network_of(tasks=3, classes=3)
    network.seen = 2
    method = begun(ERACE(images=0, unseen=True), network, "class", tasks=3)
    new = batch(tasks[1], [0, 1, 3])  # classes 3, 4 and 3
    step = Step(network, new, Criterion("class", "all"), Phase(tasks=[]), 0.1, 0.0)
    expected = F.cross_entropy(network(new.x)[:, [3, 4, 6, 7, 8]], torch.tensor([0, 1, 0]))
    torch.testing.assert_close(method.loss(step), expected)


def test_er_ace_lets_only_the_classes_of_the_batch_compete_for_new_images() -> None:
    tasks, network = in_double(2, classes=3, images=30), network_of(classes=3)
    method = begun(ERACE(images=6), network, "class")
    new = batch(tasks[1], [0, 1, 3])  # classes 3, 4 and 3
    assert new.y.tolist() == [3, 4, 3]
    z = network(new.x)
    expected = F.cross_entropy(z[:, [3, 4]], torch.tensor([0, 1, 0]))
    torch.testing.assert_close(method.loss(step_on(network, new, "class")), expected)
    method.buffer.add(batch(tasks[0], [0, 1, 2, 3, 4, 5]))
    again = begun(ERACE(images=6), network, "class").buffer
    again.add(batch(tasks[0], [0, 1, 2, 3, 4, 5]))
    old = again.sample(3)
    expected = expected + F.cross_entropy(network(old.x), old.y)  # among all six
    torch.testing.assert_close(method.loss(step_on(network, new, "class")), expected)


def test_mir_takes_the_images_whose_loss_a_step_would_raise_most() -> None:
    tasks, network = in_double(2), network_of()
    method = begun(MIR(images=12, memory_batch=3, candidates=12), network, "class")
    method.start_task(tasks[1])
    method.buffer.add(batch(tasks[0], list(range(12))))
    step, gradient_of = step_on(network, batch(tasks[1], [0, 1, 2, 3]), "class"), gradient_of_network(network)
    asked: list[torch.Tensor] = []
    method.gradients(step, lambda loss: asked.append(loss.detach()) or gradient_of(loss))  # type: ignore[func-returns-value]

    stored, virtual = method.buffer.at(method.buffer.places()), network_of()
    virtual.load_state_dict(network.state_dict())
    new = gradient_of(F.cross_entropy(network(step.batch.x), step.batch.y))
    with torch.no_grad():
        for name, g in new.items():
            virtual.get_parameter(name).sub_(step.lr * g)
        rise = [
            (F.cross_entropy(virtual(x[None]), y[None]) - F.cross_entropy(network(x[None]), y[None])).item()
            for x, y in zip(stored.x, stored.y, strict=True)
        ]
    most = sorted(range(12), key=lambda n: -rise[n])[:3]
    x, y = torch.cat([step.batch.x, stored.x[most].double()]), torch.cat([step.batch.y, stored.y[most]])
    torch.testing.assert_close(asked[-1], F.cross_entropy(network(x), y).detach())


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_der_holds_the_outputs_that_there_were_when_a_sample_was_stored(scenario: Scenario) -> None:
    """Outputs of classes that have come since do not count."""
    tasks, network = in_double(2), network_of(1)
    method = begun(DER(images=5, memory_batch=5, alpha=0.7), network, scenario)
    first = step_on(network, batch(tasks[0], [0, 1, 2, 3, 4], scenario), scenario)
    method.loss(first)
    then = network(first.batch.x).detach()
    method.after_step(first)
    torch.testing.assert_close(method.buffer.extras["outputs"], then)
    if scenario != "domain":
        network.expand(2)
        network.seen = 2
        network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.arange(parameter.numel()).view_as(parameter).cos())
    second = step_on(network, batch(tasks[1], [0, 1, 2], scenario), scenario)
    cross_entropy = step_on(network, second.batch, scenario).cross_entropy()
    now = network(first.batch.x)[:, :2]
    torch.testing.assert_close(method.loss(second), cross_entropy + 0.7 * F.mse_loss(now, then))


def test_der_pp_adds_the_labels_of_another_batch() -> None:
    tasks, network = in_double(2), network_of()
    methods = [begun(cls(images=8, memory_batch=8), network, "class") for cls in (DER, DERPlusPlus)]
    for method in methods:
        method.loss(first := step_on(network, batch(tasks[0], list(range(8))), "class"))
        method.after_step(first)
    new = batch(tasks[1], [0, 1, 2])
    der, der_pp = (method.loss(step_on(network, new, "class")) for method in methods)
    stored = methods[0].buffer.at(methods[0].buffer.places())  # all of them are in both batches
    torch.testing.assert_close(der_pp - der, 0.5 * F.cross_entropy(network(stored.x), stored.y))


def test_icarl_and_lwf_mc_learn_by_a_binary_loss_per_class() -> None:
    tasks, network = in_double(2), network_of()
    with torch.no_grad():
        then = network(tasks[1].train.batch(torch.arange(24))).sigmoid()[:, :2]
    method = begun(LwFMC(), network, "class")
    method.phases(tasks[1], [])
    with torch.no_grad():
        network.head[0].weight.add_(0.3)  # type: ignore[union-attr]
    new = batch(tasks[1], [0, 1, 2, 3])
    targets = torch.cat([then[:4], F.one_hot(new.y - 2, 2).double()], 1)
    p = network(new.x).sigmoid()
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum(1).mean()
    torch.testing.assert_close(method.loss(step_on(network, new, "class")), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unit_length", [True, False])
def test_icarl_answers_by_the_nearest_mean_of_exemplars(unit_length: bool) -> None:
    def scaled(features: torch.Tensor) -> torch.Tensor:
        return F.normalize(features, dim=-1) if unit_length else features

    found: list[ICaRL] = []

    class Kept(ICaRL):
        def finish_task(self, task: Task) -> None:
            super().finish_task(task)
            found.append(self)

    tasks = tiny_tasks(2)
    go(Kept(images=9, unit_length=unit_length), "class", tasks)
    method = found[-1]
    assert [len(places) for places in method.buffer.contents.members.values()] == [3, 2, 2, 2]
    x, network = tasks[1].test.batch(torch.arange(len(tasks[1].test))), method.network
    stored = method.buffer.at(method.buffer.places())
    with torch.no_grad():
        features, own = scaled(network.features(stored.x)), scaled(network.features(x))
        means = [scaled(features[stored.y == c].mean(0)) for c in range(4)]
        nearest = [min(range(4), key=lambda c: (phi - means[c]).norm().item()) for phi in own]
        assert method.scores(x, None).argmax(1).tolist() == nearest  # type: ignore[union-attr]


def test_icarl_trains_on_exemplars_and_keeps_the_first_of_them() -> None:
    seen: list[list[int]] = []

    class Kept(ICaRL):
        def phases(self, task: Task, earlier: Any) -> Any:
            phases = super().phases(task, earlier)
            seen.append([len(one.train) for one in phases[0].tasks])
            return phases

        def finish_task(self, task: Task) -> None:
            before = {c: list(places) for c, places in self.buffer.contents.members.items()}
            super().finish_task(task)
            for c, places in before.items():
                assert self.buffer.contents.members[c] == places[: len(self.buffer.contents.members[c])]

    go(Kept(images=8), "class")
    assert seen[-3:] == [[24], [8, 24], [4, 4, 24]]


def test_a_memory_shares_itself_among_tasks_that_are_to_come() -> None:
    """GEM and A-GEM keep M/T samples of each task from the start."""
    counts: list[list[int]] = []

    class Kept(AGEM):
        def finish_task(self, task: Task) -> None:
            super().finish_task(task)
            counts.append([len(self.buffer.places(index)) for index in range(task.index + 1)])

    go(Kept(images=10), "class")
    assert counts[-3:] == [[4], [4, 3], [4, 3, 3]]


def test_a_method_for_one_scenario_is_refused_in_others_with_the_reason() -> None:
    for cls in (ERACE, ICaRL, LwFMC):
        assert cls.scenarios == {"class"}
