"""If these failed, main effects and interactions of the matrix would be wrong."""

from itertools import product

import numpy as np
import pandas
import pytest
from scipy import stats
from statsmodels.stats.anova import AnovaRM

from harness.analysis import effects as of_effects
from harness.analysis import factorial

LEVELS = {
    "positional": ["learned", "rope"],
    "attention": ["mha", "gqa2", "window"],
    "parallelism": ["single"],
}
TRUE = {"rope": -0.05, "gqa2": 0.02, "window": 0.03, ("rope", "window"): -0.04}


def values(seeds=(0, 1, 2), noise=0.0):
    """Values of the effects above, plus a part for each seed, plus noise."""
    rng, found = np.random.default_rng(0), {}
    for cell in product(*LEVELS.values()):
        value = sum(
            by for of, by in TRUE.items() if set(cell) >= ({of} if isinstance(of, str) else set(of))
        )
        found[cell] = {seed: 2.0 + 0.1 * seed + value + noise * rng.normal() for seed in seeds}
    return found


def two_by_two_by_two(rng, n_seeds, noise=0.02):
    """Values of three axes of two levels, with an interaction of all three."""
    cells = product(["a0", "a1"], ["b0", "b1"], ["c0", "c1"])
    return {
        cell: {
            seed: 2.0 + 0.1 * seed + 0.3 * (cell == ("a1", "b1", "c1")) + noise * rng.normal()
            for seed in range(n_seeds)
        }
        for cell in cells
    }


CUBE = {"a": ["a0", "a1"], "b": ["b0", "b1"], "c": ["c0", "c1"]}


def by_levels(found):
    return {tuple(one.levels.values()): one for one in [*found.main, *found.interactions]}


def of_labels(observed, **labels):
    """Return the mean by seed over the cells with these labels, from a table."""
    frame = table(observed)
    for axis, label in labels.items():
        frame = frame[frame[axis] == label]
    return frame.groupby("seed")["y"].mean().to_numpy()


def table(observed):
    rows = [(*cell, seed, y) for cell, by_seed in observed.items() for seed, y in by_seed.items()]
    return pandas.DataFrame(rows, columns=["a", "b", "c", "seed", "y"])


def test_effects_are_the_truth_where_there_is_no_noise():
    found = by_levels(factorial.contrasts(values(), LEVELS))
    truth = {
        ("rope",): -0.05 - 0.04 / 3,  # in the mean over three attentions
        ("gqa2",): 0.02,
        ("window",): 0.03 - 0.04 / 2,
        ("rope", "gqa2"): 0.0,
        ("rope", "window"): -0.04,
    }
    assert found.keys() == truth.keys()  # an axis with one level has no effect
    for name, contrast in found.items():
        assert list(contrast.by_seed) == [0, 1, 2]
        assert list(contrast.by_seed.values()) == pytest.approx([truth[name]] * 3, abs=1e-12)


def test_each_seed_gives_the_difference_of_its_own_means():
    """An interaction of three axes is part of the means, and no noise of the effects."""
    observed = two_by_two_by_two(np.random.default_rng(1), 4)
    found = by_levels(factorial.contrasts(observed, CUBE))
    main = of_labels(observed, a="a1") - of_labels(observed, a="a0")
    assert list(found["a1",].by_seed.values()) == pytest.approx(main)
    at_b1 = of_labels(observed, a="a1", b="b1") - of_labels(observed, a="a0", b="b1")
    at_b0 = of_labels(observed, a="a1", b="b0") - of_labels(observed, a="a0", b="b0")
    assert list(found["a1", "b1"].by_seed.values()) == pytest.approx(at_b1 - at_b0)


