"""Methods with a frozen backbone and a classifier in closed form, against scikit-learn and the papers' own loops."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestCentroid
from tiny import SGD, Pixels, equal, go, same_as, state_of, states

import clbench
from clbench.experiment.early import members
from clbench.method import SCENARIOS, ClosedForm, Scenario, Training
from clbench.methods.finetune import Finetune
from clbench.methods.ncm import NCM
from clbench.methods.ranpac import RanPAC
from clbench.methods.slda import SLDA
from clbench.models.backbones import CNN, MLP
from clbench.sequences.tasks import Split, Task
from clbench.testing import tiny_tasks
from clbench.training.snapshots import SnapshotFile

METHODS: dict[str, Callable[..., ClosedForm]] = {
    "ncm": NCM,
    "slda": SLDA,
    "ranpac": lambda **fields: RanPAC(width=20, **fields),
}
every = pytest.mark.parametrize("name", METHODS)
Array = np.ndarray[Any, Any]


class Learnt:
    """A method after a run on tiny tasks, and the frozen features and columns of all that it learnt from."""

    def __init__(self, method: ClosedForm, scenario: Scenario, tasks: Sequence[Task], **options: Any):
        go(method, scenario, tasks, **{"backbone": MLP(width=8)} | options)
        self.method, self.tasks = method, tasks
        starts = [0 if scenario == "domain" else task.index * len(task.classes) for task in tasks]
        self.z = np.concatenate([self.features(task.train) for task in tasks])
        self.y = np.concatenate([task.train.y.numpy() + start for task, start in zip(tasks, starts, strict=True)])
        self.test = torch.cat([task.test.batch(torch.arange(len(task.test))) for task in tasks])

    @torch.no_grad()
    def features(self, split: Split) -> Array:
        return self.method.network.features(split.batch(torch.arange(len(split)))).double().numpy()

    @torch.no_grad()
    def scores(self, x: torch.Tensor | None = None) -> Array:
        scores = self.method.scores(self.test if x is None else x, None)
        assert scores is not None
        return scores.numpy()

    @torch.no_grad()
    def asked(self) -> Array:
        """Return the features of the test images."""
        return self.method.network.features(self.test).double().numpy()


def three(images: int = 25) -> list[Task]:
    """Make tasks whose classes have different numbers of images."""
    return tiny_tasks(3, classes=3, images=images)


def in_another_order(tasks: Sequence[Task]) -> list[Task]:
    """Turn the order of the tasks around, and shuffle the images of each."""
    draws = torch.Generator().manual_seed(5)
    turned = []
    for index, task in enumerate(reversed(tasks)):
        order = torch.randperm(len(task.train), generator=draws)
        turned.append(replace(task, index=index, train=task.train.subset(order)))
    return turned


def within_classes(z: Array, y: Array) -> Array:
    """Return the covariance around each class's own mean, over all samples."""
    moved = np.concatenate([z[y == label] - z[y == label].mean(0) for label in np.unique(y)])
    return moved.T @ moved / len(z)


def discriminants(z: Array, y: Array, sigma: Array, shrinkage: float) -> tuple[Array, Array]:
    """Return w_k and b_k of linear discriminant analysis with a given covariance."""
    means = np.stack([z[y == label].mean(0) for label in np.unique(y)])
    w = means @ np.linalg.inv((1 - shrinkage) * sigma + shrinkage * np.eye(len(sigma)))
    return w, -0.5 * np.sum(means * w, 1)


# --------------------------------------------------------------------------------------------------- the backbone


@every
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_after_the_first_task_the_network_is_fine_tunings_and_stays_so(name: str, scenario: Scenario) -> None:
    ours, theirs = states(METHODS[name](), scenario), states(Finetune(), scenario)
    assert equal(ours[0], theirs[0])
    for later in ours[1:]:
        assert all(torch.equal(later[key], value) for key, value in ours[0].items())


