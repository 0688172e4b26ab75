"""Scaling laws of a study: the runs of each entry over the sizes of its ladder.

Curves of one context are fitted together; the baseline of a curve is that of its entries.
`ladder_curves` finds the curves.
"""

import math
from collections.abc import Collection
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.analysis import (
    ladder_estimates,
    lost_seeds,
    machines,
    metrics,
)
from harness.analysis.dataset import StudyResults
from harness.analysis.ladder_curves import (
    MIN_SIZES,
    SAME_SIZE,
    Curve,
    by_context,
    by_unit,
    exclusion,
    final_losses,
    n_distinct,
    ordered_sizes,
    settings,
)
from harness.analysis.ladder_estimates import (
    MAX_LOG,
    Estimate,
    FittedLadder,
    LadderData,
    Speedups,
    add,
    weighted_mean,
)
from harness.analysis.power_laws import EXPONENTS
from harness.results.records import LadderSettings
from harness.results.records.estimates import Bounds
from harness.results.records.ladder import (
    Ladder,
    LadderCurvePoint,
    LadderExclusion,
    LadderFit,
    LadderPoint,
    LadderProjection,
    LadderSpeedup,
    LadderTrend,
    Scale,
    TrendVerdict,
)

Array = NDArray[np.float64]

MARGIN = 1.1  # change of a multiplier per tenfold compute that counts as constant
FAR = 10.0  # times the largest size, beyond which a projection is marked
CURVE_POINTS = 50


def ladder(
    study: StudyResults, diverging: Collection[str] = (), leaking: Collection[str] = ()
) -> Ladder | None:
    """Return the laws of a study; None without a ladder, or if no curve has three sizes.

    Entries that are `diverging` (by label) have no speed; those that are `leaking`, which see later
    tokens, have no law.
    """
    chosen = settings(study)
    if chosen is None or chosen.axis not in study.levels:
        return None
    families: list[list[Curve]] = []
    unfitted = []
    for curves in by_context(study, chosen.axis):
        kept = []
        for curve in curves:
            reason = exclusion(curve, leaking)
            if reason is None:
                kept.append(curve)
            else:
                unfitted.append(LadderExclusion(entry=curve.label, reason=reason))
        families += by_unit(kept)
    fitted = [_Family(curves, chosen, diverging) for curves in families]
    if not fitted:
        return None
    result = Ladder(
        axis=chosen.axis,
        sizes=fitted[0].sizes,
        irreducible=chosen.irreducible,
        points=[],
        fits=[],
        speedups=[],
        trends=[],
        projections=[],
        curves=[],
        unfitted=unfitted,
        uncompared=[],
    )
    for family_fit in fitted:
        family_fit.add_to(result)
    return result


