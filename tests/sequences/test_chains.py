"""Chains of whole data sets: tasks are the data files', scaled as the first one's, and found by name everywhere."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets
from asking import prepared as plan
from made_up_data import make_cifar, make_mnist
from torch import Tensor
from typer.testing import CliRunner

import clbench
from clbench.cli.app import app
from clbench.data import sources as data
from clbench.errors import UsageError
from clbench.execution.run import run_one
from clbench.experiment import own_code, registry
from clbench.results.frames import Results
from clbench.results.store import Store
from clbench.seeding import stream
from clbench.sequences.splits import CIFAR_BUDGET, MNIST_BUDGET, SplitCIFAR100, chain_sequence
from clbench.sequences.tasks import Split, Task, TaskSequence, concat

NAME, REVERSED = "mnist+fashion-mnist", "fashion-mnist+mnist"
MNIST, FASHION, CIFAR10 = (
    ((0.1307,), (0.3081,)),
    ((0.2860,), (0.3530,)),
    ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
)

Arrays = Sequence[np.ndarray]  # training images and labels, test images and labels


@pytest.fixture
def own_cache_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CLBENCH_DATA_ROOT", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def files(root: Path, own_cache_only: None) -> dict[str, Arrays]:
    """Small files of random images, 300 and 260 for training, in the formats of MNIST and Fashion-MNIST."""
    return {
        "mnist": make_mnist(root, train=300, test=30, seed=1),
        "fashion-mnist": make_mnist(root, "FashionMNIST", train=260, test=20, seed=2),
    }


def load(name: str, root: Path | None, seed: int = 0, **fields: Any) -> list[Task]:
    sequence: TaskSequence = chain_sequence(name)(**fields)
    assert sequence.class_order("seed", seed, root) is None
    return sequence.load(root, seed, None)


def everything(split: Split) -> Tensor:
    return split.batch(torch.arange(len(split)))


def assert_task(task: Task, arrays: Arrays, constants: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    """Compare a task's images and labels with a data set's, scaled by hand."""
    mean, std = (np.array(values)[:, None, None] for values in constants)
    for split, images, labels in ((task.train, *arrays[:2]), (task.test, *arrays[2:])):
        assert split.y.tolist() == labels.tolist()
        assert split.y.dtype == torch.int64
        for rows in torch.arange(len(split)).split(5000):
            pixels = images[rows.numpy()]
            pixels = pixels[:, None] if pixels.ndim == 3 else pixels
            expected = torch.from_numpy((pixels / 255 - mean) / std)
            assert torch.allclose(split.batch(rows).double(), expected, rtol=0, atol=1e-5)


def of_torchvision(dataset: Any, root: Path) -> Arrays:
    parts = [dataset(str(root), train=train) for train in (True, False)]
    return [array.numpy() for part in parts for array in (part.data, part.targets)]


@pytest.mark.data
@pytest.mark.parametrize(("name", "constants"), [(NAME, MNIST), (REVERSED, FASHION)])
def test_the_tasks_are_torchvisions_data_sets(name: str, constants: Any, data_root: Path) -> None:
    truth = {
        "mnist": of_torchvision(torchvision.datasets.MNIST, data_root),
        "fashion-mnist": of_torchvision(torchvision.datasets.FashionMNIST, data_root),
    }
    tasks = load(name, data_root)
    assert [task.index for task in tasks] == [0, 1]
    assert [task.classes for task in tasks] == [tuple(range(10)), tuple(range(10, 20))]
    assert [(len(task.train), len(task.test)) for task in tasks] == [(60000, 10000)] * 2
    for task, source in zip(tasks, name.split("+"), strict=True):
        assert_task(task, truth[source], constants)


@pytest.mark.parametrize(("name", "constants"), [(NAME, MNIST), (REVERSED, FASHION)])
def test_the_tasks_are_what_the_files_say(name: str, constants: Any, root: Path, files: dict[str, Arrays]) -> None:
    tasks = load(name, root)
    assert [task.classes for task in tasks] == [tuple(range(10)), tuple(range(10, 20))]
    for task, source in zip(tasks, name.split("+"), strict=True):
        assert_task(task, files[source], constants)


@pytest.mark.usefixtures("own_cache_only")
@pytest.mark.parametrize("name", ["cifar10+cifar100", "cifar100+cifar10"])
def test_class_ids_go_on_where_the_data_set_before_ended(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = {f"cifar{n}": list(make_cifar(root, monkeypatch, n).values()) for n in (10, 100)}
    tasks = load(name, root)
    sizes = [int(source.removeprefix("cifar")) for source in name.split("+")]
    assert [task.classes for task in tasks] == [tuple(range(sizes[0])), tuple(range(sizes[0], 110))]
    for task, source in zip(tasks, name.split("+"), strict=True):
        assert_task(task, truth[source], CIFAR10 if sizes[0] == 10 else SplitCIFAR100.constants)


@pytest.mark.usefixtures("files")
def test_grey_and_colour_need_to_be_made_alike(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cifar(root, monkeypatch, 10)
    shapes = r"mnist \[1, 28, 28\], cifar10 \[3, 32, 32\]"
    with pytest.raises(UsageError, match=rf"different shapes \({shapes}\): --set mnist\+cifar10.channels=3 makes"):
        plan("finetune", sequence="mnist+cifar10", seeds=1, data_root=root, out=root / "out")
    with pytest.raises(UsageError, match=r"mnist\+cifar10.channels=1: choose 3"):
        plan("finetune", sequence="mnist+cifar10@channels=1", seeds=1, data_root=root, out=root / "out")


def test_three_data_sets_grey_and_colour(root: Path, files: dict[str, Arrays], monkeypatch: pytest.MonkeyPatch) -> None:
    photographs = list(make_cifar(root, monkeypatch, 100).values())
    tasks = load("mnist+cifar100+fashion-mnist", root, channels=3)
    assert [task.index for task in tasks] == [0, 1, 2]
    assert [task.classes for task in tasks] == [tuple(range(10)), tuple(range(10, 110)), tuple(range(110, 120))]
    border = ((0, 0), (2, 2), (2, 2))
    for task, arrays in zip(tasks, (files["mnist"], photographs, files["fashion-mnist"]), strict=True):
        images = [np.pad(a, border)[:, None].repeat(3, 1) if a.ndim == 3 else a for a in arrays]
        assert_task(task, images, MNIST)
    concat([task.train for task in tasks])  # joint training takes them


def test_colour_first_scales_each_channel_by_its_own_constants(
    root: Path, files: dict[str, Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_cifar(root, monkeypatch, 10)
    images, *others = files["mnist"]
    task = load("cifar10+mnist", root, channels=3)[1]
    grey = [np.pad(a, ((0, 0), (2, 2), (2, 2)))[:, None].repeat(3, 1) if a.ndim == 3 else a for a in (images, *others)]
    assert_task(task, grey, CIFAR10)


@pytest.mark.usefixtures("files")
def test_digits_among_others_are_as_bright(root: Path) -> None:
    """They have 17 levels of grey, the others 256; without `channels` their shape lets nothing follow."""
    with pytest.raises(UsageError, match=r"digits\+mnist has images of different shapes"):
        load("digits+mnist", root)
    digits = load("digits+mnist", root, channels=3)[0].train
    assert digits.shape == (3, 28, 28)
    inside = everything(digits)[:, :, 10:18, 10:18]
    assert inside.unique().tolist() == pytest.approx([round(level * 255 / 16) / 255 for level in range(17)])
    border = everything(digits).clone()
    border[:, :, 10:18, 10:18] = 0
    assert not border.any()


def test_a_run_over_grey_and_colour(root: Path, files: dict[str, Arrays], monkeypatch: pytest.MonkeyPatch) -> None:
    make_cifar(root, monkeypatch, 10)
    name = "mnist+cifar10@channels=3"
    sweep = plan("joint", sequence=name, seeds=1, data_root=root, out=root / "out", training={"iterations": 2})
    (job,) = sweep.jobs
    record = run_one(job)
    assert record.ok, record.error
    assert record.spec["sequence_label"] == name
    differs = "as it is known: its training images, training labels, test images, test labels differ"
    (remark,) = [note for note in sweep.notes if "as it is known" in note]  # the made-up MNIST is not MNIST
    assert differs in remark
    assert record.environment is not None
    assert record.environment["data"] == [remark]


def test_images_are_drawn_by_the_seed(root: Path, files: dict[str, Arrays]) -> None:
    tasks = load(NAME, root, 3, images=40)
    for task, source in zip(tasks, files, strict=True):
        images, labels, test_images, test_labels = files[source]
        generator = stream(3, "images", task.index)
        rows = sorted(torch.randperm(len(images), generator=generator)[:40].tolist())
        assert len(set(rows)) == len(task.train) == 40
        assert task.train.rows.tolist() == rows
        assert_task(task, [images[rows], labels[rows], test_images, test_labels], MNIST)
    assert tasks[0].train.rows.tolist() != tasks[1].train.rows.tolist()
    for one, same, other in zip(tasks, load(NAME, root, 3, images=40), load(NAME, root, 4, images=40), strict=True):
        assert torch.equal(one.train.rows, same.train.rows)
        assert torch.equal(one.train.y, same.train.y)
        assert not torch.equal(one.train.rows, other.train.rows)
        assert torch.equal(one.test.rows, other.test.rows)


@pytest.mark.usefixtures("files")
def test_more_images_than_there_are_is_all_of_them(root: Path) -> None:
    tasks = load(NAME, root, images=280)
    assert [len(task.train) for task in tasks] == [280, 260]
    everyone = load(NAME, root)[1].train
    assert torch.equal(tasks[1].train.rows, everyone.rows)
    assert torch.equal(tasks[1].train.y, everyone.y)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("images", [None, 30])
def test_data_sets_can_be_trained_on_together(images: int | None, root: Path) -> None:
    splits = [task.train for task in load(NAME, root, images=images)]
    joined = concat(splits)
    assert torch.equal(everything(joined), torch.cat([everything(split) for split in splits]))
    assert joined.y.tolist() == [*splits[0].y.tolist(), *splits[1].y.tolist()]


def test_the_fingerprint_is_that_of_all_data_sets_in_order(root: Path, files: dict[str, Arrays]) -> None:
    alone = {name: data.load_dataset(name, root).fingerprint for name in files}
    found = chain_sequence(NAME)().prepare(root, 0)
    assert found == hashlib.sha256((alone["mnist"] + alone["fashion-mnist"]).encode()).hexdigest()
    assert found == chain_sequence(NAME)().prepare(root, 1)
    assert found != chain_sequence(REVERSED)().prepare(root, 0)
    make_mnist(root / "other", train=300, test=30, seed=1)
    make_mnist(root / "other", "FashionMNIST", train=260, test=20, seed=3)
    assert found != chain_sequence(NAME)().prepare(root / "other", 0)


def test_a_chain_is_found_by_its_name() -> None:
    cls = registry.find("sequence", NAME)
    assert cls is registry.find("sequence", NAME) is chain_sequence(NAME)
    assert (cls.name, cls.scenario, cls.model, cls.budget) == (NAME, "task", "mlp", MNIST_BUDGET)  # type: ignore[attr-defined]
    assert cls.scenarios == {"task", "class", "domain"}  # type: ignore[attr-defined]
    photographs = chain_sequence("cifar100+cifar10")
    assert (photographs.model, photographs.budget) == ("cnn", CIFAR_BUDGET)
    assert registry.defaults(cls) == {"images": None, "channels": None}
    assert registry.label(NAME, registry.configure(NAME, cls, {"images": "200"})) == f"{NAME}@images=200"
    assert registry.configure(NAME, cls, {"images": "none"}) == cls() != chain_sequence(REVERSED)()
    assert own_code.code_hash(cls) is None
    assert not any("+" in name for name in registry.names("sequence"))


def test_every_data_set_can_be_named() -> None:
    chain = chain_sequence("+".join(["digits", *data.SOURCES]))
    sizes = [part.n_classes for part in chain.parts]  # type: ignore[attr-defined]
    assert sizes == [10, *(source.classes for source in data.SOURCES.values())]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mnist+fashoin-mnist",
            "unknown data set 'fashoin-mnist' in .*, did you mean fashion-mnist",
        ),
        ("mnits+fashion-mnist", "unknown data set 'mnits' in .*, did you mean mnist"),
        ("mnist+imagenet", "unknown data set 'imagenet' .*choose from digits, mnist, fashion-mnist, cifar10, cifar100"),
        ("split-mnist+fashion-mnist", "unknown data set 'split-mnist'"),
        ("mnist+mnist", "names the data set mnist twice"),
        ("mnist+fashion-mnist+mnist", "names the data set mnist twice"),
        ("mnist+", "cannot read 'mnist.': join names of data sets"),
        ("+mnist", "cannot read '.mnist': join names"),
        ("mnist++fashion-mnist", "cannot read"),
        ("+", "cannot read"),
    ],
)
def test_names_that_are_no_chain(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        registry.find("sequence", name)
    assert "\n" not in str(error.value)


def test_a_plus_means_a_chain_only_in_a_sequence_of_the_registry(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown method"):
        registry.find("method", NAME)
    with pytest.raises(UsageError, match="is a file: name the sequence in it too"):
        registry.find("sequence", "./a+b.py")
    path = tmp_path / "a+b.py"
    path.write_text(
        "from clbench.sequences.tasks import TaskSequence\n\n\n"
        "class Mine(TaskSequence):\n    name, scenario = 'mine', 'task'\n"
    )
    assert registry.find("sequence", f"{path}:Mine").__name__ == "Mine"


@pytest.mark.parametrize("order", ["fixed", (1, 0), tuple(range(20))])
def test_there_is_no_class_order_to_choose(order: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mnist\+fashion-mnist has no class order but that of its name"):
        plan("finetune", sequence=NAME, class_order=order, out=tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("images", 0, "images=0: the value should be greater than or equal to 1"),
        ("images", "many", "images=many"),
        ("tasks", 5, "has no field 'tasks'.*its fields are images"),
    ],
)
def test_bad_settings(field: str, value: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        plan("finetune", sequence=NAME, settings={f"{NAME}.{field}": value}, out=tmp_path)


def run(root: Path, out: Path, **options: Any) -> Results:
    small = {"seeds": 1, "iterations": 3, "settings": {f"{NAME}.images": 200}, "quiet": True}
    return clbench.run("finetune,joint", sequence=NAME, data_root=root, out=out, **{**small, **options})


@pytest.mark.parametrize("scenario", ["task", "class", "domain"])
def test_a_run_from_end_to_end(scenario: str, root: Path, tmp_path: Path, files: dict[str, Arrays]) -> None:
    out = tmp_path / "out"
    results = run(root, out, scenario=scenario, jobs=2)
    assert results.warnings == []
    records, problems = Store(out).read()
    assert (len(records), problems) == (2, [])
    for record in records.values():
        assert record.ok, record.error
        assert record.spec["sequence"] == NAME
        assert record.spec["sequence_label"] == f"{NAME}@images=200"
        assert record.spec["sequence_params"]["images"] == 200
        assert record.spec["scenario"] == scenario
        assert (record.spec["class_order_rule"], record.spec["class_order"]) == ("seed", None)
        assert record.updates == [3, 3]
        assert record.parameters == 784 * 256 + 256 + (256 * 10 + 10) * (1 if scenario == "domain" else 2)
    assert results.runs["weights_hash"].nunique() == 2
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert run(root, out, scenario=scenario).runs["weights_hash"].tolist() == results.runs["weights_hash"].tolist()
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.json")} == times


@pytest.mark.data
@pytest.mark.parametrize("scenario", ["task", "class"])
def test_a_run_on_real_data(scenario: str, data_root: Path, tmp_path: Path) -> None:
    results = run(data_root, tmp_path, scenario=scenario, jobs=1)
    assert results.warnings == []
    assert results.runs["weights_hash"].nunique() == 2
    assert {record.status for record in Store(tmp_path).read()[0].values()} == {"ok"}


def test_an_epoch_is_as_many_images_as_were_asked_for(root: Path, tmp_path: Path, files: dict[str, Arrays]) -> None:
    run(root, tmp_path / "out", iterations=None, epochs=2, settings={f"{NAME}.images": 280}, jobs=1)
    records = Store(tmp_path / "out").read()[0].values()
    images = {record.spec["method"]: record.images for record in records}
    assert images == {"finetune": [560, 520], "joint": [560, 2 * 540]}


def test_the_command_line_reads_a_setting_of_a_name_with_a_plus(
    root: Path, tmp_path: Path, files: dict[str, Arrays]
) -> None:
    words = f"run --methods finetune --seeds 1 --sequence {NAME},{REVERSED}@images=50 --set {NAME}.images=100,200"
    result = CliRunner().invoke(
        app, [*words.split(), "--dry-run", "--data-root", str(root), "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.exception
    labels = [line.split()[2] for line in result.stdout.splitlines() if line.startswith("to do")]
    assert labels == [f"{NAME}@images=100", f"{NAME}@images=200", f"{REVERSED}@images=50"]


@pytest.mark.usefixtures("own_cache_only")
def test_domain_is_refused_where_the_numbers_of_classes_differ(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in (10, 100):
        make_cifar(root, monkeypatch, n)
    with pytest.raises(UsageError, match="tasks of different numbers of classes"):
        plan("finetune", sequence="cifar10+cifar100", scenario="domain", seeds=1, data_root=root, out=root / "out")


def test_the_settings_of_a_chain_are_fields_of_a_frozen_dataclass() -> None:
    instance = chain_sequence(NAME)()
    assert [field.name for field in dataclasses.fields(instance)] == ["images", "channels"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        instance.images = 3  # type: ignore[attr-defined]
