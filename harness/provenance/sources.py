"""Find the files whose code computes a run, from their imports, without importing them.

A file's name is independent of the location of the project and of the study: the harness's own
files are `harness/...` and `variants/...`, a user's files `user/FOLDER/...`, where FOLDER is the
last part of the study's `variant_paths`.
"""

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.provenance.contents import COMPUTING, ROOT
from harness.provenance.syntax import Import, read, syntax_hash
from harness.results.records import RunSpec

__all__ = ["Code", "CodeFiles", "Sources", "named_file", "syntax_hash"]

CodeFiles = dict[str, Path]  # by name

ENTRY_POINTS = ("harness/training/main.py", "harness/data/corpus.py")
# Code that only some runs use, and by which of their settings.
DECODE_PROBE = "harness/probes/decode.py"
LENGTHS_PROBE = "harness/probes/eval_lengths.py"
LM_EVAL_PROBE = (
    "harness/probes/lm_eval.py",
    "harness/probes/likelihood.py",
    "harness/probes/example_scores.py",
)
SYNTHETIC_CORPUS = "harness/data/synthetic.py"


@dataclass(frozen=True)
class Code:
    """Files of code by name, and the hash of their names and of their syntax.

    `is_complete` is False if a variant of the user is not found, as where only results are copied.
    """

    files: CodeFiles
    hash: str
    is_complete: bool = True

    @classmethod
    def of(cls, files: CodeFiles, is_complete: bool = True) -> "Code":
        """Return the code of these files."""
        lines = [f"{name} {syntax_hash(path)}" for name, path in sorted(files.items())]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
        return cls(files, digest, is_complete)


@dataclass(frozen=True)
class _UserFolder:
    """A folder of `variant_paths`, and the prefix of the names of its files."""

    path: Path
    prefix: str

    def name_of(self, file: Path) -> str:
        """Return the name of a file in this folder or next to it."""
        return self.prefix + os.path.relpath(file, self.path.parent)


class Sources:
    """The present state of the code, read at most once.

    `root` is the folder that holds `harness/` and `variants/`.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or ROOT
        self._code: dict[tuple[_CodeKey, ...], Code] = {}
        self._imported: dict[Import, tuple[str, ...]] = {}

    def code(self, spec: RunSpec, source_run: RunSpec | None = None) -> Code:
        """Return the code that determines the results of a run.

        The code of the run that it starts from, if there is one, belongs to it. Both are of one
        study, so that its present folders of variants are those of `spec`.
        """
        paths = tuple(spec.launch.variant_paths)
        keys = [_code_key(run, paths) for run in (spec, source_run) if run is not None]
        if tuple(keys) not in self._code:
            files: CodeFiles = {}
            is_complete = True
            for key in keys:
                files |= self._closure(ENTRY_POINTS, key.skipped)
                for axis, name in key.variants:
                    found = self.variant_files(axis, name, key.variant_paths)
                    files |= found
                    if key.variant_paths and not _has_variant(found, axis, name):
                        is_complete = False
            self._code[tuple(keys)] = Code.of(files, is_complete)
        return self._code[tuple(keys)]

    def variant_files(
        self, axis: str, name: str, variant_paths: Sequence[str | Path] = ()
    ) -> CodeFiles:
        """Return the file of a variant and the files of variants and helpers that it uses.

        Helpers are the files of a user's folder that a file imports or names in a string. Returns
        no files if there is no such variant.
        """
        file = Path(axis, f"{name}.py")
        for folder in _user_folders(variant_paths):
            if (folder.path / file).is_file():
                return self._user_closure(folder, folder.path / file)
        return self._closure([f"variants/{file}"])

    def _closure(self, names: Iterable[str], skipped: Sequence[str] = ()) -> CodeFiles:
        """Return the given files of the harness and all computing files that they import."""
        files: CodeFiles = {}
        pending: list[str] = []
        for name in names:
            pending += self._shipped(Import(0, name.removesuffix(".py").replace("/", ".")))
        while pending:
            name = pending.pop()
            if name in files or name in skipped:
                continue
            files[name] = self.root / name
            for imported in read(files[name]).imports:
                pending += self._shipped(imported)
        return files

    def _shipped(self, imported: Import) -> tuple[str, ...]:
        """Return the names of the computing files of the harness that an import loads."""
        if imported not in self._imported:
            self._imported[imported] = tuple(self._find_shipped(imported))
        return self._imported[imported]

    def _find_shipped(self, imported: Import) -> Iterator[str]:
        top, _, rest = imported.name.partition(".")
        is_computing = top == "harness" and rest.split(".")[0] in COMPUTING
        if imported.level or not (is_computing or top == "variants"):
            return
        for name in _module_names(imported.name):
            if name != "harness/__init__.py" and (self.root / name).is_file():
                yield name

    def _user_closure(self, folder: _UserFolder, file: Path) -> CodeFiles:
        """Return a user's file with all files of the user and of the harness that it uses."""
        helpers = _helpers(folder.path, file.parent)
        files: CodeFiles = {}
        shipped: set[str] = set()
        pending = [file]
        while pending:
            file = pending.pop()
            name = folder.name_of(file)
            if name in files:
                continue
            files[name] = file
            source = read(file)
            for imported in source.imports:
                names = self._shipped(imported)
                shipped.update(names)
                if not names:
                    pending += _imported_files(imported, file, folder.path, helpers)
            pending += _named_files(source.strings, helpers)
        return files | self._closure(sorted(shipped))


