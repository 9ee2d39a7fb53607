"""What a preset's rows can say of their own: grids, sequence, model, class order, seeds, precision, view, files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from asking import prepared as plan

import clbench
from clbench.execution.sweep import Sweep
from clbench.experiment import presets

HEAD = """
title = "On the digits"
scenarios = ["task"]
seeds = 2
class_order = "fixed"
sequence = { name = "split-digits", tasks = 5 }
model = { name = "mlp", width = 16 }
training = { epochs = 1 }

[[rows]]
label = "plain"
method = "lwf"
"""


def planned(folder: Path, more: str, **options: Any) -> Sweep:
    file = folder / "mine.toml"
    file.write_text(HEAD + more)
    return plan(**{"preset": file, "out": folder / "out", "jobs": 1} | options)


def test_a_list_is_a_grid_with_a_row_per_point(tmp_path: Path) -> None:
    more = (
        '[[rows]]\nlabel = "LwF"\nmethod = "lwf"\nfields = { temperature = [1, 4] }\ntraining = { lr = [0.5, 0.01] }\n'
    )
    more += '[[rows]]\nlabel = "harder"\ncontrol_of = "LwF@temperature=4@lr=0.01"\nfields = { weight = 9 }\n'
    sweep = planned(tmp_path, more, controls=True)
    found = {job.spec.label: (job.spec.params, job.spec.training["lr"]) for job in sweep.jobs}
    assert {label: (params["temperature"], params["weight"], lr) for label, (params, lr) in found.items()} == {
        "plain": (2, 1, 0.1),
        "LwF@temperature=1@lr=0.5": (1, 1, 0.5),
        "LwF@temperature=1@lr=0.01": (1, 1, 0.01),
        "LwF@temperature=4@lr=0.5": (4, 1, 0.5),
        "LwF@temperature=4@lr=0.01": (4, 1, 0.01),
        "harder": (4, 9, 0.01),
    }
    assert {job.spec.preset["overridden"] == {} for job in sweep.jobs if job.spec.preset} == {True}
    assert len(planned(tmp_path, more, rows="LwF").jobs) == 4 * 2
    assert planned(tmp_path, more, rows="LwF@temperature=1@lr=0.5").labels == ["LwF@temperature=1@lr=0.5"]


def test_seeds_of_the_preset_of_a_row_and_of_the_user(tmp_path: Path) -> None:
    more = '[[rows]]\nlabel = "more"\nmethod = "finetune"\nseeds = "0,7-9"\n'

    def seeds(**options: Any) -> dict[str, list[int]]:
        jobs = planned(tmp_path, more, **options).jobs
        return {name: [job.spec.seed for job in jobs if job.spec.label == name] for name in ("plain", "more")}

    assert seeds() == {"plain": [0, 1], "more": [0, 7, 8, 9]}
    assert seeds(seeds=1) == {"plain": [0], "more": [0]}


OTHERS = """
[[rows]]
label = "other data"
method = "finetune"
sequence = { tasks = 2 }
class_order = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]

[[rows]]
label = "other net"
method = "finetune"
model = { activation = "tanh" }
precision = "bf16"