def test_effects_match_the_repeated_measures_analysis_of_statsmodels():
    """Each effect has the F test of its own seed x term stratum, of which F is t squared."""
    observed = two_by_two_by_two(np.random.default_rng(2), 5)
    found = factorial.contrasts(observed, CUBE)
    anova = AnovaRM(table(observed), "y", "seed", within=["a", "b", "c"]).fit().anova_table
    for effect in (
        *of_effects.test_contrasts(found.main, None),
        *of_effects.test_contrasts(found.interactions, None),
    ):
        row = anova.loc[":".join(effect.levels)]
        assert effect.n == 5 and row["Den DF"] == 4
        assert effect.p == pytest.approx(row["Pr > F"], rel=1e-9)
        assert (effect.estimate / effect.se) ** 2 == pytest.approx(row["F Value"], rel=1e-9)


def test_the_noise_of_one_level_is_no_noise_of_another():
    """A level whose runs vary must not hide the effects of other axes, nor borrow their calm."""
    rng = np.random.default_rng(3)
    observed = two_by_two_by_two(rng, 6, noise=1e-4)
    for cell, by_seed in observed.items():
        if cell[0] == "a1":
            for seed in by_seed:
                by_seed[seed] += (-1) ** seed * 0.5
    effects = {
        tuple(one.levels): one
        for one in of_effects.test_contrasts(factorial.contrasts(observed, CUBE).main, None)
    }
    assert effects["a",].verdict == "unresolved" and effects["a",].se > 0.1
    assert effects["b",].verdict == "worse" and effects["b",].se < 1e-3


@pytest.mark.parametrize("gone", [("rope", "gqa2"), ("learned", "mha")])
def test_a_seed_counts_for_the_effects_that_its_runs_give(gone):
    observed = values(noise=0.02)
    full = by_levels(factorial.contrasts(observed, LEVELS))
    del observed[*gone, "single"][1]
    found = by_levels(factorial.contrasts(observed, LEVELS))
    needs_it = {
        name for name in found if name == ("rope",) or "gqa2" in name or gone == ("learned", "mha")
    }
    for name, contrast in found.items():
        seeds = [0, 2] if name in needs_it else [0, 1, 2]
        assert list(contrast.by_seed) == seeds, name
        expected = [full[name].by_seed[seed] for seed in (0, 2)]
        assert [contrast.by_seed[seed] for seed in (0, 2)] == pytest.approx(expected)


def test_missing_cell_is_listed_without_an_effect():
    observed = values(noise=0.02)
    del observed["rope", "window", "single"]
    found = factorial.contrasts(observed, LEVELS)
    assert found.design.missing == [("rope", "window")]
    of = by_levels(found)
    assert not of["rope", "window"].by_seed and not of["rope",].by_seed
    assert of["rope", "gqa2"].by_seed and of["gqa2",].by_seed
    effects = of_effects.test_contrasts(found.main, None)
    assert [effect.estimate is None for effect in effects] == [True, False, True]


def test_a_cell_of_three_axes_is_replaced_by_the_model():
    """Without an interaction of all three, the model gives what the missing run would have."""
    rng = np.random.default_rng(4)
    of_pair = rng.normal(size=(3, 2, 2))
    observed = {}
    for i, j, k in product((0, 1), repeat=3):
        value = of_pair[0, i, j] + of_pair[1, i, k] + of_pair[2, j, k]
        observed[f"a{i}", f"b{j}", f"c{k}"] = {0: value, 1: value + 0.5}
    full = by_levels(factorial.contrasts(observed, CUBE))
    del observed["a1", "b0", "c1"][1]
    found = by_levels(factorial.contrasts(observed, CUBE))
    for name, contrast in found.items():
        assert contrast.by_seed == pytest.approx(full[name].by_seed)
        assert full[name].is_model_free and not contrast.is_model_free


def test_one_seed_gives_estimates_without_intervals():
    found = factorial.contrasts(values(seeds=[0], noise=0.02), LEVELS)
    for effect in of_effects.test_contrasts(found.main, 0.01):
        assert effect.estimate is not None and effect.n == 1
        assert effect.verdict is None and effect.ci95 is None and effect.p is None


def test_nothing_done_gives_nothing():
    found = factorial.contrasts({}, LEVELS)
    assert found.design.runs == found.design.seeds == 0
    effects = [
        *of_effects.test_contrasts(found.main, None),
        *of_effects.test_contrasts(found.interactions, None),
    ]
    assert len(effects) == 5 and all(effect.estimate is None for effect in effects)


