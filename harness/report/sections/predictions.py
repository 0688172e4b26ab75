"""How deviations of a measurement from its prediction are shown."""

import math
from collections.abc import Sequence

from harness.analysis.step_breakdown import TOLERANCE
from harness.report.document import Cell, Emphasis, Paragraph, code_list, paragraph
from harness.report.formatting import MISSING


def exceeds_tolerance(deviation: float | None) -> bool:
    """Return whether a relative deviation from a prediction is worth a warning."""
    return deviation is not None and abs(deviation) > TOLERANCE


def signed_percent(deviation: float | None) -> Cell:
    """Return +1.23 %, emphasized if it exceeds the tolerance."""
    if deviation is None:
        return MISSING
    if math.isinf(deviation):
        return Emphasis("none predicted")
    shown = f"{100 * deviation:+.2f} %"
    return Emphasis(shown) if exceeds_tolerance(deviation) else shown


def deviation_warning(labels: Sequence[str], measurement: str) -> Paragraph:
    """Return a warning that these entries deviate from the prediction."""
    return paragraph(
        Emphasis(f"More than {TOLERANCE:.0%} off the prediction"),
        f": the {measurement} of ",
        code_list(labels),
        ".",
    )
