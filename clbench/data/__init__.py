"""Data sets: found, downloaded, checked, turned into memory-mapped arrays once; and what is done to their images."""

from clbench.data.cache import DataSet, data_root_folder
from clbench.data.sources import load_dataset, remarks

__all__ = ["DataSet", "data_root_folder", "load_dataset", "remarks"]