def test_p_values_are_adjusted_over_the_effects_of_a_table():
    observed = two_by_two_by_two(np.random.default_rng(5), 4)
    found = of_effects.test_contrasts(factorial.contrasts(observed, CUBE).main, None)
    p = sorted(effect.p for effect in found)
    expected = np.maximum.accumulate([3 * p[0], 2 * p[1], p[2]]).clip(max=1)
    assert sorted(effect.p_holm for effect in found) == pytest.approx(expected)
    for effect in found:  # the intervals are simultaneous over the three
        half = stats.t.ppf(1 - 0.025 / 3, 3) * effect.se
        ends = {effect.estimate - half, effect.estimate + half, 0.0}
        assert all(min(abs(end - one) for one in ends) < 1e-12 for end in effect.ci95)


# -- values that no seed changes -------------------------------------------------------------------


def memory(n_seeds, without=(), interaction=0.0):
    """Logarithms of a memory that the seed does not change."""
    found = {}
    for cell in product(*CUBE.values()):
        value = 20.0 - 0.1 * (cell[0] == "a1") + 0.004 * (cell[1] == "b1")
        value += interaction * (cell == ("a1", "b1", "c1"))
        found[cell] = {seed: value for seed in range(n_seeds) if (cell, seed) not in without}
    return found


@pytest.mark.parametrize("interaction", [0.0, 0.01])
@pytest.mark.parametrize("n_seeds", [2, 3, 10])
def test_equal_memory_over_seeds_is_one_observation(n_seeds, interaction):
    """Copies of an observation add no certainty: the effect is exact, and not tested."""
    found = factorial.contrasts(memory(n_seeds, interaction=interaction), CUBE, without_noise=True)
    effects = {
        tuple(one.levels): one
        for one in of_effects.test_contrasts(found.main, 0.01, without_noise=True)
    }
    assert [effect.verdict for effect in effects.values()] == ["better", "equivalent", "equivalent"]
    for effect in effects.values():
        assert effect.method == "exact"
        assert effect.p is None and effect.se is None and effect.ci95 is None
    assert effects["a",].estimate == pytest.approx(-0.1 + interaction / 4)


def test_memory_of_a_lost_run_is_known_from_other_seeds():
    found = factorial.contrasts(
        memory(3, without=[(("a1", "b1", "c1"), 1)], interaction=0.5), CUBE, without_noise=True
    )
    assert found.main[0].is_model_free
    assert list(found.main[0].by_seed.values()) == pytest.approx([-0.1 + 0.5 / 4] * 3)


def test_memory_that_a_model_must_replace_has_no_verdict():
    observed = memory(3)
    del observed["a1", "b1", "c1"]
    found = factorial.contrasts(observed, CUBE, without_noise=True)
    effect = of_effects.test_contrasts(found.main, 0.01, without_noise=True)[0]
    assert effect.estimate == pytest.approx(-0.1) and effect.verdict is None


def test_memory_of_one_seed_has_no_verdict():
    found = factorial.contrasts(memory(1), CUBE, without_noise=True)
    assert all(
        effect.verdict is None
        for effect in of_effects.test_contrasts(found.main, None, without_noise=True)
    )


def test_memory_that_a_seed_changes_is_tested():
    observed = memory(3)
    for seed in range(3):
        observed["a1", "b1", "c1"][seed] += 0.001 * seed
    found = factorial.contrasts(observed, CUBE, without_noise=True)
    effect = of_effects.test_contrasts(found.main, 0.01, without_noise=True)[0]
    assert effect.method == "Holm" and effect.p is not None and effect.ci95 is not None


def test_equal_losses_over_seeds_give_no_verdict():
    """A seed that changes nothing is no replicate."""
    effects = of_effects.test_contrasts(factorial.contrasts(memory(5), CUBE).main, 0.01)
    assert effects[0].verdict is None and effects[0].seed_has_no_effect
    assert effects[2].estimate == 0 and effects[2].verdict == "equivalent"
