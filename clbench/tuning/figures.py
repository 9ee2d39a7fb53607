"""The sensitivity figures of a search: a file for each method that had something to search."""

from __future__ import annotations

import re
from pathlib import Path

from clbench.experiment.tuned import plain
from clbench.report.figures.files import Picture, draw_files
from clbench.report.figures.kinds import Subject
from clbench.report.figures.searched import searched
from clbench.report.figures.style import styles_of
from clbench.results import names
from clbench.results.wording import count_of
from clbench.tuning.findings import Findings, outcome

FORMATS = ("png", "pdf")


def write_figures(findings: Findings) -> list[Path]:
    """Draw score against value, field by field, for each method; return the files."""
    plan, pictures = findings.plan, []
    styles = styles_of([one.label for one, _, _ in findings.tuned])
    tasks = "all tasks" if plan.tuning.tasks is None else f"tasks {plan.tuning.tasks}"
    for one, study, _ in findings.tuned:
        found = searched(plain(outcome(one, study)))
        if found is None:
            continue
        title = names.title(one.choice.reference, one.label)
        place = f"{title} on {plan.base.sequence['name']} ({plan.base.scenarios[0]} scenario)"
        note = (
            f"by {plan.tuning.protocol}, on images held out of {tasks}; {count_of(len(found.trials), 'trial')}: "
            f"means over {count_of(len(plan.tuning.seeds or ()), 'seed')} with 95 % intervals"
        )
        stem = "sensitivity-" + re.sub(r"[^A-Za-z0-9.+-]+", "-", one.label).strip("-.")
        paths = [plan.folder / f"{stem}.{suffix}" for suffix in FORMATS]
        subject = Subject(place, note, {one.label: styles[one.label]}, {one.label: found})
        pictures.append(Picture("sensitivity", (), subject, paths))
    draw_files(pictures)
    return [path for picture in pictures for path in picture.paths]
