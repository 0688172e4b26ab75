"""Match the size of entries by the width of their MLPs, so that no variant wins by being larger."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Literal

from harness.config.axes import architecture_key
from harness.errors import Problem
from harness.model.builder import ModelBuilder
from harness.study.axes import VariantSelection
from harness.study.study_file import MATCHED_AXIS, MATCHED_OPTION
from variants import registry
from variants.base import ModelShape, is_part

Measure = Literal["parameters", "flops"]

TOLERANCE = 0.01  # relative to the baseline's size
# Multiples that kernels prefer, the best first; used if they stay within half of the tolerance.
MULTIPLES = (64, 32, 16, 8, 4, 2, 1)


class WidthMatcher:
    """Set the MLP width of entries to match the baseline's size; `problems` collects failures."""

    def __init__(
        self,
        location: str,
        measure: Measure,
        baseline: VariantSelection,
        shape: ModelShape,
        variant_paths: Sequence[str],
    ) -> None:
        self.problems: list[Problem] = []
        self._location = location
        self._measure = measure
        self._shape = shape
        self._variant_paths = variant_paths
        self._widths: dict[str, int | None] = {}
        self._target = self._size(baseline)

    def match(self, entry: VariantSelection) -> VariantSelection:
        """Return the entry with the width that matches the baseline's size.

        An entry that has the baseline's size already, or for which there is no such width, is
        returned unchanged.
        """
        key = architecture_key(entry)
        if key not in self._widths:
            self._widths[key] = self._find_width(entry)
        width = self._widths[key]
        return entry if width is None else _with_width(entry, width)

    def _find_width(self, entry: VariantSelection) -> int | None:
        choice = entry[MATCHED_AXIS]
        cls = registry.load(MATCHED_AXIS, choice.name, [Path(path) for path in self._variant_paths])
        if MATCHED_OPTION not in {field.name for field in fields(cls.Options)}:
            self._add_problem(
                entry, f"{choice.name} has no option `{MATCHED_OPTION}` to set its size"
            )
            return None
        if self._size(entry) == self._target:
            return None
        if choice.options[MATCHED_OPTION]:
            self._add_problem(
                entry,
                f"{choice.label} sets its {MATCHED_OPTION}, which `match_size` determines; "
                "remove it",
            )
            return None
        size_1 = self._size(_with_width(entry, 1))
        slope = self._size(_with_width(entry, 2)) - size_1  # sizes are linear in the width
        exact_width = 1 + (self._target - size_1) / slope
        for multiple in MULTIPLES:
            width = max(1, round(exact_width / multiple)) * multiple
            error = abs(size_1 + (width - 1) * slope - self._target) / self._target
            if error <= TOLERANCE / 2 or (multiple == 1 and error <= TOLERANCE):
                return width
        target = f"{self._target:,.0f} {self._measure}"
        self._add_problem(entry, f"no {MATCHED_OPTION} gives it the baseline's {target}")
        return None

    def _size(self, entry: VariantSelection) -> float:
        model = ModelBuilder(self._shape, entry, self._variant_paths).model()
        if self._measure == "flops":
            return model.flops_per_token()
        return float(sum(parameter.numel() for parameter in model.parameters()))

    def _add_problem(self, entry: VariantSelection, message: str) -> None:
        labels = "-".join(choice.label for axis, choice in entry.items() if is_part(axis))
        self.problems.append(Problem(f"{self._location}: study.match_size", f"{labels}: {message}"))


def _with_width(entry: VariantSelection, width: int) -> VariantSelection:
    choice = entry[MATCHED_AXIS]
    return entry | {
        MATCHED_AXIS: choice.model_copy(
            update={"options": choice.options | {MATCHED_OPTION: width}}
        )
    }
