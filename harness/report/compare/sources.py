"""Read the two sides of `compare A B`: a study by name or file, or a folder of its results.

Either may be restricted to one commit, as in NAME@COMMIT.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.analysis import dataset as accounting
from harness.analysis.dataset import StudyResults
from harness.errors import UserError, choices
from harness.results.archive import Archive
from harness.results.run_data import RunData
from harness.results.store import Store

MIN_COMMIT_LENGTH = 4  # characters


@dataclass(frozen=True)
class Source:
    """The runs of one side, their archive, and the label by which the report calls them."""

    label: str
    study: StudyResults
    archive: Archive


def read(
    first: str, second: str, store: Store, name_of: Callable[[str], str]
) -> tuple[Source, Source]:
    """Read both sides; `name_of` turns a study's file or name into its name.

    Raises:
        UserError: a side has no results, or none of its commit, or both sides are the same runs.
    """
    a = _read(first, store, name_of)
    b = _read(second, store, name_of)
    if a.label == b.label or _runs(a) == _runs(b):
        raise UserError(
            f"{first} and {second} are the same runs; name another study, results folder or "
            "NAME@COMMIT"
        )
    return a, b


def _runs(source: Source) -> set[tuple[str, str | None]]:
    return {(run.run_id, run.started_at) for run in source.study.runs}


def _read(argument: str, store: Store, name_of: Callable[[str], str]) -> Source:
    path = argument
    commit = ""
    if "@" in argument and not Path(argument).exists():
        path, _, commit = argument.partition("@")
        if len(commit) < MIN_COMMIT_LENGTH:
            raise UserError(
                f"{argument}: the commit after the @ needs at least {MIN_COMMIT_LENGTH} characters"
            )
    folder = Path(path)
    if (folder / "launches.jsonl").exists():
        store = Store(folder.parent)
        name = folder.name
        label = str(folder)
    else:
        name = name_of(path)
        label = name
    if not commit:
        return Source(label, accounting.read(store, name), store.archive(name))
    study = accounting.read(store, name, lambda run: _commit(run).startswith(commit))
    if not study.entries:
        known = {_commit(run)[:8] for run in accounting.read(store, name).runs} - {""}
        raise UserError(
            f"{argument}: no run of '{name}' was made at that commit; {choices(commit, known)}"
        )
    return Source(f"{label}@{commit}", study, store.archive(name))


def _commit(run: RunData) -> str:
    return (run.env and run.env.git_commit) or ""
