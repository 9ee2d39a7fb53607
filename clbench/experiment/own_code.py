"""Code of one's own: what is wrong with a class before it runs, where it fails, and the hash of its files.

Needs no torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import sysconfig
import types
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from clbench.errors import ClbenchError, UsageError, close_names

_NOT_OWN = {"clbench", "torch", "builtins", "typing", "abc"}
_INSTALLED = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}


# Where


def place(file: str, line: int | None = None) -> str:
    """Return a file, and a line of it, in words; the path is as short as the working folder allows."""
    path = Path(file)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{shown}, line {line}" if line else str(shown)


def place_of(thing: Any) -> str:
    """Return where a class or function is defined, in words; its name if that cannot be told."""
    try:
        return place(inspect.getfile(thing), inspect.getsourcelines(thing)[1])
    except (OSError, TypeError):
        return str(getattr(thing, "__qualname__", thing))


def what(error: BaseException) -> str:
    """Return the first line of an exception, with its type if it is not one of clbench's own."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)  # where it is, is said otherwise
    first = next(iter(text.strip().splitlines()), "")
    return first if isinstance(error, ClbenchError) else f"{type(error).__name__}: {first}"


def raised_at(error: BaseException, packages: Collection[str] = ()) -> str | None:
    """Return the last place in one's own code on the way to an error, in words; None if there is none.

    Neither clbench, its methods aside, nor what is installed is one's own, unless it is one of `packages`.
    """
    found = None
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if _is_own(str(traceback.tb_frame.f_globals.get("__name__")), code.co_filename, packages):
            found = place(code.co_filename, traceback.tb_lineno)
        traceback = traceback.tb_next
    if isinstance(error, SyntaxError) and error.filename:
        found = place(error.filename, error.lineno)
    return found


def _is_own(module: str, file: str, packages: Collection[str]) -> bool:
    top = module.split(".")[0]
    if top == "clbench":
        return module.startswith("clbench.methods.")
    if file.startswith("<") or top in packages:
        return not file.startswith("<")
    return not any(Path(file).resolve().is_relative_to(folder) for folder in _INSTALLED)


# The hash


def code_hash(cls: type, settings: Mapping[str, Any] | None = None) -> str | None:
    """Return the hash of a class's own code, None for built-in code.

    It is of the files that define the class and its bases, and of every file that a setting names, as seen from the
    working folder or from the class's. Of built-in code it is of the files in its settings for files, if any. A method
    that another library trains has that library's name and version in it.
    """
    outside, engine = _outside(cls), getattr(cls, "engine", "clbench")
    if engine != "clbench" and not outside:
        return str(engine)
    if not outside:
        named = {f.name for f in dataclasses.fields(cls) if f.metadata.get("file")}
        texts = _texts([value for name, value in (settings or {}).items() if name in named])
        contents = [_content_hash(Path(text).expanduser().absolute()) for text in texts]
        whole = b"".join(content for content in contents if content is not None)
        return hashlib.sha256(whole).hexdigest()[:16] if whole else None
    try:
        files = sorted({inspect.getfile(base) for base in outside})
        digest = hashlib.sha256(b"".join(Path(file).read_bytes() for file in files))
        digest.update(b"" if engine == "clbench" else str(engine).encode())
    except (OSError, TypeError):
        # records made by it could not be told from those of another version
        raise UsageError(f"the source of {cls.__qualname__} cannot be read: put it into a file") from None
    folders = [Path(), *(Path(file).parent for file in files)]
    for text in _texts(settings or {}):
        for path in dict.fromkeys((folder / Path(text).expanduser()).absolute() for folder in folders):
            if (content := _content_hash(path)) is not None:
                digest.update(content)
    return digest.hexdigest()[:16]


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a setting that may be a file's path."""
    if isinstance(value, str):
        if 0 < len(value) < 4096 and value.isprintable():
            yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one)


def _content_hash(path: Path) -> bytes | None:
    """Return the SHA-256 of a file, None if there is none. One that cannot be read is a UsageError."""
    try:
        if not path.is_file():
            return None
        stat = path.stat()
        return _hash_at(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    except PermissionError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except OSError:  # such as a name that is too long
        return None


@cache
def _hash_at(path: Path, *_: int) -> bytes:
    """Hash a file once for each state that it is in: a sweep asks for every run."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


# What is wrong with a class


def check_hooks(cls: type) -> None:
    """Raise UsageError for a mistyped hook of a method, or one that takes other arguments than it will be given.

    A name is mistyped if the contract has none like it, but one close to it, no other base has it, and nothing in the
    class uses it.
    """
    contract = [base for base in cls.__mro__ if base.__module__.startswith("clbench.method.")]
    own = _outside(cls) or [base for base in cls.__mro__ if base.__module__.startswith("clbench.methods.")]
    known = {name: value for base in reversed(contract) for name, value in vars(base).items() if name[0] != "_"}
    hooks = {name: value for name, value in known.items() if inspect.isfunction(value)}
    facts = {
        name for base in contract for name, hint in inspect.get_annotations(base).items() if "ClassVar" in str(hint)
    }
    fields = {field.name for field in dataclasses.fields(cls)}
    if hidden := sorted(fields & set(hooks)):
        raise UsageError(f"{place_of(cls)}: the field {hidden[0]} of {cls.__name__} hides a hook: give it another name")
    for base in own:
        for name, value in vars(base).items():
            if name in hooks and inspect.isfunction(value):
                _check_arguments(base, value, hooks[name])
            elif name in fields and name not in inspect.get_annotations(base):
                what = f"{name} of {base.__name__} has no type, so that its default stays as it was"
                raise UsageError(f"{place_of(base)}: {what}: write {name}: {type(value).__name__} = {value!r}")
            elif not name.startswith("_") and name not in {*known, *facts, *fields} and not inspect.isclass(value):
                is_hook = callable(value) or isinstance(value, (property, classmethod))
                hint = close_names(name.lower(), hooks if is_hook else facts)
                overrides = any(name in vars(other) for other in base.__mro__[1:])
                if hint and not overrides and not _is_used(name, own):
                    where = place_of(value if inspect.isfunction(value) else base)
                    what = f"{base.__name__}.{name} is no {'hook' if is_hook else 'fact'} of a method"
                    raise UsageError(f"{where}: {what}, and nothing uses it{hint} (helpers' names begin with _)")


def _check_arguments(cls: type, function: types.FunctionType, contract: types.FunctionType) -> None:
    expected = list(inspect.signature(contract).parameters)
    try:
        inspect.signature(function).bind(*expected)
    except TypeError:
        has = f"{cls.__name__}.{function.__name__}{inspect.signature(function)}"
        raise UsageError(f"{place_of(function)}: {has} must take ({', '.join(expected)})") from None


def _is_used(name: str, classes: Collection[type]) -> bool:
    """Whether a function of these classes uses a name, other than the one that has it."""
    for cls in classes:
        for other, value in vars(cls).items():
            function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            if inspect.isfunction(function) and other != name and name in _names_in(inspect.unwrap(function).__code__):
                return True
    return False


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _outside(cls: type) -> list[type]:
    """Return a class and those of its bases that are neither clbench's nor of a library that it is made of."""
    return [base for base in cls.__mro__ if base.__module__.split(".")[0] not in _NOT_OWN]
