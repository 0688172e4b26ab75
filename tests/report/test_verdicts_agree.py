"""No table, figure or sentence shows a verdict next to an interval that contradicts it."""

import re

import numpy as np
import pandas as pd
import pytest

from harness.analysis import dataset
from harness.analysis.families import test_family
from harness.analysis.summary import summarize
from harness.report import charts, formatting, study_report
from harness.report.charts.spec import Intervals
from harness.report.document import Details, EntryTable, Table
from harness.report.tables import records
from harness.results.records import EquivalenceMargin, LaunchRecord, Superiority

test_family.__test__ = False  # it is the function under test
INTERVAL = re.compile(r"([\[(])([-+\d.e %]+), ([-+\d.e %]+)([\])])")
N_STUDIES = 1000


def includes(text, null):
    """Return whether the interval of a cell includes a value; None without an interval."""
    found = INTERVAL.search(re.sub(r"(?<=\d),(?=\d)", "", text))
    if found is None:
        return None
    left, low, high, right = found.groups()
    low, high = (float(end.replace(" %", "")) for end in (low, high))
    above = low < null or (low == null and left == "[")
    below = null < high or (null == high and right == "]")
    return above and below


def check(verdict, text, null, where):
    """Fail if a verdict and its interval, as shown, contradict each other."""
    inside = includes(text, null)
    if verdict in ("better", "worse") and not (inside is None and where == "effects"):
        assert inside is False, (where, verdict, text)  # an effect on the memory is exact
    if verdict == "unresolved":
        assert inside is not False, (where, verdict, text)


def simulate(rng):
    """Return the values of a family, (n_seeds, n_entries), of any scale and noise, with gaps."""
    n_seeds = int(rng.integers(2, 6))
    n_entries = int(rng.integers(2, 7))
    noise = np.exp(rng.normal(0.0, 0.5, n_entries)) * rng.choice([1e-6, 1e-3, 0.1])
    effects = rng.choice([0.0, 1.0, 3.0, 30.0], n_entries) * rng.normal(0.0, noise)
    values = effects + rng.normal(0.0, noise, (n_seeds, n_entries)) + rng.normal(size=(n_seeds, 1))
    if rng.random() < 0.2:
        values[:, -1] = values[:, 0] + rng.choice([0.0, 0.01])
    lost = {}
    if rng.random() < 0.2 and n_seeds > 2:
        values[-1, -1] = np.nan
        lost = {f"e{n_entries - 1}": [n_seeds - 1]}
    names = [f"e{i}" for i in range(n_entries)]
    return pd.DataFrame(values, columns=names), lost, float(np.median(noise))


def test_every_cell_of_simulated_studies_agrees_with_its_verdict():
    rng = np.random.default_rng(17)
    words = set()
    n_open = 0
    for _ in range(N_STUDIES):
        values, lost, scale = simulate(rng)
        margin = scale if rng.random() < 0.5 else None
        test = test_family(values, "e0", margin, lost=lost)
        for label, result in test.results.items():
            words.add(result.verdict)
            mean = result.difference.mean
            low, high = result.difference.ci95 or (None, None)
            n_open += low != high and 0.0 in (low, high)
            ratio = [None if end is None else float(np.exp(end)) for end in (mean, low, high)]
            check(result.verdict, formatting.difference(mean, low, high), 0.0, label)
            check(result.verdict, formatting.change(mean, low, high), 0.0, label)
            check(result.verdict, formatting.tested_ratio(*ratio), 1.0, label)
    assert words >= {"better", "worse", "equivalent", "unresolved"}
    assert n_open  # some entries are rejected in a later step only


# -- whole reports ---------------------------------------------------------------------------------


def plain(fake, asked_in_sizes):
    fake.settings, fake.compare = {}, None
    fake.axes = {"positional": ["learned", "rope"], "attention": ["mha", "gqa2", "local64"]}
    fake.baseline = {"positional": "learned", "attention": "mha"}
    fake.seeds = (0, 1, 2)


def two_seeds(fake, asked_in_sizes):
    plain(fake, asked_in_sizes)
    fake.seeds = (0, 1)


