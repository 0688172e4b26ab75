"""What differs between the two sides of a comparison: settings, code, packages, machines."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.analysis import settings
from harness.analysis.dataset import Entry, StudyResults
from harness.errors import StoreError
from harness.report.compare.sources import Source
from harness.results.archive import Archive
from harness.results.records import ArchivedFile
from harness.results.records.study_comparison import ChangedFile, Values, Versions

MAX_DIFF_LINES = 80  # of the differences of one file


@dataclass(frozen=True)
class FileDifference:
    """A file that differs, and its differences in unified form without the file names."""

    file: ChangedFile
    diff: str


def between(a: Mapping[str, object], b: Mapping[str, object]) -> dict[str, Values]:
    """Return the values of A and B for each key on which they differ."""
    return {
        key: (a.get(key), b.get(key)) for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)
    }


def settings_of(study: StudyResults) -> dict[str, object]:
    """Return each setting, or its values by label if entries differ."""
    values: dict[str, object] = {}
    if study.entries:
        values |= settings.resolved(study.entries[0])
    for key, by_label in settings.varied(study).items():
        values[key] = [f"{value} ({label})" for label, value in by_label.items()]
    return values


def environment_of(study: StudyResults) -> dict[str, object]:
    """Return the value of each key of env.json, or the sorted list of values if runs differ."""
    values_by_key: dict[str, list[object]] = {}
    for run in study.runs:
        for key, value in run.env.without_place.model_dump().items() if run.env else ():
            known = values_by_key.setdefault(key, [])
            if value not in known:
                known.append(value)
    environment: dict[str, object] = {}
    for key, known in values_by_key.items():
        environment[key] = known[0] if len(known) == 1 else sorted(map(str, known))
    return environment


def packages(a: Source, b: Source) -> tuple[dict[str, Versions], list[str]]:
    """Return the packages that differ, and the sides whose packages are not archived.

    A missing package has no version, one that was installed from a folder or by git has that in
    place of a version.
    """
    of_a = _packages(a)
    of_b = _packages(b)
    if of_a is None or of_b is None:
        return {}, _unknown({a.label: of_a, b.label: of_b})
    names = sorted(of_a.keys() | of_b.keys(), key=str.lower)
    versions = {name: (of_a.get(name), of_b.get(name)) for name in names}
    return {name: pair for name, pair in versions.items() if pair[0] != pair[1]}, []


def _packages(source: Source) -> dict[str, str] | None:
    """Return the versions of packages of the newest launch that asked for a run of the side."""
    run_ids = {run.run_id for run in source.study.runs}
    for launch in reversed(source.study.launches):
        if launch.inputs is None or run_ids.isdisjoint([*launch.order, *launch.not_started]):
            continue
        try:
            content = source.archive.read(launch.inputs.packages).decode("utf-8")
        except OSError:
            continue
        return dict(_package(line) for line in content.splitlines() if line)
    return None


def _package(requirement: str) -> tuple[str, str]:
    name, _, version = requirement.partition("==")
    if version:
        return name, version
    name, _, address = requirement.partition(" @ ")
    return name, "from a folder" if address.startswith("file:") else address


def _unknown(by_side: Mapping[str, object | None]) -> list[str]:
    """Return the sides of which something is not archived."""
    return [label for label, known in by_side.items() if known is None]


@dataclass(frozen=True)
class CodeDifferences:
    """The files that differ, and the sides whose code is `unknown` or `mixed` (several versions).

    Files that compute the same come last.
    """

    files: list[FileDifference]
    unknown: list[str]
    mixed: list[str]


def code(
    a: Source, entries_of_a: Iterable[Entry], b: Source, entries_of_b: Iterable[Entry]
) -> CodeDifferences:
    """Compare the code of the runs: each file as the newest run used it."""
    sides = {a.label: _code(a.archive, entries_of_a), b.label: _code(b.archive, entries_of_b)}
    mixed = [label for label, versions in sides.items() if any(map(_is_mixed, versions.values()))]
    unknown = [label for label, versions in sides.items() if not versions]
    if unknown:
        return CodeDifferences([], unknown, mixed)
    of_a = {name: versions[0] for name, versions in sides[a.label].items()}
    of_b = {name: versions[0] for name, versions in sides[b.label].items()}
    found = []
    for name in sorted(of_a.keys() | of_b.keys()):
        old = of_a.get(name)
        new = of_b.get(name)
        if old is None or new is None or old.file != new.file:
            lines = (_lines(a.archive, old), _lines(b.archive, new))
            found.append(_difference(name, *lines, old, new))
    found.sort(key=lambda difference: difference.file.change == "reformatted")
    return CodeDifferences(found, unknown, mixed)


def _is_mixed(versions: Sequence[ArchivedFile]) -> bool:
    """Return whether the versions of a file compute different things."""
    return len({version.syntax_sha256 for version in versions}) > 1


def _code(archive: Archive, entries: Iterable[Entry]) -> dict[str, list[ArchivedFile]]:
    """Return the archived versions of each file of code by name, the newest first."""
    runs = [run for entry in entries for run in entry.runs if not run.imported]
    runs.sort(key=lambda run: run.started_at or "", reverse=True)
    versions: dict[str, list[ArchivedFile]] = {}
    for code_hash in dict.fromkeys(run.resolved.code_hash for run in runs):
        if code_hash is None:
            continue
        try:
            files = archive.code(code_hash).files
        except StoreError:
            continue
        for name, file in files.items():
            versions.setdefault(name, []).append(file)
    return versions


def _lines(archive: Archive, file: ArchivedFile | None) -> list[str]:
    """Return the lines of an archived file; none if it is missing."""
    if file is None:
        return []
    try:
        return archive.read(file.file).decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _difference(
    name: str,
    old_lines: Sequence[str],
    new_lines: Sequence[str],
    old: ArchivedFile | None,
    new: ArchivedFile | None,
) -> FileDifference:
    diff = list(difflib.unified_diff(old_lines, new_lines, lineterm="", n=2))[2:]
    shown = diff[:MAX_DIFF_LINES]
    if len(diff) > MAX_DIFF_LINES:
        shown.append(f"... {len(diff) - MAX_DIFF_LINES:,} more lines")
    if old is None:
        change = "added"
    elif new is None:
        change = "removed"
    else:
        change = "reformatted" if old.syntax_sha256 == new.syntax_sha256 else "changed"
    file = ChangedFile.model_validate(
        {
            "name": name,
            "change": change,
            "lines_added": sum(line.startswith("+") for line in diff),
            "lines_removed": sum(line.startswith("-") for line in diff),
        }
    )
    return FileDifference(file, "\n".join(shown))
