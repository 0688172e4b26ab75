"""If these failed, a reader would see a verdict in one column and its opposite in another."""

import re

import numpy as np
import pytest

from harness.analysis import summary
from harness.report import charts, study_report
from harness.report.render import html, markdown
from tests.analysis.test_records_agree import with_new_values

NUMBER = r"([+-]?[\d.]+(?:e[+-]?\d+)?)"
INTERVAL = re.compile(rf"{NUMBER}(?: ?%)? [\[(]{NUMBER}(?: ?%)?, {NUMBER}(?: ?%)?[\])]")
VERDICT = re.compile(r"(?<=\| )(better|worse|equivalent|unresolved)(?= *\|)")
N_STUDIES = 3  # of each design


def row_contradiction(row):
    """Return how a row of a table contradicts itself; None if it does not.

    Differences have signs, and no difference is 0. Ratios have none, and no difference is 1. An end
    that is rounded to this value agrees with every verdict.
    """
    verdict = VERDICT.search(row)
    found = INTERVAL.search(row)
    if verdict is None or found is None:
        return None
    center, low, high = (float(text) for text in found.groups())
    if not low <= center <= high:
        return "the value is outside of its interval"
    neutral = 0.0 if found[1][0] in "+-" else 1.0
    if verdict[0] == "unresolved" and (low > neutral or high < neutral):
        return "unresolved, and the interval excludes no difference"
    if verdict[0] in ("better", "worse") and low < neutral < high:
        return f"{verdict[0]}, and the interval contains no difference"
    return None


def rows_of(text):
    """Return the rows of all tables of report.md."""
    return [line for line in text.splitlines() if line.startswith("|") and INTERVAL.search(line)]


def rows_of_page(page):
    """Return the rows of all tables of a page, in the form of report.md.

    Those of the table of candidates end after the difference: other intervals have no verdict.
    """
    before, _, rest = page.partition('<table id="table">')
    candidates, _, after = rest.partition("</table>")
    found = [cells[:2] for cells in cells_of(candidates)] + cells_of(before + after)
    rows = []
    for cells in found:
        plain = [re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", cell)).strip() for cell in cells]
        rows.append("| " + " | ".join(plain) + " |")
    return [row for row in rows if INTERVAL.search(row)]


def cells_of(tables):
    """Return the cells of each row, as HTML."""
    rows = re.findall(r"<tr.*?</tr>", tables, re.DOTALL)
    return [re.findall(r"<td.*?</td>", row, re.DOTALL) for row in rows]


@pytest.mark.parametrize(
    ("row", "agrees"),
    [
        ("| a | better | -0.05 [-0.10, -0.01] |", True),
        ("| a | better | -0.05 [-0.10, 0) |", True),
        ("| a | better | -0.05 [-0.10, +0.01] |", False),
        ("| a | unresolved | -0.05 [-0.10, -0.01] |", False),
        ("| a | unresolved | 1.05 [0.98, 1.10] |", True),
        ("| a | unresolved | 1.05 [1.01, 1.10] |", False),
        ("| a | worse | better | 0.97 [0.90, 1.02] |", False),
        ("| a | worse | -8.55 % [-11.74 %, +5.24 %] |", False),
    ],
)
def test_contradictions_in_rows_are_found(row, agrees):
    assert (row_contradiction(row) is None) == agrees


@pytest.mark.parametrize("design", ["parallelisms", "asked_in_sizes"])
def test_no_row_of_the_report_contradicts_itself(design, request, read_study):
    """report.md and the page, with and without failed runs and margins."""
    study = read_study(request.getfixturevalue(design))
    rng = np.random.default_rng(1)
    wrong = []
    verdicts = set()
    for _ in range(N_STUDIES):
        results = summary.summarize(with_new_values(study, rng), "2026-01-01")
        document = study_report.build(results, charts.build(results))
        rows = rows_of(markdown.render(document)) + rows_of_page(html.render(document, None))
        for row in rows:
            verdicts.update(VERDICT.findall(row))
            found = row_contradiction(row)
            if found:
                wrong.append(f"{found}: {row}")
    assert not wrong, "\n".join(wrong[:8])
    assert verdicts >= {"better", "worse", "unresolved"}
