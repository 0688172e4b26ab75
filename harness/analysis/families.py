"""Test a family of differences from one baseline, and give each verdict an interval that agrees.

The rule of two keys, from three seeds. Key 1: the step-down test of Dunnett with the noise of the
whole family, which seeds block. Key 2: the paired t test of the entry itself. A difference is
`better` or `worse` if both reject at the level alpha. Key 1 has the power of many degrees of
freedom; key 2 protects against an entry whose noise differs from that of the others.

The standard error of an entry is sqrt(max(v_j, 2 s2, mean v) / n): v_j is the variance of its own
paired differences, s2 the residual variance of the block model. If the baseline is noisier than
the others (F test, p < 0.02), or with two seeds, the paired t tests are adjusted by Holm (1979)
instead.

An entry is `equivalent` if two one-sided tests (Schuirmann 1987) with the noise of the family,
adjusted by Holm, and those of the entry itself place it within the margin.

All functions are pure functions of frames and numbers.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from harness.analysis import block_model, dunnett, power, significance
from harness.analysis.block_model import BlockNoise
from harness.analysis.intervals import t_half_width
from harness.analysis.significance import ALPHA, BASELINE_NOISE_P, TWO_KEYS_FROM, FloatArray
from harness.analysis.verdicts import decide, without_gains
from harness.results.records.comparisons import SignificanceResult, TestFamily, TestMethod
from harness.results.records.estimates import Difference

if TYPE_CHECKING:
    import pandas as pd

NO_MARGINS: Mapping[str, float | None] = {}
NO_LOST: Mapping[str, Collection[int]] = {}
NO_PAIRS_LOST: Mapping[str, tuple[Collection[int], Collection[int]]] = {}


@dataclass(frozen=True)
class FamilyTest:
    """The result of each entry that shares a seed with the baseline, and how they were tested."""

    results: dict[str, SignificanceResult]
    family: TestFamily


@dataclass(frozen=True)
class Untested:
    """Numbers of a family's entries that were tested before, on fewer seeds, and count further.

    `different` are those without the verdict better or worse, `equivalent` those that are not
    equivalent, `entries` are all.
    """

    different: int = 0
    equivalent: int = 0
    entries: int = 0


NONE_UNTESTED = Untested()


@dataclass(frozen=True)
class _Tests:
    """The tests of some entries, each array (n_entries,).

    `own_p` is that of each entry's paired t test without correction. `half_width` is that of the
    simultaneous interval, which contains 0 unless the entry is rejected in a single step by all
    tests that its verdict needs.
    """

    own_p: FloatArray
    p: FloatArray
    p_equivalent: FloatArray
    half_width: FloatArray
    family: TestFamily


def test_family(
    values: "pd.DataFrame",
    baseline: str,
    margin: float | None,
    lower_is_better: bool = True,
    *,
    alpha: float = ALPHA,
    margins: Mapping[str, float | None] = NO_MARGINS,
    lost: Mapping[str, Collection[int]] = NO_LOST,
    untested: Untested = NONE_UNTESTED,
) -> FamilyTest:
    """Test every entry of a family against its baseline.

    `values` has a row for each seed and a column for each entry, the baseline's included; NaN where
    a run has no value. `margins` has those of entries that are in another unit. `lost` has the
    seeds of each entry whose runs failed: unless all entries lost the same, the survivors are a
    selection, and the side that lost seeds gains no verdict. `untested` are entries of the family
    that have no column. Differences that are 0 in every seed are equivalent. Other differences that
    are equal in every seed are one observation, which gives no verdict.
    """
    all_differences = values.to_numpy(dtype=float) - values[[baseline]].to_numpy(dtype=float)
    differences = {}
    for column, name in enumerate(values.columns):
        found = all_differences[:, column]
        found = found[~np.isnan(found)]
        if name != baseline and len(found):
            differences[str(name)] = found
    own_margins = {name: margins.get(name, margin) for name in differences}
    tested = [name for name, found in differences.items() if _varies(found)]
    tests = _two_keys(values, baseline, tested, differences, own_margins, alpha, untested)
    results = _results(differences, tests, own_margins, lower_is_better, alpha, untested.entries)
    of_pairs = {name: (lost.get(name, ()), lost.get(baseline, ())) for name in results}
    return FamilyTest(without_gains(_as_one(results), of_pairs), tests.family)


def test_differences(
    differences: Mapping[str, Sequence[float]],
    margin: float | None,
    lower_is_better: bool = True,
    *,
    alpha: float = ALPHA,
    margins: Mapping[str, float | None] = NO_MARGINS,
    lost: Mapping[str, tuple[Collection[int], Collection[int]]] = NO_PAIRS_LOST,
    without_noise: bool = False,
    untested: Untested = NONE_UNTESTED,
) -> FamilyTest:
    """Test each paired difference by its own t test, adjusted by Holm (1979).

    The values of each are one difference per seed. Those that are equal in every seed are exact if
    the metric is one `without_noise`, such as peak memory, else one observation. `lost` has the
    failed seeds of each entry and of its baseline.
    """
    arrays = {name: np.asarray(found, dtype=float) for name, found in differences.items()}
    own_margins = {name: margins.get(name, margin) for name in arrays}
    tested = [name for name, found in arrays.items() if _varies(found)]
    reason = "the differences have no common noise"
    tests = _holm(tested, arrays, own_margins, alpha, reason, untested)
    results = _results(arrays, tests, own_margins, lower_is_better, alpha, untested.entries)
    if not without_noise:
        results = _as_one(results)
    return FamilyTest(without_gains(results, lost), tests.family)


# -- the tests ------------------------------------------------------------------------------------


def _varies(found: FloatArray) -> bool:
    return len(found) > 1 and not significance.is_constant(found)


def _two_keys(
    values: "pd.DataFrame",
    baseline: str,
    tested: list[str],
    differences: Mapping[str, FloatArray],
    margins: Mapping[str, float | None],
    alpha: float,
    untested: Untested,
) -> _Tests:
    """Return the tests by two keys, or those of Holm where the rule does not hold."""
    table = values[[baseline, *tested]].to_numpy(dtype=float)
    n_seeds = int(np.isfinite(table[:, 0]).sum())
    noise = block_model.fit(table) if tested else None
    noise_p = block_model.baseline_noise_pvalue(table[:, 0], table[:, 1:])
    reason = _reason_for_holm(n_seeds, noise, noise_p)
    if reason is not None or noise is None:
        by_holm = _holm(tested, differences, margins, alpha, reason, untested)
        noted: dict[str, object] = {"baseline_p": noise_p}
        if noise is not None and n_seeds < TWO_KEYS_FROM:
            noted["noise"] = math.sqrt(2 * noise.variance)
            noted["degrees_of_freedom"] = noise.degrees_of_freedom
        return replace(by_holm, family=by_holm.family.model_copy(update=noted))

    means = np.array([differences[name].mean() for name in tested])
    se = _standard_errors([differences[name] for name in tested], noise)
    # The second key is that of 95 % at each look: the error rate over looks is that of the first.
    to_level = alpha / ALPHA
    own = np.array([significance.paired_t_pvalue(differences[name]) for name in tested])
    own_equivalent = np.array(
        [significance.tost_pvalue(differences[name], margins[name]) for name in tested]
    )
    df = noise.degrees_of_freedom
    p_equivalent = {
        name: _one_sided(abs(means[i]), margins[name], se[i], df) for i, name in enumerate(tested)
    }
    adjusted = significance.holm_adjust(p_equivalent, untested.equivalent)
    n_comparisons = len(tested) + untested.entries
    critical = dunnett.critical_value(n_comparisons, df, alpha)
    return _Tests(
        own_p=own,
        p=np.maximum(dunnett.step_down_pvalues(means / se, df, untested.different), own * to_level),
        p_equivalent=np.maximum([adjusted[name] for name in tested], own_equivalent * to_level),
        half_width=_two_keys_half_widths(
            [differences[name] for name in tested], noise, alpha, n_comparisons
        ),
        family=TestFamily(
            method="two keys",
            entries=tested,
            n_seeds=n_seeds,
            alpha=alpha,
            noise=math.sqrt(2 * noise.variance),
            degrees_of_freedom=df,
            critical_value=critical,
            baseline_p=noise_p,
        ),
    )


def _reason_for_holm(n_seeds: int, noise: BlockNoise | None, noise_p: float | None) -> str | None:
    """Return why the rule of two keys does not hold, None if it does."""
    if n_seeds < TWO_KEYS_FROM or noise is None:
        return f"there are fewer than {TWO_KEYS_FROM} seeds"
    if noise_p is not None and noise_p < BASELINE_NOISE_P:
        return f"the baseline is noisier than the other entries (F test, p = {noise_p:.2g})"
    return None


def _standard_errors(differences: Sequence[FloatArray], noise: BlockNoise) -> FloatArray:
    """Return sqrt(max(v_j, 2 s2, mean v) / n) of each entry; the mean is weighted by n - 1."""
    n = np.array([len(found) for found in differences])
    variances = np.array([found.var(ddof=1) for found in differences])
    mean_variance = float(((n - 1) * variances).sum() / (n - 1).sum())
    largest = np.maximum(variances, max(2 * noise.variance, mean_variance))
    return np.asarray(np.sqrt(largest / n))


def _two_keys_half_widths(
    differences: Sequence[FloatArray], noise: BlockNoise, alpha: float, n_comparisons: int
) -> FloatArray:
    """Return half of each simultaneous interval, and at least half of the entry's own."""
    critical = dunnett.critical_value(n_comparisons, noise.degrees_of_freedom, alpha)
    own = [t_half_width(found, ALPHA) for found in differences]
    return np.maximum(critical * _standard_errors(differences, noise), own)


