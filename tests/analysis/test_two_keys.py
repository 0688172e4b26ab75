"""If these failed, verdicts would rest on wrong p-values and intervals of families.

Values of R are from R 4.2.2 with multcomp 1.4-22 and mvtnorm, integrated to 1e-7 (maxpts 1e6).
"""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.analysis import dunnett
from harness.analysis.families import test_family as family_test
from tests.analysis.simulated_families import without_seeds_needed
from tests.analysis.two_keys_reference import (
    dunnett_pvalue,
    holm,
    test_by_reference,
)

AGREES = {"abs": 1e-6, "rel": 0}

# Yields of oats in six blocks, by nitrogen, 0.0 to 0.6 cwt; the variety Victory
# (Yates 1935; R: MASS::oats).
OATS_NITROGEN = {
    "0.0cwt": [111, 61, 68, 74, 62, 53],
    "0.2cwt": [130, 91, 64, 89, 90, 74],
    "0.4cwt": [157, 97, 112, 81, 100, 118],
    "0.6cwt": [174, 100, 86, 122, 116, 113],
}
# The same by variety, means over nitrogen.
OATS_VARIETY = {
    "Golden.rain": [133.25, 113.25, 86.75, 108.00, 95.50, 90.25],
    "Marvellous": [129.75, 121.25, 118.50, 95.00, 85.25, 109.00],
    "Victory": [143.00, 87.25, 82.50, 91.50, 92.00, 89.50],
}
# Yields of barley at six places in 1931, by variety (Immer, Hayes & Powers 1934; R: MASS::immer).
BARLEY = {
    "M": [81.0, 146.6, 82.3, 119.8, 98.9, 86.9],
    "P": [98.3, 145.7, 89.6, 124.8, 104.1, 96.0],
    "S": [105.4, 142.0, 77.3, 121.4, 89.0, 77.1],
    "T": [109.7, 191.5, 131.3, 140.8, 89.3, 101.8],
    "V": [119.7, 150.7, 78.4, 124.0, 69.1, 78.9],
}
# Weight of dried plants under a control and two treatments (Dobson 1983; R: PlantGrowth).
PLANTS = {
    "ctrl": [4.17, 5.58, 5.18, 6.11, 4.50, 4.61, 5.17, 4.53, 5.33, 5.14],
    "trt1": [4.81, 4.17, 4.41, 3.59, 5.87, 3.83, 6.03, 4.89, 4.32, 4.69],
    "trt2": [6.31, 5.12, 5.54, 5.50, 5.37, 5.29, 4.92, 6.15, 5.80, 5.26],
}
# Data, degrees of freedom, and by entry: t, single-step p and step-down p of
# glht(aov(y ~ block + entry), mcp(entry = "Dunnett")), adjusted("single-step") and ("free").
MULTCOMP = [
    (
        OATS_NITROGEN,
        15,
        [
            (2.465436649, 6.574917297e-02, 2.623306590e-02),
            (5.338009626, 2.316695270e-04, 1.596925423e-04),
            (6.378469129, 3.457526492e-05, 3.507776891e-05),
        ],
    ),
    (
        OATS_VARIETY,
        10,
        [
            (0.7475262814, 0.6844842360, 0.5423001992),
            (-0.9711955624, 0.5423001992, 0.5423001992),
        ],
    ),
    (
        BARLEY,
        20,
        [
            (0.97260029740, 0.7329819347, 0.65106516835),
            (-0.07464141817, 0.9999754310, 0.98950963969),
            (3.36791126239, 0.0106339535, 0.01063428125),
            (0.11987864131, 0.9998383039, 0.98950963969),
        ],
    ),
]


@pytest.fixture(autouse=True)
def fast():
    with without_seeds_needed():
        yield


def frame(by_entry):
    return pd.DataFrame(by_entry, dtype=float)


