"""Check in each rank that the code that it has loaded is the code that its run is stored under."""

from pathlib import Path

from harness.errors import Problem, StoreError, UserError
from harness.provenance.contents import ROOT, Contents, Stamp, content_hash, stamp
from harness.provenance.sources import Sources, named_file
from harness.provenance.syntax import syntax_hash
from harness.results.records import ArchivedFile, RunSpec
from harness.results.run import Run

CHANGED = "has changed since the run was planned; start the study again: runs of other code are new"


class PresentCode:
    """The files of the code of one run. They are checked when this is made, before variants load.

    `loaded` are the hashes of the harness's files from before the first of them was loaded. Without
    these, only later edits are found. Files are compared by content with the archive of the study,
    which takes a few milliseconds, and are parsed only if they differ.
    """

    def __init__(self, run: Run, loaded: Contents | None = None) -> None:
        """Check the files.

        Raises:
            UserError: a file is not the one that the run is stored under; it names all of them.
        """
        self._loaded = loaded or {}
        self._archived: dict[str, ArchivedFile] = {}
        self._stamps: dict[str, Stamp | None] = {}
        spec = Run(run.path).spec  # rank 0 may have recorded newer code
        if spec.code_hash is None:
            return
        try:
            self._archived = run.archive.code(spec.code_hash).files
        except StoreError:
            _check_by_hash(run, spec)
            return
        folders = spec.launch.variant_paths
        self._paths = {name: named_file(ROOT, name, folders) for name in self._archived}
        self.check()

    def check(self) -> None:
        """Check the files that have changed since the last call, as while variants were loaded.

        Raises:
            UserError: a file is not the one that the run is stored under; it names all of them.
        """
        problems = []
        for name, archived in self._archived.items():
            path = self._paths[name]
            present = _stamp(path)
            if name in self._stamps and self._stamps[name] == present:
                continue
            self._stamps[name] = present
            problem = self._problem(name, path, archived)
            if problem is not None:
                problems.append(Problem(str(path), problem))
        if problems:
            raise UserError(problems)

    def _problem(self, name: str, path: Path, archived: ArchivedFile) -> str | None:
        """Return why a file is not the archived one; None if it is, or differs in comments only."""
        archived_hash = Path(archived.file).stem
        try:
            present = content_hash(path)
            if present != archived_hash and syntax_hash(path) != archived.syntax_sha256:
                return CHANGED
        except OSError as error:
            return f"cannot be read ({error.strerror}), but computes the run; restore it"
        is_loaded = self._loaded.get(name, present) in (present, archived_hash)
        return None if is_loaded else CHANGED


def _check_by_hash(run: Run, spec: RunSpec) -> None:
    """Check the code of a run that is not archived.

    Raises:
        UserError: it is another.
    """
    source_run = None if spec.source_id is None else run.sibling(spec.source_id).spec
    if Sources().code(spec, source_run).hash != spec.code_hash:
        raise UserError([Problem(f"{run.run_id}: its code", CHANGED)])


def _stamp(path: Path) -> Stamp | None:
    try:
        return stamp(path)
    except OSError:
        return None