def half_widths(
    values: FloatArray, method: TestMethod, alpha: float, n_comparisons: int
) -> FloatArray:
    """Return half of the simultaneous interval of each entry's mean difference, (n_entries,).

    `values` has a row for each seed, the baseline's column and then one for each entry; NaN where a
    run has no value. The interval is that of `test_family` in a family of `n_comparisons`, before
    it is cut to agree with a verdict. It is 0 if the entry equals the baseline in every seed, and
    NaN for one seed, or if the differences are equal in every seed and not 0.
    """
    all_differences = values[:, 1:] - values[:, :1]
    known = np.isfinite(all_differences)
    found = [column[here] for column, here in zip(all_differences.T, known.T, strict=True)]
    half = np.array([0.0 if len(own) and not own.any() else np.nan for own in found])
    varying = [i for i, own in enumerate(found) if _varies(own)]
    if not varying:
        return half
    differences = [found[i] for i in varying]
    if method == "two keys":
        noise = block_model.fit(values[:, [0, *(i + 1 for i in varying)]])
        if noise is not None:
            half[varying] = _two_keys_half_widths(differences, noise, alpha, n_comparisons)
        return half
    half[varying] = [t_half_width(own, alpha / n_comparisons) for own in differences]
    return half


def _holm(
    tested: list[str],
    differences: Mapping[str, FloatArray],
    margins: Mapping[str, float | None],
    alpha: float,
    reason: str | None,
    untested: Untested,
) -> _Tests:
    p = {name: significance.paired_t_pvalue(differences[name]) for name in tested}
    p_equivalent = {
        name: significance.tost_pvalue(differences[name], margins[name]) for name in tested
    }
    adjusted = significance.holm_adjust(p, untested.different)
    adjusted_equivalent = significance.holm_adjust(p_equivalent, untested.equivalent)
    level = alpha / max(1, len(tested) + untested.entries)
    return _Tests(
        own_p=np.array([p[name] for name in tested]),
        p=np.array([adjusted[name] for name in tested]),
        p_equivalent=np.array([adjusted_equivalent[name] for name in tested]),
        half_width=np.array([t_half_width(differences[name], level) for name in tested]),
        family=TestFamily(
            method="Holm",
            reason=reason,
            entries=tested,
            n_seeds=max((len(differences[name]) for name in tested), default=0),
            alpha=alpha,
        ),
    )


