"""How verdicts are found, and which test each family of comparisons had."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from harness.analysis.dataset import StudyResults
from harness.analysis.metrics import PARALLELISM
from harness.analysis.pairs import METRIC_NAMES
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Paragraph, Text, code_list, join, text
from harness.report.formatting import count
from harness.results.records.comparisons import (
    MetricTests,
    Quantity,
    SignificanceResult,
    TestFamily,
    TestMethod,
)

REFERENCE = "docs/statistics.md"
VERDICTS = (
    "An entry is better or worse only if two tests agree (two keys): Dunnett's (1955) step-down "
    "test of all entries against the baseline, with the noise of the whole family, and the t test "
    "of the entry's own differences. It is equivalent if two one-sided tests (Schuirmann 1987) "
    "place the difference within the study's margin. Otherwise it is unresolved. All tests are "
    "corrected for the comparisons of the family (familywise error 5 %)."
)
INTERVALS = (
    "The interval next to a verdict agrees with it: it holds at 95 % for all comparisons of the "
    "family at once. A round bracket marks an end that is excluded."
)


METHODS: Mapping[TestMethod, str] = {
    "two keys": "two keys",
    "Holm": "t tests of each entry's own differences, adjusted by Holm (1979)",
    "Welch": "Welch's t tests, as the seeds do not match",
    "exact": "differences that are equal in every seed are exact",
}


def names(results: Iterable[SignificanceResult]) -> str:
    """Return the tests that these results had."""
    used = {result.method for result in results}
    return "; ".join(name for method, name in METHODS.items() if method in used) or "none"


def paragraphs(summary: Summary, *metrics: Quantity) -> Iterator[Paragraph]:
    """Yield which test the comparisons of these metrics had, a sentence for each metric."""
    stated = [_sentence(summary, summary.metric_tests[metric]) for metric in metrics]
    sentences = [sentence for sentence in stated if sentence]
    if sentences:
        yield Paragraph(join(sentences, " "))


def _sentence(summary: Summary, tests: MetricTests) -> Text:
    """Return the tests of one metric: by two keys, by Holm with the reason, or none if exact."""
    copies = {row.entry for row in summary.comparisons if row.differs == [PARALLELISM]}
    groups: dict[tuple[str, bool], list[TestFamily]] = {}
    for family in tests.families:
        if family.method == "Welch":
            continue  # `_without_noise` names its entries
        is_repeat = tests.quantity == "val_loss" and copies.issuperset(family.entries)
        groups.setdefault((_test(family), is_repeat), []).append(family)
    parts = [
        _families(summary.study, tests, test, is_repeat, families)
        for (test, is_repeat), families in sorted(groups.items(), key=lambda item: item[0][1])
    ]
    parts += [*_at_earlier_looks(tests), *_without_noise(tests)]
    if not parts:
        return ()
    return text(f"{METRIC_NAMES[tests.quantity].capitalize()}: ", join(parts, "; "), ".")


def _test(family: TestFamily) -> str:
    """Return the name of a family's test, with the reason for another one than two keys."""
    because = f", because {family.reason}" if family.reason else ""
    return METHODS[family.method] + because


def _families(
    study: StudyResults,
    tests: MetricTests,
    test: str,
    is_repeat: bool,
    families: Sequence[TestFamily],
) -> Text:
    """Return a test with its numbers of comparisons and seeds, and the noise that it assumes.

    `is_repeat`: the entries are the baseline under other parallelisms.
    """
    size = count(sum(len(family.entries) for family in families), "comparison")
    if is_repeat:
        size += " of the baseline with its other parallelisms"
    if len(families) > 1:
        size += f" in {len(families)} families"
    details = [size, _range(sorted({family.n_seeds for family in families}), "{} seeds".format)]
    noises = sorted(family.noise for family in families if family.noise is not None)
    if noises:
        is_loss = tests.quantity == "val_loss"
        show = formatting.size if is_loss else formatting.percent_size
        details.append(f"standard deviation of a difference {_range(noises, show)}")
    contexts = [study.context_title(one.context) for one in families if one.context]
    where = text(" in ", join(contexts, ", ")) if contexts else ()
    return text(test, where, f" ({', '.join(details)})")


def _range(values: Sequence[float], show: formatting.Show) -> str:
    """Return the lowest and the highest of sorted values, or the only one."""
    ends = [show(values[0]), show(values[-1])]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _at_earlier_looks(tests: MetricTests) -> Iterator[Text]:
    """Yield the entries whose test is not that of their family at its last look."""
    method_of = {entry: family.method for family in tests.families for entry in family.entries}
    by_method: dict[TestMethod, list[str]] = {}
    for label, result in tests.entries.items():
        is_paired = result.method in ("two keys", "Holm") and label in method_of
        if is_paired and result.method is not None and result.method != method_of[label]:
            by_method.setdefault(result.method, []).append(label)
    for method, labels in by_method.items():
        yield text(f"at an earlier look {METHODS[method]}: ", code_list(labels))


def _without_noise(tests: MetricTests) -> Iterator[Text]:
    """Yield how entries are judged whose differences do not vary, or are not paired."""
    results = tests.entries
    exact = [label for label, result in results.items() if result.method == "exact"]
    constant = [label for label, result in results.items() if result.seed_has_no_effect]
    unpaired = [label for label, result in results.items() if result.method == "Welch"]
    if exact:
        named = () if len(exact) == len(results) else text(": ", code_list(exact))
        yield text("exact, because the differences are equal in every seed", named)
    if constant:
        yield text(
            "no verdict, because the seed has no effect on the difference, so that all seeds are "
            "one observation: ",
            code_list(constant),
        )
    if unpaired:
        yield text(
            "Welch's t tests, because the seeds do not match: the comparison is unpaired and needs "
            "more seeds: ",
            code_list(unpaired),
        )
