"""What `compare A B` compares: a study by name or file, a folder of a study's results, either at one commit."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.analysis import dataset as accounting
from harness.analysis.dataset import Study
from harness.errors import UserError, choices
from harness.results.run_data import RunData
from harness.results.store import Store

FEWEST = 4  # characters of a commit


@dataclass(frozen=True)
class Source:
    """Runs to compare, and what they are called on the page and in the folder's name."""

    label: str
    study: Study


def read(
    first: str, second: str, store: Store, name_of: Callable[[str], str]
) -> tuple[Source, Source]:
    """Read both sides; `name_of` turns a study's file or name into its name.

    Raises:
        UserError: one of them has no results, or none of that commit, or both are the same runs.
    """
    a, b = (_read(text, store, name_of) for text in (first, second))
    if a.label == b.label or _places(a) == _places(b):
        raise UserError(
            f"{first} and {second} are the same runs; name another study, results folder or NAME@COMMIT"
        )
    return a, b


def _places(source: Source) -> set[tuple[str, str | None]]:
    return {(run.run_id, run.started_at) for run in source.study.runs}


def _read(text: str, store: Store, name_of: Callable[[str], str]) -> Source:
    place, at, commit = text.partition("@") if not Path(text).exists() else (text, "", "")
    if at and len(commit) < FEWEST:
        raise UserError(f"{text}: a commit has {FEWEST} characters or more after the @")
    folder = Path(place)
    if (folder / "launches.jsonl").exists():
        store, name = Store(folder.parent), folder.name
        label = str(folder)
    else:
        label = name = name_of(place)

    def of_commit(run: RunData) -> bool:
        return str(run.env.get("git_commit") or "").startswith(commit)

    study = accounting.read(store, name, of_commit if commit else None)
    if commit and not study.entries:
        known = {
            str(run.env["git_commit"])[:8]
            for run in accounting.read(store, name).runs
            if run.env.get("git_commit")
        }
        raise UserError(
            f"{text}: no run of '{name}' was made at that commit; {choices(commit, known)}"
        )
    return Source(label + (f"@{commit}" if commit else ""), study)
