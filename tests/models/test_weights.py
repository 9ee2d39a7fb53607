"""Files of weights: what fits, what does not, and that nothing in them is executed."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from clbench.errors import UsageError
from clbench.experiment.early import item_of
from clbench.experiment.points import choose
from clbench.models import ExpandingHeadModel
from clbench.models.backbones import MLP
from clbench.models.weights import load_file

SHAPE = (1, 4, 4)


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return MLP(width=8).build(SHAPE)


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_a_run_starts_from_the_weights_in_a_file(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"own{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(network(5).state_dict(), file)
    else:
        torch.save(network(5).state_dict(), file)
    model = ExpandingHeadModel(MLP(width=8, weights=str(file)), SHAPE, seed=0)
    assert equal(model.backbone, network(5))
    assert not equal(ExpandingHeadModel(MLP(width=8), SHAPE, 0).backbone, network(5))


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone.", "backbone.network."])
@pytest.mark.parametrize("within", ["", "state_dict", "model"])
def test_names_as_they_are_saved(prefix: str, within: str, tmp_path: Path) -> None:
    state = {f"{prefix}{name}": value for name, value in network(5).state_dict().items()}
    state |= {f"{prefix}fc.weight": torch.ones(3)}  # a classifier, which is left alone
    file = tmp_path / "own.pt"
    torch.save({within: state, "epoch": 3} if within else state, file)
    other = network(0)
    load_file(other, file)
    assert equal(other, network(5))


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    file, state = tmp_path / "own.safetensors", network().state_dict()
    safetensors.torch.save_file({**state, "1.weight": torch.zeros(8, 9)}, file)
    with pytest.raises(UsageError, match=r"own.safetensors: '1.weight' has the shape \[8, 9\], .* needs \[8, 16\]"):
        load_file(network(), file)
    safetensors.torch.save_file({"1.weight": state["1.weight"]}, file)
    with pytest.raises(UsageError, match=r"lacks 1 of the network's 2 tensors, first '1.bias'; it has 1.weight"):
        load_file(network(), file)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Evil(), "more than tensors: save its state_dict"),
        (network(), "more than tensors: save its state_dict"),
        ([1, 2], r"holds \[1, 2\], not tensors by name"),
        ({"a": 1}, "it has none"),
    ],
    ids=["code", "a whole network", "a list", "no tensor"],
)
def test_a_file_is_read_as_data_only(content: object, message: str, tmp_path: Path) -> None:
    file = tmp_path / "own.pt"
    torch.save(content, file)
    with pytest.raises(UsageError, match=message):
        load_file(network(), file)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_a_damaged_file(suffix: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / f"own{suffix}"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=f"weights=.*own{suffix} cannot be read: "):
        load_file(network(), file)


def test_the_settings_are_checked_before_anything_runs(tmp_path: Path) -> None:
    file = tmp_path / "own.pt"
    with pytest.raises(UsageError, match=r"own.pt: there is no such file"):
        MLP(weights=str(file))
    file.touch()
    with pytest.raises(UsageError, match="initialisation and biases draw weights, and these are loaded"):
        MLP(weights=str(file), initialisation="kaiming")
    with pytest.raises(UsageError, match=r"a file of weights is needed, .safetensors, .pt or .pth"):
        MLP(weights=str(tmp_path))


def test_the_content_is_part_of_the_key_and_the_path_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own.pt"
    codes = []
    for content in (b"1", b"2", b"1"):
        file.write_bytes(content)
        (choice,) = choose("model", [item_of("model", "mlp@weights=./own.pt")], {})
        codes.append(choice.code)
        assert choice.params["weights"] == "./own.pt"
        assert choice.label == "mlp@weights=./own.pt"
        assert choice.files == {"weights": str(file)}  # a worker may work elsewhere
    assert codes[0] == codes[2] != codes[1]
    assert choose("model", ["mlp"], {})[0].code is None
