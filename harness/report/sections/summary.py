"""The sections of the page that answer: verdicts on every entry, effects of every axis, and what each budget says."""

import math

from harness.analysis import budgets
from harness.analysis.budgets import BudgetKind, Ranking
from harness.analysis.hypotheses import METRIC_NAMES, MetricTests, Quantity, TestedEffect
from harness.analysis.metrics import PARALLELISM, BaselineComparison
from harness.analysis.significance import MAX_SEEDS, SignificanceResult, VerdictName
from harness.analysis.summary import Summary
from harness.report import formatting as cells
from harness.report.formatting import (
    NO_SPEED,
    NONE,
    count,
    difference,
    join,
    listing,
    mean,
    ratio,
    signed,
)

Captions = dict[str, str]  # of the figures that were drawn, by name
WORDS: tuple[VerdictName, ...] = ("better", "worse", "equivalent", "unresolved")
BUDGETS: dict[BudgetKind, str] = {
    "tokens": "equal tokens",
    "flops": "equal FLOPs",
    "train_s": "equal training time",
    "parameters": "equal parameters",
}


def in_short(summary: Summary) -> str:
    """Answer the study's question in a few sentences, written from the verdicts."""
    if not summary.comparisons:
        return ""
    judged = summary.metric_tests["val_loss"].entries
    alone = {
        c.entry for c in summary.comparisons if PARALLELISM not in c.differs
    }  # the others repeat them
    judged = {label: verdict for label, verdict in judged.items() if label in alone or not alone}
    if all(verdict.verdict is None for verdict in judged.values()):
        return (
            "No verdict: every difference comes from a single seed, and how much of it is chance can only be told from "
            "several. Give the study more `seeds`."
        )
    parts = [
        f"{word}: {listing(labels)}"
        for word in WORDS
        if (labels := [k for k, v in judged.items() if v.verdict == word])
    ]
    against = listing(list(dict.fromkeys(c.against for c in summary.comparisons)))
    text = f"Validation loss against {against}: {'; '.join(parts)}.{_most(summary, judged)}"
    needed = [v.seeds_to_resolve for v in judged.values() if v.verdict == "unresolved"]
    if needed:
        most = max((n for n in needed if n), default=None)
        text += (
            f" What is unresolved would take up to {most:,} seeds, if it is as large as it looks."
            if most and None not in needed
            else f" What is unresolved may take more than {MAX_SEEDS:,} seeds: it is small beside the noise."
        )
    if summary.metric_tests["val_loss"].margin is None:
        text += ' The study states no `equivalence_margin`, so that nothing can be called "equivalent" but what is the same bits.'
    return text


def _most(summary: Summary, judged: dict[str, SignificanceResult]) -> str:
    """Tell by how much the best entry is better, and what it costs."""
    gains = {label: -v.difference.mean for label, v in judged.items() if v.verdict == "better"}
    if not gains:
        return ""
    best = max(gains, key=lambda label: gains[label])
    compared = next(c for c in summary.comparisons if c.entry == best)
    interval = judged[best].difference.ci95
    bounds = f" [{-interval[1]:.4f}, {-interval[0]:.4f}]" if interval else ""
    costs = (
        []
        if compared.tokens_per_s_ratio is None
        else [f"{ratio(compared.tokens_per_s_ratio)} times the throughput"]
    )
    if compared.peak_memory_ratio is not None:
        costs.append(f"{ratio(compared.peak_memory_ratio)} times the peak memory")
    text = f" Most is gained by `{best}`: {gains[best]:.4f}{bounds} nats per token"
    text += f", at {' and '.join(costs)}" if costs else ""
    saved = next((one.tokens_ratio for one in summary.savings if one.entry == best), None)
    return text + (
        f"; it gets as low as the baseline in {saved:.2f} times fewer tokens." if saved else "."
    )


def verdicts(summary: Summary, captions: Captions) -> str:
    """Each entry beside the baseline, seed by seed, and what that allows to say."""
    study, found = summary.study, summary.comparisons
    if not study.entries:
        return ""
    if not found:
        baseline = (
            ", ".join(f"{axis} {label}" for axis, label in study.baseline.items()) or "none stated"
        )
        return join(
            "## Against the baseline", f"No entry has a baseline beside it (baseline: {baseline})."
        )
    loss = summary.metric_tests["val_loss"].entries
    header = [
        "entry",
        "differs in",
        "seeds",
        "verdict",
        "difference in val loss",
        "p (Holm)",
        "p (BH)",
        "effect size",
        "seeds needed",
    ]
    rows = [
        [
            c.entry,
            ", ".join(c.differs),
            f"{len(c.seeds)}" + (f" (+{c.seeds_unpaired} unpaired)" if c.seeds_unpaired else ""),
            verdict_word(loss.get(c.entry), c),
            difference(c.val_loss_difference),
            *_numbers(loss.get(c.entry)),
        ]
        for c in found
    ]
    text = (
        f"Against {listing(list(dict.fromkeys(c.against for c in found)))}. The difference is variant minus baseline, "
        "taken between runs of the same seed, with the 95 % t interval of its mean. The verdict is `better` or `worse` "
        "where Student's t test on these differences, corrected for all that the table asks (Holm), leaves at most 5 % "
        "to chance, and `equivalent` where two one-sided tests, corrected as well, show that it lies within the "
        f"study's margin ({_margin(summary, 'val_loss')}). Else it is `unresolved`, with the seeds that would resolve "
        "it at 80 % power if it were as large as it looks. p (BH) is corrected for false discoveries alone "
        "(Benjamini-Hochberg); the effect size is Hedges' g of the paired differences. A single seed gives no verdict. "
        "An entry that differs on several axes shows their joint effect. Losses of one architecture under several "
        "parallelisms are one question."
    )
    return join("## Against the baseline", text, cells.table(header, rows, left=4), _costs(summary))


