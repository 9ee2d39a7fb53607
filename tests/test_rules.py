"""Rules that the code keeps, read off its syntax."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import clbench
import clbench.methods
from clbench.experiment import registry

PACKAGE = Path(clbench.__file__).parent
METHODS = Path(clbench.methods.__file__).parent
METHOD_FILES = sorted(METHODS.glob("*.py"))
FILES = sorted({*PACKAGE.rglob("*.py"), *METHOD_FILES})
TREES = {file: ast.parse(file.read_text()) for file in FILES}
# private names of other packages that are used all the same: (module, name), with the reason
PRIVATE = {("os", "_exit")}  # documented by Python: it ends a process without cleaning up


def name_of(file: Path) -> str:
    return str(file.relative_to(PACKAGE if file.is_relative_to(PACKAGE) else METHODS.parent))


def calls(tree: ast.AST, method: str) -> Iterator[ast.Call]:
    """Calls of a method of this name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method:
            yield node


def test_one_backward_pass_and_one_step_of_the_optimiser() -> None:
    """The optimiser's own file passes a step on to PyTorch's."""
    for method, places in (("backward", []), ("step", ["training/optimizer.py"])):
        found = [name_of(file) for file, tree in TREES.items() for _ in calls(tree, method)]
        assert found == ["training/loop.py", *places], method


def test_no_file_is_long() -> None:
    lengths = {name_of(file): len(file.read_text().splitlines()) for file in FILES}
    short = {name_of(file) for file in METHOD_FILES}
    assert {name: n for name, n in lengths.items() if n > (120 if name in short else 400)} == {}


def test_no_function_is_long() -> None:
    found = {}
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                found[f"{name_of(file)}: {node.name}"] = (node.end_lineno or first) - first + 1
    assert {name: lines for name, lines in found.items() if lines >= 60} == {}


def imported(tree: ast.AST) -> dict[str, str]:
    """Names by which modules of other packages are known in a file, and those modules."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return {name: module for name, module in known.items() if module.split(".")[0] != "clbench"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def private_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Private names that a file imports, or reaches from a name of another package that it imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            parts = [(alias.name, part) for alias in node.names for part in alias.name.split(".")]
            yield from ((module, part) for module, part in parts if is_private(part))
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            yield from ((node.module, name) for name in names if is_private(name))
    known = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            root: ast.expr = node
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in known:
                yield known[root.id], node.attr


def test_no_private_names_of_other_modules() -> None:
    found = {name_of(file): set(private_names(tree)) - PRIVATE for file, tree in TREES.items()}
    assert {name: names for name, names in found.items() if names} == {}


def test_the_rule_on_private_names_sees_them() -> None:
    code = (
        "import torch as t\nfrom joblib import _dask\nimport os\nt.nn._x.y(1)\nos._exit(0)\nself._own\nt.__version__\n"
    )
    assert set(private_names(ast.parse(code))) == {("torch", "_x"), ("joblib", "_dask"), ("os", "_exit")}


def test_methods_say_nothing_of_devices() -> None:
    assert [name_of(file) for file in METHOD_FILES if "cuda" in file.read_text().lower()] == []


def test_no_module_of_a_method_is_imported_by_name() -> None:
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if file not in METHOD_FILES and isinstance(node, ast.ImportFrom) and node.module:
                assert not node.module.startswith("clbench.methods"), name_of(file)


def test_only_the_two_references_are_named() -> None:
    """Nothing in clbench knows a method by name, but for fine-tuning and joint training, in one file."""
    named: dict[str, set[str]] = {}
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if file not in METHOD_FILES and isinstance(node, ast.Constant) and node.value in registry.builtin("method"):
                named.setdefault(str(node.value), set()).add(name_of(file))
    assert named.pop("scratch", set()) <= {"training/trainer.py"}  # the name of a stream, from which new weights come
    assert named.keys() <= {"finetune", "joint"}
    assert len(set().union(*named.values())) <= 1, named


def test_what_users_save_in_the_checkout_is_not_linted(tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    shutil.copy(Path(__file__).parents[1] / "pyproject.toml", tmp_path)
    for place in ("pull.py", "mine/er.py"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("import os\nx=1\n")

    def lint(*words: str) -> int:
        return subprocess.run([sys.executable, "-m", "ruff", *words], cwd=tmp_path, capture_output=True).returncode

    assert lint("check") == lint("format", "--check") == 0
    for folder in ("clbench", "methods", "tests", "results"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text("import os\nx=1\n")
        assert lint("check") == lint("format", "--check") == 1, folder
        (tmp_path / folder / "own.py").unlink()
