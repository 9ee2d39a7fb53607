"""What methods, sequences, models and `training` say of themselves, read from their files without importing them.

So names and settings are checked, listed and explained before PyTorch is imported. A class is read if all that it
derives from is clbench's, and if its fields can be evaluated without PyTorch; what cannot be read is not guessed at.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import importlib.util
import io
import pkgutil
import re
import tokenize
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

Kind = Literal["method", "sequence", "model"]
# each kind's base class, and the package of the built-in ones
BASES: dict[Kind, tuple[str, str, str]] = {
    "method": ("clbench.method.learner", "Learner", "clbench.methods"),
    "sequence": ("clbench.sequences.tasks", "TaskSequence", "clbench.sequences"),
    "model": ("clbench.models.backbones", "Backbone", "clbench.models"),
}
# libraries whose networks are models by LIBRARY:NAME, and the class in clbench.models.libraries that wraps them
LIBRARIES = {"torchvision": "Torchvision", "timm": "Timm"}
# sequences of data of one's own, by what stands before the colon: the class of each in clbench.sequences.own
OWN_DATA = {"npz": "NpzFile", "folder": "ImageFolder", "torchvision": "TorchvisionSet"}
NOT_PYTHON = (OSError, SyntaxError, ValueError, tokenize.TokenError)  # raised by files that cannot be read
# what fields may need
LIGHT = {"annotated_types", "clbench.search", "collections.abc", "dataclasses", "math", "pathlib", "typing"}


@dataclass(frozen=True)
class Field:
    """A setting of a class."""

    name: str
    hint: Any  # its type, with bounds
    default: Any  # MISSING of dataclasses if it must be given
    meaning: str  # the comment beside or above it


@dataclass
class Known:
    """What a class says of itself."""

    doc: str
    of_file: str  # the docstring of its file
    module: str = ""  # that defines it
    fields: dict[str, Field] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)  # what else its body sets to values that can be read
    bases: set[tuple[str, str]] = field(default_factory=set)  # module and name, its own among them

    @property
    def title(self) -> str:
        """The docstring's first line, without a full stop."""
        return self.doc.split("\n")[0].rstrip(".")


class _File:
    """A Python file: what its top level defines, and its comments. Nothing of it is executed but values of fields."""

    def __init__(self, path: Path, module: str):
        text = path.read_text(encoding="utf-8")
        self.module, self.tree = module, ast.parse(text)
        self.top: dict[str, ast.AST] = {}
        self.imported: dict[str, tuple[str, str]] = {}  # names: from which module, and as what
        for node in self.tree.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                self.top[node.name] = node
            elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                self.top |= {target.id: node.value for target in targets if isinstance(target, ast.Name)}
            elif isinstance(node, ast.ImportFrom):
                above = module.split(".")[: -node.level] if node.level else []
                source = ".".join([*above, *filter(None, [node.module])])
                self.imported |= {alias.asname or alias.name: (source, alias.name) for alias in node.names}
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        self.comments = {
            token.start[0]: (token.string.lstrip("# "), not token.line[: token.start[1]].strip())
            for token in tokens
            if token.type == tokenize.COMMENT
        }

    def find(self, name: str) -> tuple[_File, ast.AST]:
        """Return what a name stands for and the file that defines it; raise LookupError if it isn't clbench's."""
        if name in self.imported:
            module, original = self.imported[name]
            return _file(_path(module), module).find(original)
        return self, self.top[name]

    def value(self, expression: ast.expr) -> Any:
        """Evaluate an expression of light names and constants; raise an exception if it has others."""
        return eval(compile(ast.Expression(expression), self.module, "eval"), {}, _Names(self))

    def meaning(self, node: ast.stmt) -> str:
        """Return the comments on the lines above a statement, then those beside it."""
        lines: list[str] = []
        above = node.lineno - 1
        while self.comments.get(above, ("", False))[1]:
            lines.insert(0, self.comments[above][0])
            above -= 1
        beside = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        return " ".join([*lines, *(self.comments[line][0] for line in beside if line in self.comments)])

    def defines(self, name: str) -> bool:
        """Whether this name may be defined in the file, in whatever way."""
        words = ("name", "asname", "id")
        bound = {getattr(node, word, None) for node in ast.walk(self.tree) for word in words}
        return bool(bound & {name, "*", "globals", "__getattr__"})


