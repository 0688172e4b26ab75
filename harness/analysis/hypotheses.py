"""Test the hypotheses of a study: each entry against its baseline and each effect, in each metric.

Entries with equal labels on all context axes form a family of tests.
"""

from collections.abc import Collection, Mapping, Sequence

from harness.analysis import comparability, factorial, pooling, significance, superiority
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.factorial import Effects
from harness.analysis.families import (
    NONE_UNTESTED,
    FamilyTest,
    Untested,
    test_differences,
    test_family,
)
from harness.analysis.metrics import PARALLELISM
from harness.analysis.pairs import (
    METRICS,
    Metric,
    Pair,
    comparable_values,
    margin_of,
    pair_of,
    superiority_of,
    values,
)
from harness.analysis.sequential import replay
from harness.results.records.study_summary import (
    Effect,
    MetricTests,
    Quantity,
    SignificanceResult,
    TestFamily,
)


def test_hypotheses(
    study: StudyResults, diverging: Collection[str] = ()
) -> dict[Quantity, MetricTests]:
    """Test all metrics. Entries that are `diverging` (by label) are omitted."""
    entries = [entry for entry in study.entries if entry.label not in diverging]
    return {quantity: _test_metric(study, entries, quantity) for quantity in METRICS}


def _test_metric(study: StudyResults, entries: list[Entry], quantity: Quantity) -> MetricTests:
    metric = METRICS[quantity]
    margin = margin_of(study, quantity)
    results: dict[str, SignificanceResult] = {}
    tested_families: list[TestFamily] = []
    pairs: list[Pair] = []
    for family in families(study, entries, quantity):
        test = _test_at_looks(study, family, margin, without_noise=quantity == "peak_memory")
        results |= test.results
        if test.family.entries:
            named = {"context": study.context_name(family[0].entry)}
            tested_families.append(test.family.model_copy(update=named))
        pairs += family
    threshold = superiority_of(study, quantity)
    units = {pair.label: pair.margin(threshold) for pair in pairs}
    results = superiority.judge(results, units, metric.lower_is_better)
    effects = _effects(study, entries, quantity)
    df = effects.design.degrees_of_freedom
    asked = [effect for effect in effects.main if not _is_context(study, effect)]
    interactions = [effect for effect in effects.interactions if not _is_context(study, effect)]
    return MetricTests(
        quantity=quantity,
        margin=margin,
        superiority=threshold,
        entries=results,
        families=tested_families,
        main_effects=_test_effects(asked, margin, metric, df, study.level),
        interactions=_test_effects(interactions, margin, metric, df, study.level),
        context_effects=_context_effects(study, effects, quantity),
        pooled=pooling.pool(study, pairs, results, margin, threshold),
        design=effects.design,
    )


def families(study: StudyResults, entries: list[Entry], quantity: Quantity) -> list[list[Pair]]:
    """Return the families of tests that have a pair, one for each context.

    Each architecture is asked for its loss once: copies under another parallelism share most of its
    noise, and repeat the question. Entries that differ from the baseline only in parallelism form a
    family of their own.
    """
    by_key: dict[tuple[str, bool], list[Pair]] = {}
    for entry in entries:
        pair = pair_of(study, entry, quantity)
        if pair is None or (quantity == "val_loss" and repeated(study, entry) is not None):
            continue
        of_copies = quantity == "val_loss" and is_copy(entry, pair.base)
        by_key.setdefault((study.context_name(entry), of_copies), []).append(pair)
    return list(by_key.values())


def repeated(study: StudyResults, entry: Entry) -> Entry | None:
    """Return the entry whose loss is tested for this one; None if it is tested itself.

    That is the same architecture under the baseline's parallelism, else under the first that it
    has. Copies of the baseline are tested themselves.
    """
    base = study.baseline_of(entry)
    if base is None or PARALLELISM not in entry.axes or is_copy(entry, base):
        return None
    baseline = study.baseline.get(PARALLELISM)
    labels = sorted(study.levels.get(PARALLELISM, ()), key=lambda label: label != baseline)
    copies = [study.find(entry.axes | {PARALLELISM: label}) for label in labels]
    first = next(copy for copy in copies if copy is not None)
    return None if first is entry else first


def is_copy(entry: Entry, base: Entry) -> bool:
    """Return whether two entries differ in parallelism only."""
    return entry.axes | {PARALLELISM: base.axes.get(PARALLELISM, "")} == base.axes


def _test_at_looks(
    study: StudyResults, family: Sequence[Pair], margin: float | None, without_noise: bool
) -> FamilyTest:
    """Test the pairs of a family at each look whose runs have all ended; before any, at the first.

    The family that is returned has the entries of the first look, and the noise of the last.
    """
    looks = study.looks
    if looks is None or looks.is_fixed:
        return test_pairs(family, margin, without_noise)
    by_label = {pair.label: pair for pair in family}
    tested: list[FamilyTest] = []

    def test(
        labels: list[str], seeds: list[int], level: float, untested: Untested
    ) -> Mapping[str, SignificanceResult]:
        pairs = [by_label[label].on_seeds(seeds) for label in labels]
        tested.append(test_pairs(pairs, margin, without_noise, level, untested))
        return tested[-1].results

    ended = {pair.label: pair.entry.ended_seeds for pair in family}
    results = replay(ended, looks.looks[: max(1, study.n_complete_looks)], test)
    if not tested:
        return FamilyTest(results, test_pairs(family, margin, without_noise).family)
    entries = {"entries": tested[0].family.entries}
    return FamilyTest(results, tested[-1].family.model_copy(update=entries))


