"""The command line as a person meets it, in a new folder."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import Command, Ended, one_clear_line

from clbench.experiment import registry
from clbench.experiment.early import members

RUN = ["run", "--methods", "lwf,finetune", "--seeds", "2", "--epochs", "1"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A folder in which four runs were made by a process of their own, and how that ended."""
    folder = tmp_path_factory.mktemp("sweep")
    command = [sys.executable, "-m", "clbench", *RUN]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    return folder, Ended(done.returncode, done.stdout, done.stderr)


def test_run_prints_a_table_and_its_progress(swept: tuple[Path, Ended], clbench: Command) -> None:
    folder, run = swept
    assert run.code == 0, run.err
    assert "lwf" in run.out
    assert "finetune" in run.out
    assert "±" in run.out
    assert "4 runs to do" in run.err
    assert "[4/4]" in run.err
    assert len(list((folder / "results/runs").glob("*.json"))) == 4
    os.chdir(folder)
    again = clbench(*RUN)
    assert "0 runs to do, 4 there already" in again.err
    assert "±" in again.out


def test_report_writes_tables_and_figures(swept: tuple[Path, Ended], clbench: Command) -> None:
    folder, _ = swept
    os.chdir(folder)
    report = clbench("report")
    assert report.code == 0, report.err
    made = {path.relative_to(folder / "results/report").as_posix() for path in (folder / "results/report").rglob("*.*")}
    assert {"summary.csv", "runs.csv", "summary.md", "summary.tex"} <= made
    figures = [name for name in made if name.endswith(".png")]
    assert len(figures) == 9  # no ranks of one sequence, no curves without --eval-every
    assert {name.removesuffix(".png") + ".pdf" for name in figures} <= made


def test_compare_names_damaged_records(swept: tuple[Path, Ended], clbench: Command, tmp_path: Path) -> None:
    records = sorted((swept[0] / "results/runs").glob("*.json"))
    for path in records:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    compared = clbench("compare", "lwf", "finetune", "--records", ".")
    assert (compared.code, compared.err) == (0, "")
    assert "lwf" in compared.out
    (tmp_path / records[0].name).write_bytes(records[0].read_bytes()[:200])
    assert records[0].name in clbench("compare", "lwf", "finetune", "--records", ".").err
    for path in records:
        (tmp_path / path.name).write_bytes(path.read_bytes()[:200])
    assert clbench("report", ".").code == 2