class _Names(dict):
    """Names in an expression of a file."""

    def __init__(self, file: _File):
        super().__init__()
        self.file = file

    def __missing__(self, name: str) -> Any:
        module, original = self.file.imported.get(name, ("", ""))
        if module in LIGHT:
            return getattr(importlib.import_module(module), original)
        file, node = self.file.find(name)  # KeyError: it may be Python's own
        if file.module in LIGHT:  # one of them that clbench.method hands on
            return getattr(importlib.import_module(file.module), name)
        if not isinstance(node, ast.expr):
            raise LookupError(name)
        return file.value(node)


def _file(path: Path, module: str) -> _File:
    return _read_file(path, module, path.stat().st_mtime_ns)


@cache
def _read_file(path: Path, module: str, time: int) -> _File:
    return _File(path, module)


def _path(module: str) -> Path:
    """Return the file of a module of clbench; raise LookupError for any other."""
    parts = module.split(".")
    spec = importlib.util.find_spec(".".join(parts[:2])) if parts[0] == "clbench" and len(parts) > 1 else None
    if spec is None or spec.origin is None:
        raise LookupError(module)
    places = [Path(place, *parts[2:]) for place in spec.submodule_search_locations or ()] if parts[2:] else []
    found = [path for place in places for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]
    if parts[2:] and not found:
        raise LookupError(module)
    return found[0] if found else Path(spec.origin)


def _read(file: _File, node: ast.AST) -> Known:
    """Read a class; raise an exception if it cannot be read in full."""
    if not isinstance(node, ast.ClassDef):
        raise LookupError("no class")
    known = Known(ast.get_docstring(node) or "", ast.get_docstring(file.tree) or "", file.module)
    for base in reversed(node.bases):
        above = _read(*file.find(ast.unparse(base)))
        known.fields |= above.fields
        known.constants |= above.constants
        known.bases |= above.bases
    known.bases.add((file.module, node.name))
    decorators = {ast.unparse(item).partition("(")[0].rpartition(".")[2] for item in node.decorator_list}
    if decorators - {"dataclass"}:
        raise LookupError("other decorators")
    known.constants.pop("name", None)  # a name is a class's own
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and "ClassVar" not in ast.unparse(item.annotation):
            _add_field(known, file, item, bool(decorators))
        elif isinstance(item, (ast.AnnAssign, ast.Assign)) and item.value is not None:
            target = item.target if isinstance(item, ast.AnnAssign) else item.targets[0]
            with contextlib.suppress(Exception):
                known.constants[ast.unparse(target)] = file.value(item.value)
    return known


def _add_field(known: Known, file: _File, item: ast.AnnAssign, is_dataclass: bool) -> None:
    name = ast.unparse(item.target)
    default = dataclasses.MISSING if item.value is None else file.value(item.value)
    if isinstance(default, dataclasses.Field):
        if not default.init:
            return
        factory = default.default_factory
        default = default.default if factory is dataclasses.MISSING else factory()
    if not is_dataclass:
        raise LookupError("fields of no dataclass")
    inherited = known.fields[name].meaning if name in known.fields else ""
    known.fields[name] = Field(name, file.value(item.annotation), default, file.meaning(item) or inherited)


def builtin(kind: Kind) -> dict[str, Known]:
    """Return the classes that clbench brings, by name, as far as they can be read."""
    return _scan(kind)[0]


def unread(kind: Kind) -> list[str]:
    """Return the modules of clbench with a class of this kind that cannot be told without importing it."""
    return _scan(kind)[1]