def random_rows(rng, m, n, baseline_noise=1.0):
    """Return values of the baseline and m entries, (m + 1, n), with effects and noise of each."""
    noise = rng.uniform(0.5, 2.0, size=m + 1)
    noise[0] = baseline_noise
    effects = rng.choice([0.0, 1.0, 4.0], size=m + 1)
    values = effects[:, None] + noise[:, None] * rng.standard_normal((m + 1, n))
    return values + rng.normal(0, 3, size=n)


@pytest.mark.parametrize(("data", "df", "expected"), MULTCOMP, ids=["nitrogen", "oats", "barley"])
def test_dunnett_agrees_with_multcomp(data, df, expected):
    t, single_step, step_down = (np.array(column) for column in zip(*expected, strict=True))
    assert dunnett.pvalues(t, len(t), df) == pytest.approx(single_step, **AGREES)
    assert dunnett.step_down_pvalues(t, df) == pytest.approx(step_down, **AGREES)


@pytest.mark.parametrize(("data", "df", "expected"), MULTCOMP, ids=["nitrogen", "oats", "barley"])
def test_block_noise_agrees_with_multcomp(data, df, expected):
    values = frame(data)
    family = family_test(values, values.columns[0], None).family
    means = values.mean() - values.iloc[:, 0].mean()
    t = means.to_numpy()[1:] / (family.noise / np.sqrt(len(values)))
    assert family.degrees_of_freedom == df
    assert t == pytest.approx([row[0] for row in expected], rel=1e-8)


def test_plant_growth_agrees_with_multcomp_and_scipy():
    """R: glht(aov(weight ~ group, PlantGrowth), mcp(group = "Dunnett")): 0.3226957, 0.1534859.

    scipy.stats.dunnett integrates by quasi Monte Carlo to about 1e-4.
    """
    expected = stats.dunnett(
        PLANTS["trt1"], PLANTS["trt2"], control=PLANTS["ctrl"], rng=np.random.default_rng(0)
    )
    p = dunnett.pvalues(expected.statistic, 2, 27)
    assert p == pytest.approx([0.3226956858, 0.1534858615], **AGREES)
    assert p == pytest.approx(expected.pvalue, abs=5e-4)


@pytest.mark.parametrize("m", [2, 5, 17])
def test_dunnett_agrees_with_scipy_on_balanced_groups(m):
    """The statistic is scipy's; its p-value is integrated again, because scipy's is rough."""
    groups = np.random.default_rng(m).normal(size=(m + 1, 6)) + np.linspace(0, 2, m + 1)[:, None]
    found = stats.dunnett(*groups[1:], control=groups[0], rng=np.random.default_rng(0))
    df = (m + 1) * 5
    exact = [dunnett_pvalue(abs(t), m, df) for t in found.statistic]
    p = dunnett.pvalues(found.statistic, m, df)
    assert p == pytest.approx(exact, **AGREES)
    assert p == pytest.approx(found.pvalue, abs=5e-3)


# Two-sided 5 % points of Dunnett (1964), "New tables for multiple comparisons with a control".
DUNNETT_1964 = {
    5: [2.57, 3.03, 3.29, 3.48, 3.62, 3.73, 3.82, 3.90, 3.97],
    10: [2.23, 2.57, 2.76, 2.89, 2.99, 3.07, 3.14, 3.19, 3.24],
    20: [2.09, 2.38, 2.54, 2.65, 2.73, 2.80, 2.86, 2.90, 2.95],
}


@pytest.mark.parametrize("df", DUNNETT_1964)
def test_critical_values_are_those_of_dunnetts_table(df):
    found = [dunnett.critical_value(m, df, 0.05) for m in range(1, 10)]
    assert found == pytest.approx(DUNNETT_1964[df], abs=0.0051)


@pytest.mark.parametrize("df", [2, 4, 34, 153])
@pytest.mark.parametrize("m", [1, 2, 17])
def test_dunnett_agrees_with_nested_integrals(m, df):
    sizes = [0.0, 0.5, 2.0, 3.5, 8.0]
    exact = [dunnett_pvalue(t, m, df) for t in sizes]
    assert dunnett.pvalues(sizes, m, df) == pytest.approx(exact, **AGREES)
    critical = dunnett.critical_value(m, df, 0.01)
    assert dunnett_pvalue(critical, m, df) == pytest.approx(0.01, **AGREES)