[[rows]]
label = "CNN"
method = "finetune"
model = { name = "cnn", channels = 2 }
"""


def test_sequence_model_class_order_and_precision_of_a_row(tmp_path: Path) -> None:
    specs = {job.spec.label: job.spec for job in planned(tmp_path, OTHERS, seeds=1).jobs}
    found = {
        label: (
            s.sequence_label,
            s.model_label,
            s.class_order_rule,
            s.precision,
            s.class_order[:2] if s.class_order else 0,
        )
        for label, s in specs.items()
    }
    assert found == {
        "plain": ("split-digits", "mlp@width=16", "fixed", "fp32", [0, 1]),
        "other data": ("split-digits@tasks=2", "mlp@width=16", "given", "fp32", [9, 8]),
        "other net": ("split-digits", "mlp@width=16@activation=tanh", "fixed", "bf16", [0, 1]),
        "CNN": ("split-digits", "cnn@channels=2", "fixed", "fp32", [0, 1]),
    }
    assert all(spec.preset == {"name": "mine", "row": label, "overridden": {}} for label, spec in specs.items())
    sweep = planned(tmp_path, OTHERS, seeds=1, rows="other net", precision="fp32", class_order="seed")
    assert sweep.jobs[0].spec.preset is not None
    assert sweep.jobs[0].spec.preset["overridden"] == {"class_order": "seed", "precision": "fp32"}


def test_rows_of_one_sequence_stand_together_seed_by_seed(tmp_path: Path) -> None:
    jobs = planned(tmp_path, OTHERS).jobs
    assert [(job.spec.label, job.spec.seed) for job in jobs] == [
        *(("plain", 0), ("plain", 1), ("other net", 0), ("other net", 1), ("CNN", 0), ("CNN", 1)),
        *(("other data", 0), ("other data", 1)),
    ]


def test_another_view_shares_its_rows_runs(tmp_path: Path) -> None:
    more = '[[rows]]\nlabel = "told"\nmethod = "lwf"\nview = "task-aware"\n'
    assert planned(tmp_path, more).labels == ["plain"]
    assert planned(tmp_path, more, rows="told").labels == ["told"]


def test_numbers_as_fractions(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    published = '[published]\nsource = "A"\nn = 5\nerror = "sd"\nunit = "fraction"\n'
    file.write_text(HEAD + "published = { task = [0.9557, 0.0112] }\n" + published)
    preset = presets.load(file)
    assert preset.rows[0].published["task"] == pytest.approx((95.57, 1.12))
    assert preset.published is not None
    assert preset.published.rounding == pytest.approx(0.005)
    file.write_text((HEAD + "published = { task = 0.98 }\n" + published).replace('"fraction"', '"per cent"'))
    assert presets.load(file).rows[0].published == {"task": (0.98, None)}


CODE = '''
from dataclasses import dataclass

import torch
from torch import nn

from clbench.method import Method
from clbench.models import Backbone


@dataclass
class Mine(Method):
    """Fine-tuning by another name"""


@dataclass(frozen=True, kw_only=True)
class Loaded(Backbone):
    """One layer whose weights are in a file"""

    weights: str = ""

    def build(self, input_shape):
        layer = nn.Linear(64, 4)
        layer.load_state_dict(torch.load(self.weights, weights_only=True))
        return nn.Sequential(nn.Flatten(), layer)
'''
FILES = """
title = "With files beside it"
scenarios = ["task"]
training = { epochs = 1 }
model = { name = "./code.py:Loaded", weights = "weights.pt" }

[[rows]]
label = "mine"
method = "./code.py:Mine"
"""


def test_paths_are_relative_to_the_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    place.mkdir()
    elsewhere.mkdir()
    (place / "code.py").write_text(CODE)
    (place / "mine.toml").write_text(FILES)
    torch.save(torch.nn.Linear(64, 4).state_dict(), place / "weights.pt")
    keys = []
    for folder, path in ((elsewhere, "../here/mine.toml"), (place, "mine.toml")):
        monkeypatch.chdir(folder)
        sweep = plan(preset=path, seeds=1, jobs=1, out=tmp_path / "out")
        (job,) = sweep.jobs
        keys.append(job.spec.key)
        assert (job.spec.method, job.spec.model_params["weights"]) == ("./code.py:Mine", "weights.pt")
        assert str(tmp_path) not in str(job.spec.as_json())
    assert keys[0] == keys[1]
    monkeypatch.chdir(elsewhere)
    results = clbench.run(preset="../here/mine.toml", seeds=1, jobs=1, out=tmp_path / "out", quiet=True)
    assert results.failed == []
    assert results.labels == ["mine"]
