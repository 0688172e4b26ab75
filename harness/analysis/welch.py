"""The unpaired comparison of two entries whose seeds do not match (Welch 1947).

Without common seeds, the noise that seeds share does not cancel, so that a difference of the same
size needs more seeds than a paired one. All functions are pure functions of numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.results.records.estimates import Bounds

# Times the smaller number of seeds minus one: the most degrees of freedom. Satterthwaite's are an
# estimate. With 2 seeds against 10 they give a family-wise error of 14 % for two entries and 31 %
# for 17; with this limit it is at most 5 % (measured).
MAX_DF = 1.5


@dataclass(frozen=True)
class UnpairedDifference:
    """The difference of two means, its standard error and degrees of freedom.

    `n` is the smaller of the two numbers of seeds. `satterthwaite_df` are the degrees of freedom of
    the textbook, `df` those that are used.
    """

    mean: float
    se: float
    satterthwaite_df: float
    df: float
    n: int

    @property
    def p(self) -> float:
        """The two-sided p-value of the test that the difference is 0."""
        return min(1.0, 2 * self._cdf(-abs(self.mean) / self.se))

    def p_equivalent(self, margin: float | None) -> float:
        """Return the larger p-value of the one-sided tests against -margin and margin."""
        return 1.0 if margin is None else self._cdf((abs(self.mean) - margin) / self.se)

    def interval(self, alpha: float = 0.05) -> Bounds:
        """Return the interval that covers the true difference with probability 1 - alpha."""
        from scipy.special import stdtrit

        half = float(stdtrit(self.df, 1 - alpha / 2)) * self.se
        return self.mean - half, self.mean + half

    def _cdf(self, t: float) -> float:
        from scipy.special import stdtr

        return float(stdtr(self.df, t))


def welch(values: Sequence[float], base_values: Sequence[float]) -> UnpairedDifference | None:
    """Return the mean of `values` minus that of `base_values`, of independent seeds.

    None with fewer than two values on a side, or if neither side varies: values that are equal
    across seeds are one observation. The degrees of freedom are those of Satterthwaite (1946), at
    most `MAX_DF` times those of the side with fewer seeds.
    """
    n = min(len(values), len(base_values))
    if n < 2:
        return None
    variance = float(np.var(values, ddof=1)) / len(values)
    base_variance = float(np.var(base_values, ddof=1)) / len(base_values)
    total = variance + base_variance
    mean = float(np.mean(values)) - float(np.mean(base_values))
    rounding = np.finfo(float).eps * max(np.abs(values).max(), np.abs(base_values).max())
    if math.sqrt(total) <= rounding:
        return None
    weighted = variance**2 / (len(values) - 1) + base_variance**2 / (len(base_values) - 1)
    satterthwaite_df = total**2 / weighted
    return UnpairedDifference(
        mean=mean,
        se=math.sqrt(total),
        satterthwaite_df=satterthwaite_df,
        df=min(satterthwaite_df, MAX_DF * (n - 1)),
        n=n,
    )
