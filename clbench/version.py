"""The version of clbench, and of the numbers that its code computes."""

from importlib.metadata import version

__version__ = version("clbench")
NUMBERS = 1  # raised from 0.1.0 on with every 'Changed numbers' entry in the changelog; part of every record's key
