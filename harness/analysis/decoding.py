"""Speed and memory of decoding for each entry, from the samples of the decode probe."""

from collections.abc import Container, Mapping

import numpy as np

from harness.analysis import intervals, machines
from harness.analysis.dataset import Entry, StudyResults
from harness.results.records import DecodeRecord
from harness.results.records.entries import Decoding
from harness.results.records.estimates import Ratio
from harness.results.run_data import DecodeSetting


def measures(study: StudyResults, entry: Entry) -> list[Decoding]:
    """Return an entry's decoding by batch and context; empty if the study has no decode probe."""
    settings = sorted({setting for run in entry.done for setting in run.decoding})
    base = study.baseline_of(entry)
    excluded: set[int] = set()
    if base is not None:
        reasons = machines.reasons_by_seed(entry, base, machines.speed_reason)
        excluded = {seed for seed, reason in reasons.items() if reason}
    return [_measure(entry, base, setting, excluded) for setting in settings]


def _measure(
    entry: Entry, base: Entry | None, setting: DecodeSetting, excluded: Container[int]
) -> Decoding:
    """Measure one setting; the ratio omits the seeds that ran on another machine than `base`."""
    batch, context = setting
    samples = _samples(entry, setting)
    reasons = {run.decoding[setting].reason for run in entry.done if setting in run.decoding}
    reason = "; ".join(sorted(filter(None, reasons))) or None
    if not samples:
        return Decoding(batch=batch, context=context, seeds=[], reason=reason)
    base_samples = _samples(base, setting) if base else {}
    base_samples = {seed: base_samples[seed] for seed in base_samples if seed not in excluded}
    prefill_s = intervals.median([np.array(record.prefill_s) for record in samples.values()])
    decode_s = intervals.median([np.array(record.decode_s) for record in samples.values()])
    return Decoding(
        batch=batch,
        context=context,
        seeds=list(samples),
        prefill_tokens_per_s=intervals.rate(batch * context, prefill_s),
        decode_step_s=decode_s,
        decode_tokens_per_s=intervals.rate(batch, decode_s),
        decode_tokens_per_s_ratio=_ratio(samples, base_samples),
        cache_bytes=max(record.cache_bytes or 0 for record in samples.values()),
        reason=reason,
    )


def _samples(entry: Entry, setting: DecodeSetting) -> dict[int, DecodeRecord]:
    """Return the samples of each run that has them, by seed."""
    records = {run.seed: run.decoding[setting] for run in entry.done if setting in run.decoding}
    return {seed: record for seed, record in records.items() if record.reason is None}


def _ratio(samples: Mapping[int, DecodeRecord], base: Mapping[int, DecodeRecord]) -> Ratio | None:
    seeds = [seed for seed in samples if seed in base]
    if not seeds:
        return None
    return intervals.ratio_of_medians(
        [np.array(base[seed].decode_s) for seed in seeds],
        [np.array(samples[seed].decode_s) for seed in seeds],
    )
