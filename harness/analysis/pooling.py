"""Verdicts pooled over contexts: is there an effect on average, and does it depend on the context.

The values of each seed are averaged over contexts, and these means are tested as the values of one
context are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.analysis import repeated_measures, significance, superiority
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.families import test_differences, test_family
from harness.analysis.metrics import PARALLELISM
from harness.analysis.pairs import LOSS_METRICS, Metric, Pair, base_values
from harness.analysis.sequential import at_error_rate
from harness.results.records.comparisons import (
    LossUnit,
    PooledResult,
    SignificanceResult,
    VerdictName,
)
from harness.results.records.tuning import TUNED, TUNING
from harness.results.titles import SEPARATOR

BASELINE = ""  # column of the baselines' means, which no group is named


@dataclass(frozen=True)
class _Group:
    """The pairs with the same asked labels, by context, and their seeds in common.

    `missing` are the contexts without a difference, `incomplete` the seeds of some contexts only.
    """

    levels: dict[str, str]
    pairs: dict[str, Pair]
    missing: list[str]
    seeds: list[int]
    incomplete: list[int]
    differences: np.ndarray  # (n_seeds, n_contexts)
    baselines: np.ndarray  # (n_seeds, n_contexts)
    planned: list[tuple[Entry, Entry]]  # each entry with its baseline, in all contexts

    @property
    def name(self) -> str:
        """The labels that differ from the baseline's."""
        pair = next(iter(self.pairs.values()))
        base = pair.base.axes
        return SEPARATOR.join(label for axis, label in self.levels.items() if label != base[axis])

    @property
    def unit(self) -> LossUnit | None:
        return next(iter(self.pairs.values())).unit

    @property
    def lost(self) -> tuple[set[int], set[int]]:
        """The failed seeds of the entries and of their baselines, in missing contexts too."""
        of_entries = {seed for entry, _ in self.planned for seed in entry.lost_seeds}
        of_baselines = {seed for _, base in self.planned for seed in base.lost_seeds}
        return of_entries, of_baselines

    def margin(self, margin: float | None) -> float | None:
        """Return the mean margin over contexts."""
        margins = [pair.margin(margin) for pair in self.pairs.values()]
        known = [value for value in margins if value is not None]
        return float(np.mean(known)) if len(known) == len(margins) else None


def pool(
    study: StudyResults,
    pairs: Sequence[Pair],
    results: Mapping[str, SignificanceResult],
    margin: float | None,
    threshold: float | None = None,
) -> list[PooledResult]:
    """Test the mean over contexts of each asked difference that at least two contexts have.

    Losses under another parallelism repeat those under the baseline's, and are not pooled. If
    entries are tuned, only the tuned ones are pooled. Differences in a loss are in bits per byte if
    the tokenizers of the contexts differ. `results` has the tests within contexts, by the label of
    the entry.
    """
    if not study.contexts:
        return []
    groups = _groups(study, pairs)
    pooled: list[PooledResult] = []
    for family in _families(groups):
        metric = pairs[0].metric
        tests = _test(family, margin, metric, study.level)
        interactions = {}
        for group in family:
            p = repeated_measures.interaction_pvalue(group.differences)
            if p is not None:
                interactions[group.name] = p
        adjusted = significance.holm_adjust(interactions)
        thresholds = {group.name: group.margin(threshold) for group in family}
        tests = superiority.judge(tests, thresholds, metric.lower_is_better)
        for group in family:
            p_holm = adjusted.get(group.name)
            pooled.append(
                PooledResult(
                    **dict(tests[group.name])
                    | {"unit": group.unit if group.unit == "bits per byte" else None},
                    asked=group.name,
                    levels=group.levels,
                    contexts=list(group.pairs),
                    contexts_missing=group.missing,
                    verdicts=_verdicts(group, results),
                    seeds=group.seeds,
                    seeds_incomplete=group.incomplete,
                    interaction_p=interactions.get(group.name),
                    interaction_p_holm=p_holm,
                    depends_on_context=None if p_holm is None else p_holm < significance.ALPHA,
                )
            )
    return pooled


