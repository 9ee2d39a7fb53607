"""Names as people write them; what there is not, before anything is imported."""

from pathlib import Path

import pytest

from clbench.errors import UsageError
from clbench.experiment.early import item_of
from clbench.experiment.presets import load
from clbench.experiment.registry import Kind
from clbench.experiment.request import Request


@pytest.mark.parametrize(
    ("kind", "written", "name"),
    [
        ("method", "LwF", "lwf"),
        ("method", "LWF@temperature=4", "lwf@temperature=4"),
        ("method", "Fine-tuning", "finetune"),
        ("method", "Joint training", "joint"),
        ("method", "From scratch", "scratch"),
        ("method", "Online EWC", "online-ewc"),
        ("method", "online_ewc", "online-ewc"),
        ("method", "Core", "core"),
        ("sequence", "SplitMNIST", "split-mnist"),
        ("sequence", "Split-Fashion-MNIST@tasks=2", "split-fashion-mnist@tasks=2"),
        ("model", "MLP", "mlp"),
        ("model", "ResNet-18", "resnet18"),
    ],
)
def test_names_as_reports_and_people_write_them(kind: Kind, written: str, name: str) -> None:
    assert item_of(kind, written) == name


def test_settings_go_by_the_same_names() -> None:
    request = Request(methods=["LwF"], settings={"LwF.temperature": [1, 2], "MLP.width": 8})
    assert request.settings == {"lwf": {"temperature": [1, 2]}, "mlp": {"width": [8]}}
    with pytest.raises(UsageError, match="did you mean temperature"):
        Request(methods=["LwF"], settings={"LwF.temprature": 1})


def test_a_name_in_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    wrong = {
        "method 'lfw'": 'rows = [{ label = "A", method = "lfw" }]',
        "sequence 'x'": 'sequence = { name = "x" }',
        "model 'x'": 'rows = [{ label = "A", method = "lwf", model = { name = "x" } }]',
    }
    for what, text in wrong.items():
        rows = "" if "rows" in text else '\nrows = [{ label = "A", method = "lwf" }]'
        path.write_text(f'title = "T"\nscenarios = ["task"]\n{text}{rows}')
        load(path)
        with pytest.raises(UsageError, match=f"preset mine, row 'A': unknown {what}"):
            Request(preset=path)