def test_output_need_not_be_utf_8(swept: tuple[Path, Ended], clbench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the table of a run nor a report stops where ± and − cannot be written."""
    os.chdir(swept[0])
    for words in (RUN, ["report", "--formats", "svg", "--out", "ascii"]):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
        assert clbench(*words).code == 0
        sys.stdout.flush()
        assert "+/-" in written.getvalue().decode("ascii")
    assert len(list(Path("ascii/figures").glob("*.svg"))) == 9


@pytest.mark.parametrize("folder", ["none", "empty"])
def test_report_without_records(folder: str, clbench: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    one_clear_line(clbench("report", folder, "--out", "made"), folder)
    assert not (tmp_path / "made").exists()


def test_merge(swept: tuple[Path, Ended], clbench: Command, tmp_path: Path) -> None:
    joined = clbench("merge", str(swept[0] / "results/runs"), "--out", "all")
    assert (joined.code, joined.err) == (0, "clbench: 4 records were added to all\n")
    one_clear_line(clbench("merge", "none", "--out", "all"), "no records in none")


def test_failed_runs_give_exit_code_1(clbench: Command) -> None:
    run = clbench("run", "--methods", "finetune", "--seeds", "1", "--lr", "1e20", "--jobs", "1")
    assert run.code == 1
    assert "FAILED finetune on split-digits, task, seed 0: the loss is" in run.err
    assert "clbench: 1 of 1 run failed; the records in results/runs say why" in run.err
    assert "Traceback" not in run.err


def test_quiet_prints_only_the_table(clbench: Command) -> None:
    run = clbench("run", "--methods", "finetune", "--seeds", "1", "--epochs", "1", "--quiet", "--jobs", "1")
    assert (run.code, run.err) == (0, "")
    assert "finetune" in run.out


def test_dry_run_makes_nothing(clbench: Command, tmp_path: Path) -> None:
    run = clbench("run", "--methods", "lwf", "--seeds", "2", "--dry-run")
    assert run.code == 0
    assert run.out.splitlines()[0] == "to do  split-digits  task  mlp  lwf  seeds 0-1"
    assert "2 runs: 2 to do, 0 done" in run.out
    assert (
        "1 run: 1 to do, 0 done; 1 at a time on" in clbench("run", "--methods", "lwf", "--seeds", "1", "--dry-run").out
    )
    assert list(tmp_path.iterdir()) == []


def test_a_long_plan_is_short_and_tells_its_runs_apart(clbench: Command) -> None:
    grid = ["--set", "training.lr=0.1,1e6,1e-5", "--set", "lwf.weight=" + ",".join(map(str, range(1, 31)))]
    run = clbench("run", "--methods", "lwf", "--seeds", "0,1,2,7", *grid, "--dry-run")
    lines = run.out.splitlines()
    assert lines[0] == "to do  split-digits  task  mlp  lwf [training.lr=0.1]  seeds 0-2,7"
    assert lines[1] == "to do  split-digits  task  mlp  lwf@weight=2 [training.lr=0.1]  seeds 0-2,7"
    assert lines[30].endswith("lwf [training.lr=1e6]  seeds 0-2,7")
    assert len(lines) == 42
    assert lines[-2] == "… and 50 more lines like these"
    assert lines[-1].startswith("360 runs: 360 to do, 0 done")


@pytest.mark.parametrize("arguments", [[], ["-h"], ["run", "-h"], ["verify", "--help"]], ids=" ".join)
def test_help(arguments: list[str], clbench: Command) -> None:
    told = clbench(*arguments)
    assert told.code == 0
    assert "Usage: " in told.out
    assert "-h, --help" in told.out
    if arguments[:1] == ["run"]:
        assert "--eval-every N" in told.out


def test_lists_have_no_spaces(clbench: Command) -> None:
    for words in ("lwf, finetune", "lwf finetune", "lwf ,finetune"):
        run = clbench("run", "--methods", *words.split(), "--seeds", "1")
        one_clear_line(run, "a list has no spaces, as in --methods lwf,finetune")
    one_clear_line(clbench("verify", "note", "--rows", "a", "b"), "a list has no spaces, as in --rows a,b")


@pytest.mark.parametrize("words", ["run lwf", "run --seeds 5 lwf", "report a b", "compare a b c", "list methods lwf"])
def test_words_too_many(words: str, clbench: Command) -> None:
    ended = clbench(*words.split())
    one_clear_line(ended, f"see 'clbench {words.split()[0]} --help'")
    assert "a list" not in ended.err


def test_verify_needs_a_preset(clbench: Command) -> None:
    one_clear_line(clbench("verify"), "Missing argument")
    one_clear_line(clbench("verify", "hsu2018-split"), "did you mean hsu2018-split-mnist")


BAD = """
--methods lfw | did you mean lwf
--methods LWFF | did you mean lwf
--model torchvision.models:resnet18 | Write a class that does, whose build returns it without its last layer
--sequence . | . is a folder: a sequence is a name, or a class in a file, as in ./file.py:Name
--sequence ./taken | ./taken is a file
--model imgs/here | imgs/here is no name, and no file
--methods lwf@temprature=4 | did you mean temperature
--methods lwf@temperature | write lwf@FIELD=VALUE
--methods lwf@temperature=0 | greater than 0
--methods lwf@temperature=cold | lwf.temperature=cold
--methods lwf, | an empty name
--methods ./none.py:Mine | there is no file
--methods lwf --set training.warmup_epochs=1 --scenario domain | no block is new
--sequence split-digit | did you mean split-digits
--scenario tasks | did you mean task
--scenario task,moon | unknown scenario 'moon'
--model mlpp | did you mean mlp
--model torchvision:resnet81 | unknown network 'resnet81' of torchvision, did you mean resnet18
--model torchvision:resnet18@weights=IMAGENET1K | did you mean IMAGENET1K_V1
--model torchvision:vgg11@wieghts=none | did you mean weights
--model mlp@weights=./none.pt | weights=none.pt: there is no such file
--model mlp@weights=setup.cfg | .safetensors, .pt or .pth
--set training.schedule=cosin | 'cosine'
--set training.schedule_steps=0.2 | those of schedule=step
--validation 1.5 | less than 1
--set training.patience=3 | give validation too
--class-order 0,1,2 | class
--class-order 0,0,1,2,3,4,5,6,7,8 | class
--class-order backwards | write seed, fixed
--seeds 0 | give 1 to 100,000
--seeds 9-3 | runs backwards
--seeds x | cannot read 'x'
--epochs 0 | greater than or equal to 1
--epochs few | epochs=few: the value should be a valid integer
--epochs 1 --iterations 5 | choose one
--epochs 1 --set training.epochs=2 | given twice
--iterations 0 | greater than or equal to 1
--batch-size 0 | greater than or equal to 1
--batch-size 99999999999999 | less than or equal to
--methods lwf@weight=1@weight=2 | given twice
--batch-size 100000 --set training.drop_last=true | drop_last leaves no batch
--optimizer sdg | training.optimizer=sdg: the value should be 'sgd', 'adam'
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
--jobs 0 | jobs=0: the value should be greater than or equal to 1
--jobs two | jobs=two: the value should be a valid integer
--device tpu | choose from auto, cpu
--data-root nowhere --sequence split-mnist | nowhere
--out taken/runs | the output folder taken/runs cannot be used: Not a directory
--colour red | No such option
--timeout 0 | timeout=0: the value should be greater than 0
--timeout 1e9 | less than
--timeout nan | finite
--timeout soon | valid number
--eval-every 5 --evaluate end | --evaluate end does not go with it
--eval-every 0 | eval_every=0: the value should be greater than or equal to 1
--eval-every 99999999999999 | less than or equal to
--eval-every often | valid integer
--threads 0 | threads=0: the value should be greater than or equal to 1
--threads 100000 | this machine has
--threads all | valid integer
--precision fp64 | precision=fp64: the value should be 'fp32', 'tf32' or 'bf16'
--kernels mkl | kernels=mkl: the value should be 'pytorch' or 'onednn'
--precision tf32 --device cpu | a mode of CUDA devices
--preset hsu2018 | hsu2018-split-mnist
--preset none.toml | none.toml
--rows LwF | give --preset, or --methods
--preset hsu2018-split-mnist --methods lwf | are its rows
--preset hsu2018-split-mnist --rows LfW | LfW
--methods ./taken:Mine | taken
--backend slurm | backend=slurm: the value should be 'local', 'dask' or 'ray'
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
    "a plug-in that raises": ("mine.py", "1 / 0\nMine = 1", "--methods ./mine.py:Mine", "ZeroDivisionError"),
    "a plug-in without the name": ("mine.py", "x = 1", "--methods ./mine.py:Mine", "Mine"),
    "a plug-in that is no method": (
        "mine.py",
        "class Mine: pass",
        "--methods ./mine.py:Mine",
        "derive from clbench.method.Learner",
    ),
    "a plug-in that ends the program": (
        "mine.py",
        "raise SystemExit(0)\nMine = 1",
        "--methods ./mine.py:Mine",
        "SystemExit",
    ),
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


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLBENCH_DATA_ROOT", raising=False)


@pytest.mark.parametrize("line", BAD.strip().splitlines())
def test_bad_input_is_one_clear_line(line: str, clbench: Command, no_data: None, tmp_path: Path) -> None:
    arguments, message = (part.strip() for part in line.split("|"))
    (tmp_path / "taken").write_text("a file")
    seeds = [] if "--seeds" in arguments else ["--seeds", "1"]
    one_clear_line(clbench("run", *arguments.split(), *seeds), message)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("what", FILES)
def test_a_bad_file_is_one_clear_line(what: str, clbench: Command, no_data: None, tmp_path: Path) -> None:
    name, content, arguments, message = FILES[what]
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("latin-1"))
    one_clear_line(clbench("run", *arguments.split(), "--seeds", "1"), message)
    assert not (tmp_path / "results").exists()


