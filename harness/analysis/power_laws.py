"""Power laws loss = E + A x^-alpha of several curves, fitted together; pure functions of numbers.

The objective is that of Hoffmann et al. 2022 (arXiv 2203.15556, equation 3): the Huber loss of the
residuals of the logarithm, minimized from a grid of starts. E and A are positive, as their
logarithms are the parameters. The minimizer, iteratively reweighted Levenberg-Marquardt, works on
many data sets at once, so that a bootstrap of 1,000 ladders takes a fraction of a second.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

HUBER_DELTA = 1e-3  # of Hoffmann et al. 2022, residuals of the logarithm
EXPONENTS = (0.01, 3.0)  # bounds of alpha
MIN_IRREDUCIBLE = 1e-4  # bound of E, relative to the lowest loss
START_EXPONENTS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.8, 1.2)
START_IRREDUCIBLE = (0.01, 0.3, 0.6, 0.8, 0.9, 0.97)  # relative to the lowest loss
MAX_ITERATIONS = 200
TOLERANCE = 1e-10  # relative decrease of the objective at which a fit has converged
MAX_DAMPING = 1e8


@dataclass(frozen=True)
class Points:
    """The points of all curves: `x` (training FLOPs, ...) and index of the curve, (n_points,).

    With `shared`, all curves have the same E.
    """

    x: Array
    curve: NDArray[np.int64]
    shared: bool

    @property
    def n_curves(self) -> int:
        """The number of curves."""
        return int(self.curve.max()) + 1

    @property
    def n_parameters(self) -> int:
        """The number of parameters of the fit."""
        return 2 * self.n_curves + (1 if self.shared else self.n_curves)

    @property
    def log_center(self) -> float:
        """The mean logarithm of x, at which log A is stated within a fit."""
        return float(np.log(self.x).mean())

    def select(self, kept: NDArray[np.bool_]) -> "Points":
        """Return the points for which `kept` is true."""
        return Points(self.x[kept], self.curve[kept], self.shared)


@dataclass(frozen=True)
class PowerLaws:
    """Fitted laws: E, the logarithm of A at `log_center`, and alpha, each (n_fits, n_curves)."""

    irreducible: Array
    log_coefficient: Array
    exponent: Array
    log_center: float

    def loss(self, curve: int, x: Array) -> Array:
        """Return the loss of a curve at each x; shape (n_fits, n_x)."""
        return self.irreducible[:, curve, None] + self.reducible(curve, x)

    def reducible(self, curve: int, x: Array) -> Array:
        """Return the loss of a curve above E at each x; shape (n_fits, n_x)."""
        u = np.log(x) - self.log_center
        exponent = self.exponent[:, curve, None]
        return np.asarray(np.exp(self.log_coefficient[:, curve, None] - exponent * u))

    def log_x(self, curve: int, loss: Array) -> Array:
        """Return the logarithm of the x at which a curve has these losses, (n_fits, n_losses).

        It is infinite for a loss that the curve never reaches.
        """
        reducible = loss - self.irreducible[:, curve, None]
        reached = reducible > 0
        log_reducible = np.log(np.where(reached, reducible, 1.0))
        u = (self.log_coefficient[:, curve, None] - log_reducible) / self.exponent[:, curve, None]
        return np.where(reached, u + self.log_center, np.inf)

    def coefficient(self, curve: int) -> Array:
        """Return A, for x in its own unit; shape (n_fits,)."""
        exponent = self.exponent[:, curve]
        return np.asarray(np.exp(self.log_coefficient[:, curve] + exponent * self.log_center))


def fit(points: Points, losses: Array) -> PowerLaws:
    """Fit the laws to losses, (n_points,), from a grid of starts; return the best as one fit."""
    starts = _starts(points, losses)
    repeated = np.broadcast_to(losses, (len(starts), len(losses)))
    parameters, objective = _minimize(points, repeated, starts)
    best = parameters[[int(np.argmin(objective))]]
    return _laws(points, best)


def refit(points: Points, losses: Array, start: PowerLaws) -> PowerLaws:
    """Fit the laws to each of many data sets, (n_fits, n_points), from the same start."""
    parameters = np.broadcast_to(_parameters(points, start), (len(losses), points.n_parameters))
    return _laws(points, _minimize(points, losses, parameters)[0])


def _starts(points: Points, losses: Array) -> Array:
    lowest = losses.min()
    u = np.log(points.x) - points.log_center
    starts = []
    for fraction in START_IRREDUCIBLE:
        log_reducible = np.log(losses - fraction * lowest)
        for exponent in START_EXPONENTS:
            coefficients = [
                (log_reducible + exponent * u)[points.curve == curve].mean()
                for curve in range(points.n_curves)
            ]
            n_irreducible = 1 if points.shared else points.n_curves
            irreducible = [np.log(fraction * lowest)] * n_irreducible
            starts.append([*irreducible, *coefficients, *[exponent] * points.n_curves])
    return np.array(starts)


def _laws(points: Points, parameters: Array) -> PowerLaws:
    n = points.n_curves
    irreducible, coefficient, exponent = np.split(parameters, (-2 * n, -n), axis=1)
    repeated = np.broadcast_to(np.exp(irreducible), (len(parameters), n))
    return PowerLaws(repeated, coefficient, exponent, points.log_center)


def _parameters(points: Points, laws: PowerLaws) -> Array:
    n_irreducible = 1 if points.shared else points.n_curves
    irreducible = np.log(laws.irreducible[:, :n_irreducible])
    return np.concatenate([irreducible, laws.log_coefficient, laws.exponent], axis=1)


def _minimize(points: Points, losses: Array, start: Array) -> tuple[Array, Array]:
    """Minimize the objective of each row; return parameters and objectives.

    Each step solves the damped normal equations with the weights of the Huber loss. A parameter at
    a bound that the gradient pushes outwards is held. Rows that have converged drop out.
    """
    model = _Model(points, losses.min(axis=1))
    parameters = np.clip(start, model.low, model.high)
    log_losses = np.log(losses)
    residuals = log_losses - model.log_loss(parameters)
    objective = _huber(residuals)
    damping = np.full(len(losses), 1e-3)
    active = np.arange(len(losses))
    for _ in range(MAX_ITERATIONS):
        theta = parameters[active]
        r = residuals[active]
        low = model.low[active]
        high = model.high[active]
        jacobian = model.jacobian(theta)
        weights = 1 / np.maximum(1, np.abs(r) / HUBER_DELTA)
        transposed = (jacobian * weights[:, :, None]).transpose(0, 2, 1)
        descent = (transposed @ r[:, :, None])[:, :, 0]
        held = ((theta <= low) & (descent < 0)) | ((theta >= high) & (descent > 0))
        gram = transposed @ jacobian
        gram = np.where(held[:, :, None] | held[:, None, :], 0.0, gram)
        diagonal = np.einsum("bjj->bj", gram)
        added = damping[active, None] * diagonal + 1e-14 + held
        gram = gram + added[:, :, None] * np.eye(gram.shape[1])
        step = np.linalg.solve(gram, np.where(held, 0.0, descent)[:, :, None])[:, :, 0]
        proposal = np.clip(theta + step, low, high)
        new_r = log_losses[active] - model.log_loss(proposal)
        new_objective = _huber(new_r)
        better = new_objective <= objective[active]
        decrease = objective[active] - new_objective
        rows = active[better]
        parameters[rows] = proposal[better]
        residuals[rows] = new_r[better]
        objective[rows] = new_objective[better]
        damping[active] *= np.where(better, 0.2, 8.0)
        small = better & (decrease <= TOLERANCE * new_objective + 1e-18)
        active = active[~small & (damping[active] < MAX_DAMPING)]
        if not len(active):
            break
    return parameters, objective


def _huber(residuals: Array) -> Array:
    size = np.abs(residuals)
    linear = HUBER_DELTA * (size - HUBER_DELTA / 2)
    return np.asarray(np.where(size <= HUBER_DELTA, residuals**2 / 2, linear).sum(axis=1))


class _Model:
    """The logarithm of the loss at each point, as a function of the parameters (n_fits, p)."""

    def __init__(self, points: Points, lowest: Array) -> None:
        n = points.n_curves
        n_irreducible = 1 if points.shared else n
        self.u = np.log(points.x) - points.log_center
        self.irreducible_column = 0 * points.curve if points.shared else points.curve
        self.coefficient_column = n_irreducible + points.curve
        self.exponent_column = n_irreducible + n + points.curve
        self.low = np.full((len(lowest), points.n_parameters), -np.inf)
        self.high = np.full_like(self.low, np.inf)
        self.low[:, :n_irreducible] = np.log(MIN_IRREDUCIBLE * lowest)[:, None]
        self.low[:, n_irreducible + n :] = EXPONENTS[0]
        self.high[:, n_irreducible + n :] = EXPONENTS[1]

    def _terms(self, parameters: Array) -> tuple[Array, Array]:
        """Return log E and log(A x^-alpha) at each point, (n_fits, n_points)."""
        exponent = parameters[:, self.exponent_column]
        log_reducible = parameters[:, self.coefficient_column] - exponent * self.u
        return parameters[:, self.irreducible_column], log_reducible

    def log_loss(self, parameters: Array) -> Array:
        """Return the logarithm of the loss at each point, (n_fits, n_points)."""
        return np.asarray(np.logaddexp(*self._terms(parameters)))

    def jacobian(self, parameters: Array) -> Array:
        """Return the derivatives of the logarithm of the loss, (n_fits, n_points, p)."""
        log_irreducible, log_reducible = self._terms(parameters)
        fraction = 1 / (1 + np.exp(np.clip(log_irreducible - log_reducible, -700, 700)))
        jacobian = np.zeros((*fraction.shape, parameters.shape[1]))
        rows = np.arange(len(self.u))
        jacobian[:, rows, self.irreducible_column] = 1 - fraction
        jacobian[:, rows, self.coefficient_column] = fraction
        jacobian[:, rows, self.exponent_column] = -self.u * fraction
        return jacobian
