"""Remove and move the results of studies.

A run is removed by renaming its folder, which readers then ignore, before its files are deleted: an
interruption leaves no half of a run.
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.errors import Problem, StoreError, UserError
from harness.results.claims import Claim
from harness.results.files import absolute, check_own_folder, remove, write_json
from harness.results.records.base import MAX_STUDY_NAME, STUDY_NAME
from harness.results.run import Run
from harness.results.store import Store

REMOVED = ".removed-"  # prefix of folders that are being deleted


def check_study_name(name: str) -> str:
    """Return the name of a study, which names a folder; a path would lead out of the results.

    Raises:
        UserError: it is invalid.
    """
    if not re.fullmatch(STUDY_NAME, name) or len(name) > MAX_STUDY_NAME:
        form = "letters, digits and any of . _ -, the first a letter or digit"
        raise UserError(f"{name[:100]!r}: no name of a study; allowed: {form}")
    return name


def size_bytes(folder: Path) -> int:
    """Return the size of all files of a folder; links are not followed."""
    total = 0
    for parent, _, files in os.walk(folder):  # skips a folder that vanishes meanwhile
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


@contextlib.contextmanager
def claimed(runs: Sequence[Run]) -> Iterator[None]:
    """Hold the claims of runs, so that none of them starts.

    Raises:
        UserError: a run is running, here or on another machine; it names all of them.
    """
    held: list[Claim] = []
    busy = []
    try:
        for run in runs:
            claim = None if run.outcome.status == "running" else run.claim()
            if claim is None:
                busy.append(Problem(str(run.path), "is running; stop it first"))
            else:
                held.append(claim)
        if busy:
            raise UserError(busy)
        yield
    finally:
        for claim in held:
            claim.release()


def remove_runs(runs: Sequence[Run]) -> None:
    """Remove runs and their timing runs. What remains of their study stays readable.

    Raises:
        UserError: a run is running.
        StoreError: a folder of timing runs is a link or no folder; nothing has been removed.
    """
    with claimed(runs):
        for run in runs:
            run.timing_run.check_folder()
        for run in runs:
            target = run.path.with_name(f"{REMOVED}{run.run_id}")
            remove(target)  # of an interrupted removal
            run.path.rename(target)
            shutil.rmtree(target)
            remove(run.timing_run.path)


def remove_study(store: Store, study: str) -> None:
    """Remove all results of a study.

    Raises:
        UserError: a run is running, or the folder is a link.
    """
    folder = store.root / study
    if folder.is_symlink():
        raise UserError(f"{folder}: is a link to {absolute(folder)}; remove the link by hand")
    remove_runs(store.runs(study))
    shutil.rmtree(folder)


def rename(store: Store, study: str, new_name: str) -> Path:
    """Rename a study, in its specs too; return its folder. An interrupted call can be repeated.

    Raises:
        UserError: the name is invalid or taken, or a run is running.
    """
    check_study_name(new_name)
    folder = store.root / study
    target = store.root / new_name
    if folder.exists():
        _refuse_existing(target)
        with claimed(store.runs(study)):
            folder.rename(target)
    for run in store.runs(new_name):
        with contextlib.suppress(StoreError):  # stays as unreadable as it is
            run.check_folder()
            if not run.is_imported and run.spec.study == study:
                spec = run.spec.model_copy(update={"study": new_name})
                write_json(run.path / "spec.json", spec)
    return target


def is_partly_renamed(store: Store, study: str, new_name: str) -> bool:
    """Return whether an interrupted renaming left specs with the old name."""
    if (store.root / study).exists():
        return False
    return any(spec.study == study for spec in store.specs(new_name))


def move_to(store: Store, study: str, root: Path) -> Path:
    """Move a study to another folder of results; return its folder.

    On another file system it is copied under a name that readers ignore, and removed afterwards.

    Raises:
        UserError: the target exists or is within the study, or a run is running.
    """
    folder = store.root / study
    target = root / study
    _refuse_existing(target)
    if absolute(root).is_relative_to(absolute(folder)):
        raise UserError(f"--to {root}: is within the study, {folder}; choose another folder")
    root.mkdir(parents=True, exist_ok=True)
    with claimed(store.runs(study)):
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:  # another file system
                raise
            with_prefix = root / ".moving" / study
            check_own_folder(with_prefix.parent)
            remove(with_prefix)
            shutil.copytree(folder, with_prefix, symlinks=True)
            with_prefix.rename(target)
            shutil.rmtree(folder)
            with contextlib.suppress(OSError):
                with_prefix.parent.rmdir()
    return target


def _refuse_existing(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise UserError(f"{target}: exists; choose another name, or remove it first")