def with_lost_seeds(fake, asked_in_sizes):
    plain(fake, asked_in_sizes)
    fake.outcome = {
        "rope-mha-s1": ("failed", "nan", "NotFiniteError: step 6"),
        "learned-local64-s2": ("failed", "oom", "OutOfMemoryError: 2 GiB"),
    }


def with_copies(fake, asked_in_sizes):
    plain(fake, asked_in_sizes)
    fake.axes = fake.axes | {"parallelism": ["single", "ddp2"]}
    fake.baseline = fake.baseline | {"parallelism": "single"}


def in_contexts(fake, asked_in_sizes):
    """Keep the study of three variants in three sizes."""


PAIRS = {
    Table: [
        ("verdict", "difference in val loss", 0.0),
        ("verdict", "mean difference", 0.0),
        ("verdict", "change", 0.0),
        ("throughput", "tokens/s ×", 1.0),
    ],
    EntryTable: [("verdict", "difference", 0.0), ("throughput", "tokens/s ×", 1.0)],
}  # titles of a verdict and its interval, and the value of no difference
KINDS = [plain, two_seeds, with_lost_seeds, with_copies, in_contexts]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def summary(request, fake, asked_in_sizes):
    """Return the results of a study of each kind, with a margin and a threshold."""
    request.param(fake, asked_in_sizes)
    fake.write()
    launch = LaunchRecord(
        order=[],
        settings_hash="c0ffee",
        equivalence_margin=EquivalenceMargin(val_loss=0.02, tokens_per_s=0.05, peak_memory=0.01),
        superiority=Superiority(val_loss=0.02, tokens_per_s=0.05),
        compare=fake.compare,
    )
    fake.store.record_launch(fake.name, launch)
    return summarize(dataset.read(fake.store, fake.name), "now")


def test_every_table_agrees_with_its_verdicts(summary):
    """A table is checked if it has a column of verdicts and one of differences or ratios."""
    document = study_report.build(summary, [])
    n_checked = 0
    for section in document.sections:
        for block in tables_of(section.blocks):
            for row in rows_of(block):
                for verdict, shown, null in PAIRS[type(block)]:
                    if verdict in row and shown in row:
                        check(row[verdict], row[shown], null, section.id)
                        n_checked += row[verdict] in ("better", "worse", "unresolved")
    assert n_checked > 5


def tables_of(blocks):
    """Yield the tables of a section, with those that only Markdown has."""
    for block in blocks:
        if isinstance(block, Table | EntryTable):
            yield block
        if isinstance(block, EntryTable):
            yield from tables_of(block.static)
        if isinstance(block, Details):
            yield from tables_of(block.blocks)


def rows_of(block):
    """Return the text of each cell by its title, for each row of a table."""
    if isinstance(block, Table):
        return [{title: str(cell) for title, cell in row.items()} for row in records(block.frame)]
    titles = [column.title for column in block.columns]
    rows = [part for row in block.rows for part in (row, *row.contexts)]
    return [dict(zip(titles, (cell.text for cell in row.cells), strict=True)) for row in rows]


def test_every_chart_agrees_with_its_verdicts(summary):
    n_checked = 0
    for chart in charts.build(summary):
        if isinstance(chart.plot, Intervals):
            for row in chart.plot.rows:
                low, high = row.interval
                if row.verdict == "unresolved":
                    assert low < 0 < high, (chart.name, row)
                if row.verdict in ("better", "worse"):
                    assert low >= 0 or high <= 0, (chart.name, row)
                n_checked += 1
    assert n_checked > 2


def test_the_records_agree_with_their_verdicts(summary):
    """Whoever reads the tables in Python or from the CSV files sees what the page shows."""
    for name in ("verdicts", "pooled", "effects"):
        for row in records(summary.tables.get(name, pd.DataFrame())):
            value = "estimate" if name == "effects" else "difference"
            low, high = row[f"{value}_low"], row[f"{value}_high"]
            if low is not None:
                assert row["verdict"] != "unresolved" or low < 0 < high, row
                assert row["verdict"] not in ("better", "worse") or low >= 0 or high <= 0, row
