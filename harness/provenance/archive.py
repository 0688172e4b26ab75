"""Archive the inputs of a launch and the code of its runs, each file once, by its content."""

import json
import os
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

from harness.provenance import git
from harness.provenance.sources import Code
from harness.provenance.syntax import syntax_hash
from harness.results.archive import Archive
from harness.results.files import absolute, read_file
from harness.results.records import ArchivedFile, CodeManifest, LaunchInputs


def archive_code(archive: Archive, codes: Iterable[Code]) -> None:
    """Store the files of code that is not stored yet.

    Code that has been edited since it was hashed is left out: no run starts with it.
    """
    for code in codes:
        if archive.has_code(code.hash):
            continue
        files = {}
        for name, path in code.files.items():
            stored = archive.add(read_file(path), path.suffix)
            files[name] = ArchivedFile(syntax_sha256=syntax_hash(path), file=stored)
        if Code.of(code.files).hash == code.hash:
            archive.add_code(code.hash, CodeManifest(files=files))


def archive_inputs(
    archive: Archive,
    study_file: Path,
    settings: Sequence[str],
    seeds: str | None,
    where: Sequence[str],
) -> LaunchInputs:
    """Store the study file and the list of packages; return them with the overrides."""
    data_folder = os.environ.get("ABLATIONS_DATA")
    return LaunchInputs(
        study_file=archive.add(read_file(study_file), study_file.suffix),
        folder=str(absolute(study_file.parent)),
        settings=list(settings),
        seeds=seeds,
        where=list(where),
        packages=archive.add(_packages_once().encode(), ".txt"),
        git_commit=git.commit(),
        data_folder=str(absolute(Path(data_folder))) if data_folder else None,
    )


@cache
def _packages_once() -> str:
    """Return the installed packages, which are read once for all stages of a study."""
    return installed_packages()


def installed_packages() -> str:
    """Return the installed packages and their versions, a line each, as pip's requirements.

    Of several with one name, the one with an origin counts, else the one that is imported: a
    package in development is also found in its source folder, if that is on the search path.
    """
    lines: dict[str, str] = {}
    for package in metadata.distributions():
        line = _requirement(package)
        if " @ " in line or package.name not in lines:
            lines[package.name] = line
    return "".join(f"{line}\n" for line in sorted(lines.values(), key=str.lower))


def _requirement(package: metadata.Distribution) -> str:
    """Return name and version, or name and address if it was installed from a folder or by git."""
    try:
        origin = json.loads(package.read_text("direct_url.json") or "")
        revision = origin.get("vcs_info", {}).get("commit_id")
        return f"{package.name} @ {origin['url']}" + (f"@{revision}" if revision else "")
    except (ValueError, KeyError, AttributeError):
        return f"{package.name}=={package.version}"