def verdict_word(verdict: SignificanceResult | None, comparison: BaselineComparison) -> str:
    """Return the verdict on an entry as one word or two, also where there can be none."""
    if verdict is None:
        return NO_SPEED if comparison.seeds else NONE
    return verdict.verdict or "no interval"


def _numbers(verdict: SignificanceResult | None) -> list[str]:
    if verdict is None or verdict.verdict is None:
        return [NONE] * 4
    g, n = verdict.effect_size, verdict.seeds_to_resolve
    needed = (
        NONE if verdict.verdict != "unresolved" else f"> {MAX_SEEDS:,}" if n is None else f"{n:,}"
    )
    return [_p(verdict.p_holm), _p(verdict.p_bh), NONE if g is None else f"{g:+.2f}", needed]


def _p(value: float | None) -> str:
    return NONE if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _margin(summary: Summary, quantity: Quantity) -> str:
    margin = summary.study.margins.get(quantity)
    if margin is None:
        return "it states none"
    return f"{margin:g} nats" if quantity == "val_loss" else f"{100 * margin:g} %"


def _costs(summary: Summary) -> str:
    speed, memory = (summary.metric_tests[name].entries for name in ("tokens_per_s", "peak_memory"))
    rows = [
        [
            c.entry,
            NO_SPEED if c.speed_diverges else verdict_word(speed.get(c.entry), c),
            verdict_word(memory.get(c.entry), c),
            NO_SPEED if c.speed_diverges else ratio(c.tokens_per_s_ratio),
            ratio(c.peak_memory_ratio),
        ]
        for c in summary.comparisons
    ]
    text = (
        "What it costs: ratios are variant over baseline, from the same seeds; verdicts are made from the logarithms, "
        f"seed by seed, as above (margins: throughput {_margin(summary, 'tokens_per_s')}, memory "
        f"{_margin(summary, 'peak_memory')})."
    )
    return join(
        text,
        cells.table(["entry", "throughput", "memory", "tokens/s ×", "peak memory ×"], rows, left=3),
    )


def effects(summary: Summary, captions: Captions) -> str:
    """What each axis does by itself, and whether two of them do more together."""
    tables = [
        join(_effects(judged), cells.picture(f"effects_{quantity}", captions))
        for quantity, judged in summary.metric_tests.items()
        if judged.main
    ]
    if len(summary.study.varying()) < 2 or not any(tables):
        return ""
    text = (
        "The matrix as a factorial design: a linear model with each seed as a block, and what each level and each pair "
        "of levels adds. A main effect is the mean change against the baseline's level over all levels of the other "
        "axes; an interaction is what two levels do together beyond the sum of what each does. Intervals are 95 %, "
        "p-values are corrected (Holm) over the main effects and over the interactions of a table. What three axes do "
        "together counts as noise. Losses are those under the baseline's parallelism: the others repeat them, and "
        "would make noise look smaller than it is."
    )
    return join("## Effects", text, *tables)


def _effects(judged: MetricTests) -> str:
    rows = [
        [
            " with ".join(f"{axis} {name}" for axis, name in level.effect.levels.items()),
            kind,
            level.verdict or NONE,
            _estimate(level, judged.quantity),
            _p(level.p_holm),
        ]
        for kind, levels in (("main", judged.main), ("interaction", judged.interactions))
        for level in levels
    ]
    unit = "nats per token" if judged.quantity == "val_loss" else "%"
    design = judged.design
    noise = (
        "" if design.noise is None else f", noise of a run {_change(design.noise, judged.quantity)}"
    )
    title = (
        f"**{METRIC_NAMES[judged.quantity].capitalize()}** ({unit}), from {count(design.n_runs, 'run')} with "
        f"{design.degrees_of_freedom} degrees of freedom{noise}:"
    )
    missing = ", ".join(" × ".join(cell) for cell in design.missing[:6])
    gaps = f"No runs of {missing}: effects that need them are left open." if missing else ""
    return join(
        title, cells.table(["effect", "kind", "verdict", "change", "p (Holm)"], rows, left=3), gaps
    )


def _estimate(level: TestedEffect, quantity: Quantity) -> str:
    value, bounds = level.effect.estimate, level.effect.ci95
    if value is None:
        return "cannot be told apart"
    text = _change(value, quantity, sign=True)
    if bounds is None:
        return text
    return f"{text} [{', '.join(_change(bound, quantity, sign=True) for bound in bounds)}]"