def _test(
    family: Sequence[_Group],
    margin: float | None,
    metric: Metric,
    level: float,
) -> dict[str, SignificanceResult]:
    """Test the means over contexts of a family at the level of a look, by the name of the group.

    Groups of other contexts or units have other baselines, and are tested one by one.
    """
    margins = {group.name: group.margin(margin) for group in family}
    first = family[0]
    same_contexts = all(list(group.pairs) == list(first.pairs) for group in family)
    is_mixed = not same_contexts or any(group.unit != first.unit for group in family)
    if metric.without_noise or is_mixed:
        differences = {group.name: group.differences.mean(axis=1).tolist() for group in family}
        lost = {group.name: group.lost for group in family}
        test = test_differences(
            differences,
            margin,
            metric.lower_is_better,
            alpha=level,
            margins=margins,
            lost=lost,
            without_noise=metric.without_noise,
        )
        return {name: at_error_rate(result, level) for name, result in test.results.items()}
    import pandas as pd  # imported here because it is slow to import

    columns: dict[str, pd.Series] = {}
    for group in family:
        baseline = pd.Series(group.baselines.mean(axis=1), index=group.seeds)
        columns[BASELINE] = baseline.combine_first(columns.get(BASELINE, baseline))
        columns[group.name] = baseline + group.differences.mean(axis=1)
    lost_seeds = {group.name: group.lost[0] for group in family} | {BASELINE: first.lost[1]}
    test = test_family(
        pd.DataFrame(columns),
        BASELINE,
        margin,
        metric.lower_is_better,
        alpha=level,
        margins=margins,
        lost=lost_seeds,
    )
    return {name: at_error_rate(result, level) for name, result in test.results.items()}


def _groups(study: StudyResults, pairs: Sequence[Pair]) -> list[_Group]:
    by_levels: dict[tuple[str, ...], dict[str, Pair]] = {}
    order = list(study.by_context())
    for pair in sorted(pairs, key=lambda pair: order.index(study.context_name(pair.entry))):
        if _is_pooled(study, pair.entry, pair.unit is not None) and pair.differences():
            levels = tuple(pair.entry.axes[axis] for axis in study.asked)
            context = study.context_name(pair.entry)
            by_levels.setdefault(levels, {})[context] = pair
    groups = []
    for levels, by_context in by_levels.items():
        if len(by_context) < 2:
            continue
        in_one_unit = _in_one_unit(by_context)
        by_seed = [pair.differences() for pair in in_one_unit.values()]
        seeds = sorted(set.intersection(*(set(found) for found in by_seed)))
        if seeds:
            differences = np.array([[found[seed] for found in by_seed] for seed in seeds])
            bases = [base_values(pair.base, pair.metric) for pair in in_one_unit.values()]
            baselines = np.array([[found[seed] for found in bases] for seed in seeds])
            labels = dict(zip(study.asked, levels, strict=True))
            is_loss = next(iter(in_one_unit.values())).unit is not None
            planned = []
            for entry in study.entries:
                base = study.baseline_of(entry)
                is_asked = labels.items() <= entry.axes.items()
                if base is not None and is_asked and _is_pooled(study, entry, is_loss):
                    planned.append((entry, base))
            contexts = {study.context_name(entry) for entry, _ in planned}
            missing = [context for context in order if context in contexts - {*in_one_unit}]
            incomplete = sorted(set().union(*by_seed) - {*seeds})
            groups.append(
                _Group(
                    labels,
                    in_one_unit,
                    missing,
                    seeds,
                    incomplete,
                    differences,
                    baselines,
                    planned,
                )
            )
    return groups


def _is_pooled(study: StudyResults, entry: Entry, is_loss: bool) -> bool:
    """Return whether an entry's context counts: it repeats no loss, and is tuned if any is."""
    if TUNING in study.contexts and entry.axes[TUNING] != TUNED:
        return False
    baseline = study.baseline.get(PARALLELISM)
    repeats = PARALLELISM in study.contexts and baseline in study.levels[PARALLELISM]
    return not (is_loss and repeats and entry.axes[PARALLELISM] != baseline)


def _in_one_unit(pairs: dict[str, Pair]) -> dict[str, Pair]:
    """Return the pairs, in bits per byte if the tokens of the contexts differ."""
    tokenizers = {pair.base.runs[0].tokenizer for pair in pairs.values()}
    units = {pair.unit for pair in pairs.values()}
    if units == {None} or (len(tokenizers) == 1 and len(units) == 1):
        return pairs
    metric = LOSS_METRICS["bits per byte"]
    return {
        context: replace(pair, metric=metric, unit="bits per byte")
        for context, pair in pairs.items()
    }


def _families(groups: Sequence[_Group]) -> list[list[_Group]]:
    """Return the families of tests: losses under another parallelism repeat a hypothesis."""
    families: dict[str, list[_Group]] = {}
    for group in groups:
        base = next(iter(group.pairs.values())).base.axes
        changed = [axis for axis, label in group.levels.items() if label != base[axis]]
        repeats = group.unit is not None and changed != [PARALLELISM]
        own = group.levels.get(PARALLELISM, "") if repeats else ""
        families.setdefault(own, []).append(group)
    return list(families.values())


def _verdicts(
    group: _Group, results: Mapping[str, SignificanceResult]
) -> dict[str, VerdictName | None]:
    verdicts: dict[str, VerdictName | None] = {}
    for context, pair in group.pairs.items():
        result = results.get(pair.entry.label)
        verdicts[context] = result.verdict if result else None
    return verdicts
