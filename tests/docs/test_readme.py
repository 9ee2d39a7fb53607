"""The README keeps its word: its commands are those of CI, and its method does what it says."""

import importlib
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import clbench
from clbench.cli.app import app
from clbench.experiment import registry
from clbench.results.frames import Results
from clbench.testing import check_method

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_blocks(language: str = "") -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in blocks if name == language]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    (command,) = [block.strip() for block in code_blocks() if "tox" in block]
    assert command in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()


def test_the_ratios_in_the_readme_are_those_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    ratios = importlib.import_module("ratios")
    assert ratios.described(json.loads(ratios.RESULTS.read_text())) in README


def test_the_python_in_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in code_blocks("python") if block.startswith("import clbench")]
    names: dict[str, object] = {}
    exec(block.replace("seeds=5", "seeds=2, epochs=1, quiet=True"), names)
    results = names["results"]
    assert isinstance(results, Results)
    assert results.labels == ["finetune", "lwf", "lwf@weight=2"]


def test_the_method_in_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in code_blocks("python") if block.startswith("# pull.py")]
    Path("pull.py").write_text(block)
    pull = registry.find("method", "./pull.py:Pull")
    check_method(pull, models=["mlp", "cnn"])
    strengths = {"./pull.py:Pull.strength": [0, 1]}
    results = clbench.run("finetune,./pull.py:Pull", seeds=1, epochs=1, settings=strengths, quiet=True)
    hashes = results.runs.set_index("label")["weights_hash"]
    assert hashes["./pull.py:Pull@strength=0"] == hashes["finetune"] != hashes["./pull.py:Pull@strength=1"]


COMMANDS = [line.split("#")[0].strip() for block in code_blocks() for line in block.splitlines()]


@pytest.mark.parametrize(
    "command", [line for line in COMMANDS if line.startswith(("clbench run", "clbench list", "clbench verify"))]
)
def test_every_command_in_the_readme_is_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    command = command.replace("clbench verify", "clbench run --preset")  # the same options, and a dry run
    if "--data-root" in command:
        command = re.sub(r"--data-root \S+", f"--data-root {request.getfixturevalue('data_root')}", command)
    elif "--preset" in command:
        request.getfixturevalue("data_root")
    monkeypatch.chdir(tmp_path)
    for block in code_blocks("python"):
        if block.startswith("# pull.py"):
            Path("pull.py").write_text(block)
    words = command.split()[1:]
    result = CliRunner().invoke(app, [*words, "--dry-run"] if words[0] == "run" else words)
    assert result.exit_code == 0, result.exception


def test_the_gallery_draws_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "results")
    gallery = importlib.import_module("gallery")
    paths = gallery.main(tmp_path, seeds=2, epochs=1)
    assert len(paths) == len({path.read_bytes() for path in paths}) == 8
    assert all(path.read_bytes().startswith(b"%PDF") for path in paths)
