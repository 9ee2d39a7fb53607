"""A search from its plan to the preset that it leaves."""

from __future__ import annotations

from clbench.tuning.findings import Findings
from clbench.tuning.tune import Plan, search


def carry_out(plan: Plan, quiet: bool = False, fork: bool = False) -> Findings:
    """Run all trials that are missing; write the preset, the table of trials and figures; return what was found.

    Raises UsageError if the folder is in use or cannot be written, ClbenchError if every trial of all methods failed.
    """
    findings = Findings(plan, search(plan, quiet, fork))
    findings.write()
    if findings.studies:
        from clbench.tuning.figures import write_figures  # here, since it needs Matplotlib

        write_figures(findings)
    return findings
