"""How the settings of methods were chosen, as the records of a tuned preset's runs say it, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clbench.results.groups import Comparison, Group
from clbench.results.wording import count_of

MORE = 1.25  # times the usual budget of updates that is pointed out


def tuning_of(group: Group) -> Mapping[str, Any] | None:
    """Return what the records of a group say of its tuning; None where they say nothing."""
    record = next(iter([*group.runs, *group.failed]), None)
    return None if record is None else (record.spec.get("preset") or {}).get("tuning")


def is_tuned(group: Group) -> bool:
    """Whether the settings of a group were searched."""
    return bool((tuning_of(group) or {}).get("space"))


def in_words(group: Group) -> str:
    """Say how a group's settings were chosen: 'tuned by first-tasks', 'nothing to tune', 'untuned'."""
    tuning = tuning_of(group) or {}
    if is_tuned(group):
        return f"tuned by {tuning['protocol']}"
    if is_trial(group):
        return "a trial"
    return "nothing to tune" if "trials" in tuning else "untuned"


def is_trial(group: Group) -> bool:
    """Whether the runs of a group are those that settings are chosen by."""
    return bool((tuning_of(group) or {}).get("trial"))


def notes(comparison: Comparison) -> list[str]:
    """Return sentences on what settings were chosen on, at what cost, and who had more than others."""
    tuned = [(group, tuning_of(group) or {}) for group in comparison.groups if is_tuned(group)]
    lines = list(dict.fromkeys(_chosen_on(tuning) for _, tuning in tuned))
    costs = ", ".join(f"{group.title} {_cost(tuning)}" for group, tuning in tuned)
    return [*lines, f"Budgets of tuning: {costs}.", *_unequal(tuned)] if tuned else []


def _cost(tuning: Mapping[str, Any]) -> str:
    trials = count_of(tuning["trials"], "trial") + (", all there are" if _is_whole(tuning) else "")
    return f"{trials} ({tuning['updates']:,} updates, {tuning['seconds']:,.0f} s)"


def _is_whole(tuning: Mapping[str, Any]) -> bool:
    """Whether all settings there are were tried: lists of values, and no range."""
    return not any(".." in space for space in tuning["space"].values())


def _chosen_on(tuning: Mapping[str, Any]) -> str:
    tasks = f"tasks {tuning['tasks']}, counted from 0" if "tasks" in tuning else "all tasks, which sees the future"
    seeds = f"seed{'s' * (len(tuning['seeds']) != 1)} {', '.join(map(str, tuning['seeds']))}"
    share = f"{100 * tuning['validation']:g} % of the training images"
    how = f"{share} of {tasks}, with {seeds}, by {tuning['search_by']}"
    return f"Tuned by {tuning['protocol']}: settings were chosen on {how}."


def _unequal(tuned: Sequence[tuple[Group, Mapping[str, Any]]]) -> list[str]:
    """Say who had more trials than others, or more updates than is usual for as many."""
    fewest = min((tuning["trials"] for _, tuning in tuned if not _is_whole(tuning)), default=tuned[0][1]["trials"])
    lines = [
        f"Unequal tuning: {group.title} had {tuning['trials']} trials, the fewest are {fewest}."
        for group, tuning in tuned
        if tuning["trials"] > fewest
    ]
    each = sorted(tuning["updates"] / tuning["trials"] for _, tuning in tuned)
    usual = each[(len(each) - 1) // 2]
    for group, tuning in tuned:
        if usual and (ratio := tuning["updates"] / tuning["trials"] / usual) > MORE:
            lines.append(f"Unequal tuning: a trial of {group.title} took {ratio:.2f} times the usual updates.")
    return lines
