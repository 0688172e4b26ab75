"""Time of a step by phase, communication and memory of an entry, with their predictions."""

from collections.abc import Iterable, Mapping

import numpy as np

from harness.analysis.dataset import Entry
from harness.analysis.metrics import DIVERGES
from harness.results.records import PHASES, CollectiveTraffic
from harness.results.records.entries import (
    EquivalenceStatus,
    MemoryComparison,
    PhaseTimes,
    TrafficTotals,
)

TOLERANCE = 0.02  # relative: larger deviations from a prediction are reported


def phase_times(entry: Entry, status: EquivalenceStatus | None) -> PhaseTimes | None:
    """Return the times of an entry's phases; None if not measured, or if the entry diverges."""
    runs = [run.for_speed.phases for run in entry.done if run.for_speed.phases]
    if not runs or status == DIVERGES:
        return None
    mean_s = {
        f"{phase}_s": _mean(rank[phase] for ranks in runs for rank in ranks) for phase in PHASES
    }
    waits = [_mean(rank["waiting"] for rank in same_rank) for same_rank in zip(*runs, strict=True)]
    known_waits = [wait for wait in waits if wait is not None]
    return PhaseTimes.model_validate(mean_s | {"waiting_by_rank_s": known_waits})


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def traffic_totals(entry: Entry) -> TrafficTotals | None:
    """Return the communication of an entry; None if it was not counted."""
    ranks = [(rank, run) for run in entry.done if run.probes for rank in run.probes.traffic]
    if not ranks:
        return None
    collectives, run = max(ranks, key=lambda pair: _sent_bytes(pair[0]))
    sent = _sent_bytes(collectives)
    predicted = run.measured.predicted_bytes_sent
    deviation = None if predicted is None else _deviation(sent, predicted)
    return TrafficTotals(
        collectives=collectives,
        sent_bytes=sent,
        predicted_bytes=predicted,
        deviation=deviation,
    )


def memory_comparison(entry: Entry) -> MemoryComparison | None:
    """Return an entry's memory between steps and its prediction; None without a prediction."""
    ranks = []
    for run in entry.done:
        prediction = run.probes.predicted_memory if run.probes else None
        if prediction is not None:
            ranks += [(rank, prediction) for rank in run.memory]
    if not ranks:
        return None
    fullest, predicted = max(ranks, key=lambda pair: pair[0].peak)
    sizes = dict(predicted)
    deviation = {name: _deviation(getattr(fullest, name), size) for name, size in sizes.items()}
    return MemoryComparison(predicted=sizes, deviation=deviation)


def _sent_bytes(rank: Mapping[str, CollectiveTraffic]) -> float:
    return float(sum(collective.sent_bytes for collective in rank.values()))


def _deviation(measured: float, predicted: float) -> float:
    """Return the relative deviation from a prediction; infinite if only the prediction is 0."""
    if predicted:
        return (measured - predicted) / predicted
    return float("inf") if measured else 0.0
