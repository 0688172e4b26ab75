"""Test the hypotheses of a study: each entry against its baseline and each effect, in each metric.

Entries with equal labels on all context axes form a family of tests.
"""

from collections.abc import Collection, Mapping, Sequence

from harness.analysis import effects, pooling, significance, superiority
from harness.analysis.dataset import Entry, StudyResults
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
    Pair,
    base_values,
    comparable_values,
    margin_of,
    pair_of,
    superiority_of,
)
from harness.analysis.sequential import at_error_rate, replay
from harness.analysis.unpaired import test_unpaired
from harness.results.records.comparisons import (
    MetricTests,
    Quantity,
    SignificanceResult,
    TestFamily,
)

BASELINE = ""  # its column: between studies, an entry has the label of its baseline


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
        for test in test_parts(family, margin, study):
            results |= test.results
            if test.family.entries:
                named = {"context": study.context_name(family[0].entry)}
                tested_families.append(test.family.model_copy(update=named))
        pairs += family
    threshold = superiority_of(study, quantity)
    units = {pair.label: pair.margin(threshold) for pair in pairs}
    results = superiority.judge(results, units, metric.lower_is_better)
    found = effects.effects(study, entries, quantity, margin)
    return MetricTests(
        quantity=quantity,
        margin=margin,
        superiority=threshold,
        entries=results,
        families=tested_families,
        main_effects=found.main,
        interactions=found.interactions,
        context_effects=found.context,
        pooled=pooling.pool(study, pairs, results, margin, threshold),
        design=found.design,
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


def test_parts(
    family: Sequence[Pair],
    margin: float | None,
    study: StudyResults | None = None,
    level: float = significance.ALPHA,
) -> list[FamilyTest]:
    """Test a family: its paired differences, and those without common seeds (see `unpaired`).

    With a `study`, paired differences are tested at each of its looks, and the others at the level
    of the last: the levels of all looks add up to that of the family. Without one, all are tested
    once at `level`.
    """
    unpaired = {}
    for pair in family:
        found = pair.unpaired()
        if found is not None:
            unpaired[pair.label] = found
    paired = [pair for pair in family if pair.label not in unpaired]
    n_paired = sum(len(pair.differences()) > 1 for pair in paired)
    share = len(unpaired) / max(1, len(unpaired) + n_paired)
    tests = []
    if paired and study is None:
        alpha = level * (1 - share)
        tests.append(_at_error_rate(test_pairs(paired, margin, alpha), alpha))
    elif paired and study is not None:
        test = _test_at_looks(study, paired, margin, 1 - share)
        tests.append(_at_error_rate(test, significance.ALPHA * (1 - share)))
    if unpaired:
        level = level if study is None else study.level
        of_pair = {pair.label: pair for pair in family}
        test = test_unpaired(
            unpaired,
            margin,
            family[0].metric.lower_is_better,
            alpha=level * share,
            margins={label: of_pair[label].margin(margin) for label in unpaired},
            lost={label: of_pair[label].lost_seeds for label in unpaired},
        )
        test = _named(test, [of_pair[label] for label in unpaired])
        tests.append(_at_error_rate(test, level * share))
    return tests


def _at_error_rate(test: FamilyTest, level: float) -> FamilyTest:
    """Return a test at a level with p-values that are comparable with the error rate."""
    results = {label: at_error_rate(result, level) for label, result in test.results.items()}
    return FamilyTest(results, test.family)


def _test_at_looks(
    study: StudyResults,
    family: Sequence[Pair],
    margin: float | None,
    share: float,
) -> FamilyTest:
    """Test the pairs of a family at each look whose runs have all ended; before any, at the first.

    The family that is returned has the entries of all looks, and the noise of the last. `share` is
    the part of each level that these pairs have.
    """
    looks = study.looks
    if looks is None or looks.is_fixed:
        return test_pairs(family, margin, significance.ALPHA * share)
    by_label = {pair.label: pair for pair in family}
    tested: list[FamilyTest] = []

    def test(
        labels: list[str], seeds: list[int], level: float, untested: Untested
    ) -> Mapping[str, SignificanceResult]:
        pairs = [by_label[label].on_seeds(seeds) for label in labels]
        tested.append(test_pairs(pairs, margin, level * share, untested))
        return tested[-1].results

    ended = {pair.label: pair.entry.ended_seeds for pair in family}
    margins = {pair.label: pair.margin(margin) for pair in family}
    taken = looks.looks[: max(1, study.n_complete_looks)]
    results = replay(ended, taken, test, margins)
    if not tested:
        family_test = test_pairs(family, margin, significance.ALPHA * share)
        return FamilyTest(results, family_test.family)
    of_looks = (entry for look in tested for entry in look.family.entries)
    entries = {"entries": list(dict.fromkeys(of_looks))}
    return FamilyTest(results, tested[-1].family.model_copy(update=entries))


def test_pairs(
    family: Sequence[Pair],
    margin: float | None,
    alpha: float = significance.ALPHA,
    untested: Untested = NONE_UNTESTED,
) -> FamilyTest:
    """Test the pairs of a family that share a seed, by the label of the pair.

    The pairs of a family that have several baselines or units have no common noise, and are tested
    one by one, as are metrics without noise.
    """
    in_bits = [pair.label for pair in family if pair.unit == "bits per byte"]
    margins = {pair.label: pair.margin(margin) for pair in family}
    metric = family[0].metric
    baselines = {pair.base.label for pair in family}
    if metric.without_noise or len(baselines) > 1 or 0 < len(in_bits) < len(family):
        differences = {}
        for pair in family:
            by_seed = pair.differences()
            if by_seed:
                differences[pair.label] = list(by_seed.values())
        test = test_differences(
            differences,
            margin,
            metric.lower_is_better,
            margins=margins,
            lost={pair.label: pair.lost_seeds for pair in family},
            without_noise=metric.without_noise,
            alpha=alpha,
            untested=untested,
        )
    else:
        import pandas as pd  # imported here because it is slow to import

        base = family[0].base
        compared = {BASELINE: base} | {pair.label: pair.entry for pair in family}
        columns = {BASELINE: base_values(base, metric)}
        columns |= {pair.label: comparable_values(pair.entry, base, metric) for pair in family}
        test = test_family(
            pd.DataFrame(columns).sort_index(),
            BASELINE,
            margin,
            metric.lower_is_better,
            margins=margins,
            lost={label: entry.lost_seeds for label, entry in compared.items()},
            alpha=alpha,
            untested=untested,
        )
    return _named(test, family)


def _named(test: FamilyTest, family: Sequence[Pair]) -> FamilyTest:
    """Return a test with the baselines of its family and the units of its differences."""
    in_bits = [pair.label for pair in family if pair.unit == "bits per byte"]
    baselines = {pair.base.label for pair in family}
    results = dict(test.results)
    for label in in_bits:
        if label in results:
            results[label] = results[label].model_copy(update={"unit": "bits per byte"})
    named = {"baseline": ", ".join(sorted(baselines))}
    return FamilyTest(results, test.family.model_copy(update=named))
