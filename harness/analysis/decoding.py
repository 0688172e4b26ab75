"""What decoding takes with each entry, from the samples of the decode probe. Field names are those of summary.json."""

from dataclasses import dataclass

from harness.analysis import intervals as statistics
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.intervals import Median, Ratio
from harness.analysis.metrics import baseline_of
from harness.results.run_data import DecodeSamples, DecodeSetting


@dataclass(frozen=True)
class Decoding:
    """An entry's measures at one batch and context over the seeds that have them; None where none has.

    `decode_step_s` is the time in which every sequence of the batch gets one token. The ratio is variant over baseline,
    from the seeds that both have. `reason` is why it is not defined, for the done seeds that are not among `seeds`.
    """

    batch: int
    context: int
    seeds: list[int]
    prefill_tokens_per_s: Median | None
    decode_step_s: Median | None
    decode_tokens_per_s: Median | None
    decode_tokens_per_s_ratio: Ratio | None
    cache_bytes: int | None
    reason: str | None


def measures(study: StudyResults, entry: Entry) -> list[Decoding]:
    """Return an entry's measures by batch and context; none where the study asked for none."""
    places = sorted({place for run in entry.done for place in run.decoding})
    return [_measure(entry, baseline_of(study, entry), place) for place in places]


def _measure(entry: Entry, base: Entry | None, place: DecodeSetting) -> Decoding:
    (batch, context), found = place, _defined(entry, place)
    prefill_s = (
        statistics.median([samples.prefill_s for samples in found.values()]) if found else None
    )
    decode_s = (
        statistics.median([samples.decode_s for samples in found.values()]) if found else None
    )
    reasons = {run.decoding[place].reason for run in entry.done if place in run.decoding}
    return Decoding(
        batch=batch,
        context=context,
        seeds=list(found),
        prefill_tokens_per_s=statistics.rate(batch * context, prefill_s) if prefill_s else None,
        decode_step_s=decode_s,
        decode_tokens_per_s=statistics.rate(batch, decode_s) if decode_s else None,
        decode_tokens_per_s_ratio=_ratio(found, _defined(base, place)) if base else None,
        cache_bytes=max((samples.cache_bytes for samples in found.values()), default=None),
        reason="; ".join(sorted(filter(None, reasons))) or None,
    )


def _defined(entry: Entry, place: DecodeSetting) -> dict[int, DecodeSamples]:
    """Return what was measured at a place, by seed."""
    found = {run.seed: run.decoding[place] for run in entry.done if place in run.decoding}
    return {seed: samples for seed, samples in found.items() if samples.reason is None}


def _ratio(found: dict[int, DecodeSamples], of_base: dict[int, DecodeSamples]) -> Ratio | None:
    pairs = [(found[seed].decode_s, of_base[seed].decode_s) for seed in found if seed in of_base]
    return (
        statistics.ratio_of_medians([b for _, b in pairs], [a for a, _ in pairs]) if pairs else None
    )
