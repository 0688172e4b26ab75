"""Differences over several contexts: the answer of a study with context axes, and its section."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from harness.analysis.answer import depends_on_context
from harness.analysis.dataset import StudyResults
from harness.analysis.pairs import METRIC_NAMES
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import Block, Emphasis, Heading, Text, paragraph
from harness.report.document import text as parts
from harness.report.formatting import MISSING
from harness.report.sections import Charts
from harness.report.tables import (
    Column,
    Record,
    display,
    interval_of,
    number_column,
)
from harness.results.records.answer import AnswerRow
from harness.results.records.comparisons import PooledResult, VerdictName
from harness.results.records.tuning import TUNING
from harness.results.titles import SEPARATOR

METHOD = (
    "The difference of each seed is averaged over the contexts, each weighted equally. These means "
    "are tested as those of one context are, corrected for the rows of one metric. The "
    "interaction tests whether the difference is the same in all "
    "contexts: a repeated measures analysis of variance with seeds as blocks and the degrees of "
    "freedom of Greenhouse and Geisser (1959), also corrected (Holm). With two or three seeds it "
    "detects only large interactions."
)
DEPENDS = "depends on context"  # shown instead of a verdict
LOSS_CHANGES: Mapping[VerdictName, str] = {
    "better": "lowers the validation loss",
    "worse": "raises the validation loss",
    "equivalent": "leaves the validation loss equivalent",
    "unresolved": "has no resolved effect on the validation loss",
}


def build(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the pooled differences of each metric, if the study has contexts."""
    if "pooled" not in summary.tables:
        return
    study = summary.study
    levels = []
    for axis in study.contexts:
        shown = [study.title(axis, label) for label in study.levels[axis]]
        levels.append(f"{axis} ({', '.join(shown)})")
    titles = _titles(summary)
    yield paragraph(f"Contexts: {'; '.join(levels)}. {METHOD}")
    frame = summary.tables["pooled"]
    for quantity, tests in summary.metric_tests.items():
        if not tests.pooled:
            continue
        yield Heading(METRIC_NAMES[quantity].capitalize())
        for result in tests.pooled:
            if result.depends_on_context:
                yield paragraph(
                    Emphasis("Depends on the context:"),
                    " ",
                    titles[result.asked],
                    f" ({_verdicts_by_context(study, result)}; {_interaction(result)}). ",
                    "The mean over contexts does not describe every context.",
                )
        columns = [
            Column("difference", lambda row: titles[row["asked"]], numeric=False),
            Column("contexts", partial(_contexts, study)),
            Column("seeds", _seeds),
            Column("verdict", _verdict, numeric=False),
            Column("verdict by context", partial(_verdicts_cell, study), numeric=False),
            Column("mean difference", _difference),
            Column("p (adjusted)", _p_adjusted),
            number_column("interaction, p (Holm)", "interaction_p_holm", formatting.p_value),
        ]
        caption = f"{METRIC_NAMES[quantity].capitalize()}, pooled over contexts"
        yield display(caption, frame[frame["quantity"] == quantity], columns)


def _titles(summary: Summary) -> dict[str, str]:
    """Return what people read in place of the asked labels of each pooled difference."""
    study = summary.study
    titles = {}
    for tests in summary.metric_tests.values():
        for result in tests.pooled:
            changed = {
                axis: label
                for axis, label in result.levels.items()
                if label in result.asked.split(SEPARATOR) and label != study.baseline.get(axis)
            }
            titles[result.asked] = study.title_of(changed) or result.asked
    return titles


def _contexts(study: StudyResults, row: Record) -> str:
    n = row["n_contexts"]
    missing = [study.context_title(context) for context in row["contexts_missing"]]
    return f"{n} of {n + len(missing)} (not {', '.join(missing)})" if missing else f"{n}"


def _seeds(row: Record) -> str:
    n_incomplete = len(row["seeds_incomplete"])
    return f"{row['n_seeds']}" + (f" (+{n_incomplete} incomplete)" if n_incomplete else "")


def _verdict(row: Record) -> str:
    return DEPENDS if row["depends_on_context"] else row["verdict"] or MISSING


def _p_adjusted(row: Record) -> str:
    if row["method"] == "exact":
        return MISSING
    return formatting.number(row["p_adjusted"], formatting.p_value)


def _difference(row: Record) -> str:
    if row["method"] == "exact":
        return formatting.change(row["difference"])
    if row["quantity"] != "val_loss":
        return formatting.change(*interval_of(row, "difference"))
    shown = formatting.difference(*interval_of(row, "difference"))
    return with_unit(shown, row["unit"])


def with_unit(shown: str, unit: str | None) -> str:
    """Return a difference in the loss, with its unit if that is not nats per token."""
    return shown if unit is None or shown == MISSING else f"{shown} {unit}"


