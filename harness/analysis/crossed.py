"""The mean difference of a task's metric, paired by seed and by example, and its uncertainty.

The difference of seed s in example e is mean + seed_s + example_e + rest_se: seeds and examples are
crossed random effects (Clark 1973). For n seeds and m examples, the mean has the variance

    V = (MS_seed + MS_example - MS_rest) / (n m)

of the mean squares of the two-way analysis of variance. Its part V_seed = MS_seed / (n m) is the
variance of the t test over seeds; the rest is that of the examples that all seeds share. With one
seed, only the paired differences of the examples are known (Miller 2024), and the interval holds
for these two models.

The critical value is that of t with n - 1 degrees of freedom for V_seed and about normal for the
rest, weighted by these variances (Cochran 1964). With 2 to 5 seeds, the degrees of freedom of
Satterthwaite (1946) for V give intervals that cover too little, in particular those of a family.

Metrics of 0 and 1 over few examples can have equal means in all seeds by chance. The interval is
therefore never narrower than that of the examples, without any variance of the seeds.

All functions are pure functions of numbers.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.significance import FloatArray, is_constant
from harness.results.records.entries import Sampled
from harness.results.records.estimates import Bounds

TAIL_ACCURACY = 1e-12  # of the logarithm of a p-value


@dataclass(frozen=True)
class _Noise:
    """The variance of a mean difference: one or two parts, each with its degrees of freedom.

    The critical value is the mean of those of the parts, weighted by their variances.
    """

    parts: tuple[tuple[float, float], ...]

    @property
    def se(self) -> float:
        return math.sqrt(sum(variance for variance, _ in self.parts))

    def half_width(self, alpha: float) -> float:
        from scipy.special import stdtrit

        weighted = sum(variance * float(stdtrit(df, 1 - alpha / 2)) for variance, df in self.parts)
        return weighted / self.se

    def tail(self, distance: float) -> float:
        """Return the probability of a value below `distance`: the inverse of `half_width`."""
        from scipy.special import stdtr

        if distance > 0:
            return 1 - self.tail(-distance)
        of_parts = [float(stdtr(df, distance / self.se)) for _, df in self.parts]
        smallest = sys.float_info.min  # whose logarithm is finite
        low = math.log(max(smallest, min(of_parts)))
        high = math.log(max(smallest, *of_parts))
        while high - low > TAIL_ACCURACY:
            middle = (low + high) / 2
            if self.half_width(2 * math.exp(middle)) > -distance:
                low = middle
            else:
                high = middle
        return math.exp(high)


@dataclass(frozen=True)
class SampledDifference:
    """A mean difference of `n` seeds with the standard errors of its sources; None: not sampled.

    The interval is the widest that `noises` give, and the p-value the largest.
    """

    mean: float
    n: int
    over: Sampled
    se_seeds: float | None
    se_examples: float | None
    noises: tuple[_Noise, ...]

    @property
    def p(self) -> float:
        """The two-sided p-value of the test that the difference is 0."""
        return min(1.0, 2 * self._tail(-abs(self.mean)))

    def p_equivalent(self, margin: float | None) -> float:
        """Return the larger p-value of the one-sided tests against -margin and margin."""
        return 1.0 if margin is None else self._tail(abs(self.mean) - margin)

    def interval(self, alpha: float = 0.05) -> Bounds:
        """Return the interval that covers the true difference with probability 1 - alpha."""
        half = max(noise.half_width(alpha) for noise in self.noises)
        return self.mean - half, self.mean + half

    def _tail(self, distance: float) -> float:
        return max(noise.tail(distance) for noise in self.noises)


def over_seeds(differences: Sequence[float]) -> SampledDifference | None:
    """Return the mean of one difference per seed; None for one seed, or if all are equal."""
    n = len(differences)
    if n < 2 or is_constant(differences):
        return None
    se = float(np.std(differences, ddof=1)) / math.sqrt(n)
    mean = float(np.mean(differences))
    return SampledDifference(mean, n, "seeds", se, None, (_Noise(((se**2, n - 1),)),))


def over_examples(differences: FloatArray) -> SampledDifference | None:
    """Return the mean of the differences of the examples of each seed, (n_seeds, n_examples).

    Examples in which no seed differs do not add to the degrees of freedom of the examples. None if
    fewer than two examples differ, or if all differ equally: these are one observation.
    """
    n, m = differences.shape
    n_different = int(np.count_nonzero((differences != 0).any(axis=0)))
    if n_different < 2 or is_constant(differences):
        return None
    mean = float(differences.mean())
    df_examples = n_different - 1
    if n == 1:
        se = float(differences.std(ddof=1)) / math.sqrt(m)
        noise = _Noise(((se**2, df_examples),))
        return SampledDifference(mean, 1, "examples", None, se, (noise,))
    of_seeds = differences.mean(axis=1)
    of_examples = differences.mean(axis=0)
    rest = differences - of_seeds[:, None] - of_examples + mean
    variance_of_rest = float((rest**2).sum()) / ((n - 1) * (m - 1)) / (n * m)
    variance_of_seeds = float(of_seeds.var(ddof=1)) / n
    shared = max(0.0, float(of_examples.var(ddof=1)) / m - variance_of_rest)
    noises = [_Noise(((variance_of_rest + shared, df_examples),))]
    if not is_constant(of_seeds):
        noises.append(_Noise(((variance_of_seeds, n - 1), (shared, df_examples))))
    return SampledDifference(
        mean=mean,
        n=n,
        over="seeds and examples",
        se_seeds=math.sqrt(variance_of_seeds),
        se_examples=math.sqrt(shared),
        noises=tuple(noises),
    )
