"""If these failed, a plan would ask for too few seeds."""

import numpy as np
import pytest

from harness.analysis import seed_plan, significance
from harness.analysis.pairs import pair_of
from harness.cli import app as cli


def test_a_plan_uses_the_measured_noise(fake, read_study):
    study = read_study(fake)
    plan = seed_plan.plan_seeds(study, 0.01)
    variances = []
    for entry in study.entries:
        pair = pair_of(study, entry, "val_loss")
        differences = list(pair.differences().values()) if pair else []
        if differences and np.ptp(differences) > 0:
            variances.append(np.var(differences, ddof=1))
    assert plan.noise == pytest.approx(np.sqrt(np.mean(variances)))
    assert plan.seeds_low <= plan.seeds <= plan.seeds_high
    assert plan.seeds_done == 3
    alpha = 0.05 / plan.n_compared
    assert significance.paired_t_power(plan.seeds, 0.01, plan.noise, alpha) >= 0.8
    smallest = plan.minimum_detectable_effect
    assert significance.paired_t_power(3, smallest, plan.noise, alpha) == pytest.approx(0.8)
    assert plan.hours == pytest.approx(plan.hours_per_seed * (plan.seeds - 3))


@pytest.mark.parametrize(
    ("seeds", "arguments", "code", "text"),
    [
        ((0,), [], 2, "run a pilot"),
        ((0, 1, 2), [], 0, "seeds detect 0.01 nats with 80 % power"),
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