@every
def test_without_a_first_task_the_features_are_those_of_the_initial_weights(name: str) -> None:
    method = METHODS[name](first_task=False)
    outcome = go(method, "class")
    assert equal(state_of(method.network.backbone), state_of(method.run.new_network().backbone))
    assert outcome.updates == [0, 0, 0]
    assert outcome.backward_passes == [0, 0, 0]
    assert outcome.forward_passes == outcome.images == [24, 24, 24]
    assert all(cell is not None for row in outcome.task_agnostic[1:] for cell in row[:1])


@every
def test_one_pass_over_each_task_is_its_cost(name: str) -> None:
    outcome = go(METHODS[name](), "class")
    assert outcome.forward_passes == [48 + 24, 24, 24]
    assert outcome.backward_passes == [48, 0, 0]
    assert outcome.updates == [6, 0, 0]
    assert outcome.images == [48, 24, 24]
    assert outcome.stored_images == 0


def test_what_is_stored_does_not_depend_on_the_number_of_images() -> None:
    """By hand: sums and means of 6 classes with counts and biases, in 16 features of 8 bytes; and a covariance."""
    for images in (24, 40):
        ncm, slda, ranpac = (
            go(METHODS[name](), "class", tiny_tasks(3, images=images)).stored_bytes for name in METHODS
        )
        assert ncm == 8 * 6 * 2 * (16 + 1)
        assert slda == ncm + 8 * 16 * 16
        assert ranpac == 8 * (6 * 2 * (20 + 1) + 16 * 20 + 20 * 20)


# --------------------------------------------------------------------------------------------------- formulas


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_ncm_is_scikit_learns_nearest_centroid(scenario: Scenario) -> None:
    found = Learnt(NCM(), scenario, three())
    centroids = NearestCentroid().fit(found.z, found.y)
    assert (found.scores().argmax(1) == centroids.predict(found.asked())).all()
    assert len(centroids.centroids_) == (3 if scenario == "domain" else 9)  # in domain a class has one over all tasks
    halves = -np.square(found.asked()[:, None] - centroids.centroids_).sum(2) / 2
    np.testing.assert_allclose(
        found.scores() - halves,
        np.square(found.asked()).sum(1, keepdims=True).repeat(halves.shape[1], 1) / 2,
        rtol=1e-9,
    )


def test_ncm_by_the_cosine() -> None:
    found = Learnt(NCM(distance="cosine"), "class", three())
    means = np.stack([found.z[found.y == label].mean(0) for label in range(9)])
    cosines = found.scores() / np.linalg.norm(found.asked(), axis=1, keepdims=True)
    np.testing.assert_allclose(cosines, cosine_similarity(found.asked(), means), atol=1e-12)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("shrinkage", [1e-4, 0.3])
def test_slda_is_linear_discriminant_analysis_of_all_samples_at_once(scenario: Scenario, shrinkage: float) -> None:
    found = Learnt(SLDA(shrinkage=shrinkage), scenario, three())
    w, b = discriminants(found.z, found.y, within_classes(found.z, found.y), shrinkage)
    np.testing.assert_allclose(found.scores(), found.asked() @ w.T + b, rtol=1e-6, atol=1e-6)


