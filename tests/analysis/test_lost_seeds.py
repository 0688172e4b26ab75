"""If these failed, an entry would gain by the failure of its worst run."""

import itertools
from dataclasses import replace
from typing import get_args

import pytest

from harness.analysis import budgets, lost_seeds, summary
from harness.report.document import Code
from harness.report.sections import overview
from harness.results.records import FailureReason

REASONS = get_args(FailureReason)


@pytest.fixture
def study(fake, read_study):
    """Return a study of a baseline and three other entries, three seeds each."""
    fake.axes = {
        "positional": ["learned", "rope"],
        "attention": ["mha", "gqa2"],
        "parallelism": ["single"],
    }
    return read_study(fake)


def lose(study, seed, reason, *labels):
    """Return the study with failed runs of one seed, which keep their curves."""
    entries = []
    for entry in study.entries:
        runs = []
        for run in entry.runs:
            if entry.label in labels and run.seed == seed:
                message = f"made to fail: {reason}"
                run = replace(run, status="failed", reason=reason, message=message, probes=None)
            runs.append(run)
        entries.append(replace(entry, runs=tuple(runs)))
    return replace(study, entries=tuple(entries))


def losses(study):
    """Return each way in which one run can fail: the label, the seed, the reason, the study."""
    labels = [entry.label for entry in study.entries]
    for label, seed, reason in itertools.product(labels, (0, 1, 2), REASONS):
        yield label, seed, reason, lose(study, seed, reason, label)


def ratios(cost):
    return [value for name, value in vars(cost).items() if "ratio" in name]


def test_an_entry_that_lost_a_seed_has_no_rank(study):
    for label, _, _, lost in losses(study):
        rankings = budgets.rankings(lost)
        assert {"tokens", "flops", "train_s"} <= {row.budget_kind for row in rankings}
        for ranking in rankings:
            assert label not in ranking.val_loss
            assert ranking.lost == [label] or ranking.budget_kind == "parameters"
        assert label not in budgets.leaders(rankings)


def test_an_entry_that_lost_a_seed_has_no_cost(study):
    whole = {cost.entry: cost for cost in budgets.savings(study)}
    for label, seed, _, lost in losses(study):
        for cost in budgets.savings(lost):
            if label in (cost.entry, cost.against):
                assert cost.lost_seeds == [seed]
                assert set(ratios(cost)) == {None}
            else:
                assert cost == whole[cost.entry]


def test_the_caveat_names_seed_and_reason(study):
    for label, seed, reason, lost in losses(study):
        (caveat,) = lost_seeds.caveats(lost)
        assert (caveat.entry, caveat.kind) == (label, "lost-seeds")
        assert f"seed {seed} failed ({reason}: made to fail: {reason})" in caveat.message
        assert "the other seeds (2 of 3) are a selection" in caveat.message


def test_the_overview_names_no_leader_with_lost_seeds(study):
    """The entry of the lowest loss, or of the highest throughput, must not lead with fewer runs."""
    for label in [entry.label for entry in study.entries]:
        made = summary.summarize(lose(study, 2, "nan", label), "now")
        assert Code(label) not in overview._leaders(made)


def test_seeds_that_all_entries_lost_are_no_selection(study):
    """A seed that no entry could train on favours none."""
    lost = lose(study, 1, "killed", *(entry.label for entry in study.entries))
    assert lost_seeds.selected(lost.entries) == set()
    assert {len(ranking.lost) for ranking in budgets.rankings(lost)} == {0}
    for cost in budgets.savings(lost):
        assert cost.lost_seeds == [1]
        assert set(ratios(cost)) != {None}
    assert len([*lost_seeds.caveats(lost)]) == len(lost.entries), "each says what it rests on"
