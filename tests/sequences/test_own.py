"""Data of one's own as task sequences: their tasks, how their images are scaled, and what is said of mistakes."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_data import everything, make_cifar
from PIL import Image

import clbench
from clbench.cli.app import main
from clbench.data import transforms
from clbench.errors import UsageError
from clbench.experiment import presets, registry
from clbench.experiment.early import own_settings
from clbench.results.record import RunRecord
from clbench.sequences.checking import check_sequence
from clbench.sequences.splits import SplitCIFAR100

DRAWS = np.random.default_rng(0)
X, Y = DRAWS.integers(0, 256, (60, 6, 5, 3), dtype=np.uint8), np.arange(60) % 6 + 1


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", x_train=X, y_train=Y, x_test=X[:24] // 2, y_test=Y[:24])
    for row, label in enumerate(Y):
        (tmp_path / f"pictures/{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(X[row]).save(tmp_path / f"pictures/{label}/{row:02}.png")
    return tmp_path


def made(name: str, **fields: Any) -> Any:
    return registry.configure(name, registry.find("sequence", name), fields)


@pytest.mark.parametrize("name", ["npz:mine.npz", "folder:pictures"])
def test_the_contract(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_sequence(made(name, tasks=3))
    check_sequence(made(name, classes="3+1x2+1", resize=4, channels=1))
    assert "3 tasks, images [3, 6, 5]" in capsys.readouterr().out


def test_images_are_scaled_by_the_training_images() -> None:
    task = made("npz:mine.npz", tasks=1).load(None, 0, range(6))[0]
    x = np.concatenate([X[label::6] for label in range(6)]).transpose(0, 3, 1, 2) / 255
    mean, std = (X / 255).mean(axis=(0, 1, 2)).reshape(3, 1, 1), (X / 255).std(axis=(0, 1, 2)).reshape(3, 1, 1)
    torch.testing.assert_close(everything(task.train).numpy(), ((x - mean) / std).astype(np.float32))
    assert everything(task.train).mean(dim=(0, 2, 3)).abs().max() < 1e-5


@pytest.mark.parametrize(("mean", "std"), [("0.5", "0.25"), ("0.5/0.4/0.3", "0.25/0.5/1"), ("0.5", "0.25/0.5/1")])
def test_constants_of_ones_own(mean: str, std: str) -> None:
    task = made("npz:mine.npz", mean=mean, std=std, tasks=1).load(None, 0, range(6))[0]
    x = np.concatenate([X[label::6] for label in range(6)]).transpose(0, 3, 1, 2) / 255
    m, s = (np.resize([float(v) for v in text.split("/")], 3).reshape(3, 1, 1) for text in (mean, std))
    torch.testing.assert_close(everything(task.train).numpy(), ((x - m) / s).astype(np.float32), rtol=1e-4, atol=1e-5)


def test_a_part_of_the_classes_and_images_and_their_mean_image() -> None:
    sequence = made("npz:mine.npz", tasks=3, skip=1, images=40, mean_image=True, std="0.5")
    tasks = sequence.load(None, 0, sequence.class_order("fixed", 0))
    assert [task.classes for task in tasks] == [(2, 3), (4, 5)]
    chosen = [row for label in (2, 3) for row in range(40) if row % 6 == label]
    expected = (X[chosen] / 255 - (X / 255).mean(axis=0)) / 0.5
    np.testing.assert_allclose(everything(tasks[0].train).numpy(), expected.transpose(0, 3, 1, 2), rtol=0, atol=1e-6)


def test_a_mean_image_is_of_bytes() -> None:
    np.savez("floats.npz", x_train=X / 255, y_train=Y, x_test=X[:24] / 255, y_test=Y[:24])
    with pytest.raises(UsageError, match=r"npz:floats\.npz: mean_image is subtracted from bytes"):
        made("npz:floats.npz", tasks=3, mean_image=True).load(None, 0, tuple(range(6)))


def test_classes_are_numbered_in_the_order_of_their_names() -> None:
    tasks = made("npz:mine.npz", classes="4+1+1").load(None, 0, (5, 4, 3, 2, 1, 0))
    assert [task.classes for task in tasks] == [(5, 4, 3, 2), (1,), (0,)]
    assert torch.equal(tasks[1].train.images[tasks[1].train.rows], torch.from_numpy(X[Y == 2].transpose(0, 3, 1, 2)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": 2}, r"channels=2: choose 3 \(colour\), 1 \(grey\) or none"),
        ({"mean": "x"}, "mean=x: a number is needed, or one for each channel, as in 0.49/0.48/0.45"),
        ({"std": "0"}, "std=0: a number above 0 is needed"),
        ({"tasks": 3, "classes": "6"}, "tasks=3 and classes=6 are both given"),
        ({"classes": "6y"}, "cannot read '6y'"),
    ],
)
def test_fields_that_make_no_sense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made("npz:mine.npz", **fields).check("seed", "task")


def test_as_many_constants_as_channels() -> None:
    with pytest.raises(UsageError, match="mean has 2 numbers, the images have 3 channels"):
        made("npz:mine.npz", mean="0.1/0.2").load(None, 0, tuple(range(5)))


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("npz:min.npz", "npz:min.npz: there is no file min.npz, did you mean mine.npz?"),
        ("npz:pictures", "npz:pictures: pictures is no file, did you mean folder:pictures?"),
        ("folder:mine.npz", "folder:mine.npz: mine.npz is no folder, did you mean npz:mine.npz?"),
        ("folder:", "folder: names no folder: write folder:FOLDER"),
        ("torchvision:SVHM", "unknown data set 'SVHM' of torchvision's, did you mean SVHN?"),
        ("npz:mine.npz@task=5", "npz:mine.npz has no field 'task', did you mean tasks?"),
        ("npz:mine.npz@tasks=4", "6 classes cannot be shared equally among 4 tasks; choose tasks from 1, 2, 3, 6"),
        ("npz:mine.npz@classes=4+4", "npz:mine.npz.classes=4+4 are 8 classes in 2 tasks: there are 6"),
    ],
)
def test_what_is_mistyped_is_one_line(
    sequence: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["clbench", "run", "--sequence", sequence, "--methods", "finetune"])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def shown(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["clbench", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    return capsys.readouterr().out


def test_list_and_show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    listed = shown(["list", "sequences"], monkeypatch, capsys)
    for name in ("npz:FILE", "folder:PATH", "torchvision:NAME"):
        assert name in listed
        assert "classes: text" in shown(["show", name], monkeypatch, capsys)
    assert "resize" in shown(["show", "npz:mine.npz"], monkeypatch, capsys)
    assert "split: text" in shown(["show", "torchvision:EMNIST"], monkeypatch, capsys)


def run(sequence: str, **options: Any) -> RunRecord:
    (record,) = clbench.run("finetune", sequence=sequence, seeds="3-3", epochs=1, jobs=1, quiet=True, **options).records
    assert record.ok, record.error
    return record


def test_a_run_says_which_data_it_had(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = run("npz:./mine.npz@tasks=3", class_order="numpy:1993")
    assert record.spec["sequence_label"] == "npz:mine.npz@tasks=3"
    assert record.spec["data"] == made("npz:mine.npz").data(None).fingerprint
    order = np.random.RandomState(1993).permutation(6).tolist()
    assert (record.spec["class_order_rule"], record.spec["class_order"]) == ("numpy:1993", order)
    assert record.test_images == [8, 8, 8]
    assert record.environment is not None
    (remark,) = record.environment["data"]
    assert remark == (
        "npz:mine.npz: 60 training and 24 test images, 6×5, colour, 6 classes, read as [n, height, width, channels]"
    )
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert run(f"npz:{here}/mine.npz@tasks=3", class_order="numpy:1993").spec["data"] == record.spec["data"]


def test_a_grid_over_its_fields() -> None:
    results = clbench.run(
        "finetune",
        sequence="folder:./pictures@tasks=3",
        settings={"folder:./pictures.channels": [1, 3]},
        seeds=1,
        epochs=1,
        jobs=1,
        quiet=True,
    )
    assert sorted(record.spec["sequence_params"]["channels"] for record in results.records) == [1, 3]


def test_a_preset_may_name_them(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "mine.toml").write_text(
        'title = "Mine"\nscenarios = ["class"]\nclass_order = "seed:7"\n'
        '[sequence]\nname = "npz:mine.npz"\nclasses = "3+1+2"\n[training]\nepochs = 1\n'
        '[[rows]]\nlabel = "none"\nmethod = "finetune"\n'
    )
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    (record,) = clbench.run(preset="../mine.toml", seeds=1, jobs=1, quiet=True).records
    assert record.ok, record.error
    assert (len(record.updates or ()), record.spec["class_order_rule"]) == (3, "seed:7")


def test_tasks_share_the_images_of_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where data are too large to be scaled beforehand, no task has a copy: batches alone are in memory."""
    monkeypatch.setattr(transforms, "SCALED_LIMIT", 0)
    sequence = made("npz:mine.npz", tasks=3)
    tasks = sequence.load(None, 0, tuple(range(6)))
    (place,) = {task.train.images.data_ptr() for task in tasks}
    assert all(task.train.scaled is None for task in tasks)
    assert str(sequence.data(None).train_images.shape) == str(tasks[0].train.images.shape)
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        lines = [line.split() for line in mapped.read_text().splitlines() if "train_images.npy" in line]
        ranges = [[int(end, 16) for end in line[0].split("-")] for line in lines]
        assert any(start <= place < stop for start, stop in ranges)


