"""If these failed, main effects and interactions of the matrix would be wrong."""

from itertools import product

import numpy as np
import pandas
import pytest
import statsmodels.formula.api as smf

from harness.analysis import factorial

LEVELS = {
    "positional": ["learned", "rope"],
    "attention": ["mha", "gqa2", "window"],
    "parallelism": ["single"],
}
TRUE = {"rope": -0.05, "gqa2": 0.02, "window": 0.03, ("rope", "window"): -0.04}


def values(seeds=(0, 1, 2), noise=0.0, without=()):
    """Values of the effects above, plus a part for each seed, plus noise."""
    rng, found = np.random.default_rng(0), {}
    for cell in product(*LEVELS.values()):
        value = sum(
            by for of, by in TRUE.items() if set(cell) >= ({of} if isinstance(of, str) else set(of))
        )
        found[cell] = {
            seed: 2.0 + 0.1 * seed + value + noise * rng.normal()
            for seed in seeds
            if (cell, seed) not in without
        }
    return found


def by_levels(found):
    return {tuple(effect.levels.values()): effect for effect in [*found.main, *found.interactions]}


def test_effects_are_the_truth_where_there_is_no_noise():
    found = by_levels(factorial.estimate(values(), LEVELS))
    assert found["rope",].estimate == pytest.approx(
        -0.05 - 0.04 / 3
    )  # in the mean over three attentions
    assert found["gqa2",].estimate == pytest.approx(0.02)
    assert found["window",].estimate == pytest.approx(0.03 - 0.04 / 2)
    assert found["rope", "window"].estimate == pytest.approx(-0.04)
    assert found["rope", "gqa2"].estimate == pytest.approx(0, abs=1e-12)
    assert len(found) == 5  # an axis with one level has no effect


def frame(observed):
    rows = [(*cell, seed, y) for cell, by_seed in observed.items() for seed, y in by_seed.items()]
    return pandas.DataFrame(rows, columns=["p", "a", "x", "seed", "y"])


@pytest.mark.parametrize(
    "without", [(), ((("rope", "gqa2", "single"), 1), (("learned", "mha", "single"), 0))], ids=str
)
def test_effect_intervals_match_statsmodels_with_failures(without):
    observed = values(noise=0.02, without=without)
    found = by_levels(factorial.estimate(observed, LEVELS))
    model = 'y ~ C(p, Treatment("learned")) * C(a, Treatment("mha")) + C(seed)'
    fit = smf.ols(model, frame(observed)).fit()
    pair, rope, windows = (
        'C(p, Treatment("learned"))[T.rope]:C(a, Treatment("mha"))[T.window]',
        'C(p, Treatment("learned"))[T.rope]',
        'C(p, Treatment("learned"))[T.rope]:C(a, Treatment("mha"))[T.gqa2]',
    )
    one = found["rope", "window"]
    assert (one.estimate, *one.ci95, one.p) == pytest.approx(
        (fit.params[pair], *fit.conf_int().loc[pair], fit.pvalues[pair]), rel=1e-9
    )
    contrast = np.array(
        [{rope: 1.0, pair: 1 / 3, windows: 1 / 3}.get(name, 0.0) for name in fit.params.index]
    )
    test = fit.t_test(contrast)
    main = found["rope",]
    assert (main.estimate, *main.ci95, main.p) == pytest.approx(
        (test.effect.item(), *test.conf_int()[0], test.pvalue.item()), rel=1e-9
    )


def test_one_seed_gives_estimates_without_intervals():
    found = factorial.estimate(values(seeds=[0], noise=0.02), LEVELS)
    assert found.design.degrees_of_freedom == 0 and found.design.noise is None
    assert all(
        effect.estimate is not None and effect.ci95 is None and effect.p is None
        for effect in found.main
    )


def test_missing_cell_is_listed_without_an_effect():
    observed = values(noise=0.02)
    del observed["rope", "window", "single"]
    found = factorial.estimate(observed, LEVELS)
    assert found.design.missing == [("rope", "window")]
    of = by_levels(found)
    assert of["rope", "window"].estimate is None and of["rope",].estimate is None
    assert of["rope", "gqa2"].estimate is not None and of["gqa2",].estimate is not None


def test_nothing_done_gives_nothing():
    found = factorial.estimate({}, LEVELS)
    assert found.design.runs == 0 and all(
        effect.estimate is None for effect in [*found.main, *found.interactions]
    )