@pytest.mark.parametrize("baseline_noise", [1.0, 8.0])
@pytest.mark.parametrize(("m", "n"), [(1, 2), (1, 3), (2, 3), (2, 10), (5, 2), (5, 5), (17, 3)])
def test_family_agrees_with_the_reference(m, n, baseline_noise):
    """All p-values and the interval of entries that no later step shortens."""
    rng = np.random.default_rng([m, n])
    for _ in range(3):
        rows = random_rows(rng, m, n, baseline_noise)
        names = [f"v{j}" for j in range(m + 1)]
        expected = test_by_reference([list(row) for row in rows], 1.5, 0.05)
        values = pd.DataFrame(dict(zip(names, rows, strict=True)))
        tested = family_test(values, "v0", 1.5)
        assert tested.family.method == expected.method
        if expected.baseline_p is None:
            assert tested.family.baseline_p is None
        else:
            assert tested.family.baseline_p == pytest.approx(expected.baseline_p, **AGREES)
        results = [tested.results[name] for name in names[1:]]
        assert [r.difference.mean for r in results] == pytest.approx(expected.mean)
        assert [r.p_adjusted for r in results] == pytest.approx(expected.p, **AGREES)
        assert [r.p_equivalent for r in results] == pytest.approx(expected.p_equivalent, **AGREES)
        for result, half in zip(results, expected.half_width, strict=True):
            if result.verdict == "unresolved":
                mean = result.difference.mean
                assert result.difference.ci95 == pytest.approx((mean - half, mean + half), abs=1e-5)


def test_holm_falls_back_for_a_noisier_baseline_only():
    """One test in 50 falls back by chance; noise of one entry is no reason to."""
    rng = np.random.default_rng(0)
    methods = {"equal": [], "entry": [], "baseline": []}
    for _ in range(60):
        for kind, found in methods.items():
            rows = rng.standard_normal((6, 5))
            rows[0] *= 8 if kind == "baseline" else 1
            rows[1] *= 8 if kind == "entry" else 1
            values = pd.DataFrame(rows.T, columns=list("abcdef"))
            found.append(family_test(values, "a", None).family.method)
    assert methods["equal"].count("Holm") <= 6
    assert methods["entry"].count("Holm") <= 6
    assert methods["baseline"].count("Holm") >= 50


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_verdicts_do_not_depend_on_unit_or_direction(scale):
    rng = np.random.default_rng(4)
    opposite = {"better": "worse", "worse": "better"}
    for _ in range(5):
        rows = random_rows(rng, 4, 4)
        values = pd.DataFrame(rows.T, columns=list("abcde"))
        plain = family_test(values, "a", 1.0).results
        scaled = family_test(scale * values, "a", scale).results
        mirrored = family_test(-values, "a", 1.0, lower_is_better=True).results
        for name, result in plain.items():
            assert scaled[name].verdict == result.verdict
            assert mirrored[name].verdict == opposite.get(result.verdict, result.verdict)
            low, high = result.difference.ci95
            assert scaled[name].difference.ci95 == pytest.approx((scale * low, scale * high))


def test_the_order_of_entries_and_seeds_does_not_matter():
    rng = np.random.default_rng(5)
    values = pd.DataFrame(random_rows(rng, 5, 4).T, columns=list("abcdef"))
    plain = family_test(values, "a", 1.0).results
    shuffled = family_test(values.iloc[::-1, ::-1], "a", 1.0).results
    for name, result in plain.items():
        assert shuffled[name].verdict == result.verdict
        assert shuffled[name].p_adjusted == pytest.approx(result.p_adjusted, rel=1e-6, abs=1e-12)


def test_holm_of_the_reference_is_that_of_statsmodels():
    from statsmodels.stats.multitest import multipletests

    p = list(np.random.default_rng(6).uniform(0, 0.2, size=9))
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
