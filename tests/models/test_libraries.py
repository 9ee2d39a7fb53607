"""Networks of torchvision and timm as backbones."""

import importlib.util
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from clbench.errors import ClbenchError, UsageError
from clbench.experiment import catalogue, registry
from clbench.experiment.early import item_of, look_up
from clbench.models import ExpandingHeadModel
from clbench.models.libraries import library_model


def built(name: str, **settings: Any) -> Any:
    return library_model("torchvision", name)(**settings)


def test_the_names_are_torchvisions_own() -> None:
    assert sorted(catalogue.torchvision_names()) == torchvision.models.list_models(module=torchvision.models)


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("mobilenet_v3_small", 1024), ("squeezenet1_1", 512)])
def test_features_are_what_goes_into_the_classifier(name: str, width: int) -> None:
    torch.manual_seed(0)
    model = ExpandingHeadModel(built(name), (3, 64, 64), 0).eval()
    theirs = torchvision.models.get_model(name).eval()
    theirs.load_state_dict({**theirs.state_dict(), **model.backbone.network.state_dict()})
    seen: list[torch.Tensor] = []
    layers = [m for m in theirs.modules() if 1000 in (getattr(m, "out_features", 0), getattr(m, "out_channels", 0))]
    layers[-1].register_forward_hook(lambda _, x, y: seen.append(x[0]))
    x = torch.rand(2, 3, 64, 64)
    theirs(x)
    features = seen[0].relu().mean((2, 3)) if seen[0].ndim == 4 else seen[0]  # SqueezeNet's classifier comes first
    torch.testing.assert_close(model.features(x), features)
    assert model.n_features == width


def test_every_network_of_torchvision_has_one_classifier_to_take_away() -> None:
    """Those that are quick to make, one of each kind."""
    for name in ("alexnet", "googlenet", "inception_v3", "mnasnet0_5", "regnet_y_400mf", "shufflenet_v2_x0_5"):
        network = built(name).made()
        assert not [m for m in network.modules() if 1000 in (getattr(m, "out_features", 0),)], name
        features = network.train()(torch.rand(2, 3, 96, 96))
        assert isinstance(features, torch.Tensor), name  # and no auxiliary outputs beside it
        assert features.ndim == 2, name


def test_grey_images_are_repeated_in_three_channels_and_resized() -> None:
    model = ExpandingHeadModel(built("resnet18", resize=48), (1, 8, 8), 0).eval()
    grey = torch.rand(2, 1, 8, 8)
    large = torchvision.transforms.functional.resize(grey, [48, 48], antialias=True).repeat(1, 3, 1, 1)
    torch.testing.assert_close(model.features(grey), model.backbone.network(large))


@pytest.mark.parametrize(
    ("name", "settings", "shape", "message"),
    [
        ("resnet18", {}, (2, 32, 32), "takes images of 1 or 3 channels, these have 2"),
        ("vit_b_32", {}, (3, 32, 32), "takes no images of 32×32 pixels; resize=224 makes them larger"),
        ("vit_b_32", {"resize": 64}, (3, 32, 32), "resize=64 is not its size .*Expected 224 but got 64"),
        ("alexnet", {}, (1, 28, 28), "takes no images of 28×28 pixels"),
    ],
)
def test_images_that_do_not_fit(name: str, settings: dict[str, Any], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ClbenchError, match=message):
        ExpandingHeadModel(built(name, **settings), shape, 0)


def test_a_last_batch_of_one_small_image() -> None:
    model = ExpandingHeadModel(built("resnet18"), (3, 32, 32), 0).train()
    with pytest.raises(ClbenchError, match=r"cannot train on a batch of one image this small.*drop_last"):
        model.features(torch.rand(1, 3, 32, 32))


def test_weights_by_torchvisions_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no weights of torchvision:resnet50, did you mean IMAGENET1K_V2"):
        built("resnet50", weights="IMAGENET1K_V3")
    model = built("resnet18", weights="IMAGENET1K_V1")
    with pytest.raises(UsageError, match="initialisation and biases draw weights"):
        built("resnet18", weights="IMAGENET1K_V1", initialisation="kaiming")
    theirs = torchvision.models.resnet18()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # where they lie once they have been downloaded
    file = tmp_path / "hub/checkpoints" / Path(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url).name
    file.parent.mkdir(parents=True)
    torch.save(theirs.state_dict(), file)
    found = model.build((3, 32, 32)).network.state_dict()
    assert len(found) == len(theirs.state_dict()) - 2
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in found.items())


def test_weights_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise socket.gaierror("no way out")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        UsageError, match=r"IMAGENET1K_V1 of torchvision:resnet18 cannot be had: .*no way out.*weights="
    ):
        built("resnet18", weights="IMAGENET1K_V1").build((3, 32, 32))


def test_a_file_of_torchvisions_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    model = ExpandingHeadModel(built("resnet18", weights=str(tmp_path / "theirs.pth")), (3, 32, 32), 0).eval()
    theirs.fc = torch.nn.Identity()  # type: ignore[assignment]
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model.features(x), theirs.eval()(x))


def test_names_and_fields_are_checked_before_torchvision_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise AssertionError("imported")

    monkeypatch.setattr(registry, "find", none)
    assert item_of("model", "torchvision:resnet18@resize=64") == "torchvision:resnet18@resize=64"
    for item, message in {
        "torchvision:resnet19": "unknown network 'resnet19' of torchvision, did you mean resnet18",
        "torchvision:resnet18@wieghts=a": "did you mean weights",
        "torchvision:resnet18@resize=0": "greater than or equal to 1",
    }.items():
        with pytest.raises(UsageError, match=message):
            item_of("model", item)


def test_timm_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", _without("timm", importlib.util.find_spec))
    with pytest.raises(UsageError, match=r"timm:vit needs timm: pip install 'clbench\[timm\]'"):
        look_up("model", "timm:vit")


def _without(name: str, find: Callable[..., Any]) -> Callable[..., Any]:
    return lambda asked, *rest: None if asked == name else find(asked, *rest)


def test_timms_networks_have_its_features(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = ExpandingHeadModel(registry.find("model", "timm:resnet10t")(), (3, 32, 32), 0).eval()
    theirs = timm.create_model("resnet10t", num_classes=0).eval()
    theirs.load_state_dict(model.backbone.network.state_dict())
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model.features(x), theirs(x))
    assert model.n_features == theirs.num_features
    with pytest.raises(UsageError, match="unknown network 'resnet10x' of timm, did you mean resnet10t"):
        registry.find("model", "timm:resnet10x")
    (tmp_path / "own.pt").touch()
    with pytest.raises(UsageError, match="give one of them"):
        registry.find("model", "timm:resnet10t")(pretrained=True, weights=str(tmp_path / "own.pt"))