def _scan(kind: Kind) -> tuple[dict[str, Known], list[str]]:
    *base, package = BASES[kind]
    spec = importlib.util.find_spec(package)
    assert spec is not None
    found: dict[str, Known] = {}
    unread = []
    for module in pkgutil.iter_modules(spec.submodule_search_locations):
        full = f"{package}.{module.name}"
        try:
            file = _file(_path(full), full)
        except NOT_PYTHON:
            unread.append(full)
            continue
        classes, in_full = _classes(file)
        own = [
            known for known in classes if tuple(base) in known.bases and isinstance(known.constants.get("name"), str)
        ]
        if kind == "method":  # a file of methods/ has one, which says what it is
            in_full = in_full and bool(own) and all(known.doc for known in own)
        in_full = in_full and not any(known.constants["name"] in found for known in own)
        if not in_full:
            unread.append(full)
        for known in own:
            name = known.constants["name"]
            if name not in found or name == method_of(module.name):  # as the registry has it
                found[name] = known
    return found, unread


def method_of(file: str) -> str:
    """Return the name of a method for that of its file: `er_ace` is er-ace, `der_pp` is der++."""
    name = file.removesuffix("_pp").replace("_", "-")
    return f"{name}++" if file.endswith("_pp") else name


def _classes(file: _File) -> tuple[list[Known], bool]:
    """Return the classes of a file that can be read, and whether these are all that have a name."""
    found, in_full = [], True
    for node in file.top.values():
        if not isinstance(node, ast.ClassDef):
            continue
        try:
            found.append(_read(file, node))
        except Exception:
            values = [item for item in node.body if isinstance(item, (ast.Assign, ast.AnnAssign)) and item.value]
            targets = [
                ast.unparse(item.target if isinstance(item, ast.AnnAssign) else item.targets[0]) for item in values
            ]
            in_full = in_full and "name" not in targets
    return found, in_full


def training() -> Known:
    """Return what the settings of training say of themselves."""
    return of_class("clbench.method.settings", "Training")


def of_class(module: str, name: str) -> Known:
    """Return what one of clbench's own classes says of itself."""
    return _read(*_file(_path(module), module).find(name))


def own_data(reference: str) -> tuple[str, str] | None:
    """Split `npz:FILE`, `folder:PATH` or `torchvision:NAME`; None for any other reference."""
    kind, colon, place = reference.partition(":")
    return (kind, place) if colon and kind in OWN_DATA else None


def in_file(path: Path, name: str) -> tuple[bool, Known | None]:
    """Return whether a file may define this name, and what is known of the class; not if it cannot be read."""
    try:
        file = _file(path, str(path))
    except NOT_PYTHON:
        return True, None  # importing it says what is wrong
    with contextlib.suppress(Exception):
        return True, _read(*file.find(name))
    return file.defines(name), None


def public_names(path: Path) -> list[str]:
    """Return the names at the top level of a file."""
    file = _file(path, str(path))
    return [name for name in (*file.top, *file.imported) if not name.startswith("_")]


def avalanche_names() -> list[str]:
    """Return the names of Avalanche's classic benchmarks: functions with a transform and a folder."""
    spec = importlib.util.find_spec("avalanche")
    folder = Path(spec.origin).parent / "benchmarks/classic" if spec and spec.origin else Path("none")
    functions = [
        node
        for path in sorted(folder.glob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]
    wanted = {"eval_transform", "dataset_root"}
    return [f.name for f in functions if wanted <= {arg.arg for arg in (*f.args.args, *f.args.kwonlyargs)}]


def avalanche_classes(folder: str) -> list[str]:
    """Return the names of the public classes in a folder of Avalanche's training: `supervised` or `plugins`."""
    spec = importlib.util.find_spec("avalanche")
    place = Path(spec.origin).parent / "training" / folder if spec and spec.origin else Path("none")
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(place.glob("*.py"))]
    nodes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    return sorted(node.name for node in nodes if not node.name.startswith("_"))


def is_strategy(reference: str) -> bool:
    """Whether this is one of Avalanche's strategies by its name, with or without plugins, and no benchmark of its."""
    name = reference.removeprefix("avalanche:").split("+")[0]
    return reference.startswith("avalanche:") and name in avalanche_classes("supervised")


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classification networks: functions that its models register."""
    spec = importlib.util.find_spec("torchvision")
    folder = Path(spec.origin).parent / "models" if spec and spec.origin else Path("none")
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))]
    return [name for text in texts for name in re.findall(r"^@register_model\(\)\n(?:@.*\n)*def (\w+)", text, re.M)]
