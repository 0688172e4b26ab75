"""What changed between the two sides of a comparison, their values side by side."""

from collections.abc import Iterator, Mapping, Sequence

from harness.report import formatting
from harness.report.compare.differences import FileDifference
from harness.report.document import (
    Block,
    Code,
    CodeBlock,
    Details,
    Heading,
    code_list,
    note,
    paragraph,
)
from harness.report.tables import table
from harness.results.records.entries import EntryStatus
from harness.results.records.study_comparison import StudyComparison, Values

# Fields of env.json; all others are of the machine and of how it was used.
SOFTWARE = ("version", "git_commit", "git_dirty", "python", "torch", "numpy", "cuda")
MAX_DIFFS = 12  # files whose lines are shown


def build(comparison: StudyComparison, files: Sequence[FileDifference]) -> Iterator[Block]:
    """Yield a table for each kind of difference, under a heading of its own."""
    environment = comparison.environment_diff
    software: dict[str, Values] = {}
    for key in SOFTWARE:
        if key in environment:
            software[key] = environment[key]
    for key, versions in comparison.packages_diff.items():
        software.setdefault(key, versions)
    machine = {key: values for key, values in environment.items() if key not in SOFTWARE}
    parts: dict[str, list[Block]] = {
        "Settings": list(_values(comparison, "setting", comparison.settings_diff)),
        "Code": list(_code(comparison, files)),
        "Software": list(_software(comparison, software)),
        "Machine": list(_values(comparison, "property", machine)),
        "Models": list(_models(comparison)),
        "Status of the runs": list(_statuses(comparison)),
    }
    for title, blocks in parts.items():
        if blocks:
            yield Heading(title)
            yield from blocks


def _values(
    comparison: StudyComparison, noun: str, differences: Mapping[str, Values]
) -> Iterator[Block]:
    """Yield a table with a row for each key that differs."""
    rows = []
    for key, values in differences.items():
        rows.append([key, *(formatting.setting(key, value) for value in values)])
    if rows:
        titles = [noun, comparison.a, comparison.b]
        yield table(f"Differences by {noun}", titles, rows, folded=False)


def _software(comparison: StudyComparison, differences: Mapping[str, Values]) -> Iterator[Block]:
    yield from _values(comparison, "software", differences)
    if comparison.packages_unknown:
        yield paragraph(
            "Other packages are not compared: they are not recorded for ",
            code_list(comparison.packages_unknown),
            ".",
        )


def _code(comparison: StudyComparison, files: Sequence[FileDifference]) -> Iterator[Block]:
    """Yield the files that differ, with their numbers of lines, then the lines, folded."""
    if comparison.code_unknown:
        yield note("The code is not archived of ", code_list(comparison.code_unknown), ".")
    for side in comparison.code_mixed:
        yield note(
            "Runs of ",
            Code(side),
            " used several versions of the code; of each file, the newest is compared.",
        )
    rows = []
    for difference in files:
        file = difference.file
        rows.append([file.name, file.change, f"+{file.lines_added}", f"-{file.lines_removed}"])
    if not rows:
        return
    titles = ["file", "change", "lines added", "lines removed"]
    yield table("Files of code that differ", titles, rows, titles[2:])
    if any(difference.file.change == "reformatted" for difference in files):
        yield paragraph(
            "Of reformatted files, only docstrings, comments or formatting differ: they compute "
            "the same."
        )
    for difference in files[:MAX_DIFFS]:
        if difference.diff:
            yield Details(f"Lines of {difference.file.name}", [CodeBlock(difference.diff, "diff")])
    if len(files) > MAX_DIFFS:
        yield paragraph(f"The lines of {len(files) - MAX_DIFFS:,} more files are not shown.")


def _statuses(comparison: StudyComparison) -> Iterator[Block]:
    rows = []
    for pair in comparison.pairs:
        if pair.status[0] != pair.status[1]:
            rows.append([pair.entry, *map(_status, pair.status)])
    if rows:
        titles = ["entry", comparison.a, comparison.b]
        yield table("Status of the runs", titles, rows, folded=False)


def _status(status: EntryStatus) -> str:
    if isinstance(status, str):
        return status
    return ", ".join(f"{n} {name}" for name, n in status.items())


def _models(comparison: StudyComparison) -> Iterator[Block]:
    rows = []
    for pair in comparison.pairs:
        if any(map(_differ, (pair.parameters, pair.flops_per_token))):
            sizes = [*pair.parameters, *pair.flops_per_token]
            rows.append(
                [pair.entry, *(formatting.number(size, "{:,.0f}".format) for size in sizes)]
            )
    if rows:
        sides = (comparison.a, comparison.b)
        numeric = [f"parameters, {side}" for side in sides]
        numeric += [f"FLOPs per token, {side}" for side in sides]
        yield table("Models that differ", ["entry", *numeric], rows, numeric, folded=False)


def _differ(sides: Sequence[float | None]) -> bool:
    """Return whether two known values differ."""
    return None not in sides and len(set(sides)) > 1