@dataclass(frozen=True)
class _CodeKey:
    """All of a spec that determines which code it uses."""

    skipped: tuple[str, ...]
    variants: tuple[tuple[str, str], ...]  # axis and name
    variant_paths: tuple[str, ...]


def _code_key(spec: RunSpec, variant_paths: tuple[str, ...]) -> _CodeKey:
    variants = tuple((axis, choice.name) for axis, choice in spec.variants.items())
    return _CodeKey(tuple(_unused(spec)), variants, variant_paths)


def _has_variant(files: CodeFiles, axis: str, name: str) -> bool:
    """Return whether the file of a variant is among these."""
    return any(file.endswith(f"/{axis}/{name}.py") for file in files)


def _unused(spec: RunSpec) -> Iterable[str]:
    """Yield the files that the training imports but does not use with these settings."""
    if spec.probes.decode is None:
        yield DECODE_PROBE
    if spec.probes.eval_lengths is None:
        yield LENGTHS_PROBE
    if spec.probes.lm_eval is None:
        yield from LM_EVAL_PROBE
    corpora = {part.path for part in spec.launch.mixture} or {spec.data.corpus}
    if "synthetic" not in corpora:
        yield SYNTHETIC_CORPUS


def _user_folders(variant_paths: Sequence[str | Path]) -> list[_UserFolder]:
    """Return the user's folders in the order in which they are searched."""
    folders = []
    names: list[str] = []
    for path in map(Path, variant_paths):
        n_before = names.count(path.name)
        names.append(path.name)
        folders.append(_UserFolder(path, f"user{n_before + 1}/" if n_before else "user/"))
    return folders


def named_file(root: Path, name: str, variant_paths: Sequence[str | Path]) -> Path:
    """Return the file of a name in `Code.files`; it may not exist."""
    files = [root / name]
    for folder in _user_folders(variant_paths):
        if name.startswith(folder.prefix):
            files.append(folder.path.parent / name.removeprefix(folder.prefix))
    return next((file for file in files[1:] if file.is_file()), files[-1])


def _helpers(folder: Path, axis_folder: Path) -> Mapping[str, list[Path]]:
    """Return the files that a variant may load, by name and, for modules, also by stem.

    These are the files below its axis's folder, in the user's folder, and one level below it.
    """
    found = [path for path in axis_folder.rglob("*") if "__pycache__" not in path.parts]
    for parent in (folder, *(path for path in folder.glob("[!.]*") if path.is_dir())):
        found += parent.glob("[!.]*")
    helpers: dict[str, list[Path]] = {}
    for file in dict.fromkeys(found):
        if file.is_file() and file.suffix != ".pyc":
            keys = (file.name, file.stem) if file.suffix == ".py" else (file.name,)
            for key in keys:
                helpers.setdefault(key, []).append(file)
    return helpers


def _module_names(dotted_name: str) -> Iterator[str]:
    """Yield the files that may hold the modules of a dotted name: a package, or a module in it."""
    path = ""
    for part in dotted_name.split("."):
        path = f"{path}/{part}".lstrip("/")
        yield f"{path}/__init__.py"
        yield f"{path}.py"


def _imported_files(
    imported: Import, file: Path, folder: Path, helpers: Mapping[str, list[Path]]
) -> list[Path]:
    """Return the user's files that an import loads, whatever the search path of modules is."""
    top = imported.name.partition(".")[0]
    if imported.level:
        bases = [file.parents[imported.level - 1]]
    elif top in sys.stdlib_module_names:
        return []
    else:
        bases = [file.parent, folder, folder.parent]
    for base in bases:
        files = [base / name for name in _module_names(imported.name)]
        existing = [file for file in files if file.is_file()]
        if existing:
            return existing
    return [file for file in helpers.get(top, []) if file.suffix == ".py"]


def _named_files(strings: Iterable[str], helpers: Mapping[str, list[Path]]) -> list[Path]:
    """Return the helpers that strings name: "_shared.py", "lib/_shared.py" or "lib._shared"."""
    files: list[Path] = []
    for string in strings:
        name = re.split(r"[/\\]", string)[-1]
        files += helpers.get(name, [])
        files += helpers.get(name.rpartition(".")[2], [])
    return files
