"""Run ablation studies of GPT-2-class language models and analyze their results.

>>> import harness
>>> study = harness.load("results", study="tiny")
>>> study.comparisons[["entry", "val_loss_difference", "excludes_zero"]].shape
(17, 3)
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from harness.analysis.study_frames import StudyFrames

__version__ = "0.2.0"
__all__ = ["__version__", "load"]


def load(results: "str | Path" = "results", study: str | None = None) -> "StudyFrames":
    """Return the results of a study as pandas DataFrames; see `harness.analysis.study_frames`.

    `results` is the results folder. `study` may be omitted if the folder holds only one.

    Raises:
        UserError: there are no results, or several studies and none is named.
    """
    from harness.analysis import study_frames  # loads pandas

    return study_frames.load(results, study)
