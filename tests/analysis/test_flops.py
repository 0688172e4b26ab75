"""Where a formula is wrong, every figure that uses FLOPs uses the counted ones and says so."""

import pytest
from reported import written

from harness.analysis import budgets, metrics
from harness.results.files import read_json, write_json

pytestmark = pytest.mark.usefixtures("no_figures")

ENTRY = "rope-mha-single"
FORMULA = 1.4e6
COUNTED = 3 * FORMULA


@pytest.fixture
def counted(fake):
    """A study in which the FLOPs of one entry are counted."""
    fake.write()
    for run in fake.store.runs(fake.name):
        if run.run_id.startswith(f"{ENTRY}-"):
            path = run.path / "spec.json"
            spec = read_json(path)
            spec["expected"]["flops_per_token_counted"] = COUNTED
            write_json(path, spec)
    return fake


def test_mfu_and_budgets_use_the_counted_flops(counted, read_study):
    """A formula that is too low would let the entry lead at equal FLOPs."""
    study = read_study(counted)
    entries = {entry.label: entry for entry in study.entries}
    result = metrics.result(entries[ENTRY])
    assert (result.flops_per_token, result.flops_source) == (COUNTED, "counted")
    assert result.mfu == COUNTED * result.tokens_per_s.median / result.peak_flops
    other = metrics.result(entries["learned-mha-single"])
    assert (other.flops_per_token, other.flops_source) == (FORMULA, "formula")
    run = entries[ENTRY].done[0]
    assert budgets.SPENT["flops"](run)[-1] == counted.steps * counted.tokens * COUNTED


def test_report_names_both_figures_of_the_flops(counted):
    """A reader must see that the figure is not the variant's own."""
    page, summary, _ = written(counted)
    (caveat,) = [c for c in summary["caveats"] if c["kind"] == "counted-flops"]
    assert caveat["entry"] == ENTRY
    assert "1.4e+06 FLOPs per token, 4.2e+06 are counted (3.00 times)" in caveat["message"]
    assert caveat["message"] in page.partition("\n## ")[0]


def test_frames_use_the_counted_flops(counted):
    """The tables in pandas must agree with the report."""
    import harness

    runs = harness.load(counted.root, study=counted.name).runs
    of_entry = runs[runs.entry == ENTRY]
    assert set(of_entry.flops_per_token) == {COUNTED}
    assert set(runs[runs.entry != ENTRY].flops_per_token) == {FORMULA}
