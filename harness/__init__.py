"""Run ablation studies of GPT-2-class language models and analyze their results.

>>> import harness
>>> study = harness.load("results", study="tiny")
>>> study.comparisons[["entry", "val_loss_difference", "excludes_zero"]].shape
(17, 3)
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
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


def _import_variants() -> None:
    """Import the `variants` next to this package, so that no folder of that name shadows it."""
    spec = PathFinder.find_spec("variants", [os.path.dirname(os.path.dirname(__file__))])
    assert spec is not None and spec.loader is not None
    loaded = sys.modules.get("variants")
    if loaded is not None and loaded.__file__ == spec.origin:
        return
    for name in list(sys.modules):
        if name == "variants" or name.startswith("variants."):
            del sys.modules[name]
    module = module_from_spec(spec)
    sys.modules["variants"] = module
    spec.loader.exec_module(module)


_import_variants()
