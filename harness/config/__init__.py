"""WHAT to run: the study file, read strictly, and the matrix of entries that it spans."""

from harness.config.matrix import Study, load

__all__ = ["Study", "load"]