def _one_sided(distance: float, margin: float | None, se: float, df: int) -> float:
    """Return the larger p-value of the one-sided tests that a difference is within the margin."""
    if margin is None:
        return 1.0
    from scipy.special import stdtr

    return float(stdtr(df, (distance - margin) / se))


# -- verdicts and intervals -----------------------------------------------------------------------


def _results(
    differences: Mapping[str, FloatArray],
    tests: _Tests,
    margins: Mapping[str, float | None],
    lower_is_better: bool,
    alpha: float,
    n_more: int,
) -> dict[str, SignificanceResult]:
    tested = tests.family.entries
    own_p = dict(zip(tested, tests.own_p.tolist(), strict=True))
    p_bh = significance.benjamini_hochberg_adjust(own_p)
    results = {}
    for name, found in differences.items():
        center = float(found.mean())
        if len(found) == 1:
            only = Difference(mean=center, ci95=None, n=1)
            results[name] = SignificanceResult(verdict=None, difference=only)
            continue
        if name not in tested:
            results[name] = _exact(center, len(found), margins[name], lower_is_better)
            continue
        i = tested.index(name)
        half = float(tests.half_width[i])
        verdict, bounds = decide(
            (center - half, center + half),
            float(tests.p[i]),
            float(tests.p_equivalent[i]),
            margins[name],
            lower_is_better,
            alpha,
        )
        own_half = t_half_width(found, ALPHA)
        results[name] = SignificanceResult(
            verdict=verdict,
            method=tests.family.method,
            difference=Difference(mean=center, ci95=bounds, n=len(found)),
            own95=(center - own_half, center + own_half),
            p=own_p[name],
            p_adjusted=float(tests.p[i]),
            p_bh=p_bh[name],
            p_equivalent=None if margins[name] is None else float(tests.p_equivalent[i]),
            effect_size=significance.effect_size(found),
        )
        if verdict == "unresolved":
            needed = power.seeds_of_entry(found, tests.family, margins[name], n_more)
            stated = {"seeds_to_resolve": needed.seeds, "seeds_to_resolve_ci95": needed.bounds}
            results[name] = results[name].model_copy(update=stated)
    return results


def _exact(
    center: float, n: int, margin: float | None, lower_is_better: bool
) -> SignificanceResult:
    """Return the result of differences that are equal in every seed."""
    within = center == 0 or abs(center) < (margin or 0.0)
    p = 1.0 if center == 0 else 0.0
    return SignificanceResult(
        verdict=significance.classify(center, p, 0.0 if within else 1.0, lower_is_better),
        method="exact",
        difference=Difference(mean=center, ci95=(center, center), n=n),
        own95=(center, center),
        p=p,
        p_adjusted=p,
        p_bh=p,
        p_equivalent=None if margin is None else (0.0 if within else 1.0),
    )


def _as_one(results: Mapping[str, SignificanceResult]) -> dict[str, SignificanceResult]:
    """Return the results; a difference that no seed changes and that is not 0 has no verdict."""
    checked = dict(results)
    for name, result in results.items():
        if result.method == "exact" and result.difference.mean != 0:
            only = result.difference.model_copy(update={"ci95": None})
            checked[name] = SignificanceResult(
                verdict=None, difference=only, seed_has_no_effect=True
            )
    return checked
