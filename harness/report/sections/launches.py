"""The order in which runs were started, and the commands that reproduce the report."""

import shlex
from collections.abc import Sequence

from harness.analysis.summary import Summary
from harness.report.document import (
    Block,
    Code,
    CodeBlock,
    Details,
    Heading,
    NumberedList,
    Section,
    paragraph,
    text,
)
from harness.report.formatting import count
from harness.report.sections import Charts


def build(summary: Summary, charts: Charts) -> Section | None:
    """Return the launches that started runs of this report."""
    study = summary.study
    run_ids = {run.run_id for run in study.runs}
    launches = [launch for launch in study.launches if run_ids & set(launch.get("order", ()))]
    if not launches:
        return None
    blocks: list[Block] = [
        paragraph(
            "Runs are shuffled within each seed, so that a drift of the machine's speed affects "
            "all variants alike."
        )
    ]
    for launch in launches:
        order = launch["order"]
        time = launch.get("at", "at an unknown time")
        items = tuple(text(Code(run_id)) for run_id in order)
        blocks.append(Details(f"{time}: {count(len(order), 'run')}", (NumberedList(items),)))
    commands = list(dict.fromkeys(_command(launch.get("command")) for launch in launches))
    commands.append(f"python -m harness report {shlex.quote(study.name)}")
    blocks += [Heading(text("Reproduce")), CodeBlock("\n".join(commands), "sh")]
    return Section("launches", "Order of runs", tuple(blocks))


def _command(command: str | Sequence[str] | None) -> str:
    if command is None:
        return "# the command was not recorded"
    return command if isinstance(command, str) else shlex.join(command)
