"""Metrics, and the pairs of an entry and its baseline in which they are compared.

Throughput and memory are compared as logarithms, so that a factor of 2 counts the same up and down.
Losses under different tokenizers are compared in bits per byte. The margin in nats per token is
converted by the baseline's ratio of the two.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from harness.analysis import comparability, machines
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.intervals import paired_differences
from harness.analysis.machines import Reason
from harness.analysis.welch import UnpairedDifference, welch
from harness.results.records.comparisons import LossUnit, Quantity
from harness.results.run_data import RunData

METRIC_NAMES: Mapping[Quantity, str] = {
    "val_loss": "validation loss",
    "tokens_per_s": "throughput",
    "peak_memory": "peak memory",
}


@dataclass(frozen=True)
class Metric:
    """A quantity to test: its value for a run (None if the run has none) and its direction.

    `incomparable` returns why the values of two runs cannot be compared, None if they can. A metric
    `without_noise` is exact if it is equal in every seed.
    """

    value: Callable[[RunData], float | None]
    lower_is_better: bool
    per_token: bool = False  # whether the value is per step and the logarithm of tokens is added
    incomparable: Reason | None = None
    without_noise: bool = False


def _log_steps_per_s(run: RunData) -> float | None:
    return -float(np.log(np.median(run.timed_step_s))) if len(run.timed_step_s) else None


def _log_peak_memory(run: RunData) -> float | None:
    return float(np.log(run.peak_memory_bytes)) if run.peak_memory_bytes else None


def _bits_per_byte(run: RunData) -> float | None:
    bits = run.final_bits_per_byte
    return bits if np.isfinite(bits) else None


METRICS: Mapping[Quantity, Metric] = {
    "val_loss": Metric(lambda run: run.final_loss, lower_is_better=True),
    "tokens_per_s": Metric(
        _log_steps_per_s, lower_is_better=False, per_token=True, incomparable=machines.speed_reason
    ),
    "peak_memory": Metric(
        _log_peak_memory,
        lower_is_better=True,
        incomparable=machines.memory_reason,
        without_noise=True,
    ),
}
BITS_PER_BYTE = Metric(_bits_per_byte, lower_is_better=True)
LOSS_METRICS: Mapping[LossUnit, Metric] = {
    "nats per token": METRICS["val_loss"],
    "bits per byte": BITS_PER_BYTE,
}


def values(entry: Entry, metric: Metric, tokens_per_step: float | None = None) -> dict[int, float]:
    """Return the metric of each run that is done and has it, by seed.

    A throughput is relative to steps of `tokens_per_step` tokens (default: the entry's own).
    """
    by_seed = {}
    for run in entry.done:
        value = metric.value(run)
        if value is not None and metric.per_token:
            own_tokens = run.tokens_per_step
            if own_tokens is None:  # a throughput is unknown without the tokens of a step
                continue
            value += float(np.log(own_tokens / (tokens_per_step or own_tokens)))
        if value is not None:
            by_seed[run.seed] = value
    return by_seed


def comparable_values(entry: Entry, base: Entry, metric: Metric) -> dict[int, float]:
    """Return the entry's values by seed, without those that `base` of the seed excludes.

    A throughput is relative to steps of the baseline's tokens.
    """
    by_seed = values(entry, metric, _tokens_per_step(base))
    if metric.incomparable is None:
        return by_seed
    reasons = machines.reasons_by_seed(entry, base, metric.incomparable)
    return {seed: value for seed, value in by_seed.items() if not reasons.get(seed)}


def paired_values(entry: Entry, base: Entry, metric: Metric) -> dict[int, float]:
    """Return entry minus baseline by seed, of the seeds that both have done and may compare."""
    return paired_differences(comparable_values(entry, base, metric), base_values(base, metric))


def base_values(base: Entry, metric: Metric) -> dict[int, float]:
    """Return the values of a baseline by seed; a throughput is relative to steps of its tokens."""
    return values(base, metric, _tokens_per_step(base))


def _tokens_per_step(base: Entry) -> float | None:
    return base.done[0].tokens_per_step if base.done else None


def margin_of(study: StudyResults, quantity: Quantity) -> float | None:
    """Return the equivalence margin, in nats or as a logarithm; None if the study states none."""
    return _as_difference(study.margins.get(quantity), quantity)


def superiority_of(study: StudyResults, quantity: Quantity) -> float | None:
    """Return the threshold of improvement, in the unit of `margin_of`; None without one."""
    return _as_difference(study.superiority.get(quantity), quantity)


def _as_difference(stated: float | None, quantity: Quantity) -> float | None:
    return stated if stated is None or quantity == "val_loss" else float(np.log1p(stated))


@dataclass(frozen=True)
class Pair:
    """An entry and its baseline in one metric; `unit` is that of a loss."""

    entry: Entry
    base: Entry
    metric: Metric
    unit: LossUnit | None
    label: str

    def differences(self) -> dict[int, float]:
        """Return entry minus baseline by seed, of the seeds that both have done."""
        return paired_values(self.entry, self.base, self.metric)

    @property
    def lost_seeds(self) -> tuple[list[int], list[int]]:
        """The failed seeds of the entry and of its baseline."""
        return self.entry.lost_seeds, self.base.lost_seeds

    def unpaired(self) -> UnpairedDifference | None:
        """Return the difference of the means if the seeds do not match; None if it is paired.

        Seeds match if two are done in both. Those of another trainer do not match, whatever their
        numbers. None as well if one of the two has fewer than two seeds, or if a run of the one may
        not be compared with one of the other.
        """
        done = {run.seed for run in self.entry.done}
        shared = {run.seed for run in self.base.done if run.seed in done}
        if len(shared) > 1 and self._is_imported(self.entry) == self._is_imported(self.base):
            return None
        may_not = self.metric.incomparable
        for run in self.entry.done if may_not else ():
            if any(may_not and may_not(run, other) for other in self.base.done):
                return None
        own = values(self.entry, self.metric, _tokens_per_step(self.base))
        base = base_values(self.base, self.metric)
        return welch(list(own.values()), list(base.values()))

    @staticmethod
    def _is_imported(entry: Entry) -> bool:
        return any(run.imported is not None for run in entry.done)

    def on_seeds(self, seeds: Collection[int]) -> "Pair":
        """Return the pair with the runs of these seeds."""
        return replace(self, entry=self.entry.on_seeds(seeds), base=self.base.on_seeds(seeds))

    def margin(self, margin: float | None) -> float | None:
        """Return the study's margin of the metric in the unit of this pair."""
        if margin is None or self.unit != "bits per byte":
            return margin
        bits = values(self.base, BITS_PER_BYTE)
        ratios = [bits[run.seed] / run.final_loss for run in self.base.done if run.seed in bits]
        return margin * float(np.mean(ratios)) if ratios else None


def pair_of(study: StudyResults, entry: Entry, quantity: Quantity) -> Pair | None:
    """Return an entry with its baseline; None without one, or if their losses are incomparable."""
    base = study.baseline_of(entry)
    if base is None:
        return None
    if quantity != "val_loss":
        return Pair(entry, base, METRICS[quantity], None, entry.label)
    unit = comparability.of_entries(entry, base).unit
    if unit is None:
        return None
    return Pair(entry, base, LOSS_METRICS[unit], unit, entry.label)
