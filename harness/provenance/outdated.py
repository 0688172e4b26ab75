"""Find runs whose code has changed since they were computed, and name the files."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.errors import StoreError
from harness.provenance.sources import Code, Sources
from harness.provenance.syntax import syntax_hash
from harness.results.archive import Archive
from harness.results.records import ENDED, RunSpec, RunStatus
from harness.results.store import Store

MAX_FILES = 3  # that a message names


@dataclass(frozen=True)
class CodeChange:
    """What has changed since a run; `is_accepted` if the user kept its result nevertheless."""

    files: tuple[str, ...]
    is_accepted: bool

    def __str__(self) -> str:
        named = ", ".join(self.files[:MAX_FILES]) or "the code"
        n_more = len(self.files) - MAX_FILES
        more = f" and {n_more} more" if n_more > 0 else ""
        return f"{named}{more} changed"


@dataclass(frozen=True)
class ComputedBy:
    """The code that computed a run, and the newer code under which its result was accepted."""

    code_hash: str | None
    accepted_code_hash: str | None = None

    @classmethod
    def of(cls, spec: RunSpec, status: RunStatus) -> "ComputedBy":
        """Return the code of a stored run; none of a run that will start with the present code."""
        if status.status in ("pending", "running"):
            return cls(None)
        return cls(spec.code_hash, status.accepted_code_hash)

    def change(self, current: Code, archive: Archive) -> CodeChange | None:
        """Return what has changed; None if nothing has, or if the run's code is unknown."""
        if self.code_hash is None or self.code_hash == current.hash:
            return None
        is_accepted = self.accepted_code_hash == current.hash
        return CodeChange(tuple(_changed_files(self.code_hash, current, archive)), is_accepted)


def _changed_files(code_hash: str, current: Code, archive: Archive) -> Iterator[str]:
    """Yield the names of files that differ, the user's first."""
    try:
        recorded = archive.code(code_hash).files
    except StoreError:
        yield "its code (not archived)"
        return
    names = recorded.keys() | current.files.keys()
    for name in sorted(names, key=lambda name: (not name.startswith("user"), name)):
        if name not in recorded:
            yield f"{name} (new)"
        elif name not in current.files:
            yield f"{name} (no longer used)"
        elif syntax_hash(current.files[name]) != recorded[name].syntax_sha256:
            yield name


def find_changes(
    store: Store, study: str, specs: Sequence[RunSpec], sources: Sources
) -> dict[str, CodeChange]:
    """Return the changes of the present code since the stored runs of a study, by run id.

    `specs` are the runs as they would start now. Runs without changes, runs of unknown code, and
    runs that have not been stored are left out.
    """
    runs = [store.run(study, spec.run_id) for spec in specs]
    computed_by = {}
    for run in runs:
        with contextlib.suppress(StoreError):  # a run that is missing, or damaged
            computed_by[run.run_id] = ComputedBy.of(run.spec, run.status)
    return changes_since(store.archive(study), specs, computed_by, sources)


def changes_since(
    archive: Archive,
    specs: Sequence[RunSpec],
    computed_by: Mapping[str, ComputedBy],
    sources: Sources,
) -> dict[str, CodeChange]:
    """Return the changes of the specs' code since the code that computed them, by run id.

    Runs of which a user's variant or the source run is not found are left out: their present code
    is unknown.
    """
    by_id = {spec.run_id: spec for spec in specs}
    changes = {}
    for run_id, earlier in computed_by.items():
        if earlier.code_hash is None:
            continue
        spec = by_id[run_id]
        source_run = by_id.get(spec.source_id or "")
        if spec.source_id is not None and source_run is None:
            continue
        current = sources.code(spec, source_run)
        change = earlier.change(current, archive) if current.is_complete else None
        if change is not None:
            changes[run_id] = change
    return changes


def acceptable(
    store: Store, study: str, changes: Mapping[str, CodeChange]
) -> dict[str, CodeChange]:
    """Return the changes of runs that have ended, as accepted; an interrupted run has no result."""
    accepted = {}
    for run_id, change in changes.items():
        has_ended = store.run(study, run_id).outcome.status in ENDED
        if has_ended and not change.is_accepted:
            accepted[run_id] = replace(change, is_accepted=True)
    return accepted
