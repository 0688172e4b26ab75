"""The loss of an entry along training: all seeds at the same evaluations, or steps."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.intervals import running_mean
from harness.results.records.comparisons import LossUnit

MAX_POINTS = 400
BITS: LossUnit = "bits per byte"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """The losses of an entry's completed seeds, shape (n_seeds, n_points), and their mean time.

    `tokens` are those of the completed steps.
    """

    entry: Entry
    step: NDArray[np.int64]
    tokens: Array
    time_s: Array
    losses: Array


def validation(entry: Entry, unit: LossUnit = "nats per token") -> Curve:
    """Return the curve of the evaluations."""
    evals = [run.evals for run in entry.done]
    n = min(len(run.step) for run in evals)
    columns = [run.bits_per_byte if unit == BITS else run.val_loss for run in evals]
    losses = np.array([column[:n] for column in columns])
    time_s = np.mean([run.train_s[:n] for run in evals], axis=0)
    return _curve(entry, evals[0].step[:n], time_s, losses)


def training(entry: Entry) -> Curve:
    """Return the curve of the training loss, each seed smoothed by a running mean."""
    steps = [run.steps for run in entry.done]
    n = min(len(run) for run in steps)
    losses = np.array([running_mean(run.loss[:n], smoothing_window(n)) for run in steps])
    time_s = np.mean([np.cumsum(run.step_s[:n]) for run in steps], axis=0)
    completed_steps = steps[0].step[:n] + 1  # as in evaluations
    return _curve(entry, completed_steps, time_s, losses)


def smoothing_window(n_steps: int) -> int:
    """Return the odd number of steps over which a training curve of `n_steps` is averaged."""
    return n_steps // 40 // 2 * 2 + 1


def thin(n: int, n_points: int) -> NDArray[np.int64]:
    """Return evenly spaced indices of at most `n_points` of `n` points, with the first and last."""
    return np.unique(np.linspace(0, n - 1, min(n, n_points)).round().astype(np.int64))


def _curve(entry: Entry, step: NDArray[np.int64], time_s: Array, losses: Array) -> Curve:
    kept = thin(len(step), MAX_POINTS)
    tokens = entry.done[0].tokens_at(step[kept])
    return Curve(entry, step[kept], tokens, time_s[kept], losses[:, kept])


def has_curve(entry: Entry, loss: Callable[[Entry], Curve]) -> bool:
    """Return whether every run has the curve, at the same steps if they are imported.

    The table of an imported run may state no curve, and other steps for each seed.
    """
    if loss is not validation:
        return all(len(run.steps) > 0 for run in entry.done)
    steps = [run.evals.step for run in entry.done]
    if not any(run.imported for run in entry.done):
        return all(len(evaluated) > 0 for evaluated in steps)
    return len(steps[0]) > 1 and all(np.array_equal(steps[0], other) for other in steps)


def has_times(entry: Entry) -> bool:
    """Return whether the training time of each evaluation is known."""
    return all(bool(np.isfinite(run.evals.train_s).all()) for run in entry.done)


def counts_tokens(study: StudyResults) -> bool:
    """Return whether curves are against tokens, because steps of entries have different numbers."""
    numbers: set[int] = set()
    for entry in study.entries:
        for run in entry.done[:1]:
            numbers.update(np.unique(run.steps.tokens).tolist())
    return len(numbers) > 1
