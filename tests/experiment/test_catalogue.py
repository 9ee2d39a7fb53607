"""What is read off the files is what the imported classes say."""

import typing
from pathlib import Path

import pytest

from clbench.experiment import catalogue, early, registry
from clbench.method import Training
from clbench.sequences.splits import chain_sequence

KINDS: list[catalogue.Kind] = ["method", "sequence", "model"]


def check(known: catalogue.Known, cls: type) -> None:
    defaults, hints = registry.defaults(cls), typing.get_type_hints(cls, include_extras=True)
    assert {name: field.default for name, field in known.fields.items()} == defaults
    assert {name: field.hint for name, field in known.fields.items()} == {name: hints[name] for name in defaults}
    assert list(known.fields) == list(defaults)
    assert [name for name, field in known.fields.items() if not field.meaning] == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_what_is_imported(kind: catalogue.Kind) -> None:
    read, imported = catalogue.builtin(kind), registry.builtin(kind)
    assert read.keys() == imported.keys()
    for name, cls in imported.items():
        check(read[name], cls)
        for fact in ("core", "scenarios", "scenario", "model", "budget"):
            assert read[name].constants.get(fact) == getattr(cls, fact, None), (name, fact)


def test_training_and_chains() -> None:
    check(catalogue.training(), Training)
    known = early.look_up("sequence", "mnist+fashion-mnist")
    assert known is not None
    check(known, chain_sequence("mnist+fashion-mnist"))


OWN = """
from dataclasses import dataclass, field
from clbench.method import Method
from clbench.methods.lwf import LwF
import elsewhere

@dataclass
class Own(LwF):
    # what comes
    # before
    more: int | None = None  # and beside
    kept: list = field(init=False, default_factory=list)
    temperature: float = 4.0

@dataclass
class Foreign(elsewhere.Base):
    more: int = 1

@dataclass
class Odd(Method):
    more: elsewhere.Thing = elsewhere.Thing()

Later = type("Later", (Method,), {})
"""


def test_a_class_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    there, known = catalogue.in_file(path, "Own")
    assert there
    assert known is not None
    assert known.fields["more"] == catalogue.Field("more", int | None, None, "what comes before and beside")
    assert known.fields["temperature"].default == 4.0
    assert "kept" not in known.fields
    assert list(known.fields)[:2] == ["temperature", "weight"]  # an overridden field keeps its place


@pytest.mark.parametrize(("name", "there"), [("Foreign", True), ("Odd", True), ("Later", True), ("Nothing", False)])
def test_what_cannot_be_read_is_not_guessed_at(name: str, there: bool, tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    assert catalogue.in_file(path, name) == (there, None)


def test_a_file_that_may_define_anything(tmp_path: Path) -> None:
    for number, text in enumerate(
        ("from elsewhere import *", "globals()['Own'] = 1", "def __getattr__(name): ...", "class Own(:")
    ):
        path = tmp_path / f"own{number}.py"
        path.write_text(text)
        assert catalogue.in_file(path, "Own") == (True, None)
