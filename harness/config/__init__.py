"""The study file, validated strictly, and the matrix of runs that it defines."""

from harness.config.matrix import PlannedStudy, load

__all__ = ["PlannedStudy", "load"]