def test_bad_input_ends_a_process_with_exit_code_2_and_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "clbench", "run", "--seeds", "9-3"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "clbench: error: seeds='9-3': the range 9-3 runs backwards\n"
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_cuda_without_a_device(device: str, clbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    one_clear_line(clbench("run", "--device", device), "no CUDA device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "name"), [("methods", "lwf"), ("sequences", "split-mnist"), ("models", "resnet18")])
def test_list(kind: str, name: str, clbench: Command) -> None:
    listed = clbench("list", kind)
    assert listed.code == 0
    assert any(line.startswith(f"{name} ") for line in listed.out.splitlines())
    assert max(map(len, listed.out.splitlines())) <= 100


SHOWN = {
    "lwf": [
        "temperature: number > 0; default 2 T: what logits",
        "scope: one of auto, per-task, joined, padded;",
        "tuned over 1,2,4",
    ],
    "LwF": ["(Li & Hoiem 2016/2017, arXiv 1606.09282", "alpha: number ≥ 0 and ≤ 1; default 0.5"],
    "training": ["epochs: whole number ≥ 1, or none; default 1 passes over", "drop_last: true or false; default false"],
    "split-mnist mlp": ["tasks: whole number ≥ 1; default 5", "scenario task, model mlp", "width: whole number ≥ 1"],
    "mnist+fashion-mnist": ["images: whole number ≥ 1, or none; default none"],
    "finetune": ["It has no fields."],
    "note": ["Scenarios: class", "rows"],
    "torchvision:resnet18": ["(model): One of torchvision's", "resize: whole number ≥ 1, or none; default none images"],
    "resnet32": ["464,154 parameters with 10 classes", "frozen: true or false; default false only the head trains"],
    "./pull.py:Pull": ["strength: number; default 0.1 how strongly", "Mine"],
}


@pytest.mark.parametrize("words", SHOWN)
def test_show(words: str, clbench: Command, tmp_path: Path) -> None:
    (tmp_path / "pull.py").write_text(PULL)
    told = clbench("show", *words.split())
    assert (told.code, told.err) == (0, "")
    text = " ".join(told.out.split())
    assert [part for part in SHOWN[words] if part not in text] == []


PULL = """
from dataclasses import dataclass
from clbench.method import Method

@dataclass
class Pull(Method):
    "Mine"
    strength: float = 0.1  # how strongly
"""


def test_show_what_there_is_not(clbench: Command) -> None:
    one_clear_line(clbench("show", "lfw"), "there is no 'lfw', did you mean lwf")
    one_clear_line(clbench("show", "./none.py:Pull"), "there is no file ./none.py")


def test_list_of_what_there_is_not(clbench: Command) -> None:
    one_clear_line(clbench("list", "method"), "cannot list 'method', did you mean methods?")


TYPOS = """
run --methods lfw
run --methods lwf,Fine-tunning
run --methods lwf@temprature=4
run --methods lwf@temperature=cold
run --methods ./pull.py:Pul
run --methods ./pul.py:Pull
run --methods ./pull.py:Pull@strenght=1
run --methods ./pull.py:Pull --set ./pull.py:Pull.strenght=1
run --methods no.such.module:Thing
run --sequence split-mnst
run --sequence mnist+fashon-mnist
run --sequence avalanche:SplitMNST
run --sequence ./imgs
run --scenario tasks
run --model mlpp
run --set lwf.temprature=4
run --set lvf.temperature=4
run --set training.epoch=4
run --set mlp.widht=4
run --set split-digits.task=4
run --optimizer sdg
run --device tpu
run --preset hsu2018
run --preset hsu2018-split-mnist --rows LfW
run --epoch 3
verify hsu2018
verify hsu2018-split-mnist --rows LfW
list method
show lfw
rn
"""

IMPORTS = """
import sys
def loaded(*names):
    return sorted(set(names) & set(sys.modules))
heavy = ("torch", "torchvision", "avalanche", "sklearn")
import pathlib
from clbench.cli.app import app
from clbench.errors import UsageError
def clbench(*arguments):
    app(arguments, standalone_mode=False)
import clbench as package
assert not loaded(*heavy, "pandas", "matplotlib"), ("import", loaded(*heavy, "pandas", "matplotlib"))
for words in (["--help"], ["run", "--help"], ["list", "presets"]):
    clbench(*words)
    assert not loaded(*heavy, "pandas", "matplotlib"), (words, loaded(*heavy, "pandas", "matplotlib"))
for words in ("list methods", "list sequences", "list models", "show lwf split-mnist mlp training note LwF"):
    clbench(*words.split())
    assert not loaded(*heavy, "pandas", "matplotlib"), words
pathlib.Path("pull.py").write_text(PULL)
for words in TYPOS:
    try:
        clbench(*words.split())
    except Exception as error:
        assert isinstance(error, UsageError) or hasattr(error, "format_message"), (words, error)
    else:
        raise AssertionError(words)
    assert not loaded(*heavy, "pandas", "matplotlib"), words
clbench("compare", "lwf", "finetune")
clbench("report", "--formats", "png")
assert not loaded(*heavy), ("report", loaded(*heavy))
package.run("lwf", seeds=1, epochs=1, jobs=1, quiet=True, force=True)
assert not loaded("avalanche", "sklearn"), ("run", loaded("avalanche", "sklearn"))
clbench("list", "sequences")
assert not loaded("avalanche"), "list"
"""


def test_commands_import_nothing_heavy_that_they_do_not_need(swept: tuple[Path, Ended]) -> None:
    code = f"PULL = {PULL!r}\nTYPOS = {TYPOS.strip().splitlines()!r}\n{IMPORTS}"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=swept[0], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


LITTLE_L2 = "Fine-tuning with a pull towards zero"
LITTLE = """
from dataclasses import dataclass
from clbench.method import Method

@dataclass
class L2(Method):
    \"\"\"Fine-tuning with a pull towards zero\"\"\"
    strength: float = 0.01

    def loss(self, step):
        pull = sum(p.square().sum() for p in step.network.backbone.parameters())
        return step.cross_entropy() + self.strength * pull
"""


@pytest.fixture
def installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with a method, as pip would install it."""
    site = tmp_path_factory.mktemp("site")
    (site / "little.py").write_text(LITTLE)
    (site / "little-1.dist-info").mkdir()
    (site / "little-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: little\nVersion: 1\n")
    (site / "little-1.dist-info/entry_points.txt").write_text("[clbench.methods]\nlittle-l2 = little:L2\n")
    monkeypatch.syspath_prepend(site)
    registry.plugins.cache_clear()
    yield
    registry.plugins.cache_clear()


def test_a_method_from_an_installed_package(installed: None, clbench: Command, tmp_path: Path) -> None:
    listed = clbench("list", "methods")
    assert ["little-l2", LITTLE_L2] in [line.split(maxsplit=1) for line in listed.out.splitlines()]
    assert "strength: number; default 0.01" in clbench("show", "little-l2").out
    methods = "little-l2,little-l2@strength=0.1"
    run = clbench("run", "--methods", methods, "--seeds", "2", "--epochs", "1", "--jobs", "1")
    assert run.code == 0, run.err
    assert "little-l2@strength=0.1" in run.out
    records = [json.loads(path.read_text()) for path in (tmp_path / "results/runs").glob("*.json")]
    assert len(records) == 4
    assert all(list(record["spec"]["code"]) == ["method"] for record in records)


@pytest.mark.skipif("not Path('/dev/full').exists()")
@pytest.mark.parametrize("arguments", [["list", "presets"], ["--version"]], ids=" ".join)
def test_a_full_device_for_output_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "clbench", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "clbench: error: [Errno 28] No space left on device: standard output"
    assert "Traceback" not in done.stderr


@pytest.mark.skipif("sys.platform == 'win32'")
def test_a_reader_that_has_gone_is_no_error() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE) as reader:
        reader.wait()
        command = [sys.executable, "-P", "-m", "clbench", "list", "presets"]
        done = subprocess.run(command, stdout=reader.stdin, stderr=subprocess.PIPE, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (1, "")


def test_compare_and_report_take_the_names_of_reports(swept: tuple[Path, Ended], clbench: Command) -> None:
    records = str(swept[0] / "results/runs")
    plain = clbench("compare", "lwf", "finetune", "--records", records)
    named = clbench("compare", "LwF", "Fine-tuning", "--records", records)
    assert (plain.code, plain.out) == (named.code, named.out) == (0, plain.out)
    one_clear_line(clbench("compare", "LwFF", "finetune", "--records", records), "'LwFF', did you mean lwf?")


def test_names_of_several_methods_are_listed_shown_and_hinted_at(clbench: Command) -> None:
    last = " ".join(clbench("list", "methods").out.split("Several by one name: ")[1].split())  # lines are wrapped
    assert "core (" in last
    assert f"rehearsal ({len(members('rehearsal'))})" in last
    shown = clbench("show", "rehearsal").out
    assert {"er", "icarl", "gdumb"} <= set(shown.replace("\n", " ").replace(",", "").split())
    assert "lwf" not in shown
    assert set(members("core")) == {name for name, cls in registry.builtin("method").items() if cls.core}  # type: ignore[attr-defined]
    one_clear_line(clbench("run", "--methods", "rehersal"), "did you mean rehearsal")


def test_a_setting_of_a_class_in_a_file_is_hinted_at(clbench: Command, tmp_path: Path) -> None:
    os.chdir(tmp_path)
    Path("m2.py").write_text(
        "from dataclasses import dataclass\nfrom clbench.method import Method\n\n@dataclass\nclass Tmp(Method):\n"
        '    """T."""\n    temperature: float = 1.0\n'
    )
    ended = clbench("run", "--methods", "./m2.py:Tmp", "--set", "Tmp.temperature=1,2", "--dry-run")
    one_clear_line(ended, "did you mean ./m2.py:Tmp?")


@pytest.mark.parametrize(
    ("words", "example"),
    [("list", "clbench list methods"), ("compare", "clbench compare lwf finetune"), ("show", "clbench show training")],
)
def test_a_command_without_its_arguments_gives_an_example(clbench: Command, words: str, example: str) -> None:
    one_clear_line(clbench(words), f"as in {example}")
