"""Equal tuning: the choice is fair, and the report says what it changes."""

import numpy as np
import pytest
from reported import written
from tuned_results import TunedStudy

from harness import load
from harness.analysis import dataset
from harness.analysis.summary import summarize
from harness.analysis.tuning import find_edge, mean_losses, outcome, rank_settings
from harness.results.records import TunedRange
from harness.results.records.comparisons import SignificanceResult
from harness.results.records.estimates import Difference


def losses(optima: dict[str, float], gain: dict[str, float] | None = None):
    """Return planted losses: quadratic in log lr around each entry's optimum."""

    def loss(entry: str, lr: float) -> float:
        first = entry.split("-", maxsplit=1)[0]
        distance = float(np.log10(lr / optima[first]))
        return 1.5 + (gain or {}).get(first, 0.0) + 0.12 * distance**2

    return loss


@pytest.fixture
def tuned(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda fd: None)
    return TunedStudy(tmp_path / "results")


def summary_of(study: TunedStudy):
    return summarize(dataset.read(study.write().store, study.name), "2026-01-01T00:00:00+00:00")


def plant_untuned_gain(study: TunedStudy) -> None:
    """The variant is better at the study's lr only: the baseline's optimum is another one."""
    study.loss = losses({"learned": 3e-3, "rope": 1e-3})


def test_a_gain_from_untuned_lr_vanishes(tuned, no_figures):
    plant_untuned_gain(tuned)
    report, content, _ = written(tuned.write())
    (row,) = content["tuning"]["comparisons"]
    assert row["entry"] == "rope-single"
    assert (row["untuned_verdict"], row["tuned_verdict"]) == ("better", "equivalent")
    assert row["outcome"] == "vanishes"
    assert "at equal settings **vanishes** when both are tuned" in report
    assert content["verdicts"]["val_loss"]["entries"]["rope-single-untuned"]["verdict"] == "better"
    assert (
        content["verdicts"]["val_loss"]["entries"]["rope-single-tuned"]["verdict"] == "equivalent"
    )
    assert content["axes"]["tuning"] == ["untuned", "tuned"]


PLANTED = {
    "holds": losses({"learned": 1e-3, "rope": 1e-3}, {"rope": -0.1}),
    "shrinks": losses({"learned": 3e-3, "rope": 1e-3}, {"rope": -0.03}),
    "grows": losses({"learned": 1e-3, "rope": 3e-3}, {"rope": -0.1}),
    "reverses": losses({"learned": 3e-3, "rope": 1e-3}, {"rope": 0.015}),
    "appears": losses({"learned": 1e-3, "rope": 1e-2}, {"rope": -0.12}),
    "no difference shown": losses({"learned": 1e-3, "rope": 1e-3}),
}


@pytest.mark.parametrize("expected", PLANTED)
def test_each_change_of_a_verdict_is_named(tuned, expected):
    tuned.loss = PLANTED[expected]
    (row,) = summary_of(tuned).tuning.comparisons
    assert row.outcome == expected


def test_the_largest_improvement_is_one_of_tuned_entries(tuned, no_figures):
    tuned.loss = losses({"learned": 3e-3, "rope": 1e-3}, {"rope": -0.03})
    _, summary, _ = written(tuned.write())
    assert summary["answer"]["advice"][0]["entries"] == ["rope-single-tuned"]
    plant_untuned_gain(tuned)
    report, summary, _ = written(tuned.write())
    assert summary["answer"]["advice"][0] == {"kind": "better", "entries": [], "caveat": None}
    assert "No candidate is better than the baseline." in report


def result(verdict: str, mean: float, half: float) -> SignificanceResult:
    difference = Difference(mean=mean, ci95=(mean - half, mean + half), n=3)
    return SignificanceResult(verdict=verdict, difference=difference)


def test_an_unresolved_difference_vanishes_only_if_excluded():
    before = result("better", -0.03, 0.01)
    assert outcome(before, result("unresolved", -0.001, 0.01)) == "vanishes"
    assert outcome(before, result("unresolved", -0.01, 0.03)) == "not shown"
    assert outcome(before, None) is None


def test_trials_are_in_no_entry_and_no_table_of_runs(tuned):
    plant_untuned_gain(tuned)
    study = dataset.read(tuned.write().store, tuned.name)
    assert len(study.trials) == 2 * 4 * 2
    assert [entry.label for entry in study.entries] == [
        "learned-single-untuned",
        "learned-single-tuned",
        "rope-single-untuned",
        "rope-single-tuned",
    ]
    assert study.asked == ["positional"]
    assert study.superseded == 0
    frames = load(tuned.root, tuned.name)
    assert len(frames.runs) == 2 * 2 * 5
    assert set(frames.runs["seed"]) == set(tuned.seeds)
    tried = frames.tuning
    assert tried["train.lr"].tolist() == [*tuned.lrs, *tuned.lrs]
    assert tried[tried["chosen"]]["train.lr"].tolist() == [3e-3, 1e-3]
    assert tried["entry"].notna().all()


