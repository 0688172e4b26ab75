"""Render the first screen of a report as plain text, for the end of a run in a terminal."""

import textwrap
from collections.abc import Iterator

from tabulate import tabulate

from harness.printable import one_line, printable
from harness.report.charts.spec import Forest
from harness.report.document import FirstScreen, Inline, Text

REPLACEMENTS = {"·": "-", "–": "-", "−": "-", "×": "x"}  # for terminals without Unicode
INDENT = "  "


def render(first: FirstScreen, width: int = 100, encoding: str = "utf-8") -> str:
    """Return the question, the answers, the table of candidates and the recommendations.

    Sentences are wrapped at `width` columns; characters that `encoding` lacks are replaced.
    """
    shown = printable("\n\n".join(_parts(first, width))) + "\n"
    try:
        shown.encode(encoding)
    except UnicodeEncodeError:
        for character, replacement in REPLACEMENTS.items():
            shown = shown.replace(character, replacement)
        shown = shown.encode(encoding, "replace").decode(encoding)
    return shown


def _parts(first: FirstScreen, width: int) -> Iterator[str]:
    yield _wrap(first.question, width)
    for sentence in first.sentences:
        yield _wrap(sentence, width)
    if first.chart is not None and isinstance(first.chart.plot, Forest):
        yield _table(first.chart.plot)
    for advice in first.advice:
        items = [_wrap(item, width, "- ") for item in advice.items]
        yield "\n".join([f"{advice.title}:", *items])


def _table(forest: Forest) -> str:
    """Return a row for each candidate, the best first."""
    rows = []
    for row in forest.rows:
        costs = [f"{cost.text} {cost.change}".strip() for cost in row.costs]
        rows.append([one_line(row.name), row.verdict, row.text, *costs])
    headers = ["", "verdict", forest.x.label, *forest.cost_titles]
    table = tabulate(rows, headers, tablefmt="simple", disable_numparse=True)
    more = f"\n{forest.n_more:,} more candidates are in the report." if forest.n_more else ""
    return table + more


def _wrap(content: Text, width: int, bullet: str = "") -> str:
    text = bullet + "".join(map(_plain, content))
    indent = INDENT if bullet else ""
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent * 2)


def _plain(part: Inline) -> str:
    return part if isinstance(part, str) else part.text
