"""clbench: continual-learning baselines, compared over seeds, task sequences and scenarios.

    import clbench

    results = clbench.run(methods=["finetune", "lwf"], sequence="split-digits", seeds=5)
    results.summary()

Importing this package imports neither torch nor Avalanche nor pandas.
"""

from clbench.api import compare, load, load_model, merge, run, sequence_from_arrays, tune, verify, write_report
from clbench.version import NUMBERS, __version__

__all__ = [
    "NUMBERS",
    "__version__",
    "compare",
    "load",
    "load_model",
    "merge",
    "run",
    "sequence_from_arrays",
    "tune",
    "verify",
    "write_report",
]
