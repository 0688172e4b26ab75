"""If these failed, scaling laws would be fitted to another optimum than that of the stated loss."""

import os

import numpy as np
import pytest
from scipy.optimize import minimize

from harness.analysis import power_laws
from harness.analysis.power_laws import Points

CALIBRATE = "CALIBRATE" in os.environ
N = 3 if CALIBRATE else 1  # data sets
STARTS = (0.01, 0.5, 0.9) if CALIBRATE else (0.01, 0.8)  # of E, relative to the lowest loss
X = np.logspace(13, 15, 4)
LAWS = {"kaplan": (0.02, 5.0, 0.06), "hoffmann": (1.4, 1.2, 0.25), "steep": (2.0, 1.0, 0.9)}


def losses(law, n_curves=2):
    """Return points of curves whose compute counts 1, 1.2, 1.44, ... times, (n_curves * 4,)."""
    irreducible, coefficient, exponent = LAWS[law]
    scaled = X / X[0] * 1.2 ** np.arange(n_curves)[:, None]
    return (irreducible + coefficient * scaled**-exponent).ravel()


def points(shared, n_curves=2):
    return Points(np.tile(X, n_curves), np.repeat(np.arange(n_curves), 4), shared)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("law", LAWS)
def test_a_law_without_noise_is_recovered(law, shared):
    irreducible, coefficient, exponent = LAWS[law]
    found = power_laws.fit(points(shared), losses(law))
    assert found.irreducible[0] == pytest.approx([irreducible] * 2, rel=0.02, abs=1e-2)
    assert found.exponent[0] == pytest.approx([exponent] * 2, rel=0.02)
    assert found.coefficient(0)[0] == pytest.approx(coefficient * X[0] ** exponent, rel=0.3)
    assert found.loss(1, X)[0] == pytest.approx(losses(law)[4:], rel=1e-6)
    assert np.exp(found.log_x(1, found.loss(1, X)))[0] == pytest.approx(X, rel=1e-9)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("law", LAWS)
def test_the_fit_is_as_good_as_that_of_l_bfgs(law, shared):
    """The same objective in a few lines, minimized by scipy from several starts."""
    rng = np.random.default_rng(3)
    curve = np.repeat([0, 1], 4)
    n_irreducible = 1 if shared else 2

    def objective(parameters, observed):
        e, log_a, alpha = np.split(parameters, [n_irreducible, n_irreducible + 2])
        predicted = np.exp(e[curve] if len(e) > 1 else e) + np.exp(
            log_a[curve] - alpha[curve] * np.log(np.tile(X, 2) / 1e14)
        )
        r = np.abs(np.log(observed) - np.log(predicted))
        return 1e6 * np.where(r < 1e-3, r**2 / 2, 1e-3 * (r - 5e-4)).sum()

    def of(found, observed):
        e = np.log(found.irreducible[0, :n_irreducible])
        log_a = np.log(found.coefficient(0)), np.log(found.coefficient(1))
        alpha = found.exponent[0]
        log_a = np.concatenate(log_a) - alpha * np.log(1e14)
        return objective(np.concatenate([e, log_a, alpha]), observed)

    for _ in range(N):
        observed = losses(law) * np.exp(0.003 * rng.standard_normal(8))
        best = min(
            minimize(
                objective,
                [*[np.log(fraction * observed.min())] * n_irreducible, 0.0, 0.0, *[alpha] * 2],
                (observed,),
                method="L-BFGS-B",
                bounds=[(np.log(1e-4 * observed.min()), 5)] * n_irreducible
                + [(-20, 20)] * 2
                + [(0.01, 3)] * 2,
            ).fun
            for fraction in STARTS
            for alpha in (0.1, 0.5)
        )
        assert of(power_laws.fit(points(shared), observed), observed) <= best * (1 + 1e-5) + 1e-6


def test_refits_equal_fits_one_by_one():
    rng = np.random.default_rng(5)
    observed = losses("hoffmann") + 0.003 * rng.standard_normal((20, 8))
    start = power_laws.fit(points(True), losses("hoffmann"))
    together = power_laws.refit(points(True), observed, start)
    for i, row in enumerate(observed):
        one = power_laws.fit(points(True), row)
        assert together.loss(0, X)[i] == pytest.approx(one.loss(0, X)[0], rel=2e-4)


def test_one_outlier_moves_the_law_less_than_least_squares():
    x = np.logspace(13, 15, 7)
    law = 1.4 + 1.2 * (x / X[0]) ** -0.25
    outlier = law.copy()
    outlier[3] += 0.1
    found = power_laws.fit(Points(x, np.zeros(7, dtype=np.int64), True), outlier)
    assert found.loss(0, x)[0][[0, 1, 2, 4, 5, 6]] == pytest.approx(
        law[[0, 1, 2, 4, 5, 6]], abs=0.01
    )


def test_a_loss_below_the_irreducible_is_never_reached():
    found = power_laws.fit(points(True), losses("hoffmann"))
    assert found.log_x(0, np.array([[1.3, 1.5]]))[0, 0] == np.inf
    assert np.isfinite(found.log_x(0, np.array([[1.3, 1.5]]))[0, 1])
