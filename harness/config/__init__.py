"""The study file, validated strictly, and the matrix of runs that it defines."""

from harness.config.matrix import load
from harness.config.planned import PlannedStudy
from harness.config.trials import TunedLevels, TuningPlan
from harness.study.looks import UntilResolved

__all__ = ["PlannedStudy", "TunedLevels", "TuningPlan", "UntilResolved", "load"]
