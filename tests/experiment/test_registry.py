"""Names, references, settings, and the messages for what is wrong with them."""

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import pytest

from clbench.errors import UsageError
from clbench.experiment import own_code, registry
from clbench.methods.lwf import LwF
from clbench.methods.replay import Replay

METHOD = '''
from dataclasses import dataclass
from clbench.method import Method

@dataclass
class Half(Method):
    """Half the loss."""
    factor: float = 0.5

    def loss(self, step):
        return self.factor * step.cross_entropy()

class Undecorated(Method):
    factor: float = 0.5

class NoMethod:
    pass
'''


@pytest.fixture
def method_file(tmp_path: Path) -> Path:
    path = tmp_path / "half.py"
    path.write_text(METHOD)
    return path


def test_builtin_names() -> None:
    assert set(registry.names("method")) >= {"scratch", "finetune", "feature-extraction", "joint", "lwf"}
    assert set(registry.names("model")) >= {"mlp", "cnn", "resnet18"}
    assert set(registry.names("sequence")) >= {
        "split-digits", "split-mnist", "split-fashion-mnist", "split-cifar10", "split-cifar100", "permuted-mnist",
        "rotated-mnist",
    }  # fmt: skip
    for name in registry.names("method"):
        assert (
            registry.find("method", name).__module__ == f"clbench.methods.{name.replace('-', '_').replace('++', '_pp')}"
        )


@pytest.mark.parametrize(
    ("kind", "reference", "message"),
    [
        ("method", "lfw", "unknown method 'lfw', did you mean lwf"),
        ("method", "qqqq", "see clbench list methods"),
        ("sequence", "split-mnst", "did you mean split-mnist"),
        ("model", "ml", "did you mean mlp"),
        ("method", "./none.py:Thing", "there is no file ./none.py"),
        ("method", "no.such.module:Thing", "cannot be imported: ModuleNotFoundError"),
        ("method", "clbench.methods.lwf:LFW", "defines no LFW, did you mean LwF"),
        ("method", "clbench.models.backbones:MLP", "is no method"),
    ],
)
def test_unknown_references(kind: registry.Kind, reference: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        registry.find(kind, reference)


def test_a_method_from_a_file(method_file: Path) -> None:
    cls = registry.find("method", f"{method_file}:Half")
    assert registry.configure("half", cls, {"factor": "0.25"}).factor == 0.25
    assert registry.find("method", f"{method_file}:Half") is cls
    before = own_code.code_hash(cls)
    method_file.write_text(METHOD.replace("Half the loss", "Half of the loss"))
    edited = registry.find("method", f"{method_file}:Half")
    assert edited is not cls
    assert own_code.code_hash(edited) != before


def test_what_can_be_wrong_with_a_file(method_file: Path) -> None:
    with pytest.raises(UsageError, match="is no method"):
        registry.find("method", f"{method_file}:NoMethod")
    with pytest.raises(UsageError, match="put @dataclass above it"):
        registry.find("method", f"{method_file}:Undecorated")
    method_file.write_text("def broken(:")
    with pytest.raises(UsageError, match="cannot be imported: SyntaxError"):
        registry.find("method", f"{method_file}:Half")


@pytest.fixture(autouse=True)
def fresh_plugins() -> Iterator[None]:
    registry.plugins.cache_clear()
    yield
    registry.plugins.cache_clear()


def offer(monkeypatch: pytest.MonkeyPatch, *pairs: tuple[str, str]) -> None:
    entries = [importlib.metadata.EntryPoint(name, value, "clbench.methods") for name, value in pairs]
    registry.plugins.cache_clear()
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries if group == "clbench.methods" else [])


def test_a_name_defined_twice_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("lwf", "little.lwf:LwF"))
    with pytest.raises(UsageError, match=r"'lwf' is defined twice: by clbench and by little\.lwf:LwF"):
        registry.find("method", "lwf")
    offer(monkeypatch, ("new", "little:New"), ("new", "large:New"))
    with pytest.raises(UsageError, match="'new' is defined twice: by little:New and by large:New"):
        registry.names("method")


def test_an_entry_point_is_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("also-lwf", "clbench.methods.lwf:LwF"), ("broken", "no_such_module:X"))
    assert registry.find("method", "also-lwf") is LwF
    with pytest.raises(UsageError, match="'broken' cannot be imported"):
        registry.find("method", "broken")
    assert "broken" in registry.names("method")


def test_settings_from_text() -> None:
    method = registry.configure("lwf", LwF, {"temperature": "4", "scale_t2": "true", "scope": "joined"})
    assert method == LwF(temperature=4.0, scale_t2=True, scope="joined")
    assert registry.label("lwf", method) == "lwf@temperature=4@scope=joined@scale_t2=true"
    assert registry.label("lwf", LwF()) == "lwf"
    assert registry.configure("replay", Replay, {"images": "2"}).images == 2
    with pytest.raises(UsageError, match="integer"):
        registry.configure("replay", Replay, {"images": 1.5})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temprature", 4, "no field 'temprature', did you mean temperature"),
        ("temperature", 0, "temperature=0: the value should be greater than 0"),
        ("temperature", "nan", "finite"),
        ("temperature", "inf", "finite"),
        ("temperature", "warm", "lwf.temperature=warm"),
        ("temperature", True, "a number or name is needed"),
        ("weight", -1, "greater than or equal to 0"),
        ("scope", "all", "'auto', 'per-task', 'joined' or 'padded'"),
        ("scale_t2", "maybe", "boolean"),
    ],
)
def test_bad_settings(field: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        registry.configure("lwf", LwF, {field: value})


def test_a_method_that_refuses_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "boom.py"
    path.write_text(
        METHOD.replace(
            "    def loss", "    def __post_init__(self):\n        raise ValueError('no luck')\n\n    def loss"
        )
    )
    with pytest.raises(UsageError, match="half cannot be made: ValueError: no luck"):
        registry.configure("half", registry.find("method", f"{path}:Half"), {})
    with pytest.raises(UsageError, match="is a file: name the method in it too"):
        registry.find("method", str(path))


@pytest.fixture
def found_anew() -> Iterator[None]:
    registry.found.cache_clear()
    yield
    registry.found.cache_clear()


def test_a_name_that_two_built_in_classes_have_is_refused(found_anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LwF, "name", "finetune")
    with pytest.raises(UsageError, match=r"'finetune' is defined twice: by clbench.methods.finetune and .*lwf"):
        registry.find("method", "lwf")
    assert registry.find("method", "finetune").__module__ == "clbench.methods.finetune"
