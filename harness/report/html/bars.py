"""The charts with a row for each entry or effect: intervals with verdicts, memory, traffic, phases."""

import math
from collections.abc import Callable, Mapping, Sequence

from harness.analysis.hypotheses import METRIC_NAMES, MetricTests
from harness.analysis.intervals import Bounds
from harness.analysis.metrics import CATEGORIES
from harness.analysis.significance import VerdictName
from harness.analysis.summary import Summary
from harness.report.charts.effects import drawn, left_out
from harness.report.charts.style import COLOURS
from harness.report.formatting import MIB
from harness.report.html.plots import MOST_ROWS, Chart, Trace, error, first, in_rows
from harness.report.html.style import WORDS, plain, rounded
from harness.results.run_data import PHASES

Row = tuple[str, VerdictName, float, Bounds]  # name, verdict, estimate, interval
INTERVALS = "lines: 95 % interval; the colour, the mark and the word are the verdict"


def differences(summary: Summary) -> Chart | None:
    """Draw the difference of each entry's validation loss from the baseline's."""
    found: list[Row] = [
        (label, verdict.verdict, verdict.difference.mean, verdict.difference.ci95)
        for label, verdict in summary.metric_tests["val_loss"].entries.items()
        if verdict.verdict and verdict.difference.ci95
    ]
    caption = f"Validation loss less the baseline's, paired by seed: left is better; {INTERVALS}."
    caption += first(found, MOST_ROWS, "entries")
    return _forest(
        "differences",
        caption,
        found,
        "difference, nats per token",
        summary.metric_tests["val_loss"].margin,
    )


def effects(judged: MetricTests) -> Chart | None:
    """Draw what each level of an axis changes in one quantity, and each pair of levels beyond that."""
    unit: Callable[[float], float] = float if judged.quantity == "val_loss" else _percent
    found: list[Row] = []
    for level in drawn(judged):
        effect = level.effect
        if effect.estimate is not None and effect.ci95:
            name = " with ".join(f"{axis} {of}" for axis, of in effect.levels.items())
            low, high = effect.ci95
            found.append(
                (
                    name,
                    level.verdict or "unresolved",
                    unit(effect.estimate),
                    (unit(low), unit(high)),
                )
            )
    caption = f"What each level, and each pair of levels, changes in {METRIC_NAMES[judged.quantity]}; {INTERVALS}."
    caption += left_out(judged)
    x = "change, nats per token" if judged.quantity == "val_loss" else "change in %"
    margin = None if judged.margin is None else unit(judged.margin)
    return _forest(f"effects_{judged.quantity}", caption, found, x, margin)


def _forest(
    name: str, caption: str, found: list[Row], x: str, margin: float | None
) -> Chart | None:
    rows = found[:MOST_ROWS]
    if not rows:
        return None
    data: list[Trace] = []
    for word, (colour, symbol) in WORDS.items():
        of = [(place, row) for place, row in enumerate(rows) if row[1] == word]
        if of:
            values = [row[2] for _, row in of]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": word,
                    "x": rounded(values),
                    "y": [place for place, _ in of],
                    "text": [plain(row[0]) for _, row in of],
                    "error_x": error(values, [row[3] for _, row in of]) | {"color": colour},
                    "marker": {"color": colour, "symbol": symbol, "size": 9},
                    "hovertemplate": "%{text}<br>%{x}<extra>" + word + "</extra>",
                }
            )
    chart = in_rows(name, caption, data, x, [f"{row[0]}: {row[1]}" for row in rows])
    if margin is not None:
        band = {
            "type": "rect",
            "yref": "paper",
            "x0": -margin,
            "x1": margin,
            "y0": 0,
            "y1": 1,
            "layer": "below",
        }
        chart.figure["layout"]["shapes"] = [
            band | {"line": {"width": 0}, "fillcolor": "rgba(128,128,128,0.2)"}
        ]
    return chart


def _percent(logarithm: float) -> float:
    return 100 * math.expm1(logarithm)


def memory(summary: Summary) -> Chart | None:
    """Draw the memory of each entry's fullest rank, by category."""
    found = {
        r.entry: {name: (r.memory or {}).get(name) for name in CATEGORIES}
        for r in summary.with_results
        if r.memory
    }
    caption = "Memory of each entry's fullest rank, by category." + first(
        list(found), MOST_ROWS, "entries"
    )
    return _bars("memory", caption, found, CATEGORIES, 1 / MIB, "MiB", stacked=True)


def phases(summary: Summary) -> Chart | None:
    """Draw where the time of a step goes."""
    found = {label: of.by_name for label, of in summary.phases.items() if of}
    caption = "Where the time of a step goes: mean over ranks, by phase." + first(
        list(found), MOST_ROWS, "entries"
    )
    return _bars("phases", caption, found, PHASES, 1e3, "ms per step", stacked=True)


def traffic(summary: Summary) -> Chart | None:
    """Draw what a rank sends in a step, beside what is predicted."""
    found: dict[str, dict[str, float | None]] = {
        label: {"sent": of.sent_bytes, "predicted": of.predicted_bytes}
        for label, of in summary.traffic.items()
        if of and (of.collectives or of.predicted_bytes)
    }
    caption = "What the rank that sends most sends in a step, as counted and as predicted."
    caption += first(list(found), MOST_ROWS, "entries")
    return _bars(
        "traffic", caption, found, ("sent", "predicted"), 1 / MIB, "MiB per step", stacked=False
    )


def _bars(
    name: str,
    caption: str,
    found: Mapping[str, Mapping[str, float | None]],
    parts: Sequence[str],
    unit: float,
    x: str,
    stacked: bool,
) -> Chart | None:
    """Draw the parts of each entry in one colour each."""
    labels = list(found)[:MOST_ROWS]
    if not labels:
        return None
    data: list[Trace] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": part,
            "y": list(range(len(labels))),
            "x": rounded(unit * (found[label].get(part) or 0) for label in labels),
            "marker": {"color": COLOURS[i % len(COLOURS)]},
            "text": [plain(label) for label in labels],
            "textposition": "none",
            "hovertemplate": "%{text}<br>%{x:,.4g} " + x + "<extra>" + part + "</extra>",
        }
        for i, part in enumerate(parts)
    ]
    return in_rows(name, caption, data, x, labels, stacked)
