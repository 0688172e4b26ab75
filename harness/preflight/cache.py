"""Keep the outcomes of checks: a model of the same code and options is not checked again.

A file for each model, named by the hash of all that determines the outcome.
"""

import contextlib
import hashlib
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
import torch
from pydantic import TypeAdapter

import harness
import variants
from harness.contract.checks import CheckResult
from harness.data.shards import cache_folder
from harness.provenance.sources import Sources
from harness.results.files import read_file, write_bytes
from harness.results.records import RunSpec
from variants.base import is_part

FOLDER = "preflight"
# Folders and files of the code that runs in the checks, except variants.
HARNESS_CODE = ("contract", "model", "probes/activations.py")


@dataclass(frozen=True)
class Outcome:
    """The outcome of each check, and the counted FLOPs per token if the formulas are wrong."""

    results: list[CheckResult]
    flops_per_token: float | None = None


_outcome = TypeAdapter(Outcome)


class Cache:
    """The outcomes of earlier checks, in the cache folder of the corpora."""

    def __init__(self) -> None:
        self._folder = cache_folder() / FOLDER
        self._sources = Sources()
        self._shipped_code = _hashes(_shipped_files())

    def key(self, spec: RunSpec) -> str:
        """Return the hash of all that determines the outcome of the checks of a run's model."""
        choices = {axis: c for axis, c in spec.axes.items() if is_part(axis)}
        files: dict[str, Path] = {}
        for axis, choice in choices.items():
            files |= self._sources.variant_files(axis, choice.name, spec.launch.variant_paths)
        content = {
            "code": self._shipped_code | _hashes(files),
            "variants": {axis: [c.name, c.options] for axis, c in choices.items()},
            "model": spec.model.model_dump(),
            "precision": spec.train.precision,
            "deterministic": spec.train.deterministic,
            "documents": spec.data.documents,
            "torch": torch.__version__,
            "python": sys.version,
            "machine": platform.machine(),
        }
        return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def read(self, key: str) -> Outcome | None:
        """Return the outcome of these checks; None if it is not known."""
        try:
            return _outcome.validate_json(read_file(self._path(key)))
        except (OSError, ValueError):
            return None

    def write(self, key: str, outcome: Outcome) -> None:
        """Keep an outcome; without a writable folder, the checks run again at the next start."""
        with contextlib.suppress(OSError):
            write_bytes(self._path(key), _outcome.dump_json(outcome))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key[:32]}.json"


def _shipped_files() -> dict[str, Path]:
    harness_folder = Path(harness.__file__).parent
    files: dict[str, Path] = {}
    for path in (*(harness_folder / name for name in HARNESS_CODE), Path(variants.__path__[0])):
        found = [path] if path.is_file() else path.rglob("*.py")
        files |= {str(file.relative_to(path.parent)): file for file in found}
    return files


def _hashes(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
