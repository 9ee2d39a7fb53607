"""Names of methods for people, and the papers to cite."""

import pytest
from made_up import ending_at

from clbench.results import names
from clbench.results.frames import Results

LWF = [0.95, 0.97]


def test_names_for_people() -> None:
    assert names.title("lwf", "lwf") == "LwF"
    assert names.title("lwf", "lwf@temperature=4@weight=2") == "LwF (temperature = 4, weight = 2)"
    assert names.title("lwf", "lwf [training.lr=0.1]") == "LwF [training.lr=0.1]"
    assert names.title("finetune", "fine-tuning") == "fine-tuning"  # a preset's row
    assert names.title("./pull.py:Pull", "./pull.py:Pull@strength=1") == "Pull (strength = 1)"
    two = Results([*ending_at("./a.py:Pull", LWF), *ending_at("./b.py:Pull", LWF)])
    assert list(two.comparisons[0].titles.values()) == ["./a.py:Pull", "./b.py:Pull"]


def test_every_built_in_method_has_a_name_and_papers() -> None:
    from clbench.experiment import registry

    assert set(names.known()) == set(registry.builtin("method"))
    for method in names.known():
        entries = names.bibliography([method])
        assert entries.startswith("@"), method
        assert entries.count("{") == entries.count("}")
    both = names.bibliography(["lwf", "finetune", "joint", "./mine.py:Mine"])
    assert both.count("@") == 2  # the papers of LwF and fine-tuning are one


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("lwf", "lwf"),
        ("LwF", "lwf"),
        ("Fine-tuning", "finetune"),
        ("lwf@temperature=4", "lwf@temperature=4"),
        ("LwF (temperature = 4)", "lwf@temperature=4"),
        ("LwF (temperature=4)", "lwf@temperature=4"),
        ("ewc@strength=1E-6", "ewc@strength=1e-6"),
        ("EWC (strength = 1e6)", "ewc@strength=1e6"),
        ("ewc@strength=-1", "ewc@strength=-1"),
        ("EWC (strength = 1)", "ewc@strength=1"),
    ],
)
def test_labels_go_by_the_names_that_reports_show(text: str, label: str) -> None:
    strengths = [f"ewc@strength={value}" for value in ("1e-6", "1e6", "-1", "1")]
    titles = {
        label: names.title(label.split("@")[0], label) for label in ("lwf", "finetune", "lwf@temperature=4", *strengths)
    }
    assert names.resolve(text, titles) == label


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e6, "1e6"), (2.5e7, "2.5e7"), (1234567.0, "1234567"), (0.1, "0.1"), (4.0, "4"), (1e-5, "1e-5"), (1e300, "1e300"),
     (-1e6, "-1e6"), (100000.0, "100000"), (True, "true"), (None, "none"), (1000000, "1000000"), ("sum", "sum")],
)  # fmt: skip
def test_values_are_spelled_as_they_are_typed(value: object, text: str) -> None:
    assert names.spelled(value) == text
    if isinstance(value, float):
        assert float(text) == value