def test_each_entry_pays_the_same_for_its_tuning(tuned):
    plant_untuned_gain(tuned)
    costs = summary_of(tuned).tuning.costs
    assert [(cost.n_settings, cost.n_runs, cost.n_done) for cost in costs] == [(4, 8, 8)] * 2
    assert costs[0].flops == 8 * tuned.steps * tuned.tokens * 1.4e6


def test_a_diverged_trial_is_never_chosen_and_is_named(tuned, no_figures):
    tuned.loss = losses({"learned": 1e-2, "rope": 1e-3})
    tuned.diverges = lambda entry, lr: entry.startswith("learned") and lr == 1e-2
    report, content, _ = written(tuned.write())
    chosen = {row["entry"]: row["chosen"] for row in content["tuning"]["keys"]}
    assert chosen == {"learned-single": 3e-3, "rope-single": 1e-3}
    failed = [row for row in content["tuning"]["trials"] if row["seeds_failed"]]
    assert [(row["entry"], row["seeds_failed"]) for row in failed] == [
        ("learned-single", [100, 101])
    ]
    assert "Trials that failed count as infinite losses: learned (2)." in report


def test_nothing_is_chosen_if_every_setting_failed(tuned):
    tuned.diverges = lambda entry, lr: entry.startswith("rope")
    keys = {key.entry: key.chosen for key in summary_of(tuned).tuning.keys}
    assert keys == {"learned-single": 3e-3, "rope-single": None}


def test_an_optimum_at_the_edge_is_in_the_answer(tuned, no_figures):
    tuned.loss = losses({"learned": 3e-2, "rope": 3e-3})
    report, content, _ = written(tuned.write())
    edges = [(key["entry"], key["edge"], key["suggested"]) for key in content["tuning"]["keys"]]
    assert edges == [("learned-single", "highest", 0.0333), ("rope-single", None, None)]
    answer = report.split("## ")[0]
    assert "learned at the highest `train.lr` (try 0.0333)" in answer


def test_the_report_shows_trials_before_any_choice(tuned, no_figures):
    tuned.has_finals = False
    report, content, _ = written(tuned.write())
    assert "No setting is chosen yet for `learned-single`, `rope-single`." in report
    assert content["entries"] == []


EDGES = [
    ("train.lr", [1e-3, 2e-3, 4e-3], 4e-3, ("highest", 8e-3)),
    ("train.lr", [1e-3, 2e-3, 4e-3], 1e-3, ("lowest", 5e-4)),
    ("train.lr", [1e-3, 2e-3, 4e-3], 2e-3, (None, None)),
    ("train.weight_decay", [0.0, 0.1, 0.3], 0.0, (None, None)),  # no value lies below
    ("train.weight_decay", [0.0, 0.1], 0.1, ("highest", 0.2)),
    ("train.beta2", [0.9, 0.95, 0.99], 0.99, (None, None)),  # the next value would be above 1
    ("train.warmup_steps", [10, 20, 40], 40, ("highest", 80)),
    ("train.precision", ["fp32", "bf16"], "bf16", (None, None)),
    ("train.schedule", ["cosine", "wsd"], "wsd", (None, None)),
]


@pytest.mark.parametrize(("key", "values", "chosen", "expected"), EDGES)
def test_an_edge_suggests_the_next_value_of_the_grid(key, values, chosen, expected):
    assert find_edge(key, values, chosen, values, len(values)) == expected


def test_a_range_has_its_edge_in_its_outer_part():
    space = TunedRange(low=1e-4, high=1e-2, log=True)
    tried = [1.5e-4, 1e-3, 8e-3]
    assert find_edge("train.lr", space, 8e-3, tried, 4) == ("highest", 0.0316)
    assert find_edge("train.lr", space, 1.5e-4, tried, 4) == ("lowest", 3.16e-5)
    assert find_edge("train.lr", space, 1e-3, [1e-4, 1e-3], 4) == (None, None)


def test_the_lowest_mean_over_seeds_wins_and_ties_go_to_the_middle(tuned):
    study = dataset.read(tuned.write().store, tuned.name)
    trials = [run for run in study.trials if run.spec.tuning.entry == "rope-single"]
    means = mean_losses(trials)
    assert rank_settings(trials)[0] == min(means, key=means.get)
    for run in trials:
        run.evals.val_loss[-1] = 2.0
    assert rank_settings(trials) == [1, 2, 0, 3]
