"""Find runs whose corpus has another content now."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from harness.results.files import open_file
from harness.results.records import RunSpec, RunStatus
from harness.results.store import Store


def replaced_corpora(store: Store, study: str, planned: Sequence[RunSpec]) -> list[str]:
    """Return a line for each corpus of `planned` that had another content for stored runs."""
    content = {(spec.data.corpus, spec.data.tokenizer): spec.data.sha256 for spec in planned}
    n_runs: Counter[str] = Counter()
    for spec in store.specs(study):
        key = (spec.data.corpus, spec.data.tokenizer)
        if content.get(key, spec.data.sha256) != spec.data.sha256:
            n_runs[spec.data.corpus] += 1
    return [
        f"the corpus {corpus} has changed since {n} runs, which stay under their ids; runs with "
        "the present content are new"
        for corpus, n in n_runs.items()
    ]


def changed_corpora(runs: Iterable[tuple[RunSpec, RunStatus]]) -> dict[str, int]:
    """Return the number of runs by corpus whose file has changed since they started.

    Only files that were written after the start of a run are read.
    """
    hashes: dict[Path, str] = {}
    n_runs: Counter[str] = Counter()
    for spec, status in runs:
        started_at = status.started_at
        files = {Path(source.file): source.sha256 for source in spec.launch.sources}
        if started_at and _any_changed(files, datetime.fromisoformat(started_at), hashes):
            n_runs[spec.data.corpus] += 1
    return dict(n_runs)


def _any_changed(files: dict[Path, str], started: datetime, hashes: dict[Path, str]) -> bool:
    """Return whether a file has another SHA-256; `hashes` keeps those that were computed."""
    for path, sha256 in files.items():
        if not path.is_file() or path.stat().st_mtime < started.timestamp():
            continue
        if path not in hashes:
            with open_file(path) as file:
                hashes[path] = hashlib.file_digest(file, "sha256").hexdigest()
        if hashes[path] != sha256:
            return True
    return False
