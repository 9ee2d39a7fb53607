"""The reference results: how they are made, how one seed of each is run again, and how they are described.

python results/reference.py make [SET …]    run what is missing of the sets, then describe them
python results/reference.py check [SET …]   run seed 0 of each again, elsewhere, and compare with the records
python results/reference.py describe        write the tables of results/README.md and docs/baselines.md from the records

A set is a folder of reference/ with all its records in one file, records.jsonl.gz, and their means in summary.csv.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from clbench.experiment import presets
from clbench.results.frames import Results
from clbench.results.metrics import average_accuracy
from clbench.results.record import SAME, RunRecord
from clbench.results.store import SET, Store, pack
from clbench.results.wording import markdown_table
from clbench.verification import comparison, tables

FOLDER = Path(__file__).parent / "reference"
README = Path(__file__).parent / "README.md"
MARK = "<!-- everything below is written by results/reference.py -->"
GUIDE = Path(__file__).parents[1] / "docs" / "baselines.md"
SCENARIOS = "--scenario task,class,domain"
CORE = f"run --methods core {SCENARIOS} --sequence"
BASELINES = "split-mnist"  # the set of all methods, whose tables are in docs/baselines.md
CHAIN = "@images=5000 --model cnn@channels=8@width=128"
SETS = {
    "vandeven2018-split-mnist": "verify vandeven2018-split-mnist --controls",
    "hsu2018-split-mnist": "verify hsu2018-split-mnist --controls",
    "lwf-paper-mnist-first": f"verify lwf-paper --sequence mnist+fashion-mnist{CHAIN}",
    "lwf-paper-fashion-first": f"verify lwf-paper --sequence fashion-mnist+mnist{CHAIN}",
    "split-digits": f"{CORE} split-digits",
    BASELINES: f"run --methods all --set replay.images=500 {SCENARIOS} --sequence {BASELINES}",
    "split-fashion-mnist": f"{CORE} split-fashion-mnist",
    "der2020-seq-mnist": "verify der2020-seq-mnist",
    "der2020-perm-mnist": "verify der2020-perm-mnist",
    "der2020-rot-mnist": "verify der2020-rot-mnist",
    "rehearsal-controls": "verify results/controls/rehearsal.toml --controls",
    "agem2019-perm-mnist": "verify agem2019-perm-mnist",
}
SEEDS = {"agem2019-perm-mnist": 5}  # where they are not ten


def command(name: str, seeds: int | None = None) -> list[str]:
    """Return the clbench command that makes a set's records."""
    return [*SETS[name].split(), "--seeds", str(seeds or SEEDS.get(name, 10))]


def make(names: Sequence[str]) -> None:
    for name in names:
        run = subprocess.run([sys.executable, "-P", "-m", "clbench", *command(name), "--out", str(FOLDER / name)])
        if run.returncode == 2:
            sys.exit(2)
        publish(FOLDER / name)
    describe()


def publish(folder: Path) -> None:
    """Turn a folder's records into a set: one file, and a summary beside it."""
    pack(folder)
    (folder / "summary.csv").write_text(summary(Results.load(folder)), encoding="utf-8")
    for table in folder.glob("verify-*"):  # README.md has it
        table.unlink()


def summary(results: Results) -> str:
    """Return every metric's mean and interval by method and scenario, as CSV."""
    return results.summary().to_csv(index=False, float_format="%.6g")


def check(names: Sequence[str]) -> None:
    """Exit with 1 unless seed 0 of every cell comes out as recorded.

    On the processor and PyTorch that made a record it must be equal bit for bit. Elsewhere sums round
    differently: then the average accuracy must lie in the 99.9 % prediction interval of the row's own seeds, widened by
    0.1 points.
    """
    wrong = 0
    for name in names:
        recorded = Store(FOLDER / name).read()[0]
        if not recorded:
            continue
        with tempfile.TemporaryDirectory() as folder:
            run = [sys.executable, "-P", "-m", "clbench", *command(name, seeds=1), "--out", folder, "--quiet"]
            subprocess.run(run, stdout=subprocess.DEVNULL)
            again = Store(Path(folder)).read()[0]
        for key, new in again.items():
            if key in recorded:
                verdict = compare(new, recorded[key], [r for r in recorded.values() if _cell(r) == _cell(new)])
                wrong += verdict.startswith("DIFFERS")
                print(f"{name}: {', '.join(_cell(new))}: {verdict}")
        missing = {key for key, old in recorded.items() if old.spec["seed"] == 0} - set(again)
        wrong += len(missing)
        if missing:
            print(f"{name}: {len(missing)} records of seed 0 were not made again: their specs have changed")
    sys.exit(1 if wrong else 0)


def compare(new: RunRecord, old: RunRecord, row: Sequence[RunRecord]) -> str:
    """Say how a run compares with its record; `row` holds the records of the same cell, all seeds."""
    from scipy.stats import t

    if all(getattr(new, name) == getattr(old, name) for name in SAME):
        return "equal bit for bit"
    mine, theirs = new.environment or {}, old.environment or {}
    if all(mine[name] == theirs[name] for name in ("device", "torch")):
        return "DIFFERS on the same processor and PyTorch"
    values = 100 * np.array([average_accuracy(record.matrix()) for record in row])
    n, moved = len(values), 100 * average_accuracy(new.matrix()) - values.mean()
    bound = 0.1 + (t.ppf(0.9995, n - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / n) if n > 1 else 0.0)
    return f"{'within' if abs(moved) <= bound else 'DIFFERS: not within'} {bound:.2f} of the row's mean: {moved:+.2f}"


