"""If these failed, verdicts would waste seeds, or disagree with the interval beside them."""

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from harness.analysis import block_model, dunnett
from harness.analysis import families as module
from harness.analysis.verdicts import excludes_zero
from harness.results.records.comparisons import TestFamily

# four seeds of a baseline and three entries: a seed shifts all of them
LOSSES = pd.DataFrame(
    {
        "base": [2.00, 2.11, 1.92, 2.05],
        "better": [1.90, 2.00, 1.83, 1.94],
        "same": [2.01, 2.10, 1.93, 2.04],
        "worse": [2.20, 2.33, 2.11, 2.26],
    }
)


def by_hand(values, entry):
    """Return the standard error of an entry, as the rule of two keys states it."""
    y = values.to_numpy()
    residuals = y - y.mean(axis=0) - y.mean(axis=1, keepdims=True) + y.mean()
    df = (y.shape[0] - 1) * (y.shape[1] - 1)
    pooled = 2 * (residuals**2).sum() / df
    own = {name: (values[name] - values["base"]).var(ddof=1) for name in values if name != "base"}
    return (max(own[entry], pooled, np.mean(list(own.values()))) / len(y)) ** 0.5, df


def test_the_two_keys_by_hand():
    found = module.test_family(LOSSES, "base", None)
    assert found.family.method == "two keys"
    assert {name: result.verdict for name, result in found.results.items()} == {
        "better": "better",
        "same": "unresolved",
        "worse": "worse",
    }
    for name, result in found.results.items():
        se, df = by_hand(LOSSES, name)
        differences = LOSSES[name] - LOSSES["base"]
        own = stats.ttest_1samp(differences, 0)
        own_low, own_high = own.confidence_interval(0.95)
        half = max(dunnett.critical_value(3, df, 0.05) * se, (own_high - own_low) / 2)
        mean = differences.mean()
        assert result.difference.mean == pytest.approx(mean)
        assert result.difference.ci95 == pytest.approx((mean - half, mean + half))
        assert result.p == pytest.approx(own.pvalue)
        assert result.own95 == pytest.approx((own_low, own_high))
    assert found.family.degrees_of_freedom == 9


def test_each_key_can_withhold_a_verdict():
    """One entry is noisy alone; the other is calm, but the noise of the family hides it."""
    values = LOSSES.assign(
        noisy=LOSSES["base"] + [-0.05, -0.30, -0.02, -0.12],
        calm=LOSSES["base"] + [-0.010, -0.011, -0.009, -0.010],
    )
    found = module.test_family(values, "base", None).results
    assert found["noisy"].p > 0.05
    assert found["calm"].p < 0.001
    assert found["calm"].verdict == found["noisy"].verdict == "unresolved"


def test_the_distribution_of_the_largest_statistic_is_dunnetts():
    """Against a nested integral of another form: over the baseline's mean and the noise."""
    z = np.linspace(-9, 9, 401)
    s = np.linspace(0, 6, 2401)

    def exceeds(t, k, df):
        limit = 2**0.5 * t * s[:, None]
        inside = stats.norm.cdf(z + limit) - stats.norm.cdf(z - limit)
        given_s = integrate.simpson(stats.norm.pdf(z) * inside**k, x=z)
        density = stats.chi2.pdf(df * s**2, df) * 2 * df * s
        return 1 - integrate.simpson(given_s * density, x=s)

    for t, k, df in ((2.5, 2, 4), (3.0, 17, 34)):
        assert dunnett.pvalues([t], k, df)[0] == pytest.approx(exceeds(t, k, df), abs=1e-7)
    assert dunnett.critical_value(1, 8, 0.05) == pytest.approx(stats.t.ppf(0.975, 8))
    for k in (2, 5, 17):
        c = dunnett.critical_value(k, 12, 0.05)
        assert dunnett.pvalues([c], k, 12)[0] == pytest.approx(0.05, abs=1e-8)


def test_steps_down_from_the_largest_statistic():
    t = [1.0, -4.0, 2.5]
    adjusted = dunnett.step_down_pvalues(t, 10)
    assert adjusted[1] == dunnett.pvalues([4.0], 3, 10)[0]
    assert adjusted[2] == dunnett.pvalues([2.5], 2, 10)[0]
    assert adjusted[0] == dunnett.pvalues([1.0], 1, 10)[0]
    equal = dunnett.step_down_pvalues([2.0, 2.0], 10)
    assert equal[0] == equal[1]


