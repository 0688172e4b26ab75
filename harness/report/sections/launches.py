"""The order in which runs were started, and the commands that reproduce the report."""

import shlex

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

NO_COMMAND = "# the command was not recorded"


def build(summary: Summary, charts: Charts) -> Section | None:
    """Return the launches that started runs of this report."""
    study = summary.study
    run_ids = {run.run_id for run in study.runs}
    launches = [launch for launch in study.launches if run_ids & set(launch.order)]
    if not launches:
        return None
    blocks: list[Block] = [
        paragraph(
            "Runs are shuffled within each seed, so that a drift of the machine's speed affects "
            "all variants alike."
        )
    ]
    for launch in launches:
        order = launch.order
        items = tuple(text(Code(run_id)) for run_id in order)
        blocks.append(Details(f"{launch.at}: {count(len(order), 'run')}", (NumberedList(items),)))
    commands = list(dict.fromkeys(launch.command or NO_COMMAND for launch in launches))
    commands.append(f"python -m harness report {shlex.quote(study.name)}")
    blocks += [Heading(text("Reproduce")), CodeBlock("\n".join(commands), "sh")]
    return Section("launches", "Order of runs", tuple(blocks))