def _cell(record: RunRecord) -> tuple[str, str]:
    return record.spec["label"], record.spec["scenario"]


def describe() -> None:
    """Write the generated part of results/README.md."""
    head = README.read_text(encoding="utf-8").split(MARK)[0]
    README.write_text(head + MARK + "\n" + "\n".join(_described()) + "\n", encoding="utf-8")
    results = Results.load(FOLDER / BASELINES)
    text = "\n".join(line for scenario in ("task", "class", "domain") for line in _baselines(results, scenario))
    GUIDE.write_text(GUIDE.read_text(encoding="utf-8").split(MARK)[0] + MARK + "\n" + text + "\n", encoding="utf-8")


def _described() -> Iterator[str]:
    notes = _notes()
    for name in SETS:
        if not (FOLDER / name / SET).exists():
            continue
        results = Results.load(FOLDER / name)
        commits = sorted({str((record.environment or {}).get("commit"))[:12] for record in results.records})
        machines = sorted({str((record.environment or {}).get("device")) for record in results.records})
        versions = sorted({str((record.environment or {}).get("torch")) for record in results.records})
        made = " ".join(command(name, len({record.spec["seed"] for record in results.records})))
        yield f"\n## {name}\n\n```\nclbench {made} --out results/reference/{name}\n```\n"
        yield (
            f"{len(results)} runs, {len(results.failed)} failed; commit {', '.join(commits)}; "
            f"{', '.join(machines)}; PyTorch {', '.join(versions)}.\n"
        )
        action, preset, *_ = command(name)
        if action == "verify":
            here = FOLDER.parents[1] / preset
            found = comparison.compare(presets.load(here if here.exists() else preset), results.records)
            yield "\n".join(tables.markdown(found).split("\n")[4:]).rstrip() + "\n"
        else:
            yield _core_table(results)
        if name in notes:
            yield notes[name] + "\n"


def _notes() -> dict[str, str]:
    """Read what is to be said of the sets: reference/notes.md has a heading per set."""
    path = FOLDER / "notes.md"
    parts = path.read_text(encoding="utf-8").split("\n# ")[1:] if path.exists() else []
    return {part.split("\n", 1)[0].strip(): part.split("\n", 1)[1].strip() for part in parts}


def _core_table(results: Results) -> str:
    """Tabulate average accuracy and forgetting by method and scenario, in per cent with 95 % intervals."""
    frame = results.summary()
    frame = frame[frame["metric"].isin(["average_accuracy", "forgetting"])]
    half = 100 * (frame["ci_high"] - frame["mean"])
    frame = frame.assign(cell=[f"{100 * m:.2f} ± {h:.2f}" for m, h in zip(frame["mean"], half, strict=True)])
    wide = frame.pivot_table(index="label", columns=["scenario", "metric"], values="cell", aggfunc="first")
    columns = pd.MultiIndex.from_product([["task", "class", "domain"], ["average_accuracy", "forgetting"]])
    wide = wide.reindex(columns=columns).fillna("–")
    heads = ["method", *(f"{scenario}: {metric.replace('_', ' ')}" for scenario, metric in columns)]
    table = "\n".join(markdown_table([heads, *([label, *cells] for label, *cells in wide.itertuples())]))
    return f"Per cent, mean over seeds ± half-width of its 95 % interval.\n\n{table}\n"


def _baselines(results: Results, scenario: str) -> Iterator[str]:
    """Tabulate a scenario's methods, the best first: accuracy, forgetting, and what each needs and costs."""
    runs = results.runs[results.runs["scenario"] == scenario]
    runs = runs.assign(passes=runs["forward_passes"] + runs["backward_passes"])
    costs = runs.groupby("label")[["stored_images", "stored_bytes", "parameters", "passes", "train_seconds"]].median()
    plain = costs.loc["finetune"]
    found = results.summary()
    found = found[found["scenario"] == scenario].set_index(["label", "metric"])
    best_first = found.xs("average_accuracy", level="metric")["mean"].sort_values(ascending=False).index
    rows = [["method", "average accuracy", "forgetting", "stored images", "stored", "parameters", "passes", "seconds"]]
    for label in best_first:
        cells = [_with_interval(found.loc[(label, metric)]) for metric in ("average_accuracy", "forgetting")]
        cost = costs.loc[label]
        times = [f"{cost[name] / plain[name]:.1f} ×" for name in ("parameters", "passes")]
        stored = [f"{cost['stored_images']:.0f}", f"{cost['stored_bytes'] / 1e6:.1f} MB"]
        rows.append([label, *cells, *stored, *times, f"{cost['train_seconds']:.1f}"])
    yield f"\n### In `{scenario}`\n"
    yield from markdown_table(rows)


def _with_interval(row: pd.Series) -> str:
    return f"{100 * row['mean']:.2f} ± {100 * (row['ci_high'] - row['mean']):.2f}".replace("-", "−")


if __name__ == "__main__":
    actions = {"make": make, "check": check}
    action, *chosen = sys.argv[1:] or ["help"]
    if unknown := [name for name in chosen if name not in SETS]:
        sys.exit(f"no set {unknown[0]!r}: choose from {', '.join(SETS)}")
    if action == "describe":
        describe()
    elif action in actions:
        actions[action](chosen or list(SETS))
    else:
        sys.exit(__doc__)