def test_least_squares_with_missing_runs_is_that_of_dummy_variables():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 6)) + rng.normal(size=(5, 1))
    values[[0, 1, 3, 3], [1, 4, 0, 2]] = np.nan
    rows, columns = np.nonzero(np.isfinite(values))
    x = np.zeros((len(rows), 11))
    x[np.arange(len(rows)), rows] = 1
    x[np.arange(len(rows)), 5 + columns] = 1
    y = values[rows, columns]
    fitted, _, rank, _ = np.linalg.lstsq(x, y)
    found = block_model.fit(values)
    assert found.degrees_of_freedom == len(y) - rank
    assert found.variance == pytest.approx(((y - x @ fitted) ** 2).sum() / (len(y) - rank))
    assert np.ptp(found.of_seeds - fitted[:5]) == pytest.approx(0, abs=1e-12)
    assert block_model.fit(values[:1]) is None


def test_a_noisy_baseline_or_two_seeds_fall_back_to_holm():
    rng = np.random.default_rng(2)
    noisy = pd.DataFrame(rng.normal(2, 0.01, size=(5, 7)), columns=["base", *"abcdef"])
    assert module.test_family(noisy, "base", None).family.method == "two keys"
    noisy["base"] += [0.2, -0.3, 0.1, 0.4, -0.2]
    found = module.test_family(noisy, "base", None)
    assert found.family.method == "Holm" and "noisier" in found.family.reason
    assert found.family.baseline_p < 0.02
    two = module.test_family(LOSSES[:2], "base", None)
    assert two.family.method == "Holm" and "fewer than 3 seeds" in two.family.reason


def test_an_entry_equal_in_every_seed_is_equivalent_and_adds_no_calm():
    """Copies of the baseline have no noise, and would make that of the family look small."""
    with_copy = LOSSES.assign(copy=LOSSES["base"])
    found = module.test_family(with_copy, "base", None)
    assert found.results["copy"].verdict == "equivalent"
    assert found.family == module.test_family(LOSSES, "base", None).family


def test_a_difference_that_no_seed_changes_is_one_observation():
    found = module.test_family(LOSSES.assign(shifted=LOSSES["base"] - 0.5), "base", 0.01)
    shifted = found.results["shifted"]
    assert shifted.verdict is None and shifted.seed_has_no_effect
    assert shifted.difference.ci95 is None and shifted.difference.mean == pytest.approx(-0.5)


def test_equivalence_needs_the_family_and_the_entry():
    """The entry's own interval must lie within the margin as well as that of the pooled noise."""
    assert module.test_family(LOSSES, "base", 0.05).results["same"].verdict == "equivalent"
    assert module.test_family(LOSSES, "base", 0.01).results["same"].verdict == "unresolved"
    rng = np.random.default_rng(3)
    values = pd.DataFrame(
        rng.normal(2, 0.001, size=(3, 18)), columns=["base", *map(str, range(17))]
    )
    values["0"] = values["base"] + [0.01, -0.01, 0.0]
    found = module.test_family(values, "base", 0.015).results
    assert found["0"].p_equivalent > 0.05 and found["0"].verdict == "unresolved"
    assert found["1"].verdict == "equivalent"


# -- lost seeds -----------------------------------------------------------------------------------

PLANTED = {"better": "better", "same": "equivalent", "worse": "worse"}


def verdicts(lost, values=LOSSES):
    for entry, seeds in lost.items():
        values = values.assign(**{entry: values[entry].mask(values.index.isin(seeds))})
    found = module.test_family(values, "base", 0.05, lost=lost).results
    return {name: result.verdict for name, result in found.items()}, found


def test_who_loses_a_seed_gains_no_verdict():
    assert verdicts({})[0] == PLANTED
    assert verdicts({"better": [1]})[0] == PLANTED | {"better": "unresolved"}
    assert verdicts({"same": [1]})[0] == PLANTED | {"same": "unresolved"}
    assert verdicts({"worse": [1]})[0] == PLANTED
    words, found = verdicts({"base": [2]})
    assert words == {"better": "better", "same": "unresolved", "worse": "unresolved"}
    assert found["worse"].difference.ci95 is None and found["worse"].lost_seeds == [2]
    assert found["worse"].p_adjusted is None and found["better"].p_adjusted < 0.05


def test_a_seed_that_all_entries_lose_is_no_selection():
    words, found = verdicts({entry: [0] for entry in LOSSES})
    assert words == PLANTED
    assert found["better"].difference.n == 3 and not found["better"].lost_seeds


# -- intervals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((-2.0, -1.0), True),
        ((1.0, 2.0), True),
        ((-1.0, 1.0), False),
        ((0.0, 0.0), False),
        ((-1.0, 0.0), True),
        (None, None),
    ],
)
def test_excludes_zero(bounds, expected):
    assert excludes_zero(bounds) is expected


def test_the_level_is_that_of_the_look():
    strict = module.test_family(LOSSES, "base", None, alpha=1e-12)
    assert isinstance(strict.family, TestFamily) and strict.family.alpha == 1e-12
    assert strict.results["better"].verdict == "unresolved"
    usual = module.test_family(LOSSES, "base", None).results["better"]
    assert strict.results["better"].difference.ci95[0] < usual.difference.ci95[0]
