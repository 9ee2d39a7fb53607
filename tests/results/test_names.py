"""Names of methods for people, and the papers to cite."""

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
