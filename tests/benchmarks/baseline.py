"""The comparison of a run of `make bench` with an earlier one, whose files are the baseline."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import peak_memory
import ratios
from peak_memory import Peak
from ratios import Ratio

FILES = ("ratios.json", "memory.json")  # of a folder; see `ratios.write` and `peak_memory.write`
Result = Ratio | Peak
FAILURES = {"slower": "slower", "more": "more memory"}


def verdicts(now: Sequence[Result], before: Mapping[str, Result]) -> dict[str, str]:
    """Return the verdict of each benchmark of this run by name."""
    return {result.benchmark: verdict(result, before.get(result.benchmark)) for result in now}


def verdict(now: Result, before: Result | None) -> str:
    """Return the verdict of `ratios` or `peak_memory`; "new" if the other was measured before."""
    if isinstance(now, Ratio):
        return ratios.verdict(now, before if isinstance(before, Ratio) else None)
    return peak_memory.verdict(now, before if isinstance(before, Peak) else None)


def problems(
    now: Sequence[Result], before: Mapping[str, Result], is_wanted: Callable[[str], bool]
) -> list[str]:
    """Return why the comparison fails: benchmarks that are slower, need more memory or are missing.

    `is_wanted` says of a benchmark's name whether this run was to measure it. A benchmark of the
    earlier run that this run lacks, or that has another peer, is missing: a new name or another
    peer would hide that it became slower.
    """
    if not before:
        return ["the earlier run has no benchmarks to compare with"]
    found = verdicts(now, before)
    wanted = [name for name in before if is_wanted(name)]
    worse = [f"{name}: {FAILURES[found[name]]}" for name in found if found[name] in FAILURES]
    missing = [f"{name}: only in the earlier run" for name in wanted if name not in found]
    new_peers = [
        f"{result.benchmark}: compared with {result.peer}, "
        f"with {before[result.benchmark].peer} before"
        for result in now
        if result.benchmark in before and before[result.benchmark].peer != result.peer
    ]
    failed = [*worse, *missing, *new_peers]
    if not failed and not any(name in before for name in found):
        failed.append("this run has no benchmark in common with the earlier run")
    return failed


def read(path: Path) -> dict[str, Result]:
    """Read the results of an earlier run by benchmark: a file of either form, or a folder of both.

    Raises:
        ValueError: a file is missing or invalid; the message gives the reason.
    """
    if not path.is_dir():
        return _read_file(path)
    files = [path / name for name in FILES if (path / name).exists()]
    if not files:
        raise ValueError(f"{path}: the folder has neither {' nor '.join(FILES)}")
    results: dict[str, Result] = {}
    for file in files:
        results |= _read_file(file)
    return results


def _read_file(file: Path) -> dict[str, Result]:
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
        return {record["benchmark"]: _result(record) for record in records}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file}: no results of an earlier run: {error}") from error


def _result(record: dict[str, object]) -> Result:
    if "ours_bytes" in record:
        return Peak(**record)
    return Ratio(**record | {"ci95": tuple(record["ci95"])})
