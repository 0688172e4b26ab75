"""If these failed, an entry would gain by the failure of its worst run."""

import itertools
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from harness.analysis import budgets, dataset, hypotheses, lost_seeds, summary
from harness.report.document import Code
from harness.report.sections import comparison, overview
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


def lowered(study, label, by, lost=()):
    """Return the study with the losses of an entry lowered, and some of its seeds failed."""
    entries = []
    for entry in study.entries:
        runs = []
        for run in entry.runs:
            if entry.label == label:
                run = replace(run, evals=replace(run.evals, val_loss=run.evals.val_loss - by))
            runs.append(run)
        entries.append(replace(entry, runs=tuple(runs)))
    changed = replace(study, entries=tuple(entries))
    for seed in lost:
        changed = lose(changed, seed, "nan", label)
    return changed


def test_no_verdict_gains_by_a_lost_seed(study):
    """Each entry is far better than all others on the seeds that are left, or far worse."""
    gains = {"better", "equivalent"}
    base = study.entries[0].label
    for label, seed, reason in itertools.product(
        [entry.label for entry in study.entries], (0, 1, 2), REASONS
    ):
        for by in (5.0, -5.0):
            lost = lose(lowered(study, label, by), seed, reason, label)
            results = hypotheses.test_hypotheses(lost)["val_loss"].entries
            if label == base:
                assert {result.verdict for result in results.values()}.isdisjoint(
                    {"worse", "equivalent"}
                )
            else:
                assert results[label].verdict not in gains
            for result in results.values():
                assert (
                    result.difference.ci95 is None
                    or result.verdict != "unresolved"
                    or (not result.lost_seeds)
                )


def test_pooled_verdicts_do_not_gain_by_a_context_that_failed(asked_in_sizes, read_study):
    """An entry that fails in its hardest context is not better on average over the others."""
    study = read_study(asked_in_sizes)
    for size in ("S", "M", "L"):
        label = f"rope-{size}"
        for seeds in ([0], range(5)):
            lost = study
            for other in ("S", "M", "L"):
                lost = lowered(lost, f"rope-{other}", 5.0)
            for seed in seeds:
                lost = lose(lost, seed, "oom", label)
            pooled = hypotheses.test_hypotheses(lost)["val_loss"].pooled
            result = next(row for row in pooled if row.asked == "rope")
            assert result.verdict == "unresolved"
            assert result.difference.ci95 is None
            assert result.lost_seeds == list(seeds)


def test_survivors_one_deviation_better_are_never_better(one_axis, read_study):
    """Ten seeds, of which the two worst fail: the other eight are 1 sd better in the mean."""
    one_axis.seeds = tuple(range(10))
    study = read_study(one_axis)
    label = study.entries[1].label
    rng = np.random.default_rng(0)
    false = {"all": 0, "lost": 0}
    for _ in range(60):
        noise = rng.standard_normal(10) * 0.01
        failed = np.argsort(noise)[-2:]
        survivors = np.setdiff1d(np.arange(10), failed)
        noise[survivors] -= noise[survivors].mean() + 0.01
        values = {seed: 2.0 + noise[seed] for seed in range(10)}
        simulated = with_final_losses(study, label, values)
        base = study.entries[0].label
        simulated = with_final_losses(simulated, base, dict.fromkeys(range(10), 2.0))
        for kind in false:
            kept = simulated
            for seed in failed:
                if kind == "lost":
                    kept = lose(kept, seed, "nan", label)
                else:
                    kept = without(kept, seed)
            result = hypotheses.test_hypotheses(kept)["val_loss"].entries[label]
            false[kind] += result.verdict == "better"
    assert false["lost"] == 0
    assert false["all"] > 30, "without the rule, the selection decides"


def with_final_losses(study, label, losses):
    """Return the study with these final losses of an entry, by seed."""
    entries = []
    for entry in study.entries:
        runs = []
        for run in entry.runs:
            if entry.label == label:
                values = np.append(run.evals.val_loss[:-1], losses[run.seed])
                run = replace(run, evals=replace(run.evals, val_loss=values))
            runs.append(run)
        entries.append(replace(entry, runs=tuple(runs)))
    return replace(study, entries=tuple(entries))


def without(study, seed):
    """Return the study without the runs of a seed, as if it was never started."""
    entries = []
    for entry in study.entries:
        runs = tuple(run for run in entry.runs if run.seed != seed)
        entries.append(replace(entry, runs=runs))
    return replace(study, entries=tuple(entries))


def test_the_mean_of_a_selection_has_no_interval(study):
    label = study.entries[1].label
    made = summary.summarize(lose(study, 0, "timeout", label), "now")
    for result in made.results.values():
        is_lost = result.entry == label
        assert (result.val_loss.ci95 is None) == is_lost
        assert (result.bits_per_byte.ci95 is None) == is_lost


def test_an_entry_whose_loss_is_not_tested_names_its_lost_seeds(fake):
    fake.axes["parallelism"] = ["single", "ddp2"]
    fake.outcome = {"rope-gqa2-ddp2-s0": ("failed", "oom", None)}
    study = dataset.read(fake.write().store, "tiny")
    failed = {entry.label: entry.lost_seeds for entry in study.entries}
    row = {"entry": "rope-gqa2-ddp2", "against": "learned-mha-single"}
    row |= {"seeds": (1, 2), "seeds_unpaired": 1}
    assert comparison._seeds(row, failed) == "2 (1 lost)"
