"""The study file, validated strictly, and the matrix of runs that it defines."""

from harness.config.looks import UntilResolved
from harness.config.matrix import PlannedStudy, load
from harness.config.trials import TunedLevels, TuningPlan

__all__ = ["PlannedStudy", "TunedLevels", "TuningPlan", "UntilResolved", "load"]
