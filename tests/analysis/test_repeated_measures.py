"""If these failed, an effect that depends on the size would be called one that does not."""

import numpy as np
import pytest

from harness.analysis.repeated_measures import interaction_pvalue
from tests.analysis.test_calibration import N, chance


def long_form_anova(table):
    """Return F and Box's epsilon of a table {(seed, context): value}, by sums over its cells."""
    seeds = sorted({seed for seed, _ in table})
    contexts = sorted({context for _, context in table})
    mean = sum(table.values()) / len(table)
    by_seed = {s: sum(table[s, c] for c in contexts) / len(contexts) for s in seeds}
    by_context = {c: sum(table[s, c] for s in seeds) / len(seeds) for c in contexts}
    between = len(seeds) * sum((by_context[c] - mean) ** 2 for c in contexts)
    rest = sum((table[s, c] - by_seed[s] - by_context[c] + mean) ** 2 for s, c in table)
    f = (between / (len(contexts) - 1)) / (rest / (len(contexts) - 1) / (len(seeds) - 1))
    covariance = np.cov(np.array([[table[s, c] for s in seeds] for c in contexts]))
    k = len(contexts)
    # Winer 1971, p. 523: from the covariances of the contexts, without centring them
    diagonal = np.trace(covariance) / k
    rows = covariance.mean(axis=1)
    numerator = k**2 * (diagonal - covariance.mean()) ** 2
    denominator = (covariance**2).sum() - 2 * k * (rows**2).sum() + k**2 * covariance.mean() ** 2
    return f, numerator / ((k - 1) * denominator)


@pytest.mark.parametrize("n_seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("n_contexts", [2, 3, 6])
def test_agrees_with_the_textbook_formulas(n_seeds, n_contexts):
    from scipy import stats

    rng = np.random.default_rng(n_seeds)
    values = rng.normal(size=(n_seeds, n_contexts)) * (1 + np.arange(n_contexts))
    table = {(s, c): values[s, c] for s in range(n_seeds) for c in range(n_contexts)}
    f, epsilon = long_form_anova(table)
    dfs = epsilon * (n_contexts - 1), epsilon * (n_contexts - 1) * (n_seeds - 1)
    assert interaction_pvalue(values) == pytest.approx(stats.f.sf(f, *dfs), rel=1e-6)


def test_two_contexts_are_a_paired_t_test():
    from scipy import stats

    values = np.random.default_rng(0).normal(size=(5, 2))
    expected = stats.ttest_rel(values[:, 0], values[:, 1]).pvalue
    assert interaction_pvalue(values) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "p"),
    [
        ([[0.1, 0.1, 0.1], [0.2, 0.2, 0.2]], 1.0),
        ([[0.1, 0.2, 0.3], [0.2, 0.3, 0.4]], 0.0),
        ([[0.0, 0.0], [0.0, 0.0]], 1.0),
        ([[0.1, 0.2]], None),
        ([[0.1], [0.2]], None),
    ],
)
def test_without_noise_or_without_a_second_seed(values, p):
    assert interaction_pvalue(np.array(values)) == p


NOISE = {  # standard deviation in each context, and the correlation of contexts
    "equal": ([1, 1, 1, 1], 0.0),
    "one context is noisier": ([3, 1, 1, 1], 0.0),
    "falls with size": ([8, 4, 2, 1], 0.0),
    "shared by contexts": ([1, 1, 1, 1], 0.9),
}


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("n_seeds", [3, 5, 10])
def test_false_alarms_are_at_most_5_percent(noise, n_seeds):
    """Each run has its own noise: differences share neither code nor a covariance with the test."""
    rng = np.random.default_rng(1)
    scale, shared = NOISE[noise]
    n_alarms = 0
    for _ in range(N):
        differences = []
        for _seed in range(n_seeds):
            of_seed = rng.standard_normal() * shared**0.5
            row = [-0.05 + s * 0.01 * of_seed for s in scale]
            own = [s * 0.01 * (1 - shared) ** 0.5 * rng.standard_normal() for s in scale]
            differences.append([a + b for a, b in zip(row, own, strict=True)])
        p = interaction_pvalue(np.array(differences))
        n_alarms += p < 0.05
    assert n_alarms / N <= 0.05 + chance(0.05)


def test_an_effect_that_grows_with_size_is_found():
    rng = np.random.default_rng(2)
    effect = np.array([0.0, -0.02, -0.05])
    found = [
        interaction_pvalue(effect + 0.005 * rng.standard_normal((5, 3))) < 0.05 for _ in range(50)
    ]
    assert np.mean(found) > 0.9
