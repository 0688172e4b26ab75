"""If these failed, entries would be repeated for each context, or a context would be hidden."""

import itertools

import pytest
from reported import written

from harness.analysis import dataset
from harness.analysis.candidates import find_candidates, without_copies
from harness.analysis.contexts import compared_axes, entries_by_context
from harness.analysis.summary import summarize
from harness.report import charts, study_report
from harness.report.charts.spec import Bars, Dots, Intervals, Scatter
from harness.report.document import Heading

pytestmark = pytest.mark.usefixtures("no_figures")

ASKED = {"positional": ["learned", "rope"], "attention": ["mha", "gqa2"]}
PARALLEL = {"parallelism": ["single", "ddp2", "fsdp2"]}
SIZE = {"size": ["S", "M"]}
SIZES = {"S": {"model.n_embd": 64}, "M": {"model.n_embd": 128}}
MISSING = [("rope", "mha", "fsdp2"), ("learned", "gqa2", "ddp2")]
KINDS = {  # axes, what is asked, missing combinations, rows of the table of contexts
    "no context": (ASKED, None, [], 0),
    "only parallelism": (PARALLEL, None, [], 0),
    "parallelism": (ASKED | PARALLEL, None, [], 3),
    "size": ({"positional": ["learned", "rope"], **SIZE}, ["positional"], [], 2),
    "size and parallelism": (ASKED | SIZE | PARALLEL, list(ASKED), [], 6),
    "missing combinations": (ASKED | PARALLEL, None, MISSING, 3),
    "90 entries": (
        {"attention": [f"w{i}" for i in range(45)], "parallelism": ["single", "ddp2"]},
        None,
        [],
        2,
    ),
}


SUMMARIES = {}


@pytest.fixture(params=KINDS)
def kind(request, fake):
    """A summary of a study of each kind, and its number of contexts, computed once."""
    if request.param in SUMMARIES:
        return SUMMARIES[request.param]
    fake.axes, fake.compare, missing, n_contexts = KINDS[request.param]
    fake.baseline = {axis: labels[0] for axis, labels in fake.axes.items()}
    fake.settings = {"size": SIZES}
    fake.steps = 4
    fake.seeds = (0, 1)
    fake.write()
    for labels, seed in itertools.product(missing, fake.seeds):
        run = fake.store.run(fake.name, f"{'-'.join(labels)}-s{seed}-{fake.settings_hash}")
        for path in run.path.iterdir():
            path.unlink()
        run.path.rmdir()
    SUMMARIES[request.param] = summarize(dataset.read(fake.store, fake.name), "now"), n_contexts
    return SUMMARIES[request.param]


def test_each_entry_is_in_one_context(kind):
    summary, n_contexts = kind
    study = summary.study
    rows = summary.compared_contexts
    assert (
        len(rows) == n_contexts and len(summary.tables.get("context_comparison", ())) == n_contexts
    )
    if n_contexts:
        found = [e.label for by in entries_by_context(study).values() for e in by.values()]
        assert sorted(found) == sorted(entry.label for entry in study.entries)
        assert sum(row.n_entries for row in rows) == len(study.entries)
        (reference,) = [row for row in rows if row.is_reference]
        assert reference.levels == {axis: study.baseline[axis] for axis in compared_axes(study)}
        for row in rows:
            if row.entry and not row.is_reference:
                ratio = row.tokens_per_s_ratio.ratio
                assert row.lowest_tokens_per_s_ratio <= ratio <= row.highest_tokens_per_s_ratio


