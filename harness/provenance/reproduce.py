"""Write a folder from which recorded runs can be trained again: study, variants and command."""

import json
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import harness
from harness.errors import StoreError, UserError
from harness.provenance import git
from harness.provenance.archive import installed_packages
from harness.provenance.syntax import syntax_hash
from harness.results.archive import Archive
from harness.results.files import absolute, write_bytes, write_text
from harness.results.records import ArchivedFile, CorpusPart, LaunchInputs, LaunchRecord, RunSpec
from harness.results.store import Store

STUDY = "study.toml"
PACKAGES = "packages.txt"
SCRIPT = "run.sh"
RECORDED = "recorded"  # folder of the harness's own files that have changed since
PACKAGES_OF_HARNESS = ("harness", "variants")
HUB_PREFIX = "hf:"
NAMED_CORPORA = ("synthetic", "tinyshakespeare")
# Of tables within an axis: { data = { corpus = ... } }, { value = ... } and [{ path = ... }].
CORPUS_KEYS = (("data", "corpus"), ("data.corpus", "value"), ("data.corpus", "path"))

SCRIPT_TEXT = """#!/bin/sh
# Trains {subject} again. PYTHON is the interpreter of an environment with the harness.
cd "$(dirname "$0")" || exit
{exports}exec "${{PYTHON:-python}}" -m harness {command}
"""


@dataclass(frozen=True)
class Reproduction:
    """The recorded inputs of runs; `files` are their code, by name."""

    archive: Archive
    launch: LaunchInputs
    specs: list[RunSpec]
    files: dict[str, ArchivedFile]
    run_id: str | None

    def write(self, folder: Path) -> None:
        """Write the study, the user's variants, the packages and the script.

        Raises:
            UserError: the folder is not empty.
        """
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder}: not empty; name a folder that is empty or does not exist")
        write_bytes(folder / STUDY, self.archive.read(self.launch.study_file))
        write_bytes(folder / PACKAGES, self.archive.read(self.launch.packages))
        for name, file in self.files.items():
            if name.startswith("user"):
                write_bytes(folder / name, self.archive.read(file.file))
        for name in self.changed_files():
            write_bytes(folder / RECORDED / name, self.archive.read(self.files[name].file))
        write_text(folder / SCRIPT, self._script())
        (folder / SCRIPT).chmod(0o755)

    def _script(self) -> str:
        exports = ""
        folders = archived_variant_paths(self.specs[0])
        if folders and not any(Path(folder).name in PACKAGES_OF_HARNESS for folder in folders):
            exports += 'export PYTHONPATH="$PWD/user${PYTHONPATH:+:$PYTHONPATH}"\n'
        if self.launch.data_folder is not None:
            exports += f"export ABLATIONS_DATA={shlex.quote(self.launch.data_folder)}\n"
        return SCRIPT_TEXT.format(
            subject=self.run_id or f"the runs of {self.specs[0].study}",
            exports=exports,
            command=shlex.join(self._arguments()),
        )

    def _arguments(self) -> list[str]:
        """Return the arguments of the command that trains the runs again, in the written folder."""
        arguments = ["run", STUDY]
        for setting in (*self.launch.settings, *self._paths()):
            arguments += ["--set", setting]
        if self.launch.seeds is not None:
            arguments += ["--seeds", self.launch.seeds]
        if self.run_id is not None:
            return [*arguments, "--run", self.run_id]
        for condition in self.launch.where:
            arguments += ["--where", condition]
        return arguments

    def _paths(self) -> Iterator[str]:
        """Yield settings that replace paths relative to the folder of the study.

        The corpus is the one that was used, which may be the study's `fallback_corpus`.
        """
        spec = self.specs[0]
        if spec.launch.variant_paths:
            yield f"study.variant_paths={_toml(archived_variant_paths(spec))}"
        if any("data.corpus" in choice.options for choice in spec.axes.values()):
            yield from self._axes_of_corpora()
        elif spec.launch.mixture:
            parts = [self._corpus_table(part) for part in spec.launch.mixture]
            yield f"data.corpus=[{', '.join(parts)}]"
        else:
            yield f"data.corpus={_toml(self._corpus_path(spec.data.corpus))}"
        folders = {spec.init.folder for spec in self.specs if spec.init is not None}
        for folder in folders - {None}:
            yield f"init.from_checkpoint={_toml(str(absolute(Path(str(folder)))))}"

    def _axes_of_corpora(self) -> Iterator[str]:
        """Yield the axes that vary the corpus, with absolute paths."""
        study = tomllib.loads(self.archive.read(self.launch.study_file).decode())
        axes: dict[str, object] = study["axes"]
        nested = axes.pop("data", None)  # `data.corpus = [...]`, without quotes
        if isinstance(nested, dict):
            axes |= {f"data.{key}": elements for key, elements in nested.items()}
        for axis, elements in axes.items():
            changed = self._with_absolute(elements, axis)
            if changed != elements:
                yield f"axes.{axis}={_toml(changed)}"

    def _with_absolute(self, value: object, key: str) -> object:
        """Return a value of an axis, at this dotted key, with absolute paths of corpora."""
        if isinstance(value, list):
            return [self._with_absolute(item, key) for item in value]
        if isinstance(value, dict):
            changed = {}
            for name, item in value.items():
                is_corpus = (key, name) in CORPUS_KEYS
                changed[name] = self._with_absolute(item, "data.corpus" if is_corpus else name)
            return changed
        is_corpus = key == "data.corpus" and isinstance(value, str)
        return self._corpus_path(str(value)) if is_corpus else value

    def _corpus_path(self, corpus: str) -> str:
        """Return the name of a corpus, or its path independent of the study's folder."""
        is_named = corpus in NAMED_CORPORA or corpus.startswith(HUB_PREFIX)
        return corpus if is_named else str(absolute(Path(self.launch.folder)) / corpus)

    def _corpus_table(self, part: CorpusPart) -> str:
        """Return a corpus of a mixture as TOML."""
        values = part.model_dump(exclude_none=True)
        values["path"] = self._corpus_path(part.path)
        weight = values.pop("weight")
        texts = [f"{key} = {_toml(value)}" for key, value in values.items()]
        return f"{{ {', '.join([*texts, f'weight = {weight!r}'])} }}"

    def changed_files(self) -> list[str]:
        """Return the recorded files of the harness that differ from the present ones."""
        root = Path(harness.__file__).parent.parent
        changed = []
        for name, file in sorted(self.files.items()):
            present = root / name
            is_equal = present.is_file() and syntax_hash(present) == file.syntax_sha256
            if not name.startswith("user") and not is_equal:
                changed.append(name)
        return changed

    def differences(self) -> Iterator[str]:
        """Yield a line for each difference of the present harness from the recorded one."""
        changed = self.changed_files()
        if changed:
            yield (
                f"{len(changed)} files of the harness differ from the recorded ones, which are in "
                f"{RECORDED}/: {', '.join(changed)}"
            )
        commit = git.commit()
        if commit != self.launch.git_commit:
            yield f"commit of the harness: recorded {self.launch.git_commit}, now {commit}"
        recorded = self.archive.read(self.launch.packages).decode().splitlines()
        missing = sorted(set(recorded) - set(installed_packages().splitlines()))
        if missing:
            yield f"recorded packages that are not installed: {', '.join(missing)}"