class _Family:
    """The curves of one context and their laws over each scale."""

    def __init__(
        self, curves: list[Curve], chosen: LadderSettings, diverging: Collection[str]
    ) -> None:
        self.curves = curves
        self.diverging = diverging
        self.project_to = chosen.project_to
        self.is_shared = chosen.irreducible == "shared"
        self.index = {curve.label: i for i, curve in enumerate(curves)}
        self.sizes = ordered_sizes(curves)
        self.losses = final_losses(curves, self.sizes)
        self.fitted: dict[Scale, FittedLadder] = {}
        for scale in ("flops", "parameters", "tokens"):
            x = self._amounts(scale)
            if all(n_distinct(row[np.isfinite(row)].tolist()) >= MIN_SIZES for row in x):
                data = LadderData(x, self.losses)
                self.fitted[scale] = ladder_estimates.fit(data, self.is_shared)

    def _amounts(self, scale: Scale) -> Array:
        """Return the amount of each curve at each size, (n_curves, n_sizes)."""
        rows = [[curve.amount(scale, size) for size in self.sizes] for curve in self.curves]
        return np.array(rows)

    def add_to(self, result: Ladder) -> None:
        """Append the results of all curves."""
        by_flops = self.fitted["flops"]
        for i, curve in enumerate(self.curves):
            result.points.extend(self._points(curve))
            for scale, fitted in self.fitted.items():
                result.fits.append(self._law(curve, i, scale, fitted))
                result.curves.extend(self._curve(curve, i, scale, fitted))
            reason = self._no_speedup(curve)
            if reason is not None:
                result.uncompared.append(LadderExclusion(entry=curve.label, reason=reason))
            elif curve.against is not None:
                self._add_speedups(result, curve, by_flops)
            if self.project_to is not None:
                fit = next(f for f in result.fits if (f.entry, f.over) == (curve.label, "flops"))
                result.projections.append(self._project(curve, i, fit.leave_out_error))

    def _no_speedup(self, curve: Curve) -> str | None:
        """Return why a curve has no speedup over its baseline, None if it has one, or no baseline.

        Without a loss that falls with size, more compute is worth nothing, or any amount.
        """
        if curve.against is None:
            return None
        if curve.against not in self.index:
            return f"no law of {curve.against} with comparable losses"
        base = self.curves[self.index[curve.against]]
        for size in self.sizes:
            pair = [other.entries[size] for other in (curve, base) if size in other.entries]
            for label in sorted(lost_seeds.selected(pair)):
                return f"{label} lost seeds, so that its other seeds are a selection"
        exponent = self.fitted["flops"].laws.exponent[0, self.index[curve.against]]
        if exponent <= (1 + SAME_SIZE) * EXPONENTS[0]:
            return f"the loss of {curve.against} does not fall with size"
        return None

    def _points(self, curve: Curve) -> list[LadderPoint]:
        points = []
        for size in self.sizes:
            if size not in curve.sizes:
                continue
            points.append(
                LadderPoint(
                    entry=curve.label,
                    size=size,
                    lost_seeds=curve.entries[size].lost_seeds,
                    flops=curve.amount("flops", size),
                    parameters=curve.amount("parameters", size),
                    tokens=curve.amount("tokens", size),
                    val_loss=lost_seeds.mean(
                        curve.entries[size],
                        list(metrics.final_losses(curve.entries[size]).values()),
                    ),
                )
            )
        return points

    def _law(self, curve: Curve, i: int, scale: Scale, fitted: FittedLadder) -> LadderFit:
        irreducible = fitted.parameter("irreducible", i)
        exponent = fitted.parameter("exponent", i)
        measured, predicted = self._left_out(i, scale)
        return LadderFit(
            entry=curve.label,
            over=scale,
            n_sizes=len(curve.sizes),
            irreducible=irreducible.value,
            irreducible_ci95=irreducible.bounds,
            coefficient=fitted.parameter("coefficient", i).value,
            exponent=exponent.value,
            exponent_ci95=exponent.bounds,
            largest_measured=measured,
            largest_predicted=predicted.value if predicted else None,
            largest_predicted_ci95=predicted.bounds if predicted else None,
            leave_out_error=predicted.value - measured if predicted and measured else None,
        )

    @cached_property
    def _smaller(self) -> dict[Scale, FittedLadder]:
        """The fits without the largest size, where every curve has three others."""
        fits: dict[Scale, FittedLadder] = {}
        for scale, fitted in self.fitted.items():
            x = fitted.data.x[:, :-1]
            if all(n_distinct(row[np.isfinite(row)].tolist()) >= MIN_SIZES for row in x):
                fits[scale] = ladder_estimates.without_largest(fitted, self.is_shared)
        return fits

    def _left_out(self, i: int, scale: Scale) -> tuple[float | None, Estimate | None]:
        """Return the mean loss at the largest size, and its prediction from the smaller ones."""
        smaller = self._smaller.get(scale)
        if smaller is None:
            measured = float(self.fitted[scale].data.means[i, -1])
            return (None if math.isnan(measured) else measured), None
        return ladder_estimates.predict_largest(self.fitted[scale], smaller, i) or (None, None)

    def _add_speedups(self, result: Ladder, curve: Curve, fitted: FittedLadder) -> None:
        i = self.index[curve.label]
        against = str(curve.against)
        base = self.curves[self.index[against]]
        found = ladder_estimates.speedups(fitted, i, self.index[against])
        ratios: list[Estimate | None] = []
        for j, size in enumerate(self.sizes):
            log_multiplier = found.by_size[j]
            ratio = self._log_speed_ratio(curve, base, size)
            ratios.append(ratio)
            if log_multiplier is None:
                continue
            losses = self.losses[i, j] - self.losses[self.index[against], j]
            compute, compute_ci95 = _factor(log_multiplier)
            time, time_ci95 = _factor(add(log_multiplier, ratio))
            result.speedups.append(
                LadderSpeedup(
                    entry=curve.label,
                    against=against,
                    size=size,
                    flops=curve.amount("flops", size),
                    val_loss_difference=float(np.nanmean(losses)),
                    compute_multiplier=compute,
                    compute_multiplier_ci95=compute_ci95,
                    time_multiplier=time,
                    time_multiplier_ci95=time_ci95,
                )
            )
        if found.pooled is not None:
            result.trends.append(_trend(curve.label, against, found, ratios))

    def _log_speed_ratio(self, curve: Curve, base: Curve, size: str) -> Estimate | None:
        """Return the logarithm of the ratio of FLOP/s at a size, None without timed steps."""
        entry = curve.entries.get(size)
        other = base.entries.get(size)
        if entry is None or other is None or {entry.label, other.label} & set(self.diverging):
            return None
        runs, base_runs = machines.comparable_runs(entry, other, machines.speed_reason)
        if not runs:
            return None
        ratio = metrics.speed_ratio(runs, base_runs)
        if ratio is None:
            return None
        run = runs[0]
        base_run = base_runs[0]
        per_step = run.known_flops_per_token * (run.tokens_per_step or 0)
        base_per_step = base_run.known_flops_per_token * (base_run.tokens_per_step or 0)
        log_flops = math.log(per_step / base_per_step)
        bounds = None
        if ratio.ci95 is not None:
            low, high = ratio.ci95
            bounds = (math.log(low) + log_flops, math.log(high) + log_flops)
        return Estimate(math.log(ratio.ratio) + log_flops, bounds)

    def _project(self, curve: Curve, i: int, leave_out_error: float | None) -> LadderProjection:
        fitted = self.fitted["flops"]
        budget = float(self.project_to or 0.0)
        largest = float(np.nanmax(fitted.data.x))
        loss = fitted.loss(i, budget, 1)
        multiplier = None
        multiplier_ci95 = None
        if curve.against is not None and self._no_speedup(curve) is None:
            projected = fitted.projected_log_multiplier(i, self.index[curve.against], budget)
            multiplier, multiplier_ci95 = _factor(projected)
        return LadderProjection(
            entry=curve.label,
            against=curve.against,
            flops=budget,
            times_largest=budget / largest,
            is_far=budget > FAR * largest,
            val_loss=loss.value,
            val_loss_ci95=loss.bounds,
            compute_multiplier=multiplier,
            compute_multiplier_ci95=multiplier_ci95,
            leave_out_error=leave_out_error,
        )

    def _curve(
        self, curve: Curve, i: int, scale: Scale, fitted: FittedLadder
    ) -> list[LadderCurvePoint]:
        x = fitted.data.x[i][np.isfinite(fitted.data.x[i])]
        largest = x.max()
        if scale == "flops" and self.project_to is not None:
            largest = max(largest, self.project_to)
        points = []
        grid = np.geomspace(x.min(), largest, CURVE_POINTS)
        for at in np.unique(np.concatenate([grid, x])):
            loss = fitted.loss(i, float(at), None)
            points.append(
                LadderCurvePoint(
                    entry=curve.label,
                    over=scale,
                    x=float(at),
                    val_loss=loss.value,
                    val_loss_ci95=loss.bounds,
                )
            )
        return points


