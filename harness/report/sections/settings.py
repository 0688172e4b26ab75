"""Settings that all entries share: model, data and training."""

from harness.analysis.summary import Summary
from harness.report.document import Block, Heading, Section, text
from harness.report.sections import Charts
from harness.report.sections.environment import shown_value
from harness.report.tables import table

SECTIONS = {"model": "Model", "data": "Data", "train": "Training"}


def build(summary: Summary, charts: Charts) -> Section | None:
    """Return the resolved settings."""
    blocks: list[Block] = []
    for section, title in SECTIONS.items():
        values = getattr(summary.study.spec, section, None)
        if values is not None:
            rows = [[key, shown_value(key, value)] for key, value in values]
            blocks += [Heading(text(title)), table(title, ["setting", "value"], rows)]
    return Section("settings", "Settings", tuple(blocks)) if blocks else None
