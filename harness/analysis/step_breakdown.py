"""Time of a step by phase, communication and memory of an entry, with their predictions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from harness.analysis.dataset import Entry
from harness.analysis.metrics import DIVERGES, EquivalenceStatus
from harness.results.records import PHASES, CollectiveTraffic

TOLERANCE = 0.02  # relative: larger deviations from a prediction are reported


@dataclass(frozen=True)
class PhaseTimes:
    """Seconds of each phase of a step: the mean over ranks and seeds of each rank's median.

    They need not add up to `step_s`. `waiting_by_rank_s` is the exposed communication of each rank,
    the mean over seeds. CUDA does not expose waits: None and [].
    """

    forward_s: float
    backward_s: float
    optimizer_s: float
    waiting_s: float | None
    other_s: float
    waiting_by_rank_s: list[float]

    @property
    def by_name(self) -> dict[str, float | None]:
        """The seconds of each phase."""
        return {phase: getattr(self, f"{phase}_s") for phase in PHASES}

    @property
    def waiting_fraction(self) -> float | None:
        """The fraction of all phases that is exposed communication."""
        total = sum(seconds or 0.0 for seconds in self.by_name.values())
        return self.waiting_s / total if self.waiting_s is not None and total else None


@dataclass(frozen=True)
class TrafficTotals:
    """Communication in one step of the rank that sends most.

    `deviation` is bytes sent minus predicted, over predicted; None without a prediction.
    """

    collectives: Mapping[str, CollectiveTraffic]
    sent_bytes: float
    predicted_bytes: float | None
    deviation: float | None


@dataclass(frozen=True)
class MemoryComparison:
    """Memory that the fullest rank holds between steps: the prediction, and the deviation from it.

    Both are by category. `predicted` is in bytes; `deviation` is measured minus predicted, over
    predicted.
    """

    predicted: dict[str, float]
    deviation: dict[str, float]


def phase_times(entry: Entry, status: EquivalenceStatus | None) -> PhaseTimes | None:
    """Return the times of an entry's phases; None if not measured, or if the entry diverges."""
    runs = [run.phases for run in entry.done if run.phases]
    if not runs or status == DIVERGES:
        return None
    mean_s = {
        f"{phase}_s": _mean(rank[phase] for ranks in runs for rank in ranks) for phase in PHASES
    }
    waits = [_mean(rank["waiting"] for rank in same_rank) for same_rank in zip(*runs, strict=True)]
    known_waits = [wait for wait in waits if wait is not None]
    return PhaseTimes(**mean_s, waiting_by_rank_s=known_waits)  # type: ignore[arg-type]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def traffic_totals(entry: Entry) -> TrafficTotals | None:
    """Return the communication of an entry; None if it was not counted."""
    ranks = [(rank, run) for run in entry.done for rank in run.measured.traffic]
    if not ranks:
        return None
    collectives, run = max(ranks, key=lambda pair: _sent_bytes(pair[0]))
    sent = _sent_bytes(collectives)
    predicted = run.measured.predicted_bytes_sent
    deviation = None if predicted is None else _deviation(sent, predicted)
    return TrafficTotals(collectives, sent, predicted, deviation)


def memory_comparison(entry: Entry) -> MemoryComparison | None:
    """Return an entry's memory between steps and its prediction; None without a prediction."""
    ranks = [
        (rank, run.measured.predicted_memory)
        for run in entry.done
        if run.measured.predicted_memory
        for rank in run.measured.memory
    ]
    if not ranks:
        return None
    fullest, predicted = max(ranks, key=lambda pair: pair[0].peak)
    sizes = dict(predicted)
    deviation = {name: _deviation(getattr(fullest, name), size) for name, size in sizes.items()}
    return MemoryComparison(sizes, deviation)


def _sent_bytes(rank: Mapping[str, CollectiveTraffic]) -> float:
    return float(sum(collective.sent_bytes for collective in rank.values()))


def _deviation(measured: float, predicted: float) -> float:
    """Return the relative deviation from a prediction; infinite if only the prediction is 0."""
    if predicted:
        return (measured - predicted) / predicted
    return float("inf") if measured else 0.0
