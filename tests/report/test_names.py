"""A reader of any table or figure would take the result of a leaking entry at face value."""

import csv
import re

import pytest
from reported import written

from harness.analysis import caveats, dataset
from harness.analysis.summary import summarize
from harness.report import charts, compare, names, study_report
from harness.report.charts.spec import Dots, Lines, Scatter
from harness.report.compare import Source
from harness.report.render import markdown
from harness.results.records.caveats import Caveat

LEAK = "rope-mha-single"
STAMPED = "rope · mha · single [non-causal]"
CANDIDATE = "rope · mha [non-causal]"


@pytest.fixture
def leak(monkeypatch):
    caveat = Caveat(kind="non-causal", entry=LEAK, message="position 3 sees token 4.")
    monkeypatch.setattr(caveats, "SOURCES", (lambda study: iter([caveat]),))
    return caveat


def test_every_table_and_the_first_screen_are_stamped(fake, leak):
    page, summary, folder = written(fake.write())
    opening = page.partition("\n## ")[0]
    assert STAMPED in opening and leak.message in opening
    for section in page.split("\n## ")[1:]:
        for table in section.split("\n\n"):
            if table.startswith("|"):
                after = section.partition(table)[2][:200]
                assert "[non-causal]" in table or "entries with caveats" in after, table[:300]
    for line in page.splitlines():
        assert not re.search(rf"{LEAK}(?!-s\d)", line), line
    assert summary["caveats"] == [leak.model_dump()]
    assert STAMPED in (folder / "index.html").read_text()


def test_a_leak_is_never_the_best_entry(fake, leak):
    """The harness exists to not be fooled by such a loss."""
    page, _, _ = written(fake.write())
    opening = page.partition("\n## ")[0]
    assert "rope [non-causal]: sees later tokens." in opening
    better = opening.partition("**Better**")[2].partition("**")[0]
    assert better and "rope · mha" not in better
    assert f"Lowest final validation loss: {STAMPED}" not in page


def test_answer_says_which_verdicts_rest_on_caveats(fake, leak, monkeypatch):
    unstable = leak.model_copy(update={"kind": "unstable"})
    monkeypatch.setattr(caveats, "SOURCES", (lambda study: iter([unstable]),))
    page, _, _ = written(fake.write())
    assert "**Do not trust yet**\n\n- rope · mha [unstable] (single): unstable training\n" in page
    better = page.partition("**Better**")[2].partition("**")[0]
    assert better.strip() and "rope · mha" not in better
    baseline = leak.model_copy(update={"entry": "learned-mha-single"})
    monkeypatch.setattr(caveats, "SOURCES", (lambda study: iter([baseline]),))
    page, _, _ = written(fake)
    warning = "learned · mha [non-causal] (single): sees later tokens."
    assert f"{warning} Every verdict rests on the baseline" in page


def test_tables_of_claims_have_the_kinds_of_caveats(fake, leak):
    _, _, folder = written(fake.write())
    for name in ("entries", "comparisons", "verdicts", "rankings", "savings"):
        with open(folder / "tables" / f"{name}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        kinds = {row["entry"]: row["caveats"] for row in rows}
        assert kinds.pop(LEAK) == "non-causal", name
        assert set(kinds.values()) == {""}, name


def test_figures_are_stamped(fake, leak):
    study = dataset.read(fake.write().store, fake.name)
    shown = names.of_summary(summarize(study, "now"))
    n_named = 0
    for spec in charts.build(summarize(study, "now")):
        stamped = names.rename(spec, shown)
        assert STAMPED in stamped.caption or CANDIDATE in stamped.caption
        if LEAK in names_of(spec.plot):
            n_named += 1
            assert {STAMPED, CANDIDATE} & {*names_of(stamped.plot)}, spec.name
            assert LEAK not in names_of(stamped.plot), spec.name
    assert n_named >= 5
    specs = {spec.name: spec for spec in charts.build(summarize(study, "now"))}
    curves = names.rename(specs["val_loss"], shown)
    drawn = [line.name for panel in curves.plot.panels for line in panel.lines]
    assert "rope · mha [non-causal]" in drawn


def names_of(plot):
    if isinstance(plot, Dots):
        return plot.rows
    if isinstance(plot, Lines):
        return [line.entry for panel in plot.panels for line in panel.lines]
    return [row.name for row in (plot.points if isinstance(plot, Scatter) else plot.rows)]


def test_comparison_is_stamped_on_either_side(fake, leak, tmp_path):
    store = fake.write().store
    a = Source("a", dataset.read(store, fake.name), store.archive(fake.name))
    fake.name = "other"
    fake.write()
    b = Source("b", dataset.read(store, fake.name), store.archive(fake.name))
    folder = compare.write(a, b, tmp_path / "out")
    page = (folder / "report.md").read_text()
    assert STAMPED in page
    assert "in a: position 3" in page and "in b: position 3" in page


def test_report_without_caveats_has_no_stamp(fake):
    page, summary, _ = written(fake.write())
    assert "caveats" not in page and summary["caveats"] == []


def test_stamp_keeps_what_it_does_not_change(fake, leak):
    summary = summarize(dataset.read(fake.write().store, fake.name), "now")
    document = study_report.build(summary, [])
    label = "no-such-entry"
    other = names.Names({label: f"{label} [unstable]"}, {label: " [unstable]"})
    assert names.rename(document, other) is document
    same = names.rename_document(document, names.Names({}, {}))
    assert markdown.render(same) == markdown.render(document)
