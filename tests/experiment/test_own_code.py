"""Code of one's own: files that its settings name, mistyped hooks, broken files, and where an error was raised."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import prepared as plan

import clbench.methods
from clbench.cli import showing
from clbench.cli.showing import list_, show
from clbench.errors import UsageError
from clbench.execution.run import run_one
from clbench.experiment import early, own_code, registry

HEAD = "from dataclasses import dataclass\nfrom typing import ClassVar\nfrom clbench.method import Method\n\n"
METHOD = HEAD + '@dataclass\nclass Own(Method):\n    """Own"""\n    weights_file: str = "w.pt"\n    note: str = ""\n'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------------------------------ files that settings name


def key(method: str, **options: object) -> str:
    (job,) = plan(method, seeds=1, out="out", **options).jobs
    return job.spec.key


def test_a_file_that_a_field_names_is_part_of_the_key(here: Path) -> None:
    Path("own.py").write_text(METHOD)
    without = key("./own.py:Own")
    Path("w.pt").write_bytes(b"one")
    one = key("./own.py:Own")
    os.utime("w.pt", (1, 1))
    assert key("./own.py:Own") == one  # its content counts
    Path("w.pt").write_bytes(b"two")
    two = key("./own.py:Own")
    assert len({without, one, two}) == 3
    Path("w.pt").write_bytes(b"one")
    assert key("./own.py:Own") == one


def test_so_it_is_in_lists_and_by_any_path(here: Path) -> None:
    Path("a").mkdir()
    Path("a/x").write_bytes(b"1")
    for value in ("a/x", str(here / "a" / "x"), ["b", "a/x"], {"of": ("a/x",)}):
        found = []
        for content in (b"1", b"22"):
            Path("a/x").write_bytes(content)
            found.append(own_code.code_hash(type("T", (), {"__module__": __name__}), {"field": value}))
        assert found[0] != found[1], value


def test_texts_that_are_no_file_change_nothing(here: Path) -> None:
    Path("own.py").write_text(METHOD)
    Path("folder").mkdir()
    cls = registry.find("method", "./own.py:Own")
    plain = own_code.code_hash(cls)
    for value in ("", "folder", ".", "no such file", "x" * 5000, "\0", 3, None, True):
        assert own_code.code_hash(cls, {"field": value}) == plain, value
    assert own_code.code_hash(registry.find("method", "lwf"), {"field": "own.py"}) is None  # built-in


def test_a_file_beside_the_class_counts_from_elsewhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own.py").write_text(METHOD)
    Path("w.pt").write_bytes(b"one")
    cls = registry.find("method", "./own.py:Own")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    before = own_code.code_hash(cls, {"weights_file": "w.pt"})
    (here / "w.pt").write_bytes(b"two")
    assert own_code.code_hash(cls, {"weights_file": "w.pt"}) != before


def test_a_run_whose_file_changed_meanwhile_says_so() -> None:
    Path("own.py").write_text(METHOD)
    Path("w.pt").write_bytes(b"one")
    (job,) = plan("./own.py:Own", seeds=1, out="out").jobs
    Path("w.pt").write_bytes(b"two")
    record = run_one(job)
    assert record.reason is not None
    assert "or a file that it names, was changed while the sweep ran" in record.reason


# ------------------------------------------------------------------------------------------ one label for one file


def test_one_file_has_one_label(here: Path) -> None:
    Path("own.py").write_text(METHOD)
    spellings = ["own.py:Own", "./own.py:Own", str(here / "own.py") + ":Own", "../" + here.name + "/own.py:Own"]
    sweep = plan(",".join(spellings), seeds=1, out="out", settings=["own.py:Own.note=a"])
    assert [job.spec.label for job in sweep.jobs] == ["./own.py:Own@note=a"]
    assert registry.canonical("lwf") == "lwf"
    assert registry.canonical("package.module:Name") == "package.module:Name"
    assert registry.canonical("/elsewhere/own.py:Own") == "/elsewhere/own.py:Own"


# ------------------------------------------------------------------------------------------ mistyped hooks


def refused(body: str, message: str, base: str = "Method") -> None:
    Path("own.py").write_text(HEAD + f'@dataclass\nclass Own({base}):\n    """Own"""\n{body}\n')
    with pytest.raises(UsageError, match=message):
        registry.find("method", "own.py:Own")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("los", "loss"), ("losses", "loss"), ("finish_tasks", "finish_task"), ("after_steps", "after_step"),
        ("startTask", "start_task"), ("score", "scores"), ("gradient", "gradients"), ("phase", "phases"),
        ("load_state_dict", "load_state"), ("end_task", "finish_task"), ("start_form", "start_from"),
    ],
)  # fmt: skip
def test_a_name_close_to_a_hooks_is_refused(name: str, meant: str) -> None:
    place = r"own\.py, line 8: "
    refused(
        f"    def {name}(self, *args):\n        return None", rf"{place}Own\.{name} is no hook.*did you mean .*{meant}"
    )


def test_a_name_of_a_base_may_be_overridden_though_it_is_close_to_a_hooks() -> None:
    """`kept` of LwF-MC is no hook of the contract, which has `keep`, but iCaRL's own memory goes by it."""
    text = "from clbench.methods.icarl import ICaRL\n\n\nclass Own(ICaRL):\n"
    Path("own.py").write_text(f"{text}    def kept(self, earlier):\n        return []\n")
    registry.find("method", "own.py:Own")


@pytest.mark.parametrize(
    ("line", "meant"), [("scenario = {'class'}", "scenarios"), ("memori: ClassVar = True", "memory")]
)
def test_a_name_close_to_a_fact_is_refused(line: str, meant: str) -> None:
    refused(f"    {line}", f"is no fact of a method.*did you mean {meant}")


