"""Give entries equal sizes: the MLP is made as wide as it takes, so that a variant is not better for being larger."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Literal

from harness.config.axes import Entry, architecture
from harness.errors import Problem
from harness.model.builder import ModelBuilder
from harness.model.gpt import GPT
from variants import registry
from variants.base import ModelShape

Measure = Literal["parameters", "flops"]
AXIS, OPTION = "mlp", "width"
TOLERANCE = 0.01  # of the baseline's size
ROUND = (
    64,
    32,
    16,
    8,
    4,
    2,
    1,
)  # multiples that kernels like, the best first, as far as half the tolerance allows
COUNT: dict[Measure, Callable[[GPT], float]] = {
    "parameters": lambda model: float(sum(parameter.numel() for parameter in model.parameters())),
    "flops": lambda model: model.flops_per_token(),
}


class Sizer:
    """Widens or narrows the MLP of entries to the size of the baseline; `problems` gathers where that cannot be."""

    def __init__(
        self,
        place: str,
        measure: Measure,
        baseline: Entry,
        shape: ModelShape,
        variant_paths: Sequence[str],
    ) -> None:
        self._place, self._measure, self._shape, self._paths = place, measure, shape, variant_paths
        self._known: dict[str, int | None] = {}
        self._target = self._size(baseline)
        self.problems: list[Problem] = []

    def sized(self, entry: Entry) -> Entry:
        """Return the entry with the width that gives it the baseline's size, or as it is where there is none."""
        key = architecture(entry)
        if key not in self._known:
            self._known[key] = self._width(entry)
        width = self._known[key]
        return entry if width is None else _with_width(entry, width)

    def _width(self, entry: Entry) -> int | None:
        choice = entry[AXIS]
        cls = registry.load(AXIS, choice.name, [Path(path) for path in self._paths])
        if OPTION not in {field.name for field in fields(cls.Options)}:
            self._complain(
                entry, f"{choice.name} has no option `{OPTION}` by which it could be sized"
            )
            return None
        if self._size(entry) == self._target:
            return None
        if choice.options[OPTION]:
            self._complain(
                entry, f"{choice.label} states its {OPTION}, which `match` is to find; leave it out"
            )
            return None
        one, two = (self._size(_with_width(entry, n)) for n in (1, 2))
        exact = 1 + (self._target - one) / (
            two - one
        )  # sizes grow by the same for each unit of width
        for multiple in ROUND:
            width = max(1, round(exact / multiple)) * multiple
            off = abs(one + (width - 1) * (two - one) - self._target) / self._target
            if off <= TOLERANCE / 2 or (multiple == 1 and off <= TOLERANCE):
                return width
        self._complain(
            entry, f"no {OPTION} gives it the baseline's {self._target:,.0f} {self._measure}"
        )
        return None

    def _size(self, entry: Entry) -> float:
        return COUNT[self._measure](ModelBuilder(self._shape, entry, self._paths).model())

    def _complain(self, entry: Entry, message: str) -> None:
        labels = "-".join(choice.label for axis, choice in entry.items() if axis != "parallelism")
        self.problems.append(Problem(f"{self._place}: study.match_size", f"{labels}: {message}"))


def _with_width(entry: Entry, width: int) -> Entry:
    choice = entry[AXIS]
    return entry | {AXIS: choice.model_copy(update={"options": choice.options | {OPTION: width}})}
