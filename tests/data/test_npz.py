"""Data sets in .npz files: what is read of them, and what is said of those that cannot be."""

import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clbench.data import npz, streaming
from clbench.data.npz import load_npz
from clbench.data.streaming import Form
from clbench.errors import DataError

DRAWS = np.random.default_rng(0)


def arrays(**changed: Any) -> dict[str, Any]:
    made = {
        "x_train": DRAWS.integers(0, 256, (12, 8, 6, 3), dtype=np.uint8),
        "y_train": np.arange(12) % 3,
        "x_test": DRAWS.integers(0, 256, (6, 8, 6, 3), dtype=np.uint8),
        "y_test": np.arange(6) % 3,
    }
    return {name: array for name, array in (made | changed).items() if array is not None}


def saved(folder: Path, **changed: Any) -> Path:
    path = folder / "mine.npz"
    np.savez(path, **arrays(**changed))
    return path


def test_channels_last_and_first_and_grey(tmp_path: Path) -> None:
    given = arrays()
    expected = given["x_train"].transpose(0, 3, 1, 2)
    found = load_npz("mine", saved(tmp_path, **given), Form())
    assert np.array_equal(found.train_images, expected)
    assert np.array_equal(found.test_images, given["x_test"].transpose(0, 3, 1, 2))
    assert found.notes["order"] == ", read as [n, height, width, channels]"
    assert found.notes["mean"] == pytest.approx((given["x_train"] / 255).mean(axis=(0, 1, 2)).tolist())
    assert found.notes["std"] == pytest.approx((given["x_train"] / 255).std(axis=(0, 1, 2)).tolist())
    first = {name: given[name].transpose(0, 3, 1, 2).copy() for name in ("x_train", "x_test")}
    again = load_npz("mine", saved(tmp_path, **given | first), Form())
    assert np.array_equal(again.train_images, expected)
    assert again.notes["order"] == ", read as [n, channels, height, width]"
    grey = {name: given[name][..., 0].copy() for name in ("x_train", "x_test")}
    assert np.array_equal(load_npz("mine", saved(tmp_path, **given | grey), Form()).train_images, expected[:, :1])


@pytest.mark.parametrize(
    "labels",
    [[5, 1, 9], [1, 2, 3], [-3, 0, 2], ["cat", "Ägypten", "dog"], [b"x", b"y", b"z"]],
)
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_any_labels_become_places_in_their_order(tmp_path: Path, labels: list[Any], shape: tuple[int, ...]) -> None:
    y = np.array([labels[i % 3] for i in range(12)]).reshape(shape)
    found = load_npz("mine", saved(tmp_path, y_train=y, y_test=y[:6]), Form())
    names = sorted(label.decode() if isinstance(label, bytes) else label for label in labels)
    assert found.notes["classes"] == names
    assert found.train_labels.tolist() == [
        names.index(one) for one in np.array(y).astype(y.dtype.str.replace("S", "U")).flatten().tolist()
    ]
    assert json.dumps(found.notes)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_are_normalised_by_the_training_images(tmp_path: Path, kind: type) -> None:
    x, z = DRAWS.normal(3, 2, (12, 8, 6, 3)).astype(kind), DRAWS.normal(3, 2, (6, 8, 6, 3)).astype(kind)
    path = saved(tmp_path, x_train=x, x_test=z)
    mean, std = x.astype(np.float64).mean(axis=(0, 1, 2)), x.astype(np.float64).std(axis=(0, 1, 2))
    found = load_npz("mine", path, Form())
    np.testing.assert_allclose(found.test_images, ((z - mean) / std).transpose(0, 3, 1, 2), rtol=1e-3, atol=1e-3)
    own = load_npz("mine", path, Form(mean=(1.0,), std=(0.5,)))
    np.testing.assert_allclose(own.train_images, ((x - 1.0) / 0.5).transpose(0, 3, 1, 2), rtol=1e-3, atol=1e-3)


def test_resized_and_grey(tmp_path: Path) -> None:
    found = load_npz("mine", saved(tmp_path), Form(resize=5, channels=1))
    assert found.train_images.shape == (12, 1, 5, 5)
    assert len(found.notes["mean"]) == 1


