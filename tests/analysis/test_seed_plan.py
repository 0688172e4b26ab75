"""If these failed, a plan would ask for too few seeds, or state its noise too precisely."""

import os

import numpy as np
import pytest

from harness.analysis import hypotheses, power, seed_plan
from harness.analysis.power import Noise
from harness.cli import app as cli

CALIBRATE = "CALIBRATE" in os.environ
N = 2000 if CALIBRATE else 300  # studies


def only_plan(study, difference=0.01):
    (plan,) = seed_plan.plan_seeds(study, difference)
    return plan


def test_a_plan_uses_the_family_and_the_noise_that_are_tested(fake, read_study):
    study = read_study(fake)
    plan = only_plan(study)
    families = [
        family
        for family in hypotheses.test_hypotheses(study)["val_loss"].families
        if len(family.entries) > 1
    ]
    (family,) = families
    assert plan.n_compared == len(family.entries) == 5
    assert plan.noise.sd == pytest.approx(family.noise)
    assert plan.noise.degrees_of_freedom == family.degrees_of_freedom == 10
    assert plan.seeds_done == 3
    assert plan.seeds_low <= plan.seeds <= plan.seeds_high
    effect = 0.01 / plan.noise.sd
    assert power.two_key_power(plan.seeds, effect, 5) >= 0.8
    assert power.two_key_power(plan.seeds - 1, effect, 5) < 0.8
    smallest = plan.minimum_detectable_effect / plan.noise.sd
    assert power.two_key_power(3, smallest, 5) == pytest.approx(0.8, abs=1e-6)
    assert plan.power.loc[plan.seeds].iloc[-1] == pytest.approx(
        power.two_key_power(plan.seeds, effect, 5)
    )
    assert plan.n_entries == 6
    assert plan.hours == pytest.approx(plan.hours_per_seed * (plan.seeds - 3))


def test_copies_under_other_parallelisms_add_no_evidence(fake, read_study, tmp_path):
    plan = only_plan(read_study(fake))
    fake.root = tmp_path / "single"
    fake.axes["parallelism"] = ["single"]
    alone = only_plan(read_study(fake))
    for name in ("n_compared", "noise", "seeds", "seeds_low", "seeds_high", "n_entries"):
        assert getattr(plan, name) == getattr(alone, name)
    assert plan.hours_per_seed == pytest.approx(alone.hours_per_seed)


def test_each_context_is_planned_with_its_own_noise(asked_in_sizes, read_study):
    study = read_study(asked_in_sizes)
    plans = seed_plan.plan_seeds(study, 0.01)
    assert [plan.context for plan in plans] == list(study.by_context())
    families = hypotheses.test_hypotheses(study)["val_loss"].families
    for plan, family in zip(plans, families, strict=True):
        assert plan.context == family.context and plan.n_compared == 2
        assert plan.noise.sd == pytest.approx(family.noise)
        assert plan.noise.degrees_of_freedom == family.degrees_of_freedom == 2 * 4


@pytest.mark.parametrize(
    ("seeds", "arguments", "code", "text"),
    [
        ((0,), [], 2, "run a pilot"),
        ((0, 1, 2), [], 0, "to detect 0.01 nats with 80 % power"),
        ((0, 1, 2), ["--fractional-design", "7"], 0, "7 entries that identify"),
    ],
)
def test_plan_prints_seeds_and_refuses_a_single_seed(fake, capsys, seeds, arguments, code, text):
    fake.seeds = seeds
    root = str(fake.write().root)
    with pytest.raises(SystemExit) as end:
        cli.main(["plan", "tiny", "--effect-size", "0.01", "--results", root, *arguments])
    assert end.value.code == code
    printed = capsys.readouterr()
    assert text in (printed.err if code else printed.out)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(("n_seeds", "n_entries"), [(2, 6), (3, 3), (3, 18), (5, 6)])
def test_noise_intervals_cover_the_noise(n_seeds, n_entries, missing):
    """If this failed, the range of seeds of a plan would exclude the number that is needed."""
    rng = np.random.default_rng(n_seeds)
    covered = []
    for _ in range(N):
        losses = rng.normal(size=(n_seeds, 1)) + rng.normal(
            scale=0.5**0.5, size=(n_seeds, n_entries)
        )
        if missing:
            losses[0, -1] = np.nan
        low, high = seed_plan.noise_interval(seed_plan.family_noise(losses).noise)
        covered.append(low <= 1 <= high)
    chance = 0.0 if CALIBRATE else 3.3 * (0.05 * 0.95 / N) ** 0.5
    assert 0.93 - chance <= np.mean(covered) <= 0.97 + chance


def test_a_noisy_baseline_is_planned_by_the_test_that_it_gets():
    losses = np.random.default_rng(0).normal(size=(6, 8))
    losses[:, 0] *= 8
    found = seed_plan.family_noise(losses)
    own = (losses[:, 1:] - losses[:, :1]).var(axis=0, ddof=1)
    assert found.rule == "Holm"
    assert found.noise == Noise(pytest.approx(own.mean() ** 0.5), 5)
    assert seed_plan.family_noise(np.ones((3, 4))) is None
    assert seed_plan.family_noise(losses[:1]) is None


def test_losses_in_another_unit_count_in_the_family(fake, read_study):
    """They are tested with the others by Holm, which needs more seeds than two keys."""
    fake.axes = {"positional": ["learned", "rope", "alibi"], "tokens": ["bytes", "gpt2"]}
    fake.baseline = {"positional": "learned", "tokens": "bytes"}
    fake.settings = {"tokens": {name: {"data.tokenizer": name} for name in fake.axes["tokens"]}}
    study = read_study(fake)
    (family,) = hypotheses.test_hypotheses(study)["val_loss"].families
    plan = only_plan(study)
    assert (plan.n_compared, plan.rule) == (len(family.entries), family.method) == (5, "Holm")
    assert plan.n_entries == 6
    alone = power.required_seeds(
        lambda n: power.two_key_power(n, 0.01 / plan.noise.sd, 2, rule="two keys")
    )
    assert plan.seeds > alone
