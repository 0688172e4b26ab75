"""The sections of a report: generators of their blocks; a section without blocks is left out."""

from collections.abc import Iterable, Iterator, Mapping

import pandas as pd

from harness.analysis.candidates import without_copies
from harness.analysis.summary import Summary
from harness.report.charts.spec import ChartSpec
from harness.report.document import Chart, ItemList, code_list, text

Charts = Mapping[str, ChartSpec]  # by name


def chart_blocks(charts: Charts, *names: str, static: bool = False) -> Iterator[Chart]:
    """Return the charts of these names that exist."""
    for name in names:
        if name in charts:
            yield Chart(charts[name], static)


def of_shown(summary: Summary, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the entries that are shown, without those of other parallelisms."""
    return frame[frame["entry"].isin([entry.label for entry in without_copies(summary.study)])]


def reason_list(reasons: Iterable[tuple[str, str]]) -> Iterator[ItemList]:
    """Return a list of reasons, each with its labels, from pairs of a reason and a label."""
    labels: dict[str, dict[str, None]] = {}  # in order, without repetitions
    for reason, label in reasons:
        labels.setdefault(reason, {})[label] = None
    if labels:
        yield ItemList(
            [text(f"{reason}: ", code_list(list(named)), ".") for reason, named in labels.items()]
        )
