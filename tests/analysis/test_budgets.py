"""If these failed, entries would be ranked or priced at budgets that are not equal."""

import numpy as np
import pytest

from harness.analysis import budgets

ROPE = {
    "positional": "rope",
    "attention": "mha",
    "optimizer": "adamw",
    "parallelism": "single",
}
LEARNED = ROPE | {"positional": "learned"}


def saving_of(study, label):
    return next(saving for saving in budgets.savings(study) if saving.entry == label)


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


def test_the_step_that_reaches_a_loss_is_interpolated(fake, read_study):
    study = read_study(fake)
    pairs = list(zip(study.find(ROPE).done, study.find(LEARNED).done, strict=True))
    run, base = pairs[0]
    step = budgets.step_reaching_baseline(run, base)
    loss = np.interp(step, run.evals.step, run.evals.val_loss)
    assert loss == pytest.approx(base.evals.val_loss[-1])
    factors = [
        base.evals.step[-1] / budgets.step_reaching_baseline(run, base) for run, base in pairs
    ]
    saving = saving_of(study, "rope-mha-single")
    assert saving.tokens_ratio == pytest.approx(np.exp(np.mean(np.log(factors))))
    assert saving.tokens_ratio > 1
    low, high = saving.tokens_ratio_ci95
    assert low < saving.tokens_ratio < high


def test_an_entry_that_never_reaches_the_loss_has_no_saving(fake, read_study):
    saving = saving_of(read_study(fake), "learned-local64-single")
    assert saving.seeds == []
    assert saving.not_reached == [0, 1, 2]
    assert saving.tokens_ratio is None
