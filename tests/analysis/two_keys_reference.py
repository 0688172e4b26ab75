"""The family test by two keys, written again from its definition in plain loops.

It shares no code with `harness.analysis`. Probabilities of Dunnett's distribution are nested
adaptive integrals of scipy. It covers complete tables only: a value of every entry in every seed.
"""

from dataclasses import dataclass
from functools import cache
from math import erf, exp, lgamma, log, pi, sqrt

from scipy import integrate, optimize, stats

BASELINE_NOISE_LEVEL = 0.02


def normal(z: float) -> float:
    """Return the CDF of the normal distribution."""
    return (1 + erf(z / sqrt(2))) / 2


@cache
def dunnett_pvalue(t: float, n_comparisons: int, df: int) -> float:
    """Return P(max |T_j| >= t) of t statistics that share a baseline (Dunnett 1955)."""

    def weighted(s: float) -> float:
        half = sqrt(2) * t * s

        def density(z: float) -> float:
            return (normal(z + half) - normal(z - half)) ** n_comparisons * exp(-z * z / 2)

        inner, _ = integrate.quad(density, 0, 9, epsabs=1e-10, epsrel=1e-10)
        log_chi = log_constant + (df - 1) * log(s) - df * s * s / 2
        return 2 / sqrt(2 * pi) * inner * exp(log_chi)

    # the density of s = sqrt(chi2 / df)
    log_constant = log(2) + df / 2 * log(df / 2) - lgamma(df / 2)
    low, high = stats.chi.ppf([1e-13, 1 - 1e-13], df) / sqrt(df)
    below, _ = integrate.quad(weighted, low, high, epsabs=1e-9, epsrel=1e-9)
    return 1 - below


@cache
def dunnett_critical(n_comparisons: int, df: int, alpha: float) -> float:
    """Return the value that the largest |t| exceeds with probability alpha."""
    low = float(stats.t.ppf(1 - alpha / 2, df))
    if n_comparisons == 1:
        return low
    high = float(stats.t.ppf(1 - alpha / (2 * n_comparisons), df))
    return optimize.brentq(
        lambda t: dunnett_pvalue(t, n_comparisons, df) - alpha, low, high, xtol=1e-8
    )


def step_down(t: list[float], df: int) -> list[float]:
    """Return the adjusted p-values: each |t| against the maximum of it and all smaller ones."""
    order = sorted(range(len(t)), key=lambda j: -abs(t[j]))
    adjusted = [0.0] * len(t)
    largest = 0.0
    for rank, j in enumerate(order):
        largest = max(largest, dunnett_pvalue(abs(t[j]), len(t) - rank, df))
        adjusted[j] = largest
    return adjusted


def holm(p: list[float]) -> list[float]:
    """Return the p-values adjusted by Holm (1979)."""
    order = sorted(range(len(p)), key=lambda j: p[j])
    adjusted = [0.0] * len(p)
    largest = 0.0
    for rank, j in enumerate(order):
        largest = max(largest, (len(p) - rank) * p[j])
        adjusted[j] = min(1.0, largest)
    return adjusted


@dataclass
class Reference:
    """The results of each entry, in the order of the table."""

    method: str
    baseline_p: float | None
    mean: list[float]
    p: list[float]  # adjusted; of both keys
    p_equivalent: list[float]  # adjusted; of both keys
    half_width: list[float]  # of the simultaneous interval, before a verdict shortens it


def variance(values: list[float]) -> float:
    center = sum(values) / len(values)
    return sum((value - center) ** 2 for value in values) / (len(values) - 1)


def block_variance(rows: list[list[float]]) -> float:
    """Return the residual variance of value = entry + seed + noise; rows are entries."""
    n_entries = len(rows)
    n_seeds = len(rows[0])
    total = sum(sum(row) for row in rows) / (n_entries * n_seeds)
    of_seed = [sum(row[s] for row in rows) / n_entries for s in range(n_seeds)]
    squares = 0.0
    for row in rows:
        of_entry = sum(row) / n_seeds
        for s in range(n_seeds):
            squares += (row[s] - of_entry - of_seed[s] + total) ** 2
    return squares / ((n_entries - 1) * (n_seeds - 1))


def baseline_noise_pvalue(rows: list[list[float]]) -> float | None:
    """Return the one-sided F test of the baseline's noise; rows are entries, the baseline first.

    The baseline minus the mean of the m others has the variance sigma^2 (1 + 1/m), and is
    independent of the residuals of the others.
    """
    m = len(rows) - 1
    n_seeds = len(rows[0])
    if m < 2 or n_seeds < 2:
        return None
    contrast = []
    for s in range(n_seeds):
        contrast.append(rows[0][s] - sum(row[s] for row in rows[1:]) / m)
    ratio = variance(contrast) / (1 + 1 / m) / block_variance(rows[1:])
    return float(stats.f.sf(ratio, n_seeds - 1, (m - 1) * (n_seeds - 1)))


def own_p(differences: list[float]) -> float:
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def own_p_equivalent(differences: list[float], margin: float) -> float:
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    return float(max(above, below))


def test_by_reference(rows: list[list[float]], margin: float, alpha: float) -> Reference:
    """Test all entries; `rows` has the values of each by seed, the baseline's first."""
    m = len(rows) - 1
    n = len(rows[0])
    differences = [[row[s] - rows[0][s] for s in range(n)] for row in rows[1:]]
    mean = [sum(values) / n for values in differences]
    variances = [variance(values) for values in differences]
    own = [own_p(values) for values in differences]
    own_equivalent = [own_p_equivalent(values, margin) for values in differences]
    baseline_p = baseline_noise_pvalue(rows)

    if n < 3 or (baseline_p is not None and baseline_p < BASELINE_NOISE_LEVEL):
        t = float(stats.t.ppf(1 - alpha / m / 2, n - 1))
        half = [t * sqrt(v / n) for v in variances]
        return Reference("Holm", baseline_p, mean, holm(own), holm(own_equivalent), half)

    df = m * (n - 1)
    pooled = max(2 * block_variance(rows), sum(variances) / m)
    se = [sqrt(max(v, pooled) / n) for v in variances]
    first_key = step_down([mean[j] / se[j] for j in range(m)], df)
    pooled_equivalent = []
    for j in range(m):
        excess = (abs(mean[j]) - margin) / se[j]
        pooled_equivalent.append(float(stats.t.cdf(excess, df)))
    first_key_equivalent = holm(pooled_equivalent)
    critical = dunnett_critical(m, df, alpha)
    own_t = float(stats.t.ppf(1 - alpha / 2, n - 1))
    half = []
    for j in range(m):
        half.append(max(critical * se[j], own_t * sqrt(variances[j] / n)))
    return Reference(
        "two keys",
        baseline_p,
        mean,
        [max(first_key[j], own[j]) for j in range(m)],
        [max(first_key_equivalent[j], own_equivalent[j]) for j in range(m)],
        half,
    )


test_by_reference.__test__ = False  # not a test of pytest
