"""Caveats of entries whose losses an honest language model does not have."""

from collections.abc import Iterator

from harness.analysis.dataset import StudyResults
from harness.results.plausibility import Finding, implausible
from harness.results.records.caveats import Caveat


def caveats(study: StudyResults) -> Iterator[Caveat]:
    """Yield one caveat of each kind for each entry, with the first run that has it."""
    for entry in study.entries:
        by_kind: dict[str, list[tuple[int, Finding]]] = {}
        for run in entry.runs:
            if run.imported:
                continue
            evals = run.evals
            for finding in implausible(
                run.resolved,
                evals.step.tolist(),
                evals.val_loss.tolist(),
                evals.bits_per_byte.tolist(),
            ):
                by_kind.setdefault(finding.kind, []).append((run.seed, finding))
        for found in by_kind.values():
            seed, finding = found[0]
            n_runs = f"{len(found)} of {len(entry.runs)} runs"
            yield Caveat(
                kind=finding.kind,
                entry=entry.label,
                message=f"{n_runs}; seed {seed}: {finding.message}",
            )
