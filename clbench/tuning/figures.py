"""The sensitivity figures of a search: a file for each method that had something to search."""

from __future__ import annotations

import re
from pathlib import Path

from clbench.report.figures.sensitivity import Field, Searched, write_sensitivity
from clbench.report.figures.style import styles_of
from clbench.results import names
from clbench.results.wording import count_of
from clbench.tuning.findings import Findings
from clbench.tuning.spaces import Candidate
from clbench.tuning.study import Study, Trial


def write_figures(findings: Findings) -> list[Path]:
    """Draw score against value, field by field, for each method; return the files."""
    styles = styles_of([one.label for one, _, _ in findings.tuned])
    paths: list[Path] = []
    for one, study, best in findings.tuned:
        if one.space:
            searched = _searched(findings, one, study, best, styles[one.label])
            stem = "sensitivity-" + re.sub(r"[^A-Za-z0-9.+-]+", "-", one.label).strip("-.")
            paths += write_sensitivity(searched, findings.plan.folder, stem)
    return paths


def _searched(findings: Findings, one: Candidate, study: Study, best: Trial, style: dict) -> Searched:
    plan, frame = findings.plan, findings.frame
    own = frame[frame["method"] == one.label]
    fields = [Field(d.name, d.search.low, d.search.high, d.search.log, d.search.choices) for d in one.space]
    default = next((trial.number for trial in study.ended() if trial.setting == one.default), None)
    tasks = "all tasks" if plan.tuning.tasks is None else f"tasks {plan.tuning.tasks}"
    seeds = count_of(len(plan.tuning.seeds or ()), "seed")
    note = (
        f"{plan.base.sequence['name']} ({plan.base.scenarios[0]} scenario) by {plan.tuning.protocol}, on images held "
        f"out of {tasks}; {count_of(len(own), 'trial')}: means over {seeds} with 95 % intervals"
    )
    return Searched(names.title(one.choice.reference, one.label), fields, own, best.number, default, style, note)
