"""The built-in methods, one file each: `feature_extraction.py` holds the method `feature-extraction`."""