def _change(value: float, quantity: Quantity, sign: bool = False) -> str:
    if quantity == "val_loss":
        return signed(value) if sign else f"{value:.4f}"
    percent = 100 * math.expm1(value)
    return f"{percent:+.2f} %" if sign else f"{percent:.2f} %"


def rankings(summary: Summary, captions: Captions) -> str:
    """Who leads when tokens, FLOPs, time or parameters are held equal, and what reaching the baseline's loss takes."""
    found = summary.rankings
    if not found:
        return ""
    labels = [entry.label for entry in summary.study.entries if entry.done]
    header = [
        "entry",
        *(f"{BUDGETS[ranking.budget_kind]} ({_budget(ranking)})" for ranking in found),
    ]
    places = [{label: i for i, label in enumerate(ranking.val_loss, start=1)} for ranking in found]
    rows = [
        [
            label,
            *(
                f"{place[label]}. {mean(ranking.val_loss[label])}"
                if label in place
                else "another size"
                if label in places[0]
                else NONE
                for place, ranking in zip(places, found, strict=True)
            ),
        ]
        for label in labels
    ]
    kinds = {ranking.budget_kind for ranking in found}
    text = (
        "The same runs read where each has spent what the cheapest spent in all, on the straight line between two "
        "evaluations: place and validation loss. "
        + (
            "Of equal parameters are entries within 1 % of the baseline's number. "
            if "parameters" in kinds
            else "No other entry has the baseline's number of parameters within 1 % "
            '(`match_size = "parameters"` makes them equal). '
        )
        + "Entries that differ in the parallelism alone learn the same from the same tokens: they stand here by time."
    )
    return join(
        "## At equal budgets", text, _leaders(found), cells.table(header, rows), _savings(summary)
    )


def _leaders(found: list[Ranking]) -> str:
    leaders = budgets.leaders(found)
    if len(leaders) == 1:
        return f"All of them are led by `{next(iter(leaders))}`."
    told = "; ".join(
        f"`{label}` at {', '.join(BUDGETS[kind] for kind in kinds)}"
        for label, kinds in leaders.items()
    )
    return f"**They disagree on who leads:** {told}."


def _budget(ranking: Ranking) -> str:
    unit = {"tokens": "", "flops": "", "train_s": " s", "parameters": ""}[ranking.budget_kind]
    return f"{ranking.budget:,.0f}{unit}" if ranking.budget < 1e7 else f"{ranking.budget:.3g}{unit}"


def _savings(summary: Summary) -> str:
    if not summary.savings:
        return ""
    rows = [
        [
            one.entry,
            f"{len(one.seeds)} of {len(one.seeds) + len(one.not_reached)}",
            _factor(one.tokens_ratio, one.tokens_ratio_ci95),
            _factor(one.train_time_ratio, one.train_time_ratio_ci95),
        ]
        for one in summary.savings
    ]
    text = (
        "What it takes to reach the loss that the baseline ends with: 1.12 is 1.12 times fewer tokens, or less time, "
        "than the baseline's; geometric means over the seeds that get there, with 95 % t intervals."
    )
    return join(
        text, cells.table(["entry", "seeds that reach it", "tokens ÷", "training time ÷"], rows)
    )


SOURCES = {
    "init": "first values",
    "data": "order of the data",
    "rest": "both together, and what never repeats",
}


def variance(summary: Summary, captions: Captions) -> str:
    """Which share of the noise is first values, and which the order of the data."""
    crossed = [run for entry in summary.study.entries for run in entry.crossed]
    if not crossed:
        return ""
    n_done = sum(run.status == "done" for run in crossed)
    text = (
        f"{count(len(crossed), 'run')} ({n_done} done) have the first values of one seed and the order of the data of "
        "another. All else in this report is worked out without them, as they are not independent of the others. Here "
        "are the standard deviations, in nats per token, of a two-way crossed random model, with 95 % intervals "
        "(Williams 1962), pooled over entries under the baseline's parallelism of which every pair of seeds is done."
    )
    rows = [
        [
            "final validation loss"
            if found.quantity == "val_loss"
            else "difference from the baseline's",
            SOURCES[name],
            f"{100 * part.fraction:.0f} %",
            f"{part.sd:.4f} [{part.ci95[0]:.4f}, {part.ci95[1]:.4f}]",
            f"{len(found.entries)}",
            f"{len(found.seeds)} × {len(found.seeds)}",
        ]
        for found in summary.variance
        for name, part in (("init", found.init), ("data", found.data), ("rest", found.rest))
    ]
    header = ["noise of", "source", "share", "standard deviation", "entries", "seeds"]
    table = (
        cells.table(header, rows, left=2) if rows else "No entry has every pair of seeds done yet."
    )
    return join("## Where the noise comes from", text, table)


def _factor(value: float | None, bounds: tuple[float, float] | None) -> str:
    if value is None:
        return NONE
    return f"{value:.3f}" + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else "")
