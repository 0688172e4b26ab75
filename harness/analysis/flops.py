"""Entries whose FLOPs are counted, because the formula of a variant is wrong."""

from collections.abc import Iterator

from harness.analysis.dataset import StudyResults
from harness.results.records.caveats import Caveat


def caveats(study: StudyResults) -> Iterator[Caveat]:
    """Yield a caveat for each entry whose counted FLOPs replace those of the formulas."""
    for entry in study.entries:
        if entry.runs[0].imported:
            continue
        expected = entry.runs[0].resolved.expected
        counted = expected.flops_per_token_counted
        if counted is None:
            continue
        stated = expected.flops_per_token
        message = (
            f"the formulas state {stated:.4g} FLOPs per token, {counted:.4g} are counted "
            f"({counted / stated:.2f} times); MFU and equal FLOPs use the counted figure"
        )
        yield Caveat(kind="counted-flops", entry=entry.label, message=message)
