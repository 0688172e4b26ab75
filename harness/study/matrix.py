"""Expand the axes of a study to its entries: their product, without `exclude`, with `include`."""

import itertools
import math

from harness.errors import UserError
from harness.study import rules
from harness.study.axes import StatedAxes, VariantSelection
from harness.study.study_file import StudyFile

MAX_ENTRIES = 10_000  # of a study


def expand(
    file: StudyFile, axes: StatedAxes
) -> tuple[VariantSelection, list[VariantSelection], list[tuple[str, str]]]:
    """Return the baseline, the entries, and the excluded ones with the reason.

    `axes` collects the problems.

    Raises:
        UserError: there are too many entries.
    """
    axes.read(file.axes)
    baseline = axes.baseline(file.study.baseline, file.sections)
    n_entries = math.prod(map(len, axes.choices.values()))
    if n_entries > MAX_ENTRIES:
        limit = f"allowed: at most {MAX_ENTRIES:,}"
        axes.add_problem("axes", f"their product has {n_entries:,} entries; {limit}")
        raise UserError(axes.problems)
    entries = [
        dict(zip(axes.choices, choices, strict=True))
        for choices in itertools.product(*axes.choices.values())
    ]
    entries, excluded = rules.exclude(file, axes, entries)
    entries += rules.include(file, axes, entries, baseline)
    return baseline, entries, excluded
