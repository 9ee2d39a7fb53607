"""Avalanche's benchmarks as task sequences: by our class order where that can be, else as Avalanche makes them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from compared import load
from made_up_data import everything

import clbench
from clbench.data import benchmarks
from clbench.errors import DataError, UsageError
from clbench.experiment import registry
from clbench.sequences import TaskSequence
from clbench.sequences.avalanche import avalanche_sequence
from clbench.sequences.permuted_rotated import PermutedMNIST
from clbench.sequences.splits import SplitCIFAR10, SplitMNIST


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("SplitMNIST", SplitMNIST(tasks=2)),
        ("SplitCIFAR10", SplitCIFAR10(tasks=2)),
        ("PermutedMNIST", PermutedMNIST(tasks=2)),
    ],
)
def test_benchmarks_by_their_avalanche_name_equal_the_built_in_ones(name: str, own: TaskSequence, root: Path) -> None:
    sequence = registry.configure(name, registry.find("sequence", f"avalanche:{name}"), {"tasks": "2"})
    assert sequence.name == f"avalanche:{name}"
    assert sequence.scenario == own.scenario
    assert sequence.prepare(root, 6) == sequence.prepare(root, 6)
    assert sequence.class_order("seed", 6, root) == own.class_order("seed", 6)
    for theirs, ours in zip(load(sequence, root, 6), load(own, root, 6), strict=True):
        assert theirs.classes == ours.classes
        for one, other in ((theirs.train, ours.train), (theirs.test, ours.test)):
            first, second = torch.argsort(one.y, stable=True), torch.argsort(other.y, stable=True)
            assert torch.equal(one.y[first], other.y[second])
            assert torch.equal(one.batch(first), other.batch(second))


STREAMS = """
import numpy as np
import torch
from avalanche.benchmarks import dataset_benchmark, nc_benchmark
from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute
from torchvision.transforms import Normalize

NORMALIZE = Normalize((0.5,), (0.25,))

class Images(torch.utils.data.Dataset):
    def __init__(self, labels, transform=None):
        self.targets, self.transform = list(labels), transform
    def __len__(self):
        return len(self.targets)
    def __getitem__(self, row):
        image = torch.full((1, 4, 4), row / 255)
        return (image if self.transform is None else self.transform(image)), self.targets[row]

def Unequal(n_experiences=2, *, classes_first_batch=3, seed=0, fixed_class_order=None, shuffle=False,
            class_ids_from_zero_from_first_exp=False, train_transform=None, eval_transform=NORMALIZE,
            dataset_root=None):
    train, test = Images(np.arange(10) % 5), Images(np.arange(5))
    return nc_benchmark(train, test, n_experiences, False, shuffle=shuffle, seed=seed, per_exp_classes={0: 3},
                        train_transform=train_transform, eval_transform=eval_transform)

def Instances(*, train_transform=None, eval_transform=NORMALIZE, dataset_root=None):
    def wrapped(labels, transform):
        attributes = [DataAttribute(labels, "targets"), DataAttribute([0] * len(labels), "targets_task_labels")]
        return AvalancheDataset([Images(labels, transform)], data_attributes=attributes)
    return dataset_benchmark([wrapped([4, 2, 4], train_transform), wrapped([8, 2], train_transform)],
                             [wrapped([8, 4, 2, 2], eval_transform)])
"""


@pytest.fixture
def streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two benchmarks among Avalanche's: tasks with different numbers of classes, and tasks that share one test set."""
    (tmp_path / "streams_of_ours.py").write_text(STREAMS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "streams_of_ours", raising=False)
    common: dict[str, Any] = {"train_transform": None, "eval_transform": None, "dataset_root": None}
    by_class = ("seed", "fixed_class_order", "shuffle", "class_ids_from_zero_from_first_exp", "classes_first_batch")
    known: dict[str, dict[str, Any]] = {
        "Unequal": {"n_experiences": 2, **dict.fromkeys(by_class), **common},
        "Instances": common,
    }
    made = {name: benchmarks.AvalancheBenchmark(name, known[name], "streams_of_ours") for name in known}
    monkeypatch.setattr(benchmarks, "avalanche_benchmarks", lambda: made)
    avalanche_sequence.cache_clear()
    yield
    avalanche_sequence.cache_clear()