def test_pairs(
    family: Sequence[Pair],
    margin: float | None,
    without_noise: bool = False,
    alpha: float = significance.ALPHA,
    untested: Untested = NONE_UNTESTED,
) -> FamilyTest:
    """Test the pairs of a family that share a seed, by the label of the pair.

    A metric `without_noise` is exact if it is equal in every seed. The pairs of a family that have
    several baselines or units have no common noise, and are tested alone.
    """
    in_bits = [pair.label for pair in family if pair.unit == "bits per byte"]
    margins = {pair.label: pair.margin(margin) for pair in family}
    metric = family[0].metric
    baselines = {pair.base.label for pair in family}
    if without_noise or len(baselines) > 1 or 0 < len(in_bits) < len(family):
        differences = {}
        for pair in family:
            by_seed = pair.differences()
            if by_seed:
                differences[pair.label] = list(by_seed.values())
        lost = {pair.label: (pair.entry.lost_seeds, pair.base.lost_seeds) for pair in family}
        test = test_differences(
            differences,
            margin,
            metric.lower_is_better,
            margins=margins,
            lost=lost,
            without_noise=without_noise,
            alpha=alpha,
            untested=untested,
        )
    else:
        import pandas as pd  # imported here because it is slow to import

        base = family[0].base
        tokens = base.done[0].tokens_per_step if base.done else None
        compared = {base.label: base} | {pair.label: pair.entry for pair in family}
        columns = {base.label: values(base, metric, tokens)}
        columns |= {pair.label: comparable_values(pair.entry, base, metric) for pair in family}
        test = test_family(
            pd.DataFrame(columns).sort_index(),
            base.label,
            margin,
            metric.lower_is_better,
            margins=margins,
            lost={label: entry.lost_seeds for label, entry in compared.items()},
            alpha=alpha,
            untested=untested,
        )
    results = dict(test.results)
    for label in in_bits:
        if label in results:
            results[label] = results[label].model_copy(update={"unit": "bits per byte"})
    named = {"baseline": ", ".join(sorted(baselines))}
    return FamilyTest(results, test.family.model_copy(update=named))


def _is_context(study: StudyResults, effect: Effect) -> bool:
    return all(axis in study.contexts for axis in effect.levels)


def _effects(study: StudyResults, entries: list[Entry], quantity: Quantity) -> Effects:
    """Estimate the effects on a metric.

    Those on the loss use the baseline's parallelism only: the other entries repeat its runs, and
    would make the noise look smaller than it is. They use entries whose losses are comparable in
    nats per token only, and have the tokens of the study's first entry.
    """
    levels = {axis: list(names) for axis, names in study.levels.items()}
    baseline = study.baseline.get(PARALLELISM)
    if quantity == "val_loss":
        if baseline in levels.get(PARALLELISM, ()):
            entries = [entry for entry in entries if entry.axes[PARALLELISM] == baseline]
            levels[PARALLELISM] = [name for name in levels[PARALLELISM] if name == baseline]
        comparable = [entry for entry in entries if _has_nats(study, entry)]
        if len(comparable) < len(entries):
            entries = comparable
            for axis, names in levels.items():
                left = {entry.axes[axis] for entry in entries}
                levels[axis] = [name for name in names if name in left]
    cells = {}
    tokens = next((entry.done[0].tokens_per_step for entry in entries if entry.done), None)
    for entry in entries:
        cell = tuple(entry.axes[axis] for axis in levels)
        cells[cell] = _comparable_cell(study, entry, METRICS[quantity], tokens)
    return factorial.estimate({cell: found for cell, found in cells.items() if found}, levels)


def _comparable_cell(
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


def _has_nats(study: StudyResults, entry: Entry) -> bool:
    """Return whether the entry's loss is comparable with its baseline's in nats per token.

    Differences in nats per token have another unit if the tokens of a context are others.
    """
    base = study.baseline_of(entry)
    if entry.runs[0].tokenizer != study.entries[0].runs[0].tokenizer:
        return False
    return base is None or comparability.in_nats(entry, base)


def _context_effects(study: StudyResults, effects: Effects, quantity: Quantity) -> list[Effect]:
    """Return the effects of context axes, without those on losses that are not comparable."""
    if not study.contexts:
        return []
    if quantity == "val_loss":
        first, *others = [entries[0] for entries in study.by_context().values()]
        if not all(comparability.in_nats(other, first) for other in others):
            return []
    return [effect for effect in effects.main + effects.interactions if _is_context(study, effect)]


def _test_effects(
    effects: list[Effect], margin: float | None, metric: Metric, df: int, level: float
) -> list[Effect]:
    """Return the effects with their verdicts; `level` is that of the last look."""
    scale = significance.ALPHA / level
    p = {i: scale * effect.p for i, effect in enumerate(effects) if effect.p is not None}
    p_equivalent = {i: scale * _equivalence_pvalue(effects[i], margin, df) for i in p}
    p_holm = significance.holm_adjust(p)
    p_equivalent_holm = significance.holm_adjust(p_equivalent)
    tested = []
    for i, effect in enumerate(effects):
        if i not in p or effect.estimate is None:
            tested.append(effect)
            continue
        verdict = significance.classify(
            effect.estimate, p_holm[i], p_equivalent_holm[i], metric.lower_is_better
        )
        tested.append(effect.model_copy(update={"p_holm": p_holm[i], "verdict": verdict}))
    return tested


def _equivalence_pvalue(effect: Effect, margin: float | None, df: int) -> float:
    """Return the p-value of two one-sided t tests that an effect is within the margin."""
    from scipy.special import stdtr

    if margin is None or effect.se is None or effect.estimate is None:
        return 1.0
    excess = abs(effect.estimate) - margin
    if effect.se <= factorial.ROUNDING:
        return float(excess >= 0)
    return float(stdtr(df, excess / effect.se))
