"""The end of the page: what did not finish, on what it ran, with which settings, in which order, how to repeat it."""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from harness.analysis.summary import Summary
from harness.report import formatting as cells
from harness.report.formatting import MIB, NONE, count, join, listing
from harness.results.run_data import RunData
from harness.results.upgrade import Json

Captions = dict[str, str]
MAX_LOGS, MAX_WIDTH = 10, 300


def unfinished(summary: Summary, captions: Captions) -> str:
    """Every run that is not done, why, and the last lines of the logs of those that broke."""
    runs = [run for run in summary.study.runs if run.status != "done"]
    if not runs:
        return ""
    rows = [
        [run.run_id, run.status, run.reason or NONE, run.message or NONE, _progress(run)]
        for run in runs
    ]
    table = cells.table(["run", "status", "reason", "message", "steps"], rows, left=4)
    broken = [run for run in runs if run.status in ("failed", "interrupted") and run.log_tail]
    logs = [f"`{run.run_id}`:\n\n{_fenced(run.log_tail)}" for run in broken[:MAX_LOGS]]
    if len(broken) > MAX_LOGS:
        logs.append(
            f"The logs of {count(len(broken) - MAX_LOGS, 'further run')} are in the results folder."
        )
    return join("## Not done", table, *(["Last lines of the logs:", *logs] if logs else []))


def _progress(run: RunData) -> str:
    return f"{len(run.steps):,} of {run.spec.train.steps:,}"


def _fenced(lines: Iterable[str]) -> str:
    plain = [
        re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f]", "", line)[:MAX_WIDTH]
        for line in lines
    ]
    longest = max((len(ticks) for line in plain for ticks in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}text", *plain, fence])


def machine(summary: Summary, captions: Captions) -> str:
    """What the runs ran on: what all share, and each distinct set of the rest."""
    shared, sets = environments(summary.study.runs)
    if not shared and not sets:
        return ""
    parts = ["## Machine and versions", _facts(shared)]
    if sets:
        keys = list(sets[0][0])
        rows = [
            [*(_shown(key, values[key]) for key in keys), listing(entries)]
            for values, entries in sets
        ]
        parts += [
            "These differ between runs:",
            cells.table([*keys, "entries"], rows, left=len(keys) + 1),
        ]
    return join(*parts)


def environments(runs: Iterable[RunData]) -> tuple[Json, list[tuple[Json, list[str]]]]:
    """Return what all runs' environments share, and each distinct set of the rest with the entries that had it."""
    started = [
        (run.spec.entry, run.env.model_dump(exclude={"schema_version"})) for run in runs if run.env
    ]
    keys = list(started[0][1]) if started else []
    shared = {
        key: started[0][1][key] for key in keys if len({repr(env[key]) for _, env in started}) == 1
    }
    sets: dict[str, tuple[Json, list[str]]] = {}
    for entry, env in started:
        rest = {key: env[key] for key in keys if key not in shared}
        entries = sets.setdefault(repr(rest), (rest, []))[1]
        if entry not in entries:
            entries.append(entry)
    return shared, [item for item in sets.values() if item[0]]


def start(summary: Summary, captions: Captions) -> str:
    """What the runs started from, and which tensors of it each entry loaded, converted, drew afresh and dropped."""
    started = [
        (entry, run.measured.init_report)
        for entry in summary.study.entries
        for run in entry.done[:1]
    ]
    rows = []
    for entry, found in ((entry, found) for entry, found in started if found):
        hows = Counter(found.tensors.values())
        converted = "; ".join(
            f"{n}: {how.removeprefix('converted: ')}" for how, n in hows.items() if ":" in how
        )
        counts = [str(hows[how]) for how in ("loaded", "fresh")]
        origin = [found.source, found.sha256[:12]]
        rows.append(
            [entry.label, *origin, converted or NONE, ", ".join(found.dropped) or NONE, *counts]
        )
    if not rows:
        return ""
    header = [
        "entry",
        "from (of the first seed)",
        "SHA-256",
        "converted",
        "dropped",
        "loaded",
        "fresh",
    ]
    return join(
        "## Start",
        "The runs start from a checkpoint; the numbers are of tensors.",
        cells.table(header, rows, left=5),
    )


def settings(summary: Summary, captions: Captions) -> str:
    """What all entries share: model, data, training."""
    spec = summary.study.spec
    facts = [
        f"**{section}**\n\n{_facts(getattr(spec, section).model_dump())}"
        for section in ("model", "data", "train")
        if spec is not None
    ]
    return join("## Settings", *facts) if facts else ""


def _facts(values: Mapping[str, Any]) -> str:
    return cells.table(
        ["", "value"], [[key, _shown(key, value)] for key, value in values.items()], left=2
    )


def _shown(key: str, value: Any) -> str:
    if value is None:
        return NONE
    if key == "memory_bytes":
        return f"{value / 1024 / MIB:.1f} GiB"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def launches(summary: Summary, captions: Captions) -> str:
    """In which order the runs were started, and the command that repeats it."""
    study = summary.study
    known = {run.run_id for run in study.runs}
    ours = [launch for launch in study.launches if known & set(launch.order)]
    if not ours:
        return ""
    orders = []
    for launch in ours:
        rows = "\n".join(f"{i}. `{run_id}`" for i, run_id in enumerate(launch.order, start=1))
        title = f"{launch.at}: {count(len(launch.order), 'run')}"
        orders.append(f"<details><summary>{title}</summary>\n\n{rows}\n\n</details>")
    text = "Runs are shuffled within each seed, so that a machine that slows down does not slow one variant."
    commands = "\n".join(
        dict.fromkeys(launch.command or "# the command was not recorded" for launch in ours)
    )
    again = f"```sh\n{commands}\npython -m harness report {shlex.quote(study.name)}\n```"
    return join("## Order of runs", text, *orders, "## Reproduce", again)
