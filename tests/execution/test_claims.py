"""Two sweeps at once into one folder: none repeats what the other has under way."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from asking import prepared

from clbench.execution.claims import Claims
from clbench.execution.sweep import Sweep
from clbench.results.store import Store


def plan(methods: str, folder: Path, **options: Any) -> Sweep:
    return prepared(methods, **{"out": folder, "jobs": 1, "seeds": 2, "training": {"iterations": 1}, **options})


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}


def under_way(sweep: Sweep) -> list[str]:
    return [note.split(" under way")[0] for note in sweep.notes if "under way in another sweep" in note]


def test_the_second_waits_for_what_the_first_has_under_way(tmp_path: Path) -> None:
    first, second = (plan("finetune,lwf", tmp_path) for _ in range(2))
    ours = first.run()
    theirs = second.run()
    assert (under_way(first), under_way(second)) == ([], ["4 runs are"])
    made = {record.key: record for record in ours}
    before = times(tmp_path)
    taken_over = {record.key: record for record in theirs}
    assert len(made) == 4
    assert {key: record.weights_hash for key, record in taken_over.items()} == {
        key: record.weights_hash for key, record in made.items()
    }
    assert times(tmp_path) == before
    assert second.missing == []
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"] * 4


def test_the_second_does_its_own_first_and_then_what_the_first_leaves(tmp_path: Path) -> None:
    first, second = plan("lwf", tmp_path), plan("finetune,lwf", tmp_path)
    ours, theirs = first.run(), second.run()
    assert under_way(second) == ["2 runs are"]
    assert [next(theirs).spec["label"] for _ in range(2)] == ["finetune", "finetune"]
    landed = next(ours)
    before = times(tmp_path)
    ours.close()  # as by Ctrl-C
    last = list(theirs)
    assert [record.spec["label"] for record in last] == ["lwf", "lwf"]
    assert last[0].key == landed.key
    assert before.items() <= times(tmp_path).items()
    assert len(Store(tmp_path).read()[0]) == 4


def test_what_was_finished_since_the_second_was_planned_is_not_repeated(tmp_path: Path) -> None:
    first, second = (plan("finetune", tmp_path) for _ in range(2))
    list(first.run())
    before = times(tmp_path)
    assert list(second.run()) == []
    assert len(second.records) == 2
    assert times(tmp_path) == before


def test_other_runs_of_the_same_folder_need_not_wait(tmp_path: Path) -> None:
    first, second = plan("lwf", tmp_path), plan("finetune", tmp_path)
    ours, theirs = first.run(), second.run()
    assert under_way(second) == []
    assert len(list(theirs)) == len(list(ours)) == 2


def test_with_force_the_second_waits_and_runs_again(tmp_path: Path) -> None:
    list(plan("finetune", tmp_path).run())
    first, second = (plan("finetune", tmp_path, force=True) for _ in range(2))
    ours, theirs = first.run(), second.run()
    list(ours)
    before = times(tmp_path)
    assert len(list(theirs)) == 2
    assert all(before[name] != after for name, after in times(tmp_path).items())


HOLDS = """
import sys
from pathlib import Path
from clbench.execution.claims import Claims
claims = Claims(Path(sys.argv[1]))
print(claims.take(["a", "b"]), flush=True)
sys.stdin.read()
"""


def test_what_a_killed_sweep_had_under_way_is_free(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "set()\n"
        claims = Claims(tmp_path)
        assert claims.take(["b", "c"]) == {"b"}
        process.kill()
        process.wait()
        assert claims.take(["b", "c"]) == set()
        other = Claims(tmp_path)
        assert other.take(["a", "b"]) == {"b"}
        claims.close()
        assert other.take(["a", "b"]) == set()
        other.close()
    assert list(tmp_path.iterdir()) == []