UNDER_A_LIMIT = """
import resource, sys
import numpy as np
import torch
from clbench.experiment import registry

torch.set_num_threads(1)
status = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("VmData"))
limit = (int(status["VmData"].split()[0]) + 64 * 1024) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
sequence = registry.configure("npz:large.npz", registry.find("sequence", "npz:large.npz"), {"tasks": "2"})
images = 0
for task in sequence.load(None, 0, (2, 0, 3, 1)):
    for split in (task.train, task.test):
        for rows in torch.arange(len(split)).split(256):
            images += len(split.batch(rows))
try:
    np.ones(2**27, np.uint8)
    print("no limit")
except MemoryError:
    print(images, bool(task.train.scaled is None))
"""


@pytest.mark.parametrize(("count", "beforehand"), [(8192, False), (2048, True)])
def test_images_larger_than_memory_load_and_make_batches_under_a_limit(
    count: int, beforehand: bool, here: Path
) -> None:
    """96 MiB of bytes, and as many of images scaled beforehand, where a process may allocate 64 MiB.

    In a process of its own: a limit cannot be taken back, and a process with threads should not be forked.
    """
    y, x = np.arange(count) % 4, np.zeros((count, 3, 64, 64), np.uint8)
    np.savez_compressed("large.npz", x_train=x, y_train=y, x_test=x[:256], y_test=y[:256])
    script = UNDER_A_LIMIT if beforehand else UNDER_A_LIMIT.replace("images = 0", NOT_BEFOREHAND)
    words, environment = [sys.executable, "-P", "-c", script], {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.stdout.startswith("no limit"):
        pytest.skip("this machine does not hold RLIMIT_DATA")
    assert done.stdout.split() == [str(count + 256), str(not beforehand)], done.stderr


NOT_BEFOREHAND = """
from clbench.data import transforms
transforms.SCALED_LIMIT = images = 0
"""


@pytest.mark.parametrize("preset", ["agem2019-split-cifar100", "erace2022-online-cifar100"])
def test_a_file_of_cifar100_makes_the_tasks_of_the_presets(preset: str, here: Path) -> None:
    """By the name that the guide gives for it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        arrays = make_cifar(here, monkeypatch, 100)
        axes = {part: arrays[f"{part}_images"].transpose(0, 2, 3, 1) for part in ("train", "test")}
        labels = {f"y_{part}": arrays[f"{part}_labels"] for part in axes}
        np.savez("cifar100.npz", **{f"x_{part}": images for part, images in axes.items()}, **labels)
        settings = dict(presets.load(preset).sequence)
        own = made(settings.pop("name"), **settings)
        guide = (Path(__file__).parents[2] / "docs/published-experiments.md").read_text(encoding="utf-8")
        name = re.search(rf"clbench verify {preset} --sequence (\S+)", guide)[1]  # type: ignore[index]
        reference, fields = own_settings(name)
        pair = [one.load(here, 4, one.class_order("seed", 4, here)) for one in (own, made(reference, **fields))]
    assert [task.classes for task in pair[0]] == [task.classes for task in pair[1]]
    for theirs, ours in zip(*pair, strict=True):
        assert torch.equal(theirs.train.y, ours.train.y)
        assert torch.equal(everything(theirs.train), everything(ours.train))
        assert torch.equal(everything(theirs.test), everything(ours.test))


@pytest.mark.data
def test_real_cifar100(cifar100: Path) -> None:
    """The constants that are known of it, and the first classes of the class-incremental papers' order."""
    sequence = made(f"npz:{cifar100}", classes="50+10x5")
    found = sequence.data(None)
    assert found.train_labels.bincount().tolist() == [500] * 100
    assert found.test_labels.bincount().tolist() == [100] * 100
    mean, std = SplitCIFAR100.constants
    assert found.notes["mean"] == pytest.approx(mean, abs=1e-4)
    assert found.notes["std"] == pytest.approx(std, abs=1e-3)
    order = sequence.class_order("numpy:1993", 0)
    tasks = sequence.load(None, 0, order)
    assert [len(task.test) for task in tasks] == [5000, 1000, 1000, 1000, 1000, 1000]
    assert tasks[0].classes[:5] == (68, 56, 78, 8, 23)
