"""How the runs took place: failures, environment, initialization, settings and launches."""

import shlex
from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from harness.analysis.summary import Summary
from harness.printable import printable
from harness.report.document import (
    Block,
    Cell,
    Code,
    CodeBlock,
    Details,
    Heading,
    ItemList,
    code_list,
    paragraph,
    text,
)
from harness.report.formatting import MISSING, count, number, setting
from harness.report.sections import Charts
from harness.report.tables import table

MAX_LOGS = 10
MAX_LEVELS = 12  # values of a varied setting that are listed
MAX_WIDTH = 300  # characters of a line of a log
SETTINGS = {"model": "Model", "data": "Data", "train": "Training"}
NO_COMMAND = "# the command was not recorded"


def failures(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return every run that is not done, and the logs of those that failed."""
    rows = []
    failed = []
    for run in summary.study.runs:
        if run.status != "done":
            steps = MISSING
            if not run.imported:
                steps = f"{len(run.steps):,} of {run.resolved.train.steps:,}"
            reasons = [run.reason or MISSING, run.message or MISSING]
            rows.append([run.run_id, run.status, *reasons, steps])
        if run.status in ("failed", "interrupted") and run.log_tail:
            failed.append(run)
    if not rows:
        return
    titles = ["run", "status", "reason", "message", "steps"]
    yield table("Runs that are not done", titles, rows)
    for run in failed[:MAX_LOGS]:
        lines = [printable(line)[:MAX_WIDTH] for line in run.log_tail]
        yield Details(f"Last lines of the log of {run.run_id}", [CodeBlock("\n".join(lines))])
    if len(failed) > MAX_LOGS:
        n_more = count(len(failed) - MAX_LOGS, "further run")
        yield paragraph(f"The logs of {n_more} are in the results folder.")


def environment(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the environment that all runs have in common, and each distinct set of the rest."""
    environments = {}  # by their content
    entries: dict[str, dict[str, None]] = {}
    for run in summary.study.runs:
        if run.env:
            values = run.env.without_place.model_dump(exclude={"schema_version"})
            shown = {key: setting(key, value) for key, value in values.items()}
            environments[repr(shown)] = shown
            entries.setdefault(repr(shown), {})[run.spec.entry] = None
    if not environments:
        return
    keys = list(next(iter(environments.values())))
    values_by_key = {key: {env[key] for env in environments.values()} for key in keys}
    differing = [key for key in keys if len(values_by_key[key]) > 1]
    shared = [
        [key, *values_by_key[key]]
        for key in keys
        if key not in differing and values_by_key[key] != {""}
    ]
    yield table("Environment of all runs", ["setting", "value"], shared)
    if differing:
        rows: list[list[Cell]] = []
        for content, env in environments.items():
            rows.append([*(env[key] for key in differing), code_list(list(entries[content]))])
        yield paragraph("These settings differ between runs:")
        yield table("Settings that differ between runs", [*differing, "entries"], rows)


def compilation(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the number of compiled graphs of each entry, if the study compiles models."""
    rows = []
    for entry in summary.study.entries:
        reports = [run.probes.compilation for run in entry.done if run.probes]
        known = [report for report in reports if report is not None]
        if known:
            worst = max(known, key=lambda report: (report.limit_reached, report.n_graphs))
            limit = "reached" if worst.limit_reached else "not reached"
            recompiles = number(worst.n_recompiles, str)
            compile_s = number(worst.compile_s, "{:.1f}".format)
            counts = [str(worst.n_graphs), str(worst.n_graph_breaks), recompiles, compile_s]
            rows.append([entry.label, *counts, limit])
    if rows:
        yield paragraph(
            "Training steps run compiled, evaluations uncompiled. Blocks that differ only in their "
            "parameters share a graph. Where the compiler's limit of graphs is reached, the rest "
            "of the model runs uncompiled, and no speed is reported."
        )
        numeric = ["graphs", "graph breaks", "recompilations", "compilation, s"]
        yield table("Compiled graphs", ["entry", *numeric, "limit"], rows, numeric)


def initialization(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the tensors that each entry loaded from a checkpoint, if the study starts from one."""
    rows = []
    for entry in summary.study.entries:
        probes = entry.done[0].probes if entry.done else None
        report = probes.init_report if probes else None
        if report:
            origins = Counter(report.tensors.values())
            converted = [
                f"{n}: {origin.removeprefix('converted: ')}"
                for origin, n in origins.items()
                if ":" in origin
            ]
            row = [entry.label, report.source, report.sha256[:12]]
            row += ["; ".join(converted) or MISSING, ", ".join(report.dropped) or MISSING]
            rows.append([*row, str(origins["loaded"]), str(origins["fresh"])])
    if rows:
        numeric = ["loaded", "newly initialized"]
        titles = ["entry", "checkpoint (of the first seed)", "SHA-256", "converted", "dropped"]
        spec = summary.study.spec
        n_seen = spec.data_offset_steps if spec else 0
        yield paragraph(
            f"The runs start from a checkpoint. They continue the data order after its first "
            f"{n_seen} steps, on which the weights were trained. Numbers count tensors."
        )
        yield table("Initialization from a checkpoint", [*titles, *numeric], rows, numeric)


def settings(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the settings that vary and those that all entries share: model, data and training."""
    varied = summary.varied
    titles = {
        label: summary.study.title(axis, label)
        for axis, labels in summary.study.levels.items()
        for label in labels
    }
    if varied:
        rows = []
        for key, values in varied.items():
            levels = [
                f"{setting(key, value)} ({titles.get(label, label)})"
                for label, value in values.items()
            ]
            more = len(levels) - MAX_LEVELS
            shown = levels[:MAX_LEVELS] + ([f"{more} more"] if more > 0 else [])
            rows.append([key, ", ".join(shown)])
        yield Heading("Settings that vary")
        yield table("Settings that vary", ["setting", "value (label)"], rows)
    for section, title in SETTINGS.items():
        shared = getattr(summary.study.spec, section, None)
        if shared is not None:
            rows = [
                [key, setting(key, value)]
                for key, value in shared
                if f"{section}.{key}" not in varied
            ]
            yield Heading(title)
            yield table(title, ["setting", "value"], rows)


def source(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the table that an imported study is of, and the results that it lacks."""
    if not summary.study.imported:
        return
    rows = []
    for launch in summary.study.launches:
        table_read = launch.imported
        if table_read is not None:
            content = [table_read.path, str(table_read.rows), table_read.sha256]
            rows.append([_to_seconds(launch.at), *content, launch.note or MISSING])
    yield paragraph(
        "These runs are of another trainer. Their losses are in nats per token, times in seconds, "
        "memory in bytes, as the table states them. The model, the data, the hardware and the "
        "number of processes are unknown: there are no FLOPs and no MFU, no equivalence of "
        "parallelisms is checked, and no run can be trained again from here."
    )
    titles = ["imported at", "table", "rows", "SHA-256", "note"]
    yield table("Imports of this study", titles, rows, ["rows"], folded=False)
    commands = [launch.command or NO_COMMAND for launch in summary.study.launches[-1:]]
    commands.append(f"python -m harness report {shlex.quote(summary.study.name)}")
    yield CodeBlock("\n".join(commands), "sh")


def _to_seconds(time: str) -> str:
    return datetime.fromisoformat(time).isoformat(timespec="seconds")


def launches(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the order in which runs were started, and the commands that reproduce the report."""
    if summary.study.imported:
        return
    run_ids = {run.run_id for run in summary.study.runs}
    commands: dict[str, None] = {}
    started = []
    for launch in summary.study.launches:
        if not run_ids & set(launch.order):
            continue
        started.append(text(f"{launch.at}: {count(len(launch.order), 'run')}"))
        commands[launch.command or NO_COMMAND] = None
    if commands:
        yield paragraph(
            "Runs are shuffled within each seed, so that a drift of the machine's speed affects "
            "all variants alike. Launches, whose order is in ",
            Code("summary.json"),
            ":",
        )
        yield ItemList(started)
        commands[f"python -m harness report {shlex.quote(summary.study.name)}"] = None
        yield Heading("Reproduce")
        yield CodeBlock("\n".join(commands), "sh")
        if any(launch.inputs is not None for launch in summary.study.launches):
            folder = shlex.quote(summary.study.folder)
            yield paragraph(
                "The study file, the code of the runs and the list of packages are archived. If "
                "any of them has changed since, this writes the recorded ones to DIR, with the "
                "command that trains them again; ",
                Code("--run RUN_ID"),
                " selects one run:",
            )
            yield CodeBlock(f"python -m harness reproduce {folder} DIR", "sh")
