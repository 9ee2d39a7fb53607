"""clbench's methods beside Avalanche's of the same name, on the same tasks, seeds, initial weights and budget.

python results/beside_avalanche.py make       run what is missing of both, ten seeds on split-mnist, then describe them
python results/beside_avalanche.py describe   write avalanche.md from the records alone

--sequence, --seeds, --out and --page make the same of other data, in another place.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clbench.results.frames import Results
from clbench.results.groups import Comparison, Group
from clbench.results.record import RunRecord
from clbench.results.statistics import paired
from clbench.results.store import pack
from clbench.results.wording import markdown_table

FOLDER = Path(__file__).parent / "reference" / "avalanche"
PAGE = Path(__file__).parent / "avalanche.md"
EVERY = ("task", "class", "domain")
WIDE = (
    "--set training.full_head=true --set training.loss_over=all"  # all outputs are there, and compete, from the start
)


@dataclass(frozen=True)
class Row:
    """A method of both, with fields that mean the same as nearly as they can."""

    name: str  # as people know it
    ours: str
    theirs: str  # without avalanche:
    scenarios: Sequence[str]  # those that both are defined for
    same: str  # which fields mean the same, and what no field can make so
    why: str  # what is to be expected of a difference
    wide: bool = False  # in `class`, with outputs that do not grow

    @property
    def both(self) -> tuple[str, str]:
        return self.ours, f"avalanche:{self.theirs}"

    @property
    def methods(self) -> tuple[str, str]:
        """Their names, without fields."""
        first, second = (item.split("@")[0] for item in self.both)
        return first, second


NOISE = "Only the order of the batches differs."
ROWS = (
    Row("Fine-tuning", "finetune", "Naive", EVERY, "Neither has fields.", NOISE),
    Row(
        "LwF",
        "lwf@teacher=train-mode",
        "LwF@alpha=1@temperature=2",
        EVERY,
        "λ_o = α = 1, T = 2. Avalanche's old network looks at each batch in training mode, as `teacher=train-mode`. "
        "Its Kullback-Leibler divergence has the gradient of our cross-entropy.",
        NOISE,
    ),
    Row(
        "EWC",
        "ewc@strength=100@half=false@label=true@batch=128@stable=false",
        "EWC@ewc_lambda=100",
        EVERY,
        "λ = 100 without ½; gradients of the true labels' loss are squared batch by batch (of 128, the batch size). "
        "`stable=false`: no bound on the pull, as there is none in Avalanche, here and below.",
        "Avalanche takes the batches of its importances in the order of the data, ours are drawn at random.",
    ),
    Row(
        "SI",
        "si@strength=0.5@path=total@stable=false",
        "SynapticIntelligence@si_lambda=1",
        EVERY,
        "c = λ/2. Avalanche's ξ is 1e-7 and its importances are cut at 0.001; ours has ξ = 0.1 and no such cut.",
        "On the CPU, Avalanche 0.6.0 reads the weights before and after a step from the same memory (`.cpu()` and "
        "`.flatten()` copy nothing there), so that each step's length is 0 and so are all importances: its SI is its "
        "Naive, bit for bit. That was seen by calling it directly too.",
    ),
    Row(
        "MAS",
        "mas@strength=0.03@batch=128@stable=false",
        "MAS@lambda_reg=0.03",
        EVERY,
        "λ = 0.03; the gradient of the squared outputs is taken batch by batch.",
        "Avalanche's importances are a running mean over tasks (α = 0.5), ours their sum; and Avalanche squares all "
        "outputs there are, where ours squares those of the loss. Where a batch's loss is exactly 0, as it can be once "
        "all is learnt, Avalanche's raises 'Loss is not available'.",
    ),
    Row(
        "Replay",
        "replay@images=500",
        "Replay@mem_size=500",
        EVERY,
        "500 images, shared equally among the tasks, drawn at random; as many old as new images in each step.",
        NOISE,
    ),
    Row(
        "GEM",
        "gem@images=1280@margin=0.5",
        "GEM@patterns_per_exp=256@memory_strength=0.5",
        EVERY,
        "256 images of each of five tasks, γ = 0.5.",
        "Avalanche keeps the first images that a shuffled loader gives, and solves the dual problem by another solver.",
    ),
    Row(
        "A-GEM",
        "agem@images=1280@memory_batch=64",
        "AGEM@patterns_per_exp=256@sample_size=64",
        EVERY,
        "256 images of each task; 64 in the batch that the reference gradient comes from.",
        "Avalanche's reference batch has equal shares of the old tasks (64 // tasks of each), ours is drawn from all.",
    ),
    Row(
        "GDumb",
        "gdumb@images=500@passes=none",
        "GDumb@mem_size=500",
        EVERY,
        "500 images, as many of each class; a new training from the initial weights after each task.",
        "In the task scenario Avalanche shares its memory among labels, which the tasks have in common there.",
    ),
    Row(
        "DER++",
        "der++@images=500@alpha=0.1@beta=0.5",
        "DER@mem_size=500@alpha=0.1@beta=0.5",
        ("class", "domain"),
        "α = 0.1, β = 0.5, as many old as new images.",
        "Ours fills a reservoir step by step and keeps outputs as they were then; Avalanche fills a memory that is "
        "balanced by class after each task, and keeps the trained network's outputs. One batch serves both terms.",
        wide=True,
    ),
    Row(
        "ER-ACE",
        "er-ace@images=500@memory_batch=10",
        "ER_ACE@mem_size=500@batch_size_mem=10",
        ("class",),
        "500 images, 10 of them in each step.",
        "Avalanche halves the sum of the two losses, which halves the rate, and its memory, balanced by class, has the "
        "new task's images from the start; ours is a reservoir.",
    ),
    Row(
        "MIR",
        "mir@images=500@candidates=50@memory_batch=16",
        "MIR@mem_size=500@subsample=50@batch_size_mem=16",
        ("class",),
        "500 images, 50 candidates, 16 of them chosen.",
        "Avalanche adds the two means, so that 16 old images weigh as much as 128 new ones; ours takes the mean over "
        "all 144. Its memory is balanced by class, ours is a reservoir.",
    ),
    Row(
        "iCaRL",
        "icarl@images=500",
        "ICaRL@memory_size=500@fixed_memory=true",
        ("class",),
        "500 exemplars by herding; binary losses; the nearest mean answers.",
        "Avalanche's binary loss is a mean over all ten outputs, ours a sum over the outputs; and its means are those "
        "of the exemplars and of their mirror images.",
        wide=True,
    ),
    Row(
        "BiC",
        "bic@images=500",
        "BiC@mem_size=500",
        ("class",),
        "500 images, a tenth of them for validation.",
        "Avalanche's BiC does not run with the PyTorch that clbench needs: it gives a scheduler `verbose`, an argument "
        "that there is no more.",
    ),
)


def commands(sequence: str, seeds: int, out: Path) -> Iterator[list[str]]:
    """Yield the clbench commands that make the records: one for each scenario, and for each kind of head."""
    for scenario in EVERY:
        for wide in (False, True):
            rows = [row for row in ROWS if scenario in row.scenarios and (row.wide and scenario == "class") == wide]
            if rows:
                methods = ",".join(item for row in rows for item in row.both)
                terms = ["--sequence", sequence, "--scenario", scenario, *(WIDE.split() if wide else ())]
                yield ["run", "--methods", methods, *terms, "--seeds", str(seeds), "--out", str(out)]


def make(sequence: str, seeds: int, out: Path) -> None:
    for words in commands(sequence, seeds, out):
        done = subprocess.run([sys.executable, "-P", "-m", "clbench", *words])
        if done.returncode == 2:
            sys.exit(2)
    pack(out)
    (out / "summary.csv").write_text(Results.load(out).summary().to_csv(index=False, float_format="%.6g"))


def describe(out: Path, page: Path) -> None:
    """Write the page from the records alone."""
    results = Results.load(out)
    if not results.comparisons:
        sys.exit(f"there are no records in {out}: make them first")
    found = [(row, scenario, _cell(results, row, scenario)) for row in ROWS for scenario in row.scenarios]
    lines = [[row.name, scenario, *cell.texts] for row, scenario, cell in found]
    headings = ["method", "scenario", "clbench (%)", "Avalanche (%)", "difference", "95 % interval"]
    headings += ["clbench (s)", "Avalanche (s)", "times", "seeds"]
    differing = dict.fromkeys(row for row, _, cell in found if cell.beyond_noise or cell.failure)
    names = ["method", "clbench's", "Avalanche's", "what is the same"]
    fields = [[row.name, f"`{row.ours}`", f"`{row.both[1]}`", row.same] for row in ROWS]
    told = [row for row in ROWS if row in differing or row.why != NOISE]
    why = [f"- **{row.name}**{_where(row, found)}: {row.why}" for row in told]
    tested = [row for row in ROWS if all(cell.tested for other, _, cell in found if other is row)]
    alike = [row.name for row in tested if row not in differing]
    parts = [
        "# clbench beside Avalanche",
        "Written by `python results/beside_avalanche.py describe` from the records. "
        f"{_setting(results)} Both have the same tasks, class orders, initial weights, optimiser and number of passes, "
        "and clbench evaluates both; each trains by its own loop. A method of Avalanche's is run by its name, as "
        "[docs/guests.md](../docs/guests.md) says.",
        "## Accuracy and time",
        "Average accuracy after the last task, mean over seeds. The difference is Avalanche's minus clbench's in "
        "percentage points, paired by seed, with the 95 % interval of Student's t; **bold** where it does not hold 0. "
        "Seconds are those of training, per run, of processes that ran side by side on one machine.",
        "\n".join(markdown_table([headings, *lines], ["scenario"])),
        "## Where they differ, and why",
        "In brackets: the scenarios in which the difference is beyond noise.",
        "\n".join(why),
        f"No difference beyond noise was found for {', '.join(alike)}." if alike else "",
        "## Fields that mean the same",
        "\n".join(markdown_table([names, *fields], names)),
    ]
    page.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Cell:
    """What a row has in a scenario."""

    texts: Sequence[str]
    tested: bool = False  # whether both have two seeds or more
    beyond_noise: bool = False
    failure: str = ""


def _cell(results: Results, row: Row, scenario: str) -> Cell:
    wide = row.wide and scenario == "class"
    ours, theirs = (_group(results.comparisons, name, scenario, wide) for name in row.methods)
    failure = next((_reason(group.failed) for group in (theirs, ours) if group is not None and group.failed), "")
    if ours is None or theirs is None or not (ours.runs and theirs.runs):
        without = [*_means(results, ours, theirs), "–", "failed" if failure else "not run", *["–"] * 4]
        return Cell(without, failure=failure)
    first, second = (results.by_seed(group, "average_accuracy") for group in (ours, theirs))
    seeds = sorted(first.keys() & second.keys())
    test = paired([100 * (second[seed] - first[seed]) for seed in seeds])
    beyond = len(seeds) > 1 and not test.low <= 0 <= test.high
    difference, interval = _signed(test.mean), f"{_signed(test.low)} to {_signed(test.high)}"
    seconds = ours.train_seconds, theirs.train_seconds
    texts = [
        *(f"{100 * sum(one[seed] for seed in seeds) / len(seeds):.2f}" for one in (first, second)),
        f"**{difference}**" if beyond else difference,
        interval if len(seeds) > 1 else "–",
        *(f"{one:.1f}" for one in seconds),
        f"{seconds[1] / seconds[0]:.1f}",
        str(len(seeds)),
    ]
    return Cell(texts, len(seeds) > 1, beyond, failure)


def _group(comparisons: Sequence[Comparison], method: str, scenario: str, wide: bool) -> Group | None:
    for comparison in comparisons:
        for group in comparison.groups if comparison.scenario == scenario else ():
            training = (*group.runs, *group.failed)[0].spec["training"]
            if group.method == method and training.get("full_head", False) == wide:
                return group
    return None


def _means(results: Results, *groups: Group | None) -> list[str]:
    values = [results.values(group, "average_accuracy") if group is not None and group.runs else [] for group in groups]
    return [f"{100 * sum(one) / len(one):.2f}" if one else "–" for one in values]


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _reason(failed: Sequence[RunRecord]) -> str:
    """Return the message, without the line that raised it."""
    return (failed[0].reason or "").split(", in ")[0]


def _where(row: Row, found: Sequence[tuple[Row, str, Cell]]) -> str:
    cells: Mapping[str, Cell] = {scenario: cell for other, scenario, cell in found if other is row}
    beyond = [scenario for scenario, cell in cells.items() if cell.beyond_noise]
    failures = [f"`{cell.failure}`" for cell in cells.values() if cell.failure]
    said = [*([", ".join(beyond)] if beyond else []), *([f"fails with {failures[0]}"] if failures else [])]
    return f" ({'; '.join(said)})" if said else " (no difference beyond noise)"


def _setting(results: Results) -> str:
    """Say what the runs are of."""
    records = [record for comparison in results.comparisons for group in comparison.finished for record in group.runs]
    spec, environment = records[0].spec, records[0].environment or {}
    engines = sorted({(record.environment or {}).get("engine", "") for record in records} - {""})
    training = spec["training"]
    budget = f"{training['epochs']} epochs" if training["epochs"] else f"{training['iterations']} updates"
    terms = f"{budget} a task, batches of {training['batch_size']}, {training['optimizer']} at {training['lr']}"
    what = f"{', '.join(engines)}, PyTorch {environment.get('torch')}, {environment.get('device')}"
    return f"{spec['sequence_label']}, {spec['model_label']}, {terms}; {what}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "describe"))
    parser.add_argument("--sequence", default="split-mnist")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    if asked.what == "make":
        make(asked.sequence, asked.seeds, asked.out)
    describe(asked.out, asked.page)


if __name__ == "__main__":
    main()