def test_charts_have_a_row_for_each_candidate(kind):
    summary, n_contexts = kind
    candidates = find_candidates(summary.study)
    mains = [candidate.main.label for candidate in candidates]
    n_shown = min(len(mains), 40)
    specs = {spec.name: spec.plot for spec in charts.build(summary)}
    for name in ("throughput", "memory", "phases"):
        plot = specs[name]
        assert isinstance(plot, Bars)
        assert len({row.name for row in plot.rows}) == len(plot.rows) == n_shown
        assert {row.name for row in plot.rows} <= set(mains)
    assert isinstance(specs["throughput_loss"], Scatter)
    assert [point.name for point in specs["throughput_loss"].points] == mains
    differences = specs.get("differences_tokens_per_s")
    if differences is not None:
        assert isinstance(differences, Intervals)
        assert {row.name for row in differences.rows} <= set(mains)
    assert ("contexts" in specs) == (n_contexts > 1)
    if n_contexts:
        dots = specs["contexts"]
        assert isinstance(dots, Dots) and len(dots.rows) == n_shown
        speeds = dots.panels[0].dots
        assert len({(dot.row, dot.mark) for dot in speeds}) == len(speeds)
        assert len(speeds) == min(len(summary.study.entries), n_shown * n_contexts)


def test_tables_of_losses_list_no_copies(kind):
    summary, _ = kind
    kept = without_copies(summary.study)
    losses = {}
    for entry in summary.study.entries:
        losses.setdefault(tuple(v for k, v in entry.axes.items() if k != "parallelism"), entry)
    if set(summary.study.varying()) - {"parallelism"}:
        assert len(kept) == len(losses)
    else:
        assert kept == list(summary.study.entries)


def test_the_report_has_few_sections_in_two_levels(kind):
    summary, n_contexts = kind
    document = study_report.build(summary, charts.build(summary))
    assert len(document.sections) <= 11
    ids = [section.id for section in document.sections]
    assert ids == [anchor for anchor, _ in study_report.SECTIONS if anchor in ids]
    assert ids[0] == "entries" and ids[-1] == "runs"
    for section in document.sections:
        previous = 2
        for block in section.blocks:
            if isinstance(block, Heading):
                assert block.level <= previous + 1
                previous = block.level
    if n_contexts:
        title = next(one.title for one in document.sections if one.id == "contexts")
        axes = compared_axes(summary.study)
        assert title == (axes[0].capitalize() if len(axes) == 1 else "Contexts")


def test_a_context_that_diverges_says_so(fake):
    fake.axes = ASKED | PARALLEL
    fake.write()
    path = next(
        fake.store.run(fake.name, run.run_id).path
        for run in dataset.read(fake.store, fake.name).runs
        if run.run_id.startswith("rope-gqa2-fsdp2-s0")
    )
    probes = path / "probes.json"
    probes.write_text(probes.read_text().replace("rope-gqa2-0", "other-0"))
    page, summary, _ = written(fake)
    section = page.split("## Parallelism")[1].split("\n## ")[0]
    assert "DIVERGES: 1 entry" in section and "**Failed:**" in section
    (row,) = [one for one in summary["compared_contexts"] if one["context"] == "fsdp2"]
    assert row["diverging"] == ["rope-gqa2-fsdp2"]
    assert row["tokens_per_s"] is not None, "the baseline's own speed stays"


def test_an_interval_beyond_the_axis_ends_in_an_arrow(fake):
    fake.axes = {"attention": ["mha", "gqa2"]}
    fake.baseline = {"attention": "mha"}
    fake.seeds = (0, 1)
    summary = summarize(dataset.read(fake.write().store, fake.name), "now")
    (spec,) = [one for one in charts.build(summary) if one.name == "differences_tokens_per_s"]
    plot = spec.plot
    (row,) = plot.rows
    is_wide = row.interval[0] < -75 or row.interval[1] > 300
    assert bool(plot.x.limits) == is_wide == ("arrow" in spec.subtitle)
    wide = type(row)(row.name, row.value, (-99.0, 900.0), row.verdict, row.style)
    cut = Intervals(type(plot.x)("x", (-75.0, 300.0)), [wide])
    assert cut.cut_ends() == [(0, "low"), (0, "high")]
    assert Intervals(type(plot.x)("x"), [wide]).cut_ends() == []