def test_slda_adds_many_samples_as_it_adds_one() -> None:
    """More than are added at once, so that there are several chunks."""
    tasks = tiny_tasks(2, images=700)
    found = Learnt(SLDA(), "domain", tasks, training=replace(SGD, epochs=1, batch_size=100))
    sigma = np.asarray(found.method.scatter) / 1400  # type: ignore[attr-defined]
    np.testing.assert_allclose(sigma, within_classes(found.z, found.y), rtol=1e-9, atol=1e-12)
    one_by_one = SLDA(first_task=False)
    Learnt(one_by_one, "domain", tasks[:1])
    z, y = torch.from_numpy(found.z), torch.from_numpy(found.y)
    one_by_one.counts, one_by_one.sums, one_by_one.scatter = (
        torch.zeros_like(t) for t in (one_by_one.counts, one_by_one.sums, one_by_one.scatter)
    )
    for row in range(len(z)):
        one_by_one.add(z[row : row + 1], y[row : row + 1])
    np.testing.assert_allclose(one_by_one.scatter / 1400, sigma, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("covariance", ["paper", "welford"])
def test_slda_is_the_papers_loop_over_single_samples(covariance: Any) -> None:
    found = Learnt(
        SLDA(covariance=covariance), "class", tiny_tasks(2, images=300), training=replace(SGD, epochs=1, batch_size=50)
    )
    sigma, means, counts = np.zeros((8, 8)), np.zeros((4, 8)), np.zeros(4)
    for t, (z, y) in enumerate(zip(found.z, found.y, strict=True)):
        f = t / (t + 1) if covariance == "paper" else counts[y] / (counts[y] + 1)
        sigma = (t * sigma + f * np.outer(z - means[y], z - means[y])) / (t + 1)
        means[y] = (counts[y] * means[y] + z) / (counts[y] + 1)
        counts[y] += 1
    w, b = discriminants(found.z, found.y, sigma, 1e-4)
    np.testing.assert_allclose(found.scores(), found.asked() @ w.T + b, rtol=1e-6, atol=1e-6)


def projected(method: RanPAC, z: Array) -> Array:
    return np.maximum(z @ method.projection.numpy(), 0)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("ridge", [0.01, 10.0])
def test_ranpac_is_scikit_learns_ridge_regression_of_all_samples_at_once(scenario: Scenario, ridge: float) -> None:
    method = RanPAC(width=30, ridge=ridge)
    found = Learnt(method, scenario, three())
    targets = np.eye(found.y.max() + 1)[found.y]
    model = Ridge(alpha=ridge, fit_intercept=False, solver="svd").fit(projected(method, found.z), targets)
    np.testing.assert_allclose(found.scores(), model.predict(projected(method, found.asked())), rtol=1e-6, atol=1e-6)


def test_ranpac_chooses_the_ridge_that_errs_least_on_samples_it_has_not_added() -> None:
    added: list[tuple[Array, Array]] = []
    chosen: list[float] = []

    class Watched(RanPAC):
        def add(self, z: torch.Tensor, y: torch.Tensor) -> None:
            super().add(z, y)
            added.append((projected(self, z.double().numpy()), y.numpy()))

        def solve(self) -> Any:
            chosen.append(self.chosen.item())
            return super().solve()

    found = Learnt(Watched(width=30), "class", tiny_tasks(3, images=41))
    assert [len(y) for _, y in added] == [32, 9] * 3  # a fifth of 41, rounded up
    grid = [10.0**power for power in range(-8, 9)]
    for number in range(3):
        h, y = (np.concatenate(parts) for parts in zip(*added[: 2 * number + 1], strict=True))
        unseen, labels = added[2 * number + 1]
        one_hot = np.eye(2 * number + 2)
        errors = []
        for ridge in grid:
            model = Ridge(alpha=ridge, fit_intercept=False, solver="cholesky").fit(h, one_hot[y])
            errors.append(np.square(model.predict(unseen) - one_hot[labels]).mean())
        assert chosen[number] == pytest.approx(grid[int(np.argmin(errors))])
    assert 1e-7 < min(chosen) <= max(chosen) < 1e7  # not at an end of the grid
    h, y = (np.concatenate(parts) for parts in zip(*added, strict=True))
    model = Ridge(alpha=chosen[-1], fit_intercept=False, solver="svd").fit(h, np.eye(6)[y])
    np.testing.assert_allclose(
        found.scores(), model.predict(projected(found.method, found.asked())), rtol=1e-6, atol=1e-6
    )  # type: ignore[arg-type]


def test_ranpac_draws_its_projection_once_from_the_seed() -> None:
    drawn = []
    for seed in (3, 3, 4):
        method = RanPAC(width=500)
        go(method, "class", seed=seed, tasks=1)
        drawn.append(method.projection)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].shape == (16, 500)
    assert drawn[0].mean().item() == pytest.approx(0, abs=4 / np.sqrt(8000))  # four standard errors
    assert drawn[0].std().item() == pytest.approx(1, abs=4 / np.sqrt(2 * 8000))


