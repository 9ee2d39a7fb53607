"""What `clbench tune` says: what is searched before it starts, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clbench.results.names import spelled
from clbench.results.wording import console, count_of, rich_table
from clbench.tuning.spaces import is_finite, points

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clbench.tuning.findings import Findings
    from clbench.tuning.spaces import Candidate
    from clbench.tuning.tune import Plan

PROTOCOLS = {
    "first-tasks": "settings are chosen on tasks {tasks} alone, which are left out of what is reported (tasks {kept})",
    "stream-validation": "settings are chosen on all tasks: this sees the future, which a learner of a stream does not",
    "none": "nothing is chosen: the preset has the defaults, and its runs are reported as untuned",
}


def of_plan(plan: Plan) -> Iterator[str]:
    """Yield lines on what is searched, by which protocol, at what cost."""
    tuning, request = plan.tuning, plan.request
    yield f"{tuning.protocol}: " + PROTOCOLS[tuning.protocol].format(tasks=tuning.tasks, kept=plan.kept)
    if tuning.protocol == "none":
        return
    if tuning.tasks == "0-0":
        yield "one task shows no forgetting: settings are chosen by how well it is learnt alone"
    share, seeds = f"{100 * tuning.validation:g} % of the training images", ", ".join(map(str, tuning.seeds))
    yield f"the score is the accuracy after the last task on {share}, which are not trained on; seeds {seeds}"
    runs = 0
    for one in plan.candidates:
        trials, how = trials_of(one, request.search_by, request.trials)
        runs += trials * len(tuning.seeds)
        yield f"{one.label}: {how}"
    yield f"{count_of(runs, 'run')} at most, those that are there included; they are kept in {plan.records}"


def trials_of(one: Candidate, search_by: str, trials: int) -> tuple[int, str]:
    """Return how many trials a method has, and what is searched, in words."""
    if not one.space:
        return 1, "nothing to search, one trial"
    spaces = ", ".join(f"{dimension.name} over {dimension.search}" for dimension in one.space)
    if search_by == "grid" or is_finite(one.space, trials):
        count = len(points(one.space, trials))
        return count, f"{spaces}; all {count_of(count, 'point')} of the grid"
    first = one.default
    defaults = ", ".join(f"{name}={spelled(value)}" for name, value in (first or {}).items())
    return trials, f"{spaces}; {count_of(trials, 'trial')} by {search_by}" + (f", from {defaults} on" if first else "")


def print_findings(findings: Findings) -> None:
    """Print a line for each method: what was chosen, its score with its interval, and what the search cost."""
    rows = [["method", "chosen", "validation accuracy", "default", "trials", "updates", "training (s)"]]
    for row, (one, study, best) in zip(findings.preset.rows, findings.tuned, strict=True):
        tuned = row.tuning
        assert tuned is not None
        chosen = ", ".join(f"{name}={spelled(value)}" for name, value in best.setting.items()) or "nothing to search"
        score = f"{tuned.score:.2f}" + ("" if tuned.interval is None else " [{:.2f}, {:.2f}]".format(*tuned.interval))
        usual = [trial for trial in study.ended() if trial.setting == one.default and trial.scores is not None]
        default = f"{100 * usual[0].score:.2f}" if usual else "–"
        cells = [one.label, chosen, score, default, str(tuned.trials), f"{tuned.updates:,}", f"{tuned.seconds:,.1f}"]
        rows.append(cells)
    caption = "Accuracy on validation images, per cent, mean over the tuning seeds with its 95 % interval. "
    caption += "The best of many trials is too good: report the runs of the preset, not this."
    console().print(rich_table(f"Tuned on {findings.plan.name}", rows, ["chosen"], caption))
