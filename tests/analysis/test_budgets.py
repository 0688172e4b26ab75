"""If these failed, entries would be ranked or priced at budgets that are not equal."""

from dataclasses import replace

import numpy as np
import pytest

from harness.analysis import budgets
from harness.results.records import EquivalenceMargin, LaunchRecord
from harness.results.run_data import Evals


def test_an_entry_of_a_unique_size_has_no_size_ranking(fake, read_study):
    fake.axes = {"positional": ["learned", "rope"]}
    fake.baseline = {"positional": "learned"}
    study = read_study(fake)
    kinds = [ranking.budget_kind for ranking in budgets.rankings(study)]
    assert kinds == ["tokens", "flops", "train_s", "parameters"]
    for run in study.find({"positional": "rope", "optimizer": "adamw"}).done:
        run.probes.__dict__["parameters"] *= 2  # records are frozen
    kinds = [ranking.budget_kind for ranking in budgets.rankings(study)]
    assert kinds == ["tokens", "flops", "train_s"]


def test_slow_entries_rank_lower_at_equal_time(fake, read_study):
    study = read_study(fake)
    rankings = {ranking.budget_kind: ranking for ranking in budgets.rankings(study)}
    by_time = rankings["train_s"].val_loss
    single = {label for label in by_time if label.endswith("single")}
    assert set(rankings["tokens"].val_loss) == single, "the others repeat them"
    assert by_time["rope-mha-ddp2"].mean > by_time["rope-mha-single"].mean
    assert list(by_time) == sorted(by_time, key=lambda label: by_time[label].mean)
    assert rankings["train_s"].budget == min(run.evals.train_s[-1] for run in study.runs)


def with_curves(study, curves):
    """Return a study of one axis whose entries have these validation curves, a list per seed."""
    entries = []
    for entry, of_seeds in zip(study.entries, curves, strict=True):
        runs = []
        for run, losses in zip(entry.runs, of_seeds, strict=True):
            n = len(losses)
            step = np.linspace(0, len(run.steps), n).astype(int)
            evals = Evals(
                step=step,
                val_loss=np.array(losses, dtype=float),
                bits_per_byte=np.array(losses) / np.log(2),
                train_s=2.0 * step,
                ema_val_loss=np.full(n, np.nan),
            )
            runs.append(replace(run, evals=evals))
        entries.append(replace(entry, runs=tuple(runs)))
    return replace(study, entries=tuple(entries))


@pytest.fixture
def pair(one_axis, read_study):
    """Return a study of a baseline and another entry, three seeds of 12 steps each."""
    return read_study(one_axis)


def test_the_cost_of_a_loss_is_that_of_its_first_crossing(pair):
    """Computed by hand, for steps 0, 4, 8 and 12; a loss is reached within 0.001 nats."""
    base = [5.0, 3.0, 2.0, 1.999]  # reaches 2.0 at step 8
    other = [5.0, 2.0, 1.5, 1.0]  # reaches 2.0 at step 4
    study = with_curves(pair, [[base] * 3, [other, other, [5.0, 3.0, 1.0, 0.9]]])
    (cost,) = budgets.savings(study)
    ratios = [8 / 4, 8 / 4, 8 / (4 + 4 * (3 - 2) / (3 - 1))]
    assert cost.tokens_ratio == pytest.approx(np.exp(np.mean(np.log(ratios))))
    assert cost.train_time_ratio == pytest.approx(cost.tokens_ratio), "2 s per step"
    logs = np.log(ratios)
    half = 4.302652729911275 * logs.std(ddof=1) / np.sqrt(3)  # t quantile with 2 df
    expected = np.exp([logs.mean() - half, logs.mean() + half])
    assert cost.tokens_ratio_ci95 == pytest.approx(expected)
    assert (cost.seeds, cost.not_reached, cost.baseline_not_reached) == ([0, 1, 2], [], [0, 1, 2])


def test_seeds_that_never_reach_the_loss_give_a_bound(pair):
    """A mean over the seeds that reach it would be that of a selection: here 2, not at most 1.3."""
    base = [5.0, 3.0, 2.0, 1.999]
    other = [5.0, 2.0, 1.5, 1.0]
    study = with_curves(pair, [[base] * 3, [other, [5.0, 4.0, 3.0, 2.5], [5.0, 4.0, 3.0, 2.1]]])
    (cost,) = budgets.savings(study)
    assert (cost.seeds, cost.not_reached) == ([0], [1, 2])
    assert cost.tokens_ratio is None and cost.tokens_ratio_ci95 is None
    bound = np.exp(np.mean(np.log([8 / 4, 8 / 12, 8 / 12])))
    assert cost.tokens_ratio_at_most == pytest.approx(bound)
    assert cost.baseline_not_reached == [0]
    at_entry_loss = [
        12 / (8 + 4 * (1.5 - 1.001) / 0.5),
        (4 + 4 * 0.499) / (8 + 4 * 0.499 / 0.5),
        (4 + 4 * 0.899) / (8 + 4 * 0.899 / 0.9),
    ]
    bound = np.exp(np.mean(np.log(at_entry_loss)))
    assert cost.tokens_ratio_at_entry_loss_at_least == pytest.approx(bound)


