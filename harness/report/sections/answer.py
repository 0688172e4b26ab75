"""The first screen: the question, a sentence per answer, the forest plot and recommendations."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from harness.analysis.answer import BASELINE, LOST, VISIBLE_CHANGE, depends_on_context
from harness.analysis.candidates import collapsed_axes
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.charts.answer import candidate_title, gain, stamped
from harness.report.document import Advice, FirstScreen, Text, join, text
from harness.report.formatting import count
from harness.report.sections import Charts, ladder, pooled, superiority, tuning
from harness.results.records.answer import Advice as AdviceRecord
from harness.results.records.answer import AdviceKind, AnswerRow, AxisAnswer, Cost
from harness.results.records.comparisons import Effect

MAX_NAMES = 3  # candidates that a sentence or an item names
MAX_SENTENCES = 3  # levels of an axis with a sentence of their own
MAX_INTERACTIONS = 2  # that are stated
MAX_TRENDS = 3  # effective speedups that are stated
NONE_BETTER = "No candidate is better than the baseline."
NONE_SOUND = "No candidate without a caveat is better than the baseline."
NO_NUMBER = "no practical number of seeds would resolve it"
TITLES: Mapping[AdviceKind, str] = {
    "better": "Better",
    "cheaper": "Equivalent and cheaper",
    "unresolved": "Unresolved",
    "distrust": "Do not trust yet",
}
WARNINGS = {
    "diverges": "differs from the single-process run",
    "non-causal": "sees later tokens",
    "below-entropy": "loss below the corpus's entropy",
    "lost-seeds": "lost seeds",
    "unstable": "unstable training",
    "overfitting": "overfitting",
    "outdated": "the code has changed since",
    "other-budget": "another training budget",
    "other-precision": "another precision",
    "not-compiled": "speed: not fully compiled",
    "other-hardware": "speed: another machine",
    "shared-machine": "speed: shared machine",
    "unplanned-look": "seeds were added after a look",
}


def build(summary: Summary, charts: Charts) -> FirstScreen:
    """Return the first screen of the report."""
    return FirstScreen(
        question=question(summary),
        sentences=[sentence for sentence in _sentences(summary) if sentence],
        chart=charts.get("answer"),
        advice=list(_advice(summary)),
    )


def question(summary: Summary) -> Text:
    """Return the question that the study asks."""
    compared = [row for row in summary.answer.rows if row.against is not None]
    if not compared:
        return text("What does each entry achieve, and at what cost?")
    baselines = [row for row in summary.answer.rows if row.reason == BASELINE]
    base = candidate_title(baselines[0]) if baselines else "the baseline"
    axes = _and(list(compared[0].levels))
    contexts = summary.study.contexts
    where = f" at equal {_and(contexts)}" if contexts else ""
    if len(compared) == 1:
        name = candidate_title(compared[0])
        return text(f"Does {name} reach a lower loss than {base}{where}, and at what cost?")
    return text(
        f"Which of {len(compared):,} candidates that differ in {axes} reach a lower loss than "
        f"{base}{where}, and at what cost?"
    )


def _and(names: Sequence[str]) -> str:
    """Return `a`, `a and b` or `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _named(names: Sequence[str]) -> str:
    """Return at most `MAX_NAMES` names, and the number of the others."""
    more = len(names) - MAX_NAMES
    return f"{', '.join(names[:MAX_NAMES])} and {more:,} more" if more > 0 else _and(names)


# -- sentences ------------------------------------------------------------------------------------


def _sentences(summary: Summary) -> Iterator[Text]:
    """Yield a sentence for each asked axis, then on the best combination, tuning and sizes."""
    rows = {row.entry: row for row in summary.answer.rows}
    compared = [row for row in rows.values() if row.against is not None]
    if not compared:
        yield from _achieved(list(rows.values()))
    elif all(row.reason == "single seed" for row in compared):
        yield _single_seed(summary)
    else:
        for answer in summary.answer.axes:
            yield _axis(summary, answer, rows)
        yield _interactions(summary)
        yield _best(summary, compared)
    yield from superiority.sentences(summary)
    yield _tuning(summary)
    yield _ladder(summary)


def _achieved(rows: Sequence[AnswerRow]) -> Iterator[Text]:
    """Yield the loss and the throughput of each entry, if none is compared with another."""
    for row in rows[:MAX_NAMES]:
        if row.val_loss is None:
            yield text(f"{candidate_title(row)}: no run is done yet.")
            continue
        low, high = row.val_loss.ci95 or (None, None)
        loss = formatting.interval(row.val_loss.mean, low, high, formatting.fixed)
        if low is None:
            loss = formatting.fixed(row.val_loss.mean)
        title = candidate_title(row)
        speed = row.tokens_per_s.value
        at = "" if speed is None else f" at {formatting.compact(speed)} tokens per second"
        yield text(f"{title} reaches a validation loss of {loss} nats per token{at}.")


def _single_seed(summary: Summary) -> Text:
    is_done = all(run.status == "done" for run in summary.study.runs)
    remedy = "Give the study more seeds." if is_done else "Not all runs are done."
    return text(
        "No verdict: every difference comes from a single seed, which does not show how much of "
        f"it is noise. {remedy}"
    )


def _axis(summary: Summary, answer: AxisAnswer, rows: Mapping[str, AnswerRow]) -> Text:
    """Return the effects of an axis's levels: the resolved ones first, the best of them first."""
    resolved: list[tuple[float, Text]] = []
    unresolved = []
    others: dict[str, list[str]] = {}
    for level in answer.levels:
        row = rows[level.entry] if level.entry else None
        title = summary.study.title(answer.axis, level.level)
        name = stamped(title, row) if row else title
        over_contexts = pooled.of_row(summary, row) if row else None
        if over_contexts is not None:
            shown = pooled.sentence(summary.study, over_contexts, text(name))
            resolved.append((over_contexts.difference.mean, shown))
        elif row is None:
            resolved += _main_effect(name, level.effect)
        elif row.verdict in ("better", "worse") and row.difference is not None:
            resolved.append((row.difference.mean, _change(name, row)))
        elif row.verdict == "unresolved":
            unresolved.append((name, row))
        else:
            others.setdefault(_state(summary, row), []).append(name)
    resolved.sort(key=lambda item: item[0])
    sentences = [sentence for _, sentence in resolved[:MAX_SENTENCES]]
    if len(resolved) > MAX_SENTENCES:
        more = count(len(resolved) - MAX_SENTENCES, "other level")
        sentences.append(text(f"The chart has {more} of {answer.axis}."))
    if unresolved:
        sentences.append(_unresolved(unresolved))
    sentences += [text(f"{_named(names)}: {state}.") for state, names in others.items()]
    return join(sentences, " ")


def _change(name: str, row: AnswerRow) -> Text:
    """Return by how much a resolved level changes the loss, and at what throughput."""
    verb = "lowers" if row.verdict == "better" else "raises"
    return text(f"{name} {verb} validation loss by {gain(row)}{_at_speed(row.tokens_per_s)}.")


def _at_speed(cost: Cost) -> str:
    """Return ` at 7 % lower throughput` if that is resolved."""
    if cost.verdict == "equivalent":
        return " at equivalent throughput"
    if cost.change is None or cost.verdict not in ("better", "worse"):
        return ""
    return f" at {_relative(cost.change, 'higher', 'lower')} throughput"


def _relative(change: float, more: str, less: str) -> str:
    """Return `7 % lower` for a change of -0.07."""
    shown = formatting.brief_percent(change)
    return f"{shown.lstrip('+-')} {less if change < 0 else more}"


def _main_effect(name: str, effect: Effect | None) -> Iterator[tuple[float, Text]]:
    """Yield the main effect of a level that no candidate changes alone, if it is resolved."""
    if effect is None or effect.estimate is None or effect.verdict not in ("better", "worse"):
        return
    verb = "lowers" if effect.verdict == "better" else "raises"
    size = formatting.brief_gain(effect.estimate, effect.ci95, "nats")
    shown = text(f"{name} {verb} validation loss by {size}, averaged over the other axes.")
    yield effect.estimate, shown


def _interactions(summary: Summary) -> Text:
    """Return the largest resolved interactions: there, the levels do less or more than stated."""
    asked = {answer.axis for answer in summary.answer.axes}
    found = [
        (effect, effect.estimate)
        for effect in summary.metric_tests["val_loss"].interactions
        if effect.levels.keys() <= asked and effect.verdict in ("better", "worse")
        if effect.estimate is not None
    ]
    found.sort(key=lambda item: -abs(item[1]))
    sentences = []
    for effect, estimate in found[:MAX_INTERACTIONS]:
        names = [summary.study.title(axis, label) for axis, label in effect.levels.items()]
        size = formatting.brief_gain(estimate, effect.ci95, "nats")
        side = "lower" if estimate < 0 else "higher"
        sentences.append(f"{' with '.join(names)} is {size} {side} than the sum of both effects.")
    return text("Effects that do not add up: ", " ".join(sentences)) if sentences else ()


def _unresolved(levels: Sequence[tuple[str, AnswerRow]]) -> Text:
    """Return the levels without a resolved difference, and the seeds that it would take."""
    names = [name for name, _ in levels]
    seeds = sorted({row.difference.n for _, row in levels if row.difference})
    at = f" at {_and([str(n) for n in seeds])} seeds" if seeds else ""
    return text(f"{_named(names)}: no resolved difference{at}{_remedy(levels)}.")


def _remedy(levels: Sequence[tuple[str, AnswerRow]]) -> str:
    """Return how many more seeds would resolve the differences if they are as observed."""
    asked = [(name, row) for name, row in levels if row.more_seeds_ci95 is not None]
    if not asked:
        return ""
    _, hardest = max(asked, key=lambda item: _needed(item[1]))
    if hardest.more_seeds is None:
        return "; the observed differences are too small for any practical number of seeds"
    if len(asked) == 1:
        return f"; about {_seeds(hardest)} would resolve it"
    return f"; up to {_seeds(hardest)} would resolve them"


def _needed(row: AnswerRow) -> float:
    return float("inf") if row.more_seeds is None else row.more_seeds


def _seeds(row: AnswerRow) -> str:
    """Return `19 more seeds (3 to 71)`."""
    noun = "more seed" if row.more_seeds == 1 else "more seeds"
    if row.more_seeds is None or row.more_seeds_ci95 is None:
        return noun
    low, high = row.more_seeds_ci95
    bounds = f"{low:,} or more" if high is None else f"{low:,} to {high:,}"
    return f"{row.more_seeds:,} {noun} ({bounds})"


def _state(summary: Summary, row: AnswerRow) -> str:
    """Return `equivalent within 0.01 nats`, or why there is no verdict."""
    if row.reason == LOST:
        return "no verdict, as seeds were lost"
    if row.verdict != "equivalent":
        return row.reason or "no verdict"
    margin = summary.study.margins.get("val_loss")
    if margin is None or row.unit != "nats per token":
        return "equivalent"
    return f"equivalent within {margin:g} nats"


def _best(summary: Summary, rows: Sequence[AnswerRow]) -> Text:
    """Name the best candidate if it changes several levels."""
    best = rows[0]
    if len({row.unit for row in rows}) > 1:
        return ()
    axes = [
        axis for axis, label in best.levels.items() if label != summary.study.baseline.get(axis)
    ]
    if best.verdict != "better" or len(axes) < 2 or best.difference is None:
        return ()
    return text(
        f"The lowest loss is that of {candidate_title(best)}: {gain(best)} lower"
        f"{_at_speed(best.tokens_per_s)}."
    )


def _tuning(summary: Summary) -> Text:
    """Say which differences change by tuning, and which optima may lie beyond the range."""
    if summary.tuning is None:
        return ()
    changes = [tuning.sentence(row) for row in summary.tuning.comparisons if row.outcome]
    parts = [text("Tuning: ", join(changes, " "))] if changes else []
    warning = tuning.edge_warning(summary.tuning)
    return text(*parts, " " if warning and parts else "", warning)


def _ladder(summary: Summary) -> Text:
    """Return the effective speedups of a ladder."""
    trends = summary.ladder.trends[:MAX_TRENDS] if summary.ladder else []
    sentences = [ladder.sentence(summary.ladder, trend) for trend in trends if summary.ladder]
    return text("With size: ", join(sentences, " ")) if sentences else ()


# -- recommendations ------------------------------------------------------------------------------


def _advice(summary: Summary) -> Iterator[Advice]:
    """Yield a part for each kind of advice."""
    by_kind: dict[AdviceKind, list[AdviceRecord]] = {}
    for record in summary.answer.advice:
        by_kind.setdefault(record.kind, []).append(record)
    rows = {row.entry: row for row in summary.answer.rows}
    for kind, records in by_kind.items():
        if kind == "distrust":
            items = [_warning(summary, record) for record in records]
        else:
            labels = [label for record in records for label in record.entries]
            items = list(_items(summary, kind, [rows[label] for label in labels]))
        yield Advice(kind, TITLES[kind], items)


def _items(summary: Summary, kind: AdviceKind, rows: Sequence[AnswerRow]) -> Iterator[Text]:
    if kind == "better" and not rows:
        verdicts = [row.verdict for row in summary.answer.rows]
        yield text(NONE_SOUND if "better" in verdicts else NONE_BETTER)
    for row in rows[:MAX_NAMES]:
        if kind == "unresolved":
            yield text(f"{candidate_title(row)}: {row.reason or _needed_seeds(row)}")
        else:
            yield text(f"{candidate_title(row)}: {', '.join(_claims(summary, row))}")
    if len(rows) > MAX_NAMES:
        yield text(f"{len(rows) - MAX_NAMES:,} more")


def _needed_seeds(row: AnswerRow) -> str:
    """Return the seeds that an unresolved candidate needs, or that no number is known."""
    if row.more_seeds is not None:
        return _seeds(row)
    return NO_NUMBER if row.more_seeds_ci95 is not None else "no resolved difference"


def _claims(summary: Summary, row: AnswerRow) -> Iterator[str]:
    """Yield the loss and the price of a better or an equivalent candidate."""
    if row.verdict == "better":
        yield f"{gain(row)} lower"
    elif depends_on_context(row):
        contexts = [one.entry for one in summary.answer.by_context if one.entry in row.entries]
        where = pooled.contexts_phrase(summary.study, contexts)
        yield f"lower loss in {where}, by an amount that {row.reason}"
        return  # so may its costs
    speed = row.tokens_per_s
    if speed.verdict == "unresolved":
        yield "throughput unresolved"
    elif speed.verdict is not None:
        yield _at_speed(speed).removeprefix(" at ")
    memory = row.peak_memory.change
    is_resolved = row.peak_memory.verdict in ("better", "worse")
    if memory is not None and is_resolved and abs(memory) >= VISIBLE_CHANGE:
        yield f"{_relative(memory, 'more', 'less')} memory"
    parameters = row.parameters.change
    if parameters is not None and abs(parameters) >= VISIBLE_CHANGE:
        yield f"{_relative(parameters, 'more', 'fewer')} parameters"
    for saving in summary.savings if row.verdict == "better" else ():
        bounds = saving.tokens_ratio_ci95
        if saving.entry == row.entry and saving.tokens_ratio and bounds and bounds[0] > 1:
            yield f"the baseline needs {saving.tokens_ratio:.2f}x the tokens for its own loss"


def _warning(summary: Summary, record: AdviceRecord) -> Text:
    """Return a caveat and the candidates that it concerns, at most `MAX_NAMES`."""
    marked = set(record.entries)
    concerned = [row for row in summary.answer.rows if marked.intersection(row.entries)]
    names = [_with_contexts(summary, row, marked) for row in concerned[:MAX_NAMES]]
    names += [candidate_title(row) for row in concerned[MAX_NAMES:]]  # only counted
    subject = f"{_named(names)}: " if names else ""
    if len(concerned) == len(summary.answer.rows) > 1:
        subject = "all candidates: "
    warning = WARNINGS[record.caveat or "diverges"]
    concerns_baseline = any(row.reason == BASELINE for row in concerned)
    rest = ". Every verdict rests on the baseline" if concerns_baseline else ""
    return text(f"{subject}{warning}{rest}")


def _with_contexts(summary: Summary, row: AnswerRow, marked: Collection[str]) -> str:
    """Return a candidate's title, with the contexts of its marked entries if others are not."""
    if all(label in marked for label in row.entries):
        return candidate_title(row)
    axes = collapsed_axes(summary.study)
    contexts = [
        summary.study.title_of({axis: entry.axes[axis] for axis in axes})
        for entry in summary.study.entries
        if entry.label in marked and entry.label in row.entries
    ]
    return f"{candidate_title(row)} ({', '.join(contexts)})"
