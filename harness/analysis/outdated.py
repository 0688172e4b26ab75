"""Entries with results of code that has changed since, as caveats."""

from collections.abc import Iterator

from harness.analysis.dataset import StudyResults
from harness.results.records.caveats import Caveat


def caveats(study: StudyResults) -> Iterator[Caveat]:
    """Return a caveat for each entry with runs of older code, and for each set of changes."""
    for entry in study.entries:
        n_runs: dict[str, int] = {}
        for run in (*entry.runs, *entry.crossed):
            change = study.changes.get(run.run_id)
            if change is not None:
                outcome = (
                    "kept by --accept-outdated" if change.is_accepted else "not trained again yet"
                )
                message = f"{change} since; {outcome}"
                n_runs[message] = n_runs.get(message, 0) + 1
        for message, n in n_runs.items():
            total = len(entry.runs) + len(entry.crossed)
            yield Caveat(
                kind="outdated",
                entry=entry.label,
                message=f"{n} of {total} runs used older code: {message}",
            )