def find_reproduction(store: Store, study: str, run_id: str | None = None) -> Reproduction:
    """Return the inputs of a run, or of all finished runs of the newest launch's settings.

    Raises:
        UserError: there is no such run, its inputs were not recorded, or runs used different
            versions of one of the user's files.
    """
    specs = store.specs(study)
    if run_id is not None and run_id not in (spec.run_id for spec in specs):
        raise UserError(f"{run_id}: no such run in {store.root / study}")
    launch = _newest_launch(store.launches(study), run_id)
    if launch is None or launch.inputs is None:
        raise UserError(
            f"{store.root / study}: the inputs of {run_id or 'its runs'} were not recorded; "
            "`run` of this version records them"
        )
    if run_id is not None:
        specs = [spec for spec in specs if spec.run_id == run_id]
    else:
        specs = [spec for spec in specs if spec.settings_hash == launch.settings_hash]
        specs = [spec for spec in specs if store.run(study, spec.run_id).outcome.status == "done"]
    if not specs:
        raise UserError(f"{store.root / study}: no run of the newest launch is done")
    archive = store.archive(study)
    return Reproduction(archive, launch.inputs, specs, _code_files(archive, specs), run_id)


def _newest_launch(launches: Sequence[LaunchRecord], run_id: str | None) -> LaunchRecord | None:
    """Return the newest launch with recorded inputs, of that run if one is given."""
    for launch in reversed(launches):
        if launch.inputs is not None and (run_id is None or run_id in launch.order):
            return launch
    return None


def _code_files(archive: Archive, specs: Sequence[RunSpec]) -> dict[str, ArchivedFile]:
    """Return the files of the code of all specs by name."""
    files: dict[str, ArchivedFile] = {}
    origins: dict[str, str] = {}
    for spec in specs:
        try:
            manifest = archive.code(str(spec.code_hash))
        except StoreError as error:
            raise UserError(f"{spec.run_id}: its code is not archived: {error}") from error
        for name, file in manifest.files.items():
            known = files.setdefault(name, file)
            if known.syntax_sha256 != file.syntax_sha256:
                raise UserError(
                    f"{origins[name]} and {spec.run_id} used different versions of {name}; choose "
                    "one of them with --run RUN_ID"
                )
            origins.setdefault(name, spec.run_id)
    return files


def archived_variant_paths(spec: RunSpec) -> list[str]:
    """Return the user's folders of a spec under their names in the archive."""
    names: list[str] = []
    paths = []
    for path in map(Path, spec.launch.variant_paths):
        n_before = names.count(path.name)
        names.append(path.name)
        paths.append(f"user{n_before + 1 if n_before else ''}/{path.name}")
    return paths


def _toml(value: object) -> str:
    """Return a value as TOML."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_toml(key)} = {_toml(item)}' for key, item in value.items())} }}"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return repr(value)
    quoted = json.dumps(value, ensure_ascii=False)  # its escapes are those of TOML
    return quoted.replace("\x7f", "\\u007f")
