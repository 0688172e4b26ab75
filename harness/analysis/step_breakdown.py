"""Where the bytes and the time of an entry go, beside what theory predicts. Field names are those of summary.json."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from harness.analysis.dataset import Entry
from harness.analysis.metrics import DIVERGES, EquivalenceStatus
from harness.results.records import PHASES, CollectiveTraffic

TOLERANCE = 0.02  # a larger deviation from what is predicted is said


@dataclass(frozen=True)
class PhaseTimes:
    """Seconds of a step's phases, the mean over ranks and seeds of each rank's median; they need not sum to `step_s`.

    `waiting_by_rank_s` has each rank's exposed wait, the mean over seeds. On CUDA waits are not known: None and [].
    """

    forward_s: float
    backward_s: float
    optimizer_s: float
    waiting_s: float | None
    other_s: float
    waiting_by_rank_s: list[float]

    @property
    def by_name(self) -> dict[str, float | None]:
        """The phases' seconds, by phase."""
        return {phase: getattr(self, f"{phase}_s") for phase in PHASES}

    @property
    def waiting_share(self) -> float | None:
        """The part of all phases together that is spent waiting."""
        total = sum(seconds or 0.0 for seconds in self.by_name.values())
        return self.waiting_s / total if self.waiting_s is not None and total else None


@dataclass(frozen=True)
class TrafficTotals:
    """What the rank that sends most sends in a step, by collective: {`calls`, `payload_bytes`, `sent_bytes`}.

    `deviation` is how much more is sent than predicted, over what is predicted; None without a prediction.
    """

    collectives: dict[str, dict[str, float]]
    sent_bytes: float
    predicted_bytes: float | None
    deviation: float | None


@dataclass(frozen=True)
class MemoryPrediction:
    """What the fullest rank holds between steps beside what theory predicts, bytes by category, and the deviations."""

    predicted: dict[str, float]
    deviation: dict[str, float]


def phases(entry: Entry, verdict: EquivalenceStatus | None) -> PhaseTimes | None:
    """Return where an entry's time goes; None where it was not measured, or another model is trained."""
    runs = [run.phases for run in entry.done if run.phases]
    if not runs or verdict == DIVERGES:
        return None
    mean = {
        f"{phase}_s": _mean(rank[phase] for ranks in runs for rank in ranks) for phase in PHASES
    }
    waits = [_mean(rank["waiting"] for rank in same) for same in zip(*runs, strict=True)]
    return PhaseTimes(**mean, waiting_by_rank_s=[wait for wait in waits if wait is not None])  # type: ignore[arg-type]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def traffic(entry: Entry) -> TrafficTotals | None:
    """Return what an entry sends; None where it was not counted."""
    counted = [(run.measured, rank) for run in entry.done for rank in run.measured.traffic]
    if not counted:
        return None
    probes, most = max(counted, key=lambda found: _sent(found[1]))
    sent, predicted = _sent(most), probes.predicted_bytes_sent
    collectives = {name: calls.model_dump() for name, calls in most.items()}
    return TrafficTotals(collectives, sent, predicted, _deviation(sent, predicted))


def memory_prediction(entry: Entry) -> MemoryPrediction | None:
    """Return an entry's memory between steps beside what is predicted; None where there is no prediction."""
    runs = [run.measured for run in entry.done if run.measured.predicted_memory]
    if not runs:
        return None
    probes = max(runs, key=lambda probes: max(rank.peak for rank in probes.memory))
    assert probes.predicted_memory is not None
    fullest = max(probes.memory, key=lambda rank: rank.peak)
    predicted = probes.predicted_memory.model_dump()
    return MemoryPrediction(
        predicted,
        {name: _deviation(getattr(fullest, name), size) or 0.0 for name, size in predicted.items()},
    )


def _sent(rank: dict[str, CollectiveTraffic]) -> float:
    return float(sum(calls.sent_bytes for calls in rank.values()))


def _deviation(found: float, predicted: float | None) -> float | None:
    if predicted is None:
        return None
    return (found - predicted) / predicted if predicted else 0.0 if not found else float("inf")
