"""Superiority: which entries are better than the baseline by more than a stated threshold."""

from collections.abc import Callable, Collection, Iterator, Mapping

from harness.analysis.pairs import METRIC_NAMES
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Text, code_list, join, text
from harness.report.formatting import MISSING
from harness.report.tables import Column, Record
from harness.results.records.comparisons import Quantity, SuperiorityVerdict

NAMES: Mapping[Quantity, str] = {
    "val_loss": "loss",
    "tokens_per_s": "throughput",
    "peak_memory": "memory",
}
OTHER_ANSWERS: Mapping[SuperiorityVerdict, str] = {"no": "not", "unresolved": "unresolved"}


def titles(stated: Mapping[str, float]) -> dict[Quantity, str]:
    """Return the column's title of each metric: loss better by more than 0.005 nats."""
    return {
        metric: f"{name} better by more than {formatting.threshold(stated[metric], metric)}"
        for metric, name in NAMES.items()
        if metric in stated
    }


def words(summary: Summary, metric: Quantity) -> dict[str, str]:
    """Return whether each tested entry is better by more than the threshold."""
    tests = summary.metric_tests[metric].entries
    return {label: result.superior or MISSING for label, result in tests.items()}


def columns(summary: Summary, *metrics: Quantity) -> Iterator[Column]:
    """Yield the column of verdicts on superiority of each of these metrics with a threshold."""
    for metric, heading in titles(summary.study.superiority).items():
        if metric in metrics:
            shown = words(summary, metric)
            yield Column(heading, _cell(shown), numeric=False)


def _cell(shown: Mapping[str, str]) -> Callable[[Record], str]:
    return lambda row: shown.get(row["entry"], MISSING)


def sentences(summary: Summary) -> Iterator[Text]:
    """Yield the verdicts on superiority of the candidates, a sentence for each metric."""
    rows = summary.answer.rows
    for metric in METRIC_NAMES:
        if metric in summary.study.superiority:
            named = [row.entry for row in rows if row.verdict or metric != "val_loss"]
            yield _sentence(summary, metric, named)


def _sentence(summary: Summary, metric: Quantity, named: Collection[str]) -> Text:
    tests = summary.metric_tests[metric]
    labels: dict[SuperiorityVerdict, list[str]] = {}
    for label, result in tests.entries.items():
        if result.superior and label in named:
            labels.setdefault(result.superior, []).append(label)
    if not labels:
        return ()
    threshold = formatting.threshold(summary.study.superiority[metric], metric)
    answers = [code_list(labels["yes"]) if "yes" in labels else text("none")]
    for answer, name in OTHER_ANSWERS.items():
        if answer in labels:
            answers.append(text(f"{name}: ", code_list(labels[answer])))
    return text(
        f"Better in {METRIC_NAMES[metric]} by more than {threshold}: ",
        join(answers, "; "),
        ".",
    )
