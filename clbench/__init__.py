"""clbench: continual-learning baselines, compared over seeds, task sequences and scenarios.

    import clbench

    results = clbench.run(methods=["finetune", "lwf"], sequence="split-digits", seeds=5)
    results.summary()

Importing this package imports neither torch nor Avalanche nor pandas.
"""

from importlib.metadata import version

from clbench.api import compare, load, run, verify

__all__ = ["NUMBERS", "__version__", "compare", "load", "run", "verify"]
__version__ = version("clbench")
NUMBERS = 1  # raised from 0.1.0 on with every 'Changed numbers' entry in the changelog; part of every record's key
