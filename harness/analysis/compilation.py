"""Caveats of entries that the compiler gave up on."""

from collections.abc import Iterator

from harness.analysis.dataset import StudyResults
from harness.results.records.caveats import Caveat


def caveats(study: StudyResults) -> Iterator[Caveat]:
    """Yield a caveat for each entry with a run that is only partly compiled."""
    for entry in study.entries:
        affected = [run for run in entry.done if run.is_partly_compiled]
        if not affected:
            continue
        compilation = affected[0].measured.compilation
        assert compilation is not None
        yield Caveat(
            kind="not-compiled",
            entry=entry.label,
            message=(
                f"in {len(affected)} of {len(entry.done)} runs the compiler gave up after "
                f"{compilation.n_graphs} graphs, so parts of the model ran uncompiled and no speed "
                "is reported"
            ),
        )
