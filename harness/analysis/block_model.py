"""The noise of a family of entries that share seeds, by least squares.

The model is value = entry + seed + noise. Seeds are blocks: what a seed gives to all entries
cancels in paired differences. Values may be missing. All functions are pure functions of arrays
with one row for each seed and one column for each entry, NaN where a run has no value.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class BlockNoise:
    """The variance of the noise and its degrees of freedom; `of_seeds` are the effects of seeds.

    Without missing values the degrees of freedom are (n_entries - 1) (n_seeds - 1). A seed without
    a value has the effect NaN.
    """

    variance: float
    degrees_of_freedom: int
    of_seeds: FloatArray  # (n_seeds,), up to a constant


def fit(values: FloatArray) -> BlockNoise | None:
    """Fit the model to values, (n_seeds, n_entries); None without degrees of freedom.

    The means of the entries are eliminated from the normal equations, so that one equation per seed
    remains.
    """
    known = np.isfinite(values)
    n_by_entry = known.sum(axis=0)
    present = n_by_entry > 0
    known = known[:, present]
    y = np.where(known, values[:, present], 0.0)
    weights = known / n_by_entry[present]
    centered = np.where(known, y - y.sum(axis=0) / n_by_entry[present], 0.0)
    equations = np.diag(known.sum(axis=1).astype(float)) - weights @ known.T
    rank = int(np.linalg.matrix_rank(equations, hermitian=True))
    df = int(known.sum() - known.shape[1] - rank)
    if df < 1:
        return None
    of_seeds = np.linalg.pinv(equations, hermitian=True) @ centered.sum(axis=1)
    without_seeds = np.where(known, y - of_seeds[:, None], 0.0)
    of_entries = without_seeds.sum(axis=0) / n_by_entry[present]
    residuals = np.where(known, without_seeds - of_entries, 0.0)
    return BlockNoise(
        variance=float((residuals**2).sum()) / df,
        degrees_of_freedom=df,
        of_seeds=np.where(known.any(axis=1), of_seeds, np.nan),
    )


def baseline_noise_pvalue(baseline: FloatArray, others: FloatArray) -> float | None:
    """Return the p-value of the F test that the baseline is as noisy as the others.

    One-sided: it is small if the baseline (n_seeds,) is noisier than `others` (n_seeds, n_others).
    All differences then share its noise, and their correlation is above 1/2. None if there are too
    few values to tell.
    """
    model = fit(others)
    if model is None:
        return None
    deviations = baseline - model.of_seeds
    usable = np.isfinite(deviations)
    df = int(usable.sum()) - 1
    if df < 1:
        return None
    n_others = np.isfinite(others).sum(axis=1)[usable]
    of_baseline = float(np.var(deviations[usable], ddof=1)) / (1 + float(np.mean(1 / n_others)))
    if model.variance == 0.0:
        return 0.0 if of_baseline > 0 else 1.0
    from scipy.special import fdtrc

    return float(fdtrc(df, model.degrees_of_freedom, of_baseline / model.variance))
