"""The statistics of the report on worked examples of textbooks and of R's manual."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.anova import AnovaRM
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from harness.analysis import effects, factorial
from harness.analysis import intervals as statistics
from harness.analysis import significance as verdicts

EXACT = {"rel": 1e-9, "abs": 1e-12}

# Hours of sleep gained by ten patients under two drugs (Cushny & Peebles 1905; R: ?sleep).
DRUG_1 = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
DRUG_2 = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])

# P-values of fifteen comparisons of two treatments (Benjamini & Hochberg 1995, section 4).
P = [
    0.0001,
    0.0004,
    0.0019,
    0.0095,
    0.0201,
    0.0278,
    0.0298,
    0.0344,
    0.0459,
    0.3240,
    0.4262,
    0.5719,
    0.6528,
    0.7590,
    1.0,
]

# Pounds of peas per plot, in six blocks of four, by fertilizer (Yates 1935; R: ?npk).
NPK = {
    1: {"011": 49.5, "110": 62.8, "000": 46.8, "101": 57.0},
    2: {"100": 59.8, "111": 58.5, "001": 55.5, "010": 56.0},
    3: {"010": 62.8, "111": 55.8, "100": 69.5, "001": 55.0},
    4: {"100": 62.0, "111": 48.8, "001": 45.5, "010": 44.2},
    5: {"110": 52.0, "000": 51.5, "101": 49.8, "011": 48.8},
    6: {"101": 57.2, "110": 59.0, "011": 53.2, "000": 56.0},
}


def test_students_sleep_data():
    """R: t.test(extra ~ group, paired = TRUE): p 0.002833, -1.58 [-2.4598858, -0.7001142]."""
    difference = statistics.mean_difference(dict(enumerate(DRUG_1)), dict(enumerate(DRUG_2)))
    low, high = difference.ci95
    assert (difference.mean, low, high) == pytest.approx((-1.58, -2.4598858, -0.7001142), abs=5e-8)
    p = verdicts.paired_t_pvalue(DRUG_1 - DRUG_2)
    assert p == pytest.approx(0.002833, abs=5e-7)
    expected = stats.ttest_rel(DRUG_1, DRUG_2)
    interval = expected.confidence_interval(0.95)
    assert (p, low, high) == pytest.approx((expected.pvalue, interval.low, interval.high), **EXACT)
    equivalent, *_ = DescrStatsW(DRUG_1 - DRUG_2).ttost_mean(-3.0, 3.0)
    assert verdicts.tost_pvalue(DRUG_1 - DRUG_2, 3.0) == pytest.approx(equivalent, **EXACT)


def test_benjamini_and_hochbergs_fifteen_p_values():
    """Four are significant at a limited false discovery rate, three at a familywise error rate."""
    p = dict(enumerate(P))
    for ours, method, n_found in (
        (verdicts.holm_adjust(p), "holm", 3),
        (verdicts.benjamini_hochberg_adjust(p), "fdr_bh", 4),
    ):
        expected = multipletests(P, 0.05, method)
        assert [ours[i] for i in range(len(P))] == pytest.approx(expected[1].tolist(), **EXACT)
        assert sum(value <= 0.05 for value in ours.values()) == n_found


def test_yates_peas():
    """R: aov(yield ~ block + N*P*K, npk) has the sums of squares below.

    Two blocks of different parity have all combinations and are one replicate. R's aov(yield ~
    N*P*K + Error(replicate/(N*P*K))) and AnovaRM test each effect against its own stratum.
    """
    values = {}
    rows = []
    for replicate, blocks in enumerate([(1, 2), (3, 5), (4, 6)]):
        for cell, pounds in [*NPK[blocks[0]].items(), *NPK[blocks[1]].items()]:
            values.setdefault(tuple(cell), {})[replicate] = pounds
            rows.append(
                {"replicate": replicate, "N": cell[0], "P": cell[1], "K": cell[2], "y": pounds}
            )
    found = factorial.contrasts(values, {"N": ["0", "1"], "P": ["0", "1"], "K": ["0", "1"]})
    assert (found.design.runs, found.design.seeds, found.design.missing) == (24, 3, [])
    main = effects.test_contrasts(found.main, None)
    interactions = effects.test_contrasts(found.interactions, None)
    assert [24 / 4 * one.estimate**2 for one in main] == pytest.approx(
        [189.28, 8.40, 95.20], abs=0.005
    )
    assert [24 / 16 * one.estimate**2 for one in interactions] == pytest.approx(
        [21.28, 33.135, 0.48], abs=0.005
    )
    anova = AnovaRM(pd.DataFrame(rows), "y", "replicate", within=["N", "P", "K"]).fit().anova_table
    for one in (*main, *interactions):
        row = anova.loc[":".join(one.levels)]
        assert (one.p, (one.estimate / one.se) ** 2) == pytest.approx(
            (row["Pr > F"], row["F Value"]), **EXACT
        )
