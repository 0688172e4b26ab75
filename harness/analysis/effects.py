"""Test the effects of a study's axes: main effects, and interactions of two axes.

The values of an effect, one for each seed, are tested by Student's t test with n - 1 degrees of
freedom. The main effects are a family of tests, the interactions another, each adjusted by Holm
(1979). The intervals are simultaneous over the family and agree with the verdicts.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis import comparability, factorial, families
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.factorial import Contrast, Levels
from harness.analysis.metrics import PARALLELISM
from harness.analysis.pairs import METRICS, Metric, values
from harness.analysis.significance import ALPHA
from harness.results.records.comparisons import Cell, Design, Effect, Quantity, SignificanceResult

Sides = tuple[Collection[int], Collection[int]]  # seeds that failed at the levels, at the baseline
NO_SIDES: Sides = ((), ())


@dataclass(frozen=True)
class Effects:
    """All effects of a study on a metric; those of context axes have no verdicts."""

    main: list[Effect]
    interactions: list[Effect]
    context: list[Effect]
    design: Design


def effects(
    study: StudyResults, entries: Sequence[Entry], quantity: Quantity, margin: float | None
) -> Effects:
    """Return the effects on a metric, tested; `margin` is in nats or a logarithm."""
    levels, entries = _factorial_entries(study, entries, quantity)
    metric = METRICS[quantity]
    tokens = next((entry.done[0].tokens_per_step for entry in entries if entry.done), None)
    cells: dict[Cell, dict[int, float]] = {}
    lost: dict[Cell, Collection[int]] = {}
    for entry in entries:
        cell = tuple(entry.axes[axis] for axis in levels)
        lost[cell] = set(entry.lost_seeds)
        found = _comparable_values(study, entry, metric, tokens)
        if found:
            cells[cell] = found
    contrasts = factorial.contrasts(cells, levels, metric.without_noise)

    def tested(family: Sequence[Contrast]) -> list[Effect]:
        sides = [lost_sides(contrast, lost, levels) for contrast in family]
        return test_contrasts(
            family,
            margin,
            metric.lower_is_better,
            sides,
            metric.without_noise,
            alpha=study.level,
        )

    def is_context(contrast: Contrast) -> bool:
        return all(axis in study.contexts for axis in contrast.levels)

    of_context: list[Effect] = []
    if study.contexts and _contexts_are_comparable(study, quantity):
        for contrast in (*contrasts.main, *contrasts.interactions):
            if is_context(contrast):
                of_context += [_without_test(effect) for effect in tested([contrast])]
    return Effects(
        main=tested([contrast for contrast in contrasts.main if not is_context(contrast)]),
        interactions=tested([one for one in contrasts.interactions if not is_context(one)]),
        context=of_context,
        design=contrasts.design,
    )


def test_contrasts(
    family: Sequence[Contrast],
    margin: float | None,
    lower_is_better: bool = True,
    lost: Sequence[Sides] = (),
    without_noise: bool = False,
    alpha: float = ALPHA,
) -> list[Effect]:
    """Return the effects of a family of contrasts; `lost` has the failed seeds of each.

    `alpha` is the level of the last look. Adjusted p-values are scaled so that it is 0.05.
    Values of a metric `without_noise` that are equal in every seed are one exact observation: the
    effect has a verdict, but no p-value and no interval. It has no verdict if cells without runs
    had to be replaced by a model. Such values of another metric have no verdict either.
    """
    named = {str(i): contrast for i, contrast in enumerate(family) if contrast.by_seed}
    tests = families.test_differences(
        {name: list(contrast.by_seed.values()) for name, contrast in named.items()},
        margin,
        lower_is_better,
        lost={name: lost[int(name)] if lost else NO_SIDES for name in named},
        without_noise=without_noise,
        alpha=alpha,
    ).results
    found = [Effect(levels=contrast.levels) for contrast in family]
    for name, contrast in named.items():
        found[int(name)] = _effect(contrast, tests[name], ALPHA / alpha)
    return found


def _effect(contrast: Contrast, result: SignificanceResult, scale: float) -> Effect:
    effect = Effect(
        levels=contrast.levels,
        estimate=result.difference.mean,
        n=result.difference.n,
        verdict=result.verdict,
        method=result.method,
        lost_seeds=result.lost_seeds,
        seed_has_no_effect=result.seed_has_no_effect,
    )
    if result.method == "exact":
        verdict = result.verdict if contrast.is_model_free else None
        return effect.model_copy(update={"verdict": verdict})
    if result.own95 is None:
        return effect
    by_seed = np.array(list(contrast.by_seed.values()))
    test = {
        "se": float(by_seed.std(ddof=1) / math.sqrt(len(by_seed))),
        "ci95": result.difference.ci95,
        "own95": result.own95,
        "p": result.p,
        "p_holm": None if result.p_adjusted is None else min(1.0, scale * result.p_adjusted),
    }
    return effect.model_copy(update=test)


def lost_sides(contrast: Contrast, lost: Mapping[Cell, Collection[int]], levels: Levels) -> Sides:
    """Return the failed seeds of the cells with the levels, and of those with the baseline's.

    An interaction has cells with its levels on both sides, so that all count for both. Both are
    empty if all cells lost the same seeds.
    """
    if len({frozenset(seeds) for seeds in lost.values()}) < 2:
        return NO_SIDES
    at_levels: set[int] = set()
    at_baseline: set[int] = set()
    for cell, seeds in lost.items():
        labels = dict(zip(levels, cell, strict=True))
        has_level = [labels[axis] == label for axis, label in contrast.levels.items()]
        has_base = [labels[axis] == levels[axis][0] for axis in contrast.levels]
        if not all(map(any, zip(has_level, has_base, strict=True))):
            continue
        is_interaction = len(contrast.levels) > 1
        if is_interaction or all(has_level):
            at_levels.update(seeds)
        if is_interaction or all(has_base):
            at_baseline.update(seeds)
    return at_levels, at_baseline


def _without_test(effect: Effect) -> Effect:
    """Return the effect of a context, which is not tested: with the interval of its own values."""
    untested = {"verdict": None, "p": None, "p_holm": None, "ci95": effect.own95}
    return effect.model_copy(update=untested)


def _factorial_entries(
    study: StudyResults, entries: Sequence[Entry], quantity: Quantity
) -> tuple[dict[str, list[str]], list[Entry]]:
    """Return the levels and the entries whose values of a metric are analyzed together.

    Effects on the loss use the baseline's parallelism only: the other entries repeat its runs. They
    use entries whose losses are comparable in nats per token only.
    """
    levels = {axis: list(names) for axis, names in study.levels.items()}
    kept = list(entries)
    if quantity != "val_loss":
        return levels, kept
    baseline = study.baseline.get(PARALLELISM)
    if baseline in levels.get(PARALLELISM, ()):
        kept = [entry for entry in kept if entry.axes[PARALLELISM] == baseline]
        levels[PARALLELISM] = [name for name in levels[PARALLELISM] if name == baseline]
    comparable = [entry for entry in kept if _has_nats(study, entry)]
    if len(comparable) < len(kept):
        kept = comparable
        for axis, names in levels.items():
            left = {entry.axes[axis] for entry in kept}
            levels[axis] = [name for name in names if name in left]
    return levels, kept


def _has_nats(study: StudyResults, entry: Entry) -> bool:
    """Return whether the entry's loss is comparable with its baseline's in nats per token.

    Differences in nats per token have another unit if the tokens of a context are others.
    """
    base = study.baseline_of(entry)
    if entry.runs[0].tokenizer != study.entries[0].runs[0].tokenizer:
        return False
    return base is None or comparability.in_nats(entry, base)


def _contexts_are_comparable(study: StudyResults, quantity: Quantity) -> bool:
    if quantity != "val_loss":
        return True
    first, *others = [entries[0] for entries in study.by_context().values()]
    return all(comparability.in_nats(other, first) for other in others)


def _comparable_values(
    study: StudyResults, entry: Entry, metric: Metric, tokens: float | None
) -> dict[int, float]:
    """Return an entry's values by seed, without those on another machine than the seed's first run.

    The first run is that of the first entry that has the seed done, the baseline if it has.
    """
    by_seed = values(entry, metric, tokens)
    if metric.incomparable is None:
        return by_seed
    kept = {}
    runs = {run.seed: run for run in entry.done}
    first = study.first_runs
    for seed, value in by_seed.items():
        if metric.incomparable(runs[seed], first[seed]) is None:
            kept[seed] = value
    return kept
