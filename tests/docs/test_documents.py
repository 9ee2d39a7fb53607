"""The documents keep their word: what can be run in them is run, links lead somewhere, nothing is left out."""

import dataclasses
import functools
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from documents import DOCUMENTS, NOT_RUN, PLANNED, ROOT, Block, anchors, blocks, files, links, reason, text_of

import clbench
from clbench.experiment import presets, registry
from clbench.experiment.preset import Preset, Published, Row
from clbench.method import Training
from clbench.results.metrics import CURVE_METRICS, IMAGE_METRICS, METRICS, PROBE_METRIC
from clbench.testing import check_method

EVERYTHING = "".join(map(text_of, DOCUMENTS))


def test_the_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= 150


@pytest.mark.parametrize("document", [*DOCUMENTS, "results/README.md"])
def test_links_lead_somewhere(document: str) -> None:
    for target in links(document):
        path, _, anchor = target.partition("#")
        place = (ROOT / document).parent / path if path else ROOT / document
        assert place.exists(), target
        if anchor:
            assert anchor in anchors(str(place.resolve().relative_to(ROOT))), target


def test_every_guide_is_in_the_index() -> None:
    listed = set(links("docs/README.md"))
    assert {Path(document).name for document in DOCUMENTS if document.startswith("docs/")} <= listed | {"README.md"}


def test_every_name_and_setting_is_explained() -> None:
    kinds: tuple[registry.Kind, ...] = ("method", "sequence", "model")
    names = [name for kind in kinds for name in registry.builtin(kind)]
    names += [
        *presets.names(),
        *METRICS,
        *IMAGE_METRICS,
        *CURVE_METRICS,
        PROBE_METRIC,
        *(field.name for field in dataclasses.fields(Training)),
    ]
    missing = [name for name in names if f"`{name}`" not in EVERYTHING]
    assert missing == []


def test_every_option_of_a_run_is_explained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from clbench.cli.app import main

    monkeypatch.setattr(sys, "argv", ["clbench", "run", "--help"])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main()
    options = {word for word in capsys.readouterr().out.split() if word.startswith("--")} - {"--help"}
    assert len(options) > 20
    running = text_of("docs/running.md")
    assert [option for option in sorted(options) if f"`{option}" not in running] == []


def test_a_file_in_several_documents_is_the_same_everywhere() -> None:
    for document in DOCUMENTS:
        for block in blocks(document):
            assert block.file is None or files()[block.file] == block.text


def test_what_is_not_run_is_there() -> None:
    said = [line.strip() for name in DOCUMENTS for block in blocks(name) for line in block.text.splitlines()]
    for start in NOT_RUN:
        assert any(line.startswith(start) for line in said), start
    for part in PLANNED:
        assert any(part in line for line in said), part


def with_commands() -> list[str]:
    return [name for name in DOCUMENTS if any(block.commands for block in blocks(name))]


@pytest.mark.parametrize("group", [0, 1, 2])
def test_the_commands_of_the_documents(group: int, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(Path(__file__).with_name("do_commands.py")),
        str(tmp_path),
        *with_commands()[group::3],
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, env=environment, check=False)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr[-3000:]


PYTHON = [block for name in DOCUMENTS for block in blocks(name) if block.language == "python" and not block.file]


@pytest.mark.parametrize(
    "block", [block for block in PYTHON if not reason(block.text)], ids=lambda block: block.document
)
def test_the_python_in_a_document(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if "preset" in block.text:
        request.getfixturevalue("data_root")
    run, verify = clbench.run, clbench.verify
    small = {"seeds": 2, "jobs": 1, "quiet": True}
    iterations = {"settings": {"training.iterations": 2}}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clbench, "run", lambda *names, **options: run(*names, **options | small, iterations=2))
    monkeypatch.setattr(clbench, "verify", lambda *names, **options: verify(*names, **options | small | iterations))
    exec(block.text, {})


EXAMPLES = ["pull.py", "er.py", "agem.py", "scaled.py", "nearest_mean.py"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_keep_the_contract(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in EXAMPLES:
        (tmp_path / path).write_text(files()[path], encoding="utf-8")
    (cls,) = re.findall(r"^class (\w+)", files()[name], flags=re.MULTILINE)
    check_method(registry.find("method", f"./{name}:{cls}"), models=["mlp"])


def test_every_example_of_a_method_is_checked() -> None:
    guide = {block.file for block in blocks("docs/adding-a-method.md") if block.language == "python"}
    assert guide == set(EXAMPLES)


def test_the_example_of_a_preset_is_verified(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(files()["mine.toml"], encoding="utf-8")
    options = {"seeds": 2, "jobs": 1, "quiet": True, "settings": {"training.iterations": 2}}
    found = clbench.verify(tmp_path / "mine.toml", controls=True, out=tmp_path / "out", **options)
    rows = ["none", "none (told the task)", "LwF@temperature=1", "LwF@temperature=4", "LwF with T²", "larger joint"]
    assert list(dict.fromkeys(found.frame["row"])) == rows
    assert found.failed == 0
    limits = found.frame.set_index(["row", "scenario"])["limits"]
    assert (limits["none", "task"], limits["none (told the task)", "class"]) == ("", "no ±")
    assert found.tests == 3
    assert found.claims["scenario"].tolist() == ["task", "class"]
    entries = {field.name for cls in (Preset, Published, Row) for field in dataclasses.fields(cls)}
    guide = text_of("docs/published-experiments.md")
    written = ("`{}`", "[{}]", "`[[{}]]`")
    missing = [name for name in entries if not any(form.format(name) in guide for form in written)]
    assert sorted(missing) == ["folder"]  # which is not for files


def test_the_names_for_people_in_contributing() -> None:
    (method,) = tomllib.loads(files()["methods/names.toml"]).values()
    bibliography = (ROOT / "methods/papers.bib").read_text(encoding="utf-8")
    assert all(f"{{{entry}," in bibliography for entry in method["cite"])


def test_ci_runs_the_test_command_of_the_readme() -> None:
    (command,) = [block.text.strip() for block in blocks("README.md") if "tox" in block.text]
    assert command in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()


def test_the_ratios_in_the_guide_are_those_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    ratios = importlib.import_module("ratios")
    assert ratios.described(json.loads(ratios.RESULTS.read_text())) in text_of("docs/speed.md")


def test_the_gallery_draws_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "results")
    gallery = importlib.import_module("gallery")
    monkeypatch.setattr(clbench, "run", functools.partial(clbench.run, jobs=1))
    paths = gallery.main(tmp_path, seeds=2, epochs=1)
    assert len(paths) == len({path.read_bytes() for path in paths}) == 11
    assert all(path.read_bytes().startswith(b"%PDF") for path in paths)