@pytest.mark.usefixtures("streams")
def test_streams_that_split_classes_unequally_are_taken_as_they_are(root: Path) -> None:
    sequence = avalanche_sequence("Unequal")()
    assert sequence.scenarios == {"task", "class"}
    assert sequence.class_order("seed", 3, root) is None
    tasks = load(sequence, root, 3)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(3)).tolist()
    assert [task.classes for task in tasks] == [tuple(sorted(order[:3])), tuple(sorted(order[3:]))]
    for task in tasks:
        rows = (everything(task.train)[:, 0, 0, 0] * 0.25 + 0.5).mul(255).round().long()  # pixels name their row
        assert (rows % 5).tolist() == [task.classes[label] for label in task.train.y.tolist()]


@pytest.mark.usefixtures("streams")
def test_streams_of_instances_have_all_classes_in_every_task(root: Path) -> None:
    sequence = avalanche_sequence("Instances")()
    assert sequence.scenario == "domain"
    assert registry.defaults(type(sequence)) == {}
    tasks = load(sequence, root, 0)
    assert [task.classes for task in tasks] == [(2, 4, 8), (2, 4, 8)]
    assert [task.train.y.tolist() for task in tasks] == [[1, 0, 1], [2, 0]]
    assert [task.test.y.tolist() for task in tasks] == [[2, 1, 0, 0]] * 2
    assert torch.allclose(everything(tasks[1].train)[:, 0, 0, 0], (torch.arange(2) / 255 - 0.5) / 0.25, atol=1e-6)
    with pytest.raises(UsageError, match="no class order"):
        sequence.check((2, 4, 8), "task")


def test_an_avalanche_benchmark_has_its_own_number_of_tasks() -> None:
    assert registry.defaults(avalanche_sequence("SplitTinyImageNet")) == {"tasks": 10}
    assert registry.defaults(avalanche_sequence("SplitMNIST")) == {"tasks": 5}
    assert registry.defaults(avalanche_sequence("CORe50")) == {}


def test_an_unknown_avalanche_benchmark() -> None:
    with pytest.raises(UsageError, match="did you mean SplitTinyImageNet"):
        avalanche_sequence("SplitTinyImagenet")


def test_a_failing_download_of_avalanche_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLBENCH_CACHE", str(tmp_path / "cache"))

    def fail(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    (tmp_path / "root").mkdir()
    with pytest.raises(DataError, match="Avalanche cannot make SplitMNIST") as error:
        avalanche_sequence("SplitMNIST")().prepare(tmp_path / "root", 0)
    assert "\n" not in str(error.value)
    assert str(tmp_path / "root") in str(error.value)


def test_a_run_on_materialised_data_imports_nothing_heavy(root: Path) -> None:
    benchmarks.avalanche_benchmarks.cache_clear()  # those of another cache folder
    benchmarks.avalanche_benchmarks()
    names = ("split-digits", "split-mnist", "rotated-mnist", "mnist+fashion-mnist", "avalanche:SplitFMNIST")
    for name in names:
        registry.find("sequence", name)().prepare(root, 0)
    code = f"""
import sys
from pathlib import Path
from clbench.experiment import registry
registry.builtin("sequence")
for name in {names}:
    sequence, root = registry.find("sequence", name)(), Path({str(root)!r})
    sequence.prepare(root, 0)
    sequence.load(root, 0, sequence.class_order("seed", 0, root))
print([m for m in ("torchvision", "sklearn", "avalanche") if m in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_seeds_with_data_of_their_own_are_one_group(tmp_path: Path, root: Path) -> None:
    """Two seeds of a benchmark that Avalanche makes anew for each seed are averaged, in spite of different data."""
    results = clbench.run(
        "finetune",
        sequence="avalanche:PermutedMNIST",
        settings={"avalanche:PermutedMNIST.tasks": 1},
        seeds=2,
        iterations=1,
        jobs=1,
        data_root=root,
        out=tmp_path,
        quiet=True,
    )
    assert results.warnings == []
    assert results.summary().query("metric == 'average_accuracy'")["n"].tolist() == [2]
    assert results.runs["weights_hash"].nunique() == 2
