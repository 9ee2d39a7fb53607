"""Methods of other libraries, which train by their own loops. Importing this imports Avalanche, which takes 4.5 s."""

import contextlib
import sys
import warnings

with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what it imports in turn
    import avalanche.training.plugins
    import avalanche.training.supervised  # noqa: F401