def _verdicts_cell(study: StudyResults, row: Record) -> str:
    shown = []
    for item in row["verdicts"]:
        context, _, verdict = item.rpartition("=")
        shown.append(f"{study.context_title(context)} {verdict}")
    return ", ".join(shown)


def _verdicts_by_context(study: StudyResults, result: PooledResult) -> str:
    """Return the contexts by their verdict: better in S, M; unresolved in L."""
    contexts: dict[str, list[str]] = {}
    for context, verdict in result.verdicts.items():
        contexts.setdefault(verdict or "no verdict", []).append(study.context_title(context))
    if result.contexts_missing:
        missing = [study.context_title(context) for context in result.contexts_missing]
        contexts["no comparison"] = missing
    return "; ".join(f"{verdict} in {', '.join(names)}" for verdict, names in contexts.items())


def contexts_phrase(study: StudyResults, names: Sequence[str]) -> str:
    """Return the number of contexts with their noun: `3 sizes`, `6 contexts`."""
    n = len(names)
    if len(study.contexts) > 1:
        return f"{n} contexts"
    axis = study.contexts[0]
    if axis == TUNING or not axis.isidentifier():
        return f"{n} levels of {axis}"
    return formatting.count(n, axis)


def of_row(summary: Summary, row: AnswerRow) -> PooledResult | None:
    """Return the pooled verdict on a candidate, None without contexts or a meaningful verdict."""
    if row.verdict is None and not depends_on_context(row):
        return None
    labels = summary.study.baseline | row.levels
    for result in summary.metric_tests["val_loss"].pooled:
        if result.verdict and all(labels.get(axis) == of for axis, of in result.levels.items()):
            return result
    return None


def sentence(study: StudyResults, result: PooledResult, subject: Text) -> Text:
    """Return a sentence on an asked difference in the loss that is pooled over contexts.

    An effect that depends on the context is described by its verdicts within contexts, not by the
    pooled one; if these agree, only its size depends on it.
    """
    verdicts = set(result.verdicts.values())
    change = LOSS_CHANGES[result.verdict or "unresolved"]
    in_all = _in_all(study, result)
    if verdicts == {"unresolved"}:
        in_all = in_all.replace("in all", "in any of").replace("in both", "in either of 2")
    if result.depends_on_context and verdicts in ({"better"}, {"worse"}):
        change = LOSS_CHANGES["better" if "better" in verdicts else "worse"]
        amount = f"by an amount that depends on {_what(study)} ({_interaction(result)})"
        return parts(subject, f" {change} {in_all}, {amount}.")
    if result.depends_on_context:
        return parts(
            "The effect of ",
            subject,
            f" on the validation loss depends on {_what(study)}: "
            f"{_verdicts_by_context(study, result)} ({_interaction(result)}).",
        )
    if verdicts == {result.verdict}:
        return parts(subject, f" {change} {in_all}", _size(result), ".")
    where = contexts_phrase(study, result.contexts)
    by_context = _verdicts_by_context(study, result)
    return parts(subject, f" {change} on average over {where}", _size(result), f" ({by_context}).")


def _in_all(study: StudyResults, result: PooledResult) -> str:
    """Return `in all 3 sizes`, `in both sizes`, or `in 2 of 3 sizes (no comparison in L)`."""
    missing = [study.context_title(context) for context in result.contexts_missing]
    if missing:
        planned = contexts_phrase(study, [*result.contexts, *missing])
        return f"in {len(result.contexts)} of {planned} (no comparison in {', '.join(missing)})"
    where = contexts_phrase(study, result.contexts)
    return f"in both {where.removeprefix('2 ')}" if len(result.contexts) == 2 else f"in all {where}"


def _what(study: StudyResults) -> str:
    return study.contexts[0] if len(study.contexts) == 1 else "the context"


def _size(result: PooledResult) -> str:
    """Return by how much a loss changes, or the difference if its sign is not resolved."""
    bounds = result.difference.ci95
    mean = result.difference.mean
    unit = "nats" if result.unit in (None, "nats per token") else result.unit
    if result.verdict in ("better", "worse"):
        size = f" by {formatting.brief_gain(mean, bounds, unit or '')}"
    else:
        size = f" (difference {formatting.brief_difference(mean, *(bounds or ()))} {unit})"
    if result.seeds_incomplete:
        size += f", on the {formatting.count(len(result.seeds), 'seed')} that all contexts have"
    return size


def _interaction(result: PooledResult) -> str:
    p = formatting.number(result.interaction_p_holm, formatting.p_value)
    return f"interaction p {p}" if p.startswith("<") else f"interaction p = {p}"
