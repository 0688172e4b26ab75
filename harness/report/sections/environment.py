"""Hardware, software versions and other conditions under which the runs took place."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from harness.analysis.summary import Summary
from harness.report.document import Block, Cell, Section, code_list, paragraph
from harness.report.formatting import MIB, MISSING, yes_no
from harness.report.sections import Charts
from harness.report.tables import table
from harness.results.run_data import RunData

IGNORED = {"schema_version"}


@dataclass
class Environment:
    """Values that the runs of some entries have in common."""

    values: Mapping[str, object]
    entries: list[str] = field(default_factory=list)


def build(summary: Summary, charts: Charts) -> Section | None:
    """Return what all runs have in common, and each distinct set of the rest."""
    shared, distinct = split_environments(summary.study.runs)
    if not shared and not distinct:
        return None
    rows = [[key, shown_value(key, value)] for key, value in shared.items()]
    blocks: list[Block] = [table("Environment of all runs", ["setting", "value"], rows)]
    if distinct:
        keys = list(distinct[0].values)
        rows_of_sets: list[list[Cell]] = []
        for item in distinct:
            shown = [shown_value(key, item.values[key]) for key in keys]
            rows_of_sets.append([*shown, code_list(item.entries)])
        blocks += [
            paragraph("These settings differ between runs:"),
            table("Settings that differ between runs", [*keys, "entries"], rows_of_sets),
        ]
    return Section("environment", "Environment", tuple(blocks))


def split_environments(
    runs: Iterable[RunData],
) -> tuple[Mapping[str, object], list[Environment]]:
    """Return the values that all environments share, and each distinct set of the others."""
    started = [(run.spec.entry, run.env.model_dump(exclude=IGNORED)) for run in runs if run.env]
    values = [env for _, env in started]
    keys = list(values[0]) if values else []
    shared = {key: values[0][key] for key in keys if _is_shared(values, key)}
    distinct: dict[str, Environment] = {}
    for entry, env in started:
        rest = {key: env[key] for key in keys if key not in shared}
        environment = distinct.setdefault(repr(rest), Environment(rest))
        if rest and entry not in environment.entries:
            environment.entries.append(entry)
    return shared, [environment for environment in distinct.values() if environment.values]


def _is_shared(values: Iterable[Mapping[str, object]], key: str) -> bool:
    return len({repr(env[key]) for env in values}) == 1


def shown_value(key: str, value: object) -> str:
    """Return the value of a setting as text."""
    if value is None:
        return MISSING
    if key == "memory_bytes" and isinstance(value, int | float):
        return f"{value / 1024 / MIB:.1f} GiB"
    return yes_no(value) if isinstance(value, bool) else str(value)
