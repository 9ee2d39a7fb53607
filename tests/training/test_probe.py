"""The linear probe: against scikit-learn, and what it may not see or change."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from designs import Prototypes
from sklearn.linear_model import LogisticRegression
from tiny import SGD, Pixels, go, same_as

from clbench.experiment import registry
from clbench.method import SCENARIOS, Learner, Method, Scenario
from clbench.methods.er import ER
from clbench.methods.finetune import Finetune
from clbench.methods.joint import Joint
from clbench.methods.scratch import Scratch
from clbench.models.backbones import MLP
from clbench.sequences.tasks import Split, Task
from clbench.testing import tiny_tasks
from clbench.training import probe
from clbench.training.snapshots import SnapshotFile


def noisy_tasks(tasks: int, noise: float = 4.0) -> list[Task]:
    """Make tasks that no linear classifier gets all right, each image scaled otherwise."""
    made, generator = tiny_tasks(tasks), torch.Generator().manual_seed(1)
    for split in (split for task in made for split in (task.train, task.test)):
        split.images.add_(noise * torch.randn(split.images.shape, generator=generator)).mul_(3).add_(1)
    return made


def flat(split: Split) -> np.ndarray:
    return split.images[split.rows].flatten(1).double().numpy()


def by_scikit_learn(x: np.ndarray, y: np.ndarray) -> Any:
    """Fit theirs. Of two classes it penalises one vector, which is the difference of our two: twice as weakly."""
    C = 2.0 if len({*y.tolist()}) == 2 else 1.0
    return LogisticRegression(C=C, tol=1e-9, max_iter=10_000).fit(x, y)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_classifier_is_that_of_scikit_learn(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "GRADIENT", 1e-8)
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(90, 7)), generator.integers(0, classes, 90)
    theirs = by_scikit_learn(x, y)
    weight, bias = probe.fit(torch.from_numpy(x), torch.from_numpy(y), classes)
    ours = torch.softmax(torch.from_numpy(x) @ weight.T + bias, 1)
    np.testing.assert_allclose(ours, theirs.predict_proba(x), atol=1e-6)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_probe_of_pixels_is_scikit_learns_of_them(scenario: Scenario) -> None:
    """The backbone gives the pixels, so that its features are known."""
    tasks = noisy_tasks(4)
    found = go(Finetune(), scenario, tasks, backbone=Pixels(), probe=True).probe
    expected = []
    starts = [2 * task.index if scenario == "class" else 0 for task in tasks]
    for task, start in zip(tasks, starts, strict=True):
        group = [task] if scenario == "task" else tasks
        x = np.concatenate([flat(one.train) for one in group])
        y = np.concatenate([one.train.y.numpy() + starts[one.index] for one in group])
        mean, deviation = x.mean(0), x.std(0)
        answers = by_scikit_learn((x - mean) / deviation, y).predict((flat(task.test) - mean) / deviation)
        expected.append((answers == task.test.y.numpy() + start).mean())
    assert found == pytest.approx(expected)
    assert 0.2 < np.mean(expected) < 1


@pytest.mark.parametrize("method", [Finetune(), ER(images=10), Joint(), Scratch()], ids=repr)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_with_the_probe_a_run_is_the_same(method: Method, scenario: Scenario) -> None:
    """Dropout is on in training, so that a mode or a draw that was changed would show."""
    plain, probed = go(method, scenario, eval_every=2), go(method, scenario, eval_every=2, probe=True)
    same_as(plain, probed)
    assert (plain.confusion, plain.curves) == (probed.confusion, probed.curves)
    assert plain.probe is None
    assert probed.probe is not None
    assert len(probed.probe) == 3


@pytest.mark.parametrize("name", sorted(registry.builtin("method")))
def test_every_method_can_be_probed(name: str) -> None:
    method = tiny.new(name)
    scenario = next(some for some in ("class", "task") if some in method.scenarios)
    outcome = go(method, scenario, 2, backbone=MLP(width=16), training=replace(SGD, epochs=1), probe=True)
    assert outcome.probe is not None
    assert all(0 <= share <= 1 for share in outcome.probe)


def test_it_never_sees_test_images_while_it_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[tuple[torch.Tensor, ...]] = []
    fit = probe.fit

    def noted(h: torch.Tensor, y: torch.Tensor, classes: int) -> Any:
        fitted.append((h, y, *fit(h, y, classes)))
        return fitted[-1][2:]

    monkeypatch.setattr(probe, "fit", noted)
    tasks = noisy_tasks(3)
    others = [replace(task, test=replace(task.test, images=-task.test.images, y=1 - task.test.y)) for task in tasks]
    first, second = (go(Finetune(), "class", some, probe=True).probe for some in (tasks, others))
    assert first != second
    assert all(torch.equal(one, other) for one, other in zip(*fitted, strict=True))
    assert len(fitted[0][0]) == 3 * 24  # the training images, and no other
    fitted.clear()
    go(Finetune(), "class", tasks, probe=True, training=replace(SGD, validation=0.25))
    assert len(fitted[0][0]) == 3 * 18  # nor those for validation


def test_a_feature_that_never_moves_does_no_harm() -> None:
    h = torch.tensor([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0]], dtype=torch.double)
    tasks = [Task(0, (0, 1), *[Split(h.float()[:, None, :, None], torch.arange(4), torch.tensor([0, 0, 1, 1]))] * 2)]
    assert go(Finetune(), "class", tasks, backbone=Pixels(), probe=True).probe == [1.0]


def test_a_task_of_one_class_is_answered_right_where_it_is_told() -> None:
    tasks = [replace(task, classes=task.classes[:1]) for task in tiny_tasks(2)]
    keep = [(task.train.y == 0).nonzero()[:, 0] for task in tasks], [(t.test.y == 0).nonzero()[:, 0] for t in tasks]
    tasks = [
        replace(task, train=task.train.subset(own), test=task.test.subset(other))
        for task, own, other in zip(tasks, *keep, strict=True)
    ]
    assert go(Finetune(), "task", tasks, probe=True).probe == [1.0, 1.0]


def test_a_run_that_goes_on_is_probed_alike(tmp_path: Path) -> None:
    whole = go(Finetune(), "class", probe=True)

    def stop(learner: Learner, task: Task) -> None:
        if task.index == 2:
            raise KeyboardInterrupt

    file = SnapshotFile(tmp_path / "run.pt")
    with pytest.raises(KeyboardInterrupt):
        go(Finetune(), "class", probe=True, checkpoint=file, after_task=stop)
    for _ in range(2):  # after two tasks, and after all
        again = go(Finetune(), "class", probe=True, checkpoint=file)
        assert (again.probe, again.confusion) == (whole.probe, whole.confusion)


def test_a_learner_without_a_network_has_none() -> None:
    outcome = go(Prototypes(), "class", probe=True)
    assert outcome.probe is None
    assert outcome.confusion is not None