def test_what_else_never_takes_effect() -> None:
    refused(
        "    def loss(self, x, y):\n        return 0",
        r"own\.py, line 8: Own\.loss\(self, x, y\) must take \(self, step\)",
    )
    refused("    weights: float = 1.0", "the field weights of Own hides a hook")
    body = HEAD + "from clbench.methods.ewc import EWC\n\nclass Own(EWC):\n    strength = 3.0\n"
    Path("own.py").write_text(body)
    with pytest.raises(UsageError, match=r"strength of Own has no type.*write strength: float = 3\.0"):
        registry.find("method", "own.py:Own")
    Path("own.py").write_text(HEAD + "class Own(Method):\n    scale = 3.0\n")
    with pytest.raises(
        UsageError, match=r"scale is no field, as it has no type: write scale: float = …, and @dataclass"
    ):
        registry.configure("own", registry.find("method", "own.py:Own"), {"scale": "1"})


def test_a_helper_that_is_used_may_have_any_name() -> None:
    body = "    def losses(self, step):\n        return [step.cross_entropy()]\n"
    body += "    def loss(self, step):\n        return sum(self.losses(step))\n    stats = 0\n    def _los(self): ...\n"
    Path("own.py").write_text(HEAD + f'@dataclass\nclass Own(Method):\n    """Own"""\n{body}')
    assert registry.find("method", "own.py:Own").__name__ == "Own"


# ------------------------------------------------------------------------------------------ broken files

ER = HEAD + "class Er(Method):\n    '''Er'''\n    name = 'er-two'\n"


@pytest.fixture
def methods_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "more"
    folder.mkdir()
    places = [*clbench.methods.__path__, str(folder)]
    monkeypatch.setattr(clbench.methods, "__path__", places)
    monkeypatch.setattr(clbench.methods.__spec__, "submodule_search_locations", places)
    registry.found.cache_clear()
    yield folder
    registry.found.cache_clear()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "def broken(:", "more/er_two.py, line 5: SyntaxError: "),
        (HEAD + "x = 1 / 0\n", "more/er_two.py, line 5: ZeroDivisionError: division by zero"),
        (HEAD + '@dataclass\nclass Er(Method):\n    """Er"""\n', "more/er_two.py, line 5: Er has no name"),
        (HEAD + "@dataclass\nclass Er(Method):\n    name = 'er-two'\n", "more/er_two.py, line 5: Er has no docstring"),
        (ER + "    k: int = 1\n", "line 5: Er declares fields but"),
        (ER + "    def los(self): ...\n", "line 8: Er.los is no hook"),
        (HEAD + "class Er(Method):\n    '''Er'''\n    name = 'lwf'\n", "'lwf' is defined twice"),
        ("x = 1\n", "more/er_two.py: there is no method in it"),
    ],
)  # fmt: skip
def test_a_broken_file_of_a_method_stops_that_method_alone(
    text: str, message: str, methods_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(showing, "_wrapped", lambda text, first="", later="": first + text)
    name = f"er_two{abs(hash(text))}"
    (methods_folder / f"{name}.py").write_text(text)
    message = message.replace("er_two", name)
    reference = name.replace("_", "-")
    with pytest.raises(UsageError) as raised:
        registry.find("method", reference)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    list_("methods")
    listed = capsys.readouterr().out
    # what shows only when hooks are looked at is not worth importing every method for
    assert (message in listed) == ("los" not in text), listed
    assert "Learning without Forgetting" in listed
    with pytest.raises(UsageError, match="did you mean lwf"):
        early.look_up("method", "lfw")
    if "los" not in text:
        with pytest.raises(UsageError, match=re.escape(message)):
            show([reference])
    if "er-two" in text and "k: int" not in text:  # it goes by the name in the file, too, where that can be read
        with pytest.raises(UsageError, match=re.escape(message)):
            registry.find("method", "er-two")
    sweep = plan("all", seeds=1, out="out")
    assert "lwf" in sweep.labels
    assert reference not in sweep.labels
    assert any(message in note for note in sweep.notes)


# ------------------------------------------------------------------------------------------ where a run failed


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    def start_task(self, task):\n        raise ValueError('a\\nb')", "ValueError: a, in own.py, line 9, at"),
        ("    def loss(self, step):\n        step.cross_entropy()", "Own.loss (own.py, line 8) returns nothing: a"),
        ("    def loss(self, step):\n        return step.outputs", "returns [128, 2] numbers"),
        ("    def loss(self, step):\n        return 1.0", "returns float, no tensor"),
        ("    def loss(self, step):\n        return step.cross_entropy().detach()", "a number without a gradient"),
        ("    def phases(self, task, earlier):\n        return [None]", "returns [None]: a list of Phase is needed"),
    ],
)  # fmt: skip
def test_a_failed_run_names_the_users_line(body: str, message: str) -> None:
    Path("own.py").write_text(HEAD + f'@dataclass\nclass Own(Method):\n    """Own"""\n{body}\n')
    (job,) = plan("own.py:Own", seeds=1, batch_size=128, out="out").jobs
    reason = run_one(job).reason
    assert reason is not None
    assert message in reason
    assert "own.py, line " in reason
    assert "at task 1 of 5" in reason


def test_a_file_that_fails_as_it_is_imported_names_its_line() -> None:
    Path("own.py").write_text("import helper_of_mine\n")
    Path("helper_of_mine.py").write_text("\n\nnone_such\n")
    with pytest.raises(UsageError, match=r"NameError: name 'none_such' is not defined, in helper_of_mine\.py, line 3"):
        registry.find("method", "own.py:Own")