def test_a_worse_entry_has_a_ratio_below_one(pair):
    study = with_curves(pair, [[[5.0, 3.0, 2.0, 1.9]] * 3, [[5.0, 4.0, 3.5, 3.0]] * 3])
    (cost,) = budgets.savings(study)
    assert cost.tokens_ratio_at_most < 1
    reached = 4 * (5 - 3.001) / 2
    assert cost.tokens_ratio_at_entry_loss == pytest.approx(reached / (12 - 4 * 0.001 / 0.5))


def random_curves(rng, n_seeds=3):
    """Return a curve for each seed: random, falling, or rising after its lowest value."""
    n = rng.integers(3, 13)
    kind = rng.integers(4)
    curves = []
    for _ in range(n_seeds):
        losses = rng.uniform(1, 5, n)
        if kind == 1:
            losses = np.sort(losses)[::-1]
        elif kind == 2:
            lowest = rng.integers(1, n)
            losses[:lowest] = np.sort(losses[:lowest])[::-1]
            losses[lowest - 1 :] = np.sort(losses[lowest - 1 :])
        elif kind == 3:
            losses = np.sort(losses)  # rises from the start, as in fine-tuning
        curves.append(losses)
    return curves


def test_a_copy_costs_the_same_on_any_curve(pair):
    """A deviation of 1e-7, as another parallelism has, must not decide what reaches a loss."""
    rng = np.random.default_rng(0)
    for noise in (0.0, 1e-7):
        for _ in range(150):
            curves = random_curves(rng)
            copies = [losses + noise * rng.standard_normal(len(losses)) for losses in curves]
            (cost,) = budgets.savings(with_curves(pair, [curves, copies]))
            assert cost.not_reached == cost.baseline_not_reached == []
            ratios = [
                cost.tokens_ratio,
                cost.train_time_ratio,
                cost.tokens_ratio_at_entry_loss,
                cost.train_time_ratio_at_entry_loss,
            ]
            assert ratios == pytest.approx([1.0] * 4, abs=0 if noise == 0 else 1e-4)


def test_costs_are_inverse_if_the_entries_swap_roles(pair):
    rng = np.random.default_rng(1)
    for _ in range(100):
        n = rng.integers(3, 13)
        one, two = (list(rng.uniform(1, 5, (3, n))) for _ in range(2))
        (cost,) = budgets.savings(with_curves(pair, [one, two]))
        (swapped,) = budgets.savings(with_curves(pair, [two, one]))
        assert cost.not_reached == swapped.baseline_not_reached
        for name in ("tokens_ratio", "train_time_ratio"):
            for end, other in ((name, f"{name}_at_entry_loss"), (f"{name}_at_entry_loss", name)):
                ratio = getattr(cost, end)
                inverse = getattr(swapped, other)
                assert (ratio is None) == (inverse is None)
                assert ratio is None or ratio == pytest.approx(1 / inverse)


def test_an_overfitted_baseline_reaches_its_loss_early(pair):
    """Its copy would otherwise seem to need 3.7 times fewer tokens."""
    overfitted = [5.5, 2.2, 1.5, 1.65, 1.8, 1.95]
    slower = [5.5, 3.0, 2.4, 2.1, 1.9, 1.8]
    (cost,) = budgets.savings(with_curves(pair, [[overfitted] * 3, [slower] * 3]))
    assert cost.tokens_ratio < 1, "its loss is lower at the end, but it needs more tokens for 1.95"


def test_the_margin_of_the_study_counts_as_reached(pair):
    curves = [[[5.0, 3.0, 2.0, 1.9]] * 3, [[5.0, 3.0, 2.0, 1.91]] * 3]
    study = with_curves(pair, curves)
    assert budgets.savings(study)[0].not_reached == [0, 1, 2]
    margin = EquivalenceMargin(val_loss=0.02)
    launch = LaunchRecord(order=[], settings_hash=study.settings_hash, equivalence_margin=margin)
    (cost,) = budgets.savings(replace(study, launches=(launch,)))
    assert cost.margin == 0.02
    assert cost.not_reached == []
    assert 0.9 < cost.tokens_ratio < 1


def test_ranked_losses_have_no_intervals(fake, read_study):
    """The interval of the lowest of many means covers its true value too rarely."""
    for ranking in budgets.rankings(read_study(fake)):
        assert {loss.ci95 for loss in ranking.val_loss.values()} == {None}