NAN = np.zeros((12, 8, 6, 3), np.float32)
NAN[7, 2, 3, 1] = np.nan


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"x_test": None},
            "there is no array x_test: x_train, y_train, x_test, y_test are needed, it has x_train, y_tr",
        ),
        ({"y_train": np.arange(11) % 3}, "x_train has 12 images, y_train has 11 labels"),
        (
            {"x_train": np.zeros((12, 192), np.uint8)},
            r"x_train has the shape \[12, 192\]: images are \[n, height, width",
        ),
        ({"x_train": np.zeros((12, 8, 6, 8), np.uint8)}, "axis 1 and the last are equally long"),
        ({"x_train": np.zeros((12, 3, 8, 6), np.uint8)}, "channels at different axes"),
        ({"x_train": np.zeros((12, 8, 6, 3), int)}, "x_train holds int64: images are bytes"),
        ({"x_train": np.array([None] * 12)}, r"x_train holds Python objects \(pickled\), which are refused"),
        ({"y_train": np.array([{}] * 12)}, r"y_train holds Python objects \(pickled\), which are refused"),
        ({"y_train": np.eye(12)}, r"y_train has the shape \[12, 12\]: one label for each image"),
        ({"y_train": np.arange(12) / 2}, "y_train holds float64: labels are whole numbers or text"),
        ({"y_test": np.array([0, 1, 2, 3, 0, 1])}, r"class 3 has test images \(x_test\[3\]\), but no training image"),
        ({"x_train": NAN, "x_test": NAN[:6]}, r"x_train\[7\] is nan at channel, row and column \[1, 2, 3\]"),
        ({"x_test": np.zeros((6, 9, 6, 3), np.uint8)}, r"x_test\[0\] has 9×6 pixels .* first image has 8×6: resize=64"),
        ({"x_test": np.zeros((6, 8, 6), np.uint8)}, "channels at different axes"),
        ({"x_test": np.zeros((6, 8, 6, 3), np.float32)}, r"x_test\[0\] is float32, the first image is uint8"),
        ({"x_train": np.zeros((0, 8, 6, 3), np.uint8), "y_train": np.zeros(0, int)}, r"shape \[0, 8, 6, 3\]"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        load_npz("npz:mine.npz", saved(tmp_path, **changed), Form())
    assert str(raised.value).startswith("npz:mine.npz: ")
    assert "\n" not in str(raised.value)


def test_damaged_files(tmp_path: Path) -> None:
    path = saved(tmp_path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no zip", whole[:1000] + b"\0" * 200 + whole[1200:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"npz:mine.npz: it is damaged or no .npz file"):
            load_npz("npz:mine.npz", path, Form())
    with pytest.raises(DataError, match="there is no file"):
        load_npz("npz:mine.npz", tmp_path / "none.npz", Form())
    np.savez_compressed(path, **arrays())
    assert len(load_npz("mine", path, Form()).train_images) == 12


def test_a_header_that_says_too_much_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with zipfile.ZipFile(path, "a") as file, file.open("x_more.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (12, 8, 6, 3)})
        stream.write(b"1" * 100)
    with zipfile.ZipFile(path) as file, pytest.raises(DataError, match="x_more ends too early"):
        list(npz._blocks(file, "x_more", ((12, 8, 6, 3), False, np.dtype(np.uint8)), 3))


def test_it_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    first = load_npz("mine", path, Form())
    monkeypatch.setattr(npz, "_write", None)
    assert load_npz("mine", path, Form()).fingerprint == first.fingerprint


def test_images_larger_than_memory_stream_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What NumPy allocates at any time is a small part of the images, bytes or floats."""
    monkeypatch.setattr(streaming, "BLOCK", 2**16)
    for kind in (np.uint8, np.float32):
        x = DRAWS.integers(0, 256, (3000, 32, 32), dtype=np.uint8).astype(kind)
        y = np.arange(3000) % 3
        path = saved(tmp_path, x_train=x, y_train=y, x_test=x[:300], y_test=y[:300])
        size = x.nbytes
        del x
        tracemalloc.start()
        found = load_npz("mine", path, Form())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(found.train_images) == 3000
        assert peak < size / 2 if kind is np.uint8 else peak < size / 4
