"""The code snapshot of a submission: a copy of the project and of the user's variants.

Its folder `results/<study>/.code/<hash>/` has the names of the archive of code: `harness/`,
`variants/`, and `user/FOLDER` for each folder of variants. It is the PYTHONPATH of the jobs.
"""

import hashlib
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.provenance.reproduce import archived_variant_paths
from harness.provenance.sources import CodeFiles, Sources
from harness.results.files import absolute, read_file
from harness.results.records import RunSpec, TokenSlice
from harness.results.store import Store

PACKAGES = ("harness", "variants")


@dataclass(frozen=True)
class Snapshot:
    """The files of a snapshot by their name in it, and its folder, which `write` creates."""

    path: Path
    files: CodeFiles

    @property
    def hash(self) -> str:
        """The hash of all names and contents."""
        return self.path.name

    def write(self, specs: Sequence[RunSpec]) -> None:
        """Copy the files, unless an earlier submission has; check that runs find their code there.

        Raises:
            UserError: the code has changed since the runs were planned.
        """
        if not self.path.is_dir():
            temporary = self.path.with_name(f".{self.hash}.{secrets.token_hex(8)}")
            for name, file in self.files.items():
                target = temporary / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
            try:
                temporary.rename(self.path)
            except OSError:
                shutil.rmtree(temporary)
                if not self.path.is_dir():  # another process was not faster
                    raise
        sources = Sources(self.path)
        by_id = {spec.run_id: spec for spec in specs}
        for spec in specs:
            source_run = by_id.get(spec.source_id or "")
            if spec.source_id is not None and source_run is None:
                continue  # its code includes that of a run that was submitted before
            code = sources.code(self.localize(spec), source_run)
            if spec.code_hash not in (None, code.hash):
                raise UserError(
                    f"{spec.run_id}: its code has changed since the study was read; "
                    "run the command again"
                )

    def localize(self, spec: RunSpec) -> RunSpec:
        """Return a spec whose variants are those of the snapshot, with absolute paths."""
        launch = spec.launch
        update = {
            "variant_paths": [str(self.path / name) for name in archived_variant_paths(spec)],
            "token_bytes": _absolute(launch.token_bytes),
            "train_tokens": _absolute_files(launch.train_tokens),
            "val_tokens": _absolute_files(launch.val_tokens),
        }
        changes: dict[str, object] = {"launch": launch.model_copy(update=update)}
        if spec.init is not None and spec.init.folder is not None:
            folder = _absolute(spec.init.folder)
            changes["init"] = spec.init.model_copy(update={"folder": folder})
        return spec.model_copy(update=changes)


def plan_snapshot(store: Store, study: str, specs: Sequence[RunSpec]) -> Snapshot:
    """Return the snapshot of the code of runs, not yet written."""
    sources = Sources()
    files: CodeFiles = {}
    for package in PACKAGES:
        for file in _tracked(sources.root / package):
            files[str(file.relative_to(sources.root))] = file
    for spec in specs:
        for name, file in sources.code(spec).files.items():
            files.setdefault(name, file)
    for folder, name in zip(
        specs[0].launch.variant_paths, archived_variant_paths(specs[0]), strict=True
    ):
        for file in _tracked(Path(folder)):
            if file.suffix == ".py":
                files.setdefault(f"{name}/{file.relative_to(folder)}", file)
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        content = read_file(file)
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    folder_of_code = absolute(store.root) / study / ".code"
    return Snapshot(folder_of_code / digest.hexdigest()[:16], files)


def _tracked(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder without hidden and compiled ones."""
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        if file.is_file() and not any(part.startswith((".", "__pycache__")) for part in parts):
            yield file


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if path else path


def _absolute_files(slices: Sequence[TokenSlice]) -> list[TokenSlice]:
    return [part.model_copy(update={"file": _absolute(part.file)}) for part in slices]
