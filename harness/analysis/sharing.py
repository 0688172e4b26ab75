"""Mark the runs that shared their machine with others of the study.

A run has shared it if its launcher says so (`env.timing`), or if other runs overlap it on its host.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

import numpy as np

from harness.results.run_data import RunData

SHARED = 0.05  # fraction of a run's time: a run that overlaps others for less shared nothing


class _Place(NamedTuple):
    """Where and when a run trained, seconds since the epoch."""

    host: str
    start: float
    end: float


def with_sharing(runs: Sequence[RunData]) -> list[RunData]:
    """Return the runs, marked whether others on their host took part of their time.

    Only the newest attempt of a run has a known time. Copies of a run's results count once. Timing
    runs are marked as well.
    """
    timing_runs = [run.timing_run for run in runs if run.timing_run is not None]
    shared = _shared([*runs, *timing_runs])
    marked = []
    for run in runs:
        timing_run = run.timing_run
        if timing_run is not None:
            timing_run = replace(timing_run, shares_machine=_is_shared(timing_run, shared))
        marked.append(replace(run, shares_machine=_is_shared(run, shared), timing_run=timing_run))
    return marked


def _is_shared(run: RunData, shared: Mapping[_Place, float]) -> bool:
    if run.env is not None and run.env.timing == "shared":
        return True
    place = _place(run)
    return place is not None and shared[place] > SHARED


def _shared(runs: Sequence[RunData]) -> dict[_Place, float]:
    """Return the fraction of each place during which its host has another run."""
    by_host: dict[str, dict[tuple[float, float], None]] = {}
    for run in runs:
        place = _place(run)
        if place is not None:
            by_host.setdefault(place.host, {})[place.start, place.end] = None
    shared = {}
    for host, spans in by_host.items():
        for span, fraction in zip(spans, _shared_fractions(list(spans)), strict=True):
            shared[_Place(host, *span)] = fraction
    return shared


def _place(run: RunData) -> _Place | None:
    """Return the host and the span of the newest attempt; None if one is unknown."""
    span = _span(run)
    host = run.env.host if run.env else None
    return _Place(host, *span) if span is not None and host else None


def _span(run: RunData) -> tuple[float, float] | None:
    """Return the start and the end of the newest attempt, seconds; None if one is unknown."""
    if run.started_at is None or run.ended_at is None:
        return None
    start = datetime.fromisoformat(run.started_at).timestamp()
    end = datetime.fromisoformat(run.ended_at).timestamp()
    return (start, end) if end > start else None


def _shared_fractions(spans: list[tuple[float, float]]) -> list[float]:
    """Return the fraction of each span during which there is another one."""
    starts = np.array([start for start, _ in spans])
    ends = np.array([end for _, end in spans])
    times = np.concatenate((starts, ends))
    changes = np.concatenate((np.ones(len(spans)), -np.ones(len(spans))))
    order = np.argsort(times, kind="stable")
    times = times[order]
    n_active = np.cumsum(changes[order])
    lengths = np.diff(times) * (n_active[:-1] > 1)
    until = np.concatenate(([0.0], np.cumsum(lengths)))  # time shared until each of `times`
    shared = np.interp(ends, times, until) - np.interp(starts, times, until)
    fractions: list[float] = (shared / (ends - starts)).tolist()
    return fractions