def _factor(log: Estimate | None) -> tuple[float | None, Bounds | None]:
    """Return the exponential of an estimate; None, or NaN for an end, if it is infinite.

    Its logarithm is within `MAX_LOG`: a flat law gives factors beyond the range of numbers.
    """
    if log is None or not math.isfinite(log.value):
        return None, None
    if log.bounds is None:
        return _exp(log.value), None
    low, high = (_exp(end) if math.isfinite(end) else math.nan for end in log.bounds)
    return _exp(log.value), (low, high)


def _exp(log: float) -> float:
    return math.exp(min(max(log, -MAX_LOG), MAX_LOG))


def _trend(label: str, against: str, found: Speedups, ratios: list[Estimate | None]) -> LadderTrend:
    assert found.pooled is not None
    compute, compute_ci95 = _factor(found.pooled)
    time, time_ci95 = _factor(add(found.pooled, weighted_mean(found.weights, ratios)))
    change, change_ci95 = _factor(_per_decade(found.slope))
    return LadderTrend(
        entry=label,
        against=against,
        compute_multiplier=compute,
        compute_multiplier_ci95=compute_ci95,
        time_multiplier=time,
        time_multiplier_ci95=time_ci95,
        change_per_decade=change,
        change_per_decade_ci95=change_ci95,
        margin=MARGIN,
        verdict=trend_verdict(change_ci95),
    )


def _per_decade(slope: Estimate | None) -> Estimate | None:
    if slope is None:
        return None
    decade = math.log(10)
    bounds = slope.bounds and (decade * slope.bounds[0], decade * slope.bounds[1])
    return Estimate(decade * slope.value, bounds)


def trend_verdict(change_per_decade: Bounds | None, margin: float = MARGIN) -> TrendVerdict | None:
    """Return the verdict on the change of a multiplier per tenfold compute, from its interval."""
    if change_per_decade is None or any(map(math.isnan, change_per_decade)):
        return None if change_per_decade is None else "unresolved"
    low, high = change_per_decade
    if 1 / margin < low and high < margin:
        return "holds"
    if low > 1:
        return "grows"
    return "shrinks" if high < 1 else "unresolved"