@pytest.mark.parametrize("method", [NCM, SLDA, lambda **fields: RanPAC(width=20, ridge=1.0, **fields)])
def test_the_order_of_tasks_and_samples_does_not_matter(method: Callable[..., ClosedForm]) -> None:
    """In `domain`, where the columns are the same in any order."""
    tasks = three()
    found = [
        Learnt(method(first_task=False), "domain", order, backbone=Pixels())
        for order in (tasks, in_another_order(tasks))
    ]
    np.testing.assert_allclose(found[1].scores(found[0].test), found[0].scores(), rtol=1e-6, atol=1e-6)
    assert not np.array_equal(found[1].z, found[0].z)


def test_the_papers_covariance_depends_on_the_order() -> None:
    tasks = three()
    found = [
        Learnt(SLDA(covariance="paper", first_task=False), "domain", order, backbone=Pixels())
        for order in (tasks, in_another_order(tasks))
    ]
    assert np.abs(found[1].scores(found[0].test) - found[0].scores()).max() > 1e-3


# --------------------------------------------------------------------------------------------------- answers


@every
def test_an_answer_is_the_same_for_an_image_alone(name: str) -> None:
    found = Learnt(METHODS[name](), "class", three(), backbone=CNN(channels=2, width=8))
    alone = np.concatenate([found.scores(found.test[row : row + 1]) for row in range(len(found.test))])
    np.testing.assert_allclose(alone, found.scores(), rtol=1e-4, atol=1e-5)


@every
def test_classes_to_come_are_never_answered(name: str) -> None:
    """With all outputs there from the start, and competing."""
    seen: list[torch.Tensor] = []
    x = three()[0].test.batch(torch.arange(4))

    def ask(method: Any, task: Task) -> None:
        with torch.no_grad():
            seen.append(method.scores(x, None))

    training = Training(epochs=1, batch_size=8, full_head=True, predict_over="all")
    go(METHODS[name](), "class", tiny_tasks(3), training=training, after_task=ask)
    for number, scores in enumerate(seen, 1):
        assert scores.shape == (4, 6)
        assert scores[:, : 2 * number].isfinite().all()
        assert (scores[:, 2 * number :] == -torch.inf).all()


@every
def test_a_checkpoint_has_all_that_is_kept(name: str, tmp_path: Path) -> None:
    """Bit for bit, also what a hash of weights does not see."""

    class Stop(Exception):
        pass

    def stop(_: Any, task: Task) -> None:
        if task.index == 2:
            raise Stop

    whole, stopped, resumed = (METHODS[name]() for _ in range(3))
    outcome = go(whole, "class")
    checkpoint = SnapshotFile(tmp_path / "run.pt")
    with pytest.raises(Stop):
        go(stopped, "class", after_task=stop, checkpoint=checkpoint)
    same_as(outcome, go(resumed, "class", checkpoint=checkpoint))
    assert equal(whole.state(), resumed.state())
    assert len(whole.state()["counts"]) == 6


@every
def test_what_old_classes_share_with_new_ones_is_all_that_changes_their_scores(name: str) -> None:
    """NCM shares nothing, so that it forgets nothing where the task is told; the others share a matrix."""
    kept: list[torch.Tensor] = []
    first = tiny_tasks(3)[0].test.batch(torch.arange(12))

    def ask(method: Any, task: Task) -> None:
        with torch.no_grad():
            kept.append(method.scores(first, 0)[:, :2])

    go(METHODS[name](), "task", after_task=ask)
    assert torch.allclose(kept[0], kept[2], rtol=1e-12) == (name == "ncm")


# --------------------------------------------------------------------------------------------------- as a whole


def test_the_family_has_a_name() -> None:
    assert members("closed-form") == ["ncm", "ranpac", "slda"]


def test_digits_one_pair_after_another(tmp_path: Path) -> None:
    """The worst of three seeds was 67 % (ncm), 96 % (slda) and 95 % (ranpac); fine-tuning keeps the last two of ten."""
    methods = "finetune,ncm,slda,ranpac@width=200"
    results = clbench.run(methods, scenario="class", seeds=1, out=tmp_path, quiet=True)
    found = results.frame.query("metric == 'average_accuracy'").set_index("label")["value"]
    assert found["finetune"] < 0.25
    assert found["ncm"] > 0.55
    assert min(found["slda"], found["ranpac@width=200"]) > 0.9
