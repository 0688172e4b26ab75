"""Mark the runs that shared their machine with others of the study."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np

from harness.results.run_data import RunData

SHARED = 0.05  # fraction of a run's time: a run that overlaps others for less shared nothing


def with_sharing(runs: Sequence[RunData]) -> list[RunData]:
    """Return the runs, marked whether others on their host took part of their time.

    Only the newest attempt of a run has a known time. Copies of a run's results count once.
    """
    by_host: dict[str, dict[tuple[float, float], None]] = {}
    for run in runs:
        span = _span(run)
        if span is not None and run.env and run.env.host:
            by_host.setdefault(run.env.host, {})[span] = None
    shared: dict[tuple[str, float, float], float] = {}
    for host, spans in by_host.items():
        for span, fraction in zip(spans, _shared_fractions(list(spans)), strict=True):
            shared[(host, *span)] = fraction
    marked = []
    for run in runs:
        span = _span(run)
        name = run.env.host if run.env else None
        is_shared = span is not None and name and shared[(name, *span)] > SHARED
        marked.append(replace(run, shares_machine=True) if is_shared else run)
    return marked


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
