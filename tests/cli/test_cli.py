"""The command line as a person meets it: in a process of its own, in a new folder."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clbench.cli.app import app
from clbench.errors import ClbenchError, UsageError
from clbench.results.frames import load


def clbench(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clbench", *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("sweep")
    return folder, clbench("run", "--methods", "lwf,finetune", "--seeds", "2", "--epochs", "1", cwd=folder)


def test_run_prints_a_table_and_its_progress(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, run = swept
    assert run.returncode == 0, run.stderr
    assert "lwf" in run.stdout
    assert "finetune" in run.stdout
    assert "±" in run.stdout
    assert "4 runs to do" in run.stderr
    assert "[4/4]" in run.stderr
    assert len(list((folder / "results/runs").glob("*.json"))) == 4
    again = clbench("run", "--methods", "lwf,finetune", "--seeds", "2", "--epochs", "1", cwd=folder)
    assert "0 runs to do, 4 there already" in again.stderr
    assert again.stdout == run.stdout


def test_report_writes_tables_and_figures(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = swept
    report = clbench("report", cwd=folder)
    assert report.returncode == 0, report.stderr
    made = {path.relative_to(folder / "results/report").as_posix() for path in (folder / "results/report").rglob("*.*")}
    assert {"summary.csv", "runs.csv", "summary.md", "summary.tex"} <= made
    figures = [name for name in made if name.endswith(".png")]
    assert len(figures) == 7  # no ranks of one sequence, no curves without --eval-every
    assert {name.removesuffix(".png") + ".pdf" for name in figures} <= made


def test_report_skips_damaged_records(swept: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    source = swept[0] / "results/runs"
    records = tmp_path / "records"
    records.mkdir()
    first, *rest = sorted(source.glob("*.json"))
    (records / first.name).write_bytes(first.read_bytes())
    for path in rest:
        (records / path.name).write_bytes(path.read_bytes()[:200])
    report = clbench("report", str(records), cwd=tmp_path)
    assert report.returncode == 0
    assert all(path.name in report.stderr for path in rest)
    (records / first.name).unlink()
    assert clbench("report", str(records), cwd=tmp_path).returncode == 2


def test_report_on_the_folder_above(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    with pytest.raises(UsageError, match=r"did you mean .*runs"):
        load(swept[0] / "results")


@pytest.mark.parametrize("folder", ["none", "empty"])
def test_report_without_records(folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    report = clbench("report", folder, "--out", "made", cwd=tmp_path)
    assert report.returncode == 2
    assert len(report.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "made").exists()


def test_failed_runs_give_exit_code_1(tmp_path: Path) -> None:
    run = clbench("run", "--methods", "finetune", "--seeds", "1", "--lr", "1e20", "--jobs", "1", cwd=tmp_path)
    assert run.returncode == 1
    assert "FAILED finetune on split-digits, task, seed 0: the loss is" in run.stderr
    assert "Traceback" not in run.stderr


def test_quiet_prints_only_the_table(tmp_path: Path) -> None:
    run = clbench("run", "--methods", "finetune", "--seeds", "1", "--epochs", "1", "--quiet", cwd=tmp_path)
    assert run.returncode == 0
    assert run.stderr == ""
    assert "finetune" in run.stdout


def test_dry_run_makes_nothing(tmp_path: Path) -> None:
    run = clbench("run", "--methods", "lwf", "--seeds", "2", "--dry-run", cwd=tmp_path)
    assert run.returncode == 0
    assert "2 runs: 2 to do, 0 done" in run.stdout
    assert list(tmp_path.iterdir()) == []


BAD = """
--methods lfw | did you mean lwf
--methods lwf@temprature=4 | did you mean temperature
--methods lwf@temperature | write lwf@FIELD=VALUE
--methods lwf@temperature=0 | greater than 0
--methods lwf@temperature=cold | lwf.temperature=cold
--methods lwf, | an empty name
--methods ./none.py:Mine | there is no file
--methods scratch@networks=per-task --scenario class | needs the task's name
--methods lwf --set lwf.warmup_epochs=1 --scenario domain | no block is new
--sequence split-digit | did you mean split-digits
--scenario tasks | did you mean task
--scenario task,moon | unknown scenario 'moon'
--model mlpp | did you mean mlp
--class-order 0,1,2 | class
--class-order 0,0,1,2,3,4,5,6,7,8 | class
--class-order backwards | write seed, fixed
--seeds 0 | at least one seed
--seeds 9-3 | runs backwards
--seeds x | cannot read 'x'
--epochs 0 | greater than or equal to 1
--epochs few | valid integer
--epochs 1 --iterations 5 | choose one
--epochs 1 --set training.epochs=2 | given twice
--iterations 0 | greater than or equal to 1
--batch-size 0 | greater than or equal to 1
--batch-size 99999999999999 | less than or equal to
--methods lwf@weight=1@weight=2 | given twice
--batch-size 100000 --set training.drop_last=true | drop_last leaves no batch
--optimizer sdg | 'sgd', 'adam' or 'adagrad'
--optimizer adam --momentum 0.9 | option of sgd
--lr -1 | greater than 0
--lr nan | finite
--lr inf | finite
--momentum 1.5 | less than 1
--weight-decay -1 | greater than or equal to 0
--later-lr-factor 0 | greater than 0
--set lwf.temperature | write NAME.FIELD=VALUE
--set lvf.temperature=4 | did you mean lwf
--methods finetune --set lwf.temperature=4 | names nothing in this sweep
--set training.epoch=4 | did you mean epochs
--set mlp.width=0 | greater than or equal to 1
--set split-digits.tasks=3 | 3
--set split-digits.tasks=4 --scenario domain | 4
--jobs 0 | at least one worker
--device tpu | choose from auto, cpu
--data-root nowhere --sequence split-mnist | nowhere
--out taken/runs | is a file
--colour red | No such option
--timeout 0 | a run needs some seconds
--timeout -3 | a run needs some seconds
--timeout nan | a run needs some seconds
--timeout soon | valid number
--eval-every 0 | from 1 to
--eval-every -3 | from 1 to
--eval-every 99999999999999 | from 1 to
--eval-every often | valid integer
--threads 0 | a run has at least one
--threads 100000 | this machine has
--threads all | valid integer
--precision fp64 | choose from fp32, tf32, bf16
--precision tf32 --device cpu | a mode of CUDA devices
--preset hsu2018 | hsu2018-split-mnist
--preset none.toml | none.toml
--rows LwF | give --preset, or --methods
--preset hsu2018-split-mnist --methods lwf | are its rows
--preset hsu2018-split-mnist --rows LfW | LfW
--methods ./taken:Mine | taken
--backend slurm | choose from local, dask, ray
--scheduler tcp://10.0.0.1:8786 | give --backend dask or ray
--backend dask | needs --scheduler ADDRESS
--backend dask --scheduler nonsense://x --device cuda:1 | choose from cpu (as auto), cuda
--backend dask --scheduler nonsense://x --checkpoint | leave it out with --backend dask
--backend dask --scheduler nonsense://x --save-models | leave it out with --backend dask
--backend dask --scheduler nonsense://x | no Dask scheduler answers at nonsense://x
"""
# a file's name and content, and what is asked of it
FILES = {
    "a plug-in that is no Python": ("mine.py", "class Mine(", "--methods ./mine.py:Mine", "SyntaxError"),
    "a plug-in that raises": ("mine.py", "1 / 0", "--methods ./mine.py:Mine", "ZeroDivisionError"),
    "a plug-in without the name": ("mine.py", "x = 1", "--methods ./mine.py:Mine", "Mine"),
    "a plug-in that is no method": ("mine.py", "class Mine: pass", "--methods ./mine.py:Mine", "Method"),
    "a plug-in that ends the program": ("mine.py", "raise SystemExit(0)", "--methods ./mine.py:Mine", "SystemExit"),
    "a preset that is no TOML": ("mine.toml", "title = ", "--preset ./mine.toml", "mine.toml"),
    "a preset without rows": ("mine.toml", 'title = "Mine"', "--preset ./mine.toml", "mine.toml"),
    "a preset that is empty": ("mine.toml", "", "--preset ./mine.toml", "mine.toml"),
    "a preset that is binary": ("mine.toml", "\0\1", "--preset ./mine.toml", "mine.toml"),
    "data that are none": ("MNIST/raw/train-images-idx3-ubyte", "", "--sequence split-mnist --data-root .", "train"),
    "data that are cut": (
        "MNIST/raw/train-images-idx3-ubyte",
        "\0\0\x08\x03\0\0\0\x09",
        "--sequence split-mnist --data-root .",
        "train",
    ),
}


@pytest.mark.parametrize("line", BAD.strip().splitlines())
def test_bad_input_is_one_clear_line(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, message = (part.strip() for part in line.split("|"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLBENCH_DATA_ROOT", raising=False)
    (tmp_path / "taken").write_text("a file")
    command = ["run", *arguments.split()]
    if "--seeds" not in command:
        command += ["--seeds", "1"]
    result: Result = CliRunner().invoke(app, command)
    assert result.exit_code != 0
    if isinstance(result.exception, ClbenchError):
        text = str(result.exception)
        assert "\n" not in text
    else:
        assert result.exit_code == 2
        text = result.output.strip().splitlines()[-1]
    assert message in text
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("what", FILES)
def test_a_bad_file_is_one_clear_line(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, content, arguments, message = FILES[what]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLBENCH_DATA_ROOT", raising=False)
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("latin-1"))
    result: Result = CliRunner().invoke(app, ["run", *arguments.split(), "--seeds", "1"])
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert not (tmp_path / "results").exists()


def test_bad_input_ends_with_exit_code_2_and_no_traceback(tmp_path: Path) -> None:
    run = clbench("run", "--methods", "lfw", cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr == "clbench: error: unknown method 'lfw', did you mean lwf or lfl?\n"
    assert run.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif("sys.platform == 'win32'")
def test_cuda_without_a_device(tmp_path: Path) -> None:
    for device in ("cuda", "cuda:0"):
        run = clbench("run", "--device", device, cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
        assert run.returncode == 2
        assert "no CUDA device" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_list(tmp_path: Path) -> None:
    for kind, name in (("methods", "lwf"), ("sequences", "split-mnist"), ("models", "resnet18")):
        result = CliRunner().invoke(app, ["list", kind])
        assert result.exit_code == 0
        assert any(line.startswith(f"{name}: ") for line in result.output.splitlines())
    assert CliRunner().invoke(app, ["list", "colours"]).exit_code == 2


def imported_by(code: str, *, cwd: Path) -> set[str]:
    script = textwrap.dedent(code) + "\nimport sys, json; print(json.dumps([m for m in sys.modules if '.' not in m]))"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=cwd, check=True, timeout=300
    )
    return set(json.loads(run.stdout.splitlines()[-1]))


HEAVY = {"torch", "torchvision", "avalanche", "sklearn"}


def test_light_commands_import_nothing_heavy(swept: tuple[Path, object]) -> None:
    folder = swept[0]
    run = "import sys; from clbench.cli.app import app; sys.argv = ['clbench', {}]; app(standalone_mode=False)"
    assert not HEAVY & imported_by("import clbench", cwd=folder)
    assert not (HEAVY | {"pandas", "matplotlib"}) & imported_by(run.format("'--help'"), cwd=folder)
    assert not HEAVY & imported_by(run.format("'report'"), cwd=folder)
    assert "avalanche" not in imported_by(run.format("'list', 'sequences'"), cwd=folder)


def test_a_run_on_materialised_data_imports_neither_avalanche_nor_sklearn(swept: tuple[Path, object]) -> None:
    code = "import clbench; clbench.run('lwf', seeds=1, epochs=1, jobs=1, quiet=True, force=True)"
    assert not {"avalanche", "sklearn"} & imported_by(code, cwd=swept[0])


LITTLE = {
    "pyproject.toml": """
        [build-system]
        requires = ["setuptools"]
        build-backend = "setuptools.build_meta"
        [project]
        name = "little"
        version = "1"
        [project.entry-points."clbench.methods"]
        little-l2 = "little:L2"
    """,
    "little.py": """
        from dataclasses import dataclass
        from clbench.method.base import Method

        @dataclass
        class L2(Method):
            \"\"\"Fine-tuning with a pull towards zero\"\"\"
            strength: float = 0.01

            def loss(self, model, batch, criterion):
                pull = sum(p.square().sum() for p in model.backbone.parameters())
                return criterion(model, batch) + self.strength * pull
    """,
}


def test_a_method_from_an_installed_package(tmp_path: Path) -> None:
    for name, text in LITTLE.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(site), str(tmp_path)], check=True, capture_output=True, timeout=300)
    work = tmp_path / "work"
    work.mkdir()
    listed = clbench("list", "methods", cwd=work, PYTHONPATH=str(site))
    assert "little-l2: Fine-tuning with a pull towards zero. Fields: strength=0.01" in listed.stdout
    command = ["run", "--methods", "little-l2,little-l2@strength=0.1", "--seeds", "2", "--epochs", "1"]
    run = clbench(*command, cwd=work, PYTHONPATH=str(site))
    assert run.returncode == 0, run.stderr
    assert "little-l2@strength=0.1" in run.stdout
    records = [json.loads(path.read_text()) for path in (work / "results/runs").glob("*.json")]
    assert len(records) == 4
    assert all(list(record["spec"]["code"]) == ["method"] for record in records)


@pytest.mark.parametrize(
    ("loaded", "what", "code"), [("torch", "models", 0), ("torch", "modles", 2), ("avalanche", "models", 0)]
)
def test_a_command_ends_in_order(loaded: str, what: str, code: int, tmp_path: Path) -> None:
    left = tmp_path / "left"
    program = f"""
import {loaded}, atexit, pathlib, sys
from clbench.cli import app as cli
from clbench.__main__ import main
command = cli.main
def with_an_end():
    atexit.register(pathlib.Path({str(left)!r}).write_text, "cleaned up")
    command()
cli.main, sys.argv = with_an_end, ["clbench", "list", {what!r}]
main()
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == code
    assert done.stdout.startswith("cnn: " if code == 0 else "")
    assert done.stderr.count("\n") == (code != 0)
    assert left.read_text() == "cleaned up"


@pytest.mark.skipif("not Path('/dev/full').exists()")
@pytest.mark.parametrize("arguments", [["list", "models"], ["--version"], ["run", "--dry-run", "--seeds", "1"]])
def test_a_full_device_for_output_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "clbench", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "clbench: error: [Errno 28] No space left on device"
    assert "Traceback" not in done.stderr


@pytest.mark.skipif("sys.platform == 'win32'")
def test_a_reader_that_has_gone_is_no_error() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE) as reader:
        reader.wait()
        command = [sys.executable, "-P", "-m", "clbench", "list", "models"]
        done = subprocess.run(command, stdout=reader.stdin, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, "")
