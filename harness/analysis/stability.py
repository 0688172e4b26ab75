"""Loss spikes and gradient norm outliers: signs that a run was unstable and its result is luck.

The rules have three parts that make a false alarm unlikely: a robust reference that a spike does
not move, a distance in robust standard deviations, and a least height. The distance follows the
spike score of OLMo 2 (2025, 3.1: seven standard deviations above a rolling average); medians
replace its means, and the lowest median so far replaces its window of 1,000 steps, which is longer
than many runs here. A loss that falls has a reference above it, so the fast descent at the start
raises no alarm.

In simulations, no curve of 12 to 3,000 steps with normal noise raises an alarm (tails of Student's
t with 8 degrees of freedom: 1.6 % of the curves of 3,000 steps), and 95 % of the spikes of 18
standard deviations are found. In 60-step runs of the shipped study, the largest rise of calm runs
is 2 standard deviations and their largest gradient norm 3 times its median.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.analysis.dataset import Entry, StudyResults
from harness.results.records.caveats import Caveat
from harness.results.records.entries import Spike, SpikeKind
from harness.results.run_data import RunData

MIN_STEPS = 5  # recorded steps, below which the noise of a run is unknown
LOSS_DEVIATIONS = 10.0  # standard deviations of the loss from step to step
LOSS_HEIGHT = 0.1  # nats per token
NORM_RATIO = 10.0  # of a gradient norm over its running median
NORM_WINDOW = 20  # steps before, of which the median is taken
NORM_MIN_HISTORY = 3  # steps before, so that there is a median
MAD_TO_SD = 1.4826  # of a normal distribution

RULE = (
    f"A loss spike is a training loss above the lowest running median (of 3 steps) so far by more "
    f"than {LOSS_DEVIATIONS:g} robust standard deviations of the run's step-to-step noise and by "
    f"more than {LOSS_HEIGHT:g} nats. An outlier of the gradient norm is more than "
    f"{NORM_RATIO:g} times the median of the {NORM_WINDOW} steps before."
)

FloatArray = NDArray[np.float64]


class Peak(NamedTuple):
    """Consecutive steps above the limit, as indices: first, highest and last, and its height.

    The height of a loss is in nats above its reference, that of a gradient norm the ratio to its
    median.
    """

    first: int
    highest: int
    last: int
    height: float


@dataclass(frozen=True)
class Stability:
    """The number of spikes of some runs, and their largest finite gradient norm."""

    n_loss_spikes: int
    n_grad_norm_outliers: int
    max_grad_norm: float | None


@dataclass(frozen=True)
class EntryStability(Stability):
    """The same of an entry, with the seeds that have a spike."""

    unstable_seeds: list[int]


def noise(loss: FloatArray) -> float:
    """Return the standard deviation of the loss from step to step, without trend and spikes.

    The median absolute deviation of the second differences of the losses, which a linear trend does
    not change, scaled to the standard deviation of one loss.
    """
    differences = np.diff(loss, n=2)
    deviations = np.abs(differences - np.median(differences))
    return float(MAD_TO_SD * np.median(deviations) / 6**0.5)


def loss_spikes(loss: FloatArray) -> list[Peak]:
    """Return the spikes of a training curve, shape (n_steps,); values that are not finite are none.

    A spike ends when the loss is below half of the limit. A constant that is added to the loss does
    not change them.
    """
    steps = np.flatnonzero(np.isfinite(loss))
    if len(steps) < MIN_STEPS:
        return []
    values = loss[steps]
    limit = max(LOSS_DEVIATIONS * noise(values), LOSS_HEIGHT)
    padded = np.concatenate((values[[0, 0]], values))
    medians = _median_of_3(padded[:-2], padded[1:-1], padded[2:])
    references = np.concatenate((values[:1], np.minimum.accumulate(medians)[:-1]))
    return list(_peaks(steps, values - references, limit, limit / 2))


def gradient_outliers(grad_norm: FloatArray) -> list[Peak]:
    """Return the outliers of the gradient norms, shape (n_steps,).

    A constant factor of all norms does not change them. Values that are not finite are none.
    """
    steps = np.flatnonzero(np.isfinite(grad_norm))
    if len(steps) < MIN_STEPS:
        return []
    norms = grad_norm[steps]
    lowest = np.minimum.accumulate(norms)
    ratios = np.zeros(len(norms))
    # A median is at least the lowest norm, so few norms need one.
    for i in np.flatnonzero(norms > NORM_RATIO * lowest):
        median = np.median(norms[max(0, i - NORM_WINDOW) : i])
        if i >= NORM_MIN_HISTORY and median > 0:
            ratios[i] = norms[i] / median
    return list(_peaks(steps, ratios, NORM_RATIO, NORM_RATIO))


def _median_of_3(a: FloatArray, b: FloatArray, c: FloatArray) -> FloatArray:
    return np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))


def _peaks(
    steps: NDArray[np.int64], heights: FloatArray, start: float, end: float
) -> Iterator[Peak]:
    """Yield the ranges that begin above `start` and reach to the last value above `end`."""
    above = heights > end
    i = 0
    for first in np.flatnonzero(heights > start):
        if first < i:
            continue
        n_above = np.argmin(above[first:]) if not above[first:].all() else len(above) - first
        i = int(first + n_above)
        highest = int(first + np.argmax(heights[first:i]))
        yield Peak(
            int(steps[first]), int(steps[highest]), int(steps[i - 1]), float(heights[highest])
        )


def spikes(study: StudyResults) -> list[Spike]:
    """Return the loss spikes and gradient norm outliers of all runs, also of those that failed."""
    return [spike for entry in study.entries for spike in entry_spikes(entry)]


def entry_spikes(entry: Entry) -> Iterator[Spike]:
    """Yield the spikes of all runs of an entry."""
    for run in (*entry.runs, *entry.crossed):
        yield from _spikes(run, entry.label, "loss", run.steps.loss)
        yield from _spikes(run, entry.label, "gradient norm", run.steps.grad_norm)


def _spikes(run: RunData, entry: str, kind: SpikeKind, values: FloatArray) -> Iterator[Spike]:
    peaks = loss_spikes(values) if kind == "loss" else gradient_outliers(values)
    for peak in peaks:
        yield Spike(
            run_id=run.run_id,
            entry=entry,
            seed=run.seed,
            kind=kind,
            step=int(run.steps.step[peak.first]),
            highest_step=int(run.steps.step[peak.highest]),
            last_step=int(run.steps.step[peak.last]),
            value=float(values[peak.highest]),
            height=peak.height,
        )


def of_runs(runs: Sequence[RunData], spikes: Iterable[Spike]) -> Stability:
    """Count the spikes that are of these runs."""
    run_ids = {run.run_id for run in runs}
    kinds = Counter(spike.kind for spike in spikes if spike.run_id in run_ids)
    norms = [run.steps.grad_norm[np.isfinite(run.steps.grad_norm)] for run in runs]
    return Stability(
        n_loss_spikes=kinds["loss"],
        n_grad_norm_outliers=kinds["gradient norm"],
        max_grad_norm=max((float(values.max()) for values in norms if len(values)), default=None),
    )


def of_entry(entry: Entry, spikes: Iterable[Spike]) -> EntryStability:
    """Count the spikes of the runs of an entry that have ended: those of a failed run count."""
    unstable = {spike.run_id for spike in spikes}
    seeds = [run.seed for run in entry.ended if run.run_id in unstable]
    return EntryStability(**vars(of_runs(entry.ended, spikes)), unstable_seeds=seeds)


def caveats(study: StudyResults) -> Iterator[Caveat]:
    """Yield a caveat for each entry with a spike in a run that is done or has failed."""
    for entry in study.entries:
        ended = {run.run_id for run in entry.ended}
        found = [spike for spike in entry_spikes(entry) if spike.run_id in ended]
        if not found:
            continue
        n_unstable = len({spike.run_id for spike in found})
        highest = {spike.kind: spike for spike in sorted(found, key=lambda spike: spike.height)}
        shown = []
        if rise := highest.get("loss"):
            place = f"seed {rise.seed}, step {rise.highest_step}"
            shown.append(f"the loss rises by up to {rise.height:.2f} nats ({place})")
        if norm := highest.get("gradient norm"):
            place = f"seed {norm.seed}, step {norm.highest_step}"
            shown.append(f"the gradient norm is up to {norm.height:.0f} times its median ({place})")
        yield Caveat(
            kind="unstable",
            entry=entry.label,
            message=f"{n_unstable} of {len(ended)} runs spike: {'; '.join(shown)}",
        )
