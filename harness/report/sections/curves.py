"""The loss curves of all entries, thinned so that the page stays small."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from harness.analysis.candidates import collapsed_axes, find_candidates
from harness.analysis.curve_differences import DifferenceCurve, find_differences
from harness.analysis.dataset import Entry
from harness.analysis.loss_curves import (
    BITS,
    Curve,
    counts_tokens,
    has_curve,
    has_times,
    thin,
    training,
    validation,
)
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.charts.curves import (
    MAX_NAMED,
    Drawn,
    common_unit,
    drawn,
    loss_unit,
    lowest_reachable_loss,
)
from harness.report.charts.plotly import plain, rounded
from harness.report.charts.spec import JsonDict
from harness.report.charts.style import choose_style
from harness.report.document import Block, CurveExplorer, paragraph
from harness.report.sections import Charts, chart_blocks
from harness.report.tables import table

FRACTIONS = ("first", "at 25 %", "at 50 %", "at 75 %", "last")  # of the evaluations
STATIC_CHARTS = ("val_loss", "train_loss")
MAX_TOTAL_POINTS = 120_000  # of all curves of one loss, some 2 MB
MAX_POINTS = 300  # of a curve
MIN_POINTS = 8
MAX_ENTRIES_WITH_BANDS = 200  # more entries have no training curves, times and seed ranges
MAX_SHOWN = 24  # curves that are drawn at once


def build(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the loss curves against steps and training time, and the differences."""
    if not summary.results:
        return
    chosen = [one for one in drawn(summary) if one.entry.done and has_curve(one.entry, validation)]
    if summary.study.imported and not chosen:
        return  # the table states the final losses only
    yield CurveExplorer(_explorer_data(summary))
    if chosen:
        yield _table(summary, chosen)
    else:
        yield paragraph("No run is done yet, so there are no curves.")
    yield from chart_blocks(charts, *STATIC_CHARTS, static=True)


def _table(summary: Summary, chosen: list[Drawn]) -> Block:
    unit = loss_unit(summary.study, [one.entry for one in chosen])
    stamps = summary.stamps
    rows = []
    for one in chosen:
        losses = validation(one.entry, unit).losses.mean(axis=0)
        indices = np.linspace(0, len(losses) - 1, len(FRACTIONS)).round().astype(int)
        name = one.name + stamps.get(one.entry.label, "")
        rows.append([name, *map(formatting.mean, losses[indices].tolist())])
    caption = "Validation loss at five evaluations, mean over seeds"
    if unit == BITS:
        caption += ", bits per byte"
    return table(caption, ["candidate", *FRACTIONS], rows, FRACTIONS)


def _explorer_data(summary: Summary) -> JsonDict:
    """Return the curves of all entries in the order of the study.

    `x` and `y` are the units of the axes, `difference` that of differences. Each of `entries` has
    its label, the name and the place of its candidate, the index of its context, its colour, dash
    and symbol, its `curves` by loss, and its `difference`; one without results has no curves. At
    most `shown` are drawn at once, and `named` in colour. `main` are the entries that stand for
    candidates. `floor` is the entropy of the corpus, `margin` that of equivalence.
    """
    study = summary.study
    entries = study.entries
    by_tokens = counts_tokens(study)
    few_entries = len(entries) <= MAX_ENTRIES_WITH_BANDS
    n_points = max(MIN_POINTS, min(MAX_POINTS, MAX_TOTAL_POINTS // max(1, len(entries))))
    best = drawn(summary)
    compared = [*entries] if few_entries else [one.entry for one in best]
    found = find_differences(study, summary.metric_tests["val_loss"], compared, by_tokens)
    unit = loss_unit(study, [one.entry for one in best if one.entry.done])
    difference_unit = common_unit(found.curves)
    differences = {
        curve.entry.label: _difference(curve)
        for curve in found.curves
        if curve.unit == difference_unit
    }
    losses: dict[str, Callable[[Entry], Curve]] = {}
    losses["validation"] = partial(validation, unit=unit)
    if few_entries:
        losses["training"] = training
    candidates = find_candidates(study)
    candidate_of = {one.label: i for i, item in enumerate(candidates) for one in item.entries}
    contexts = _contexts(summary)
    names = list(dict.fromkeys(contexts.values()))
    style = choose_style(study)
    stamps = summary.stamps
    data = []
    for entry in entries:
        with_time = few_entries and entry.label not in summary.diverging and has_times(entry)
        curves = {}
        for name, loss in losses.items():
            if entry.done and has_curve(entry, training if name == "training" else validation):
                curves[name] = _points(loss(entry), n_points, by_tokens, with_time, few_entries)
        mark = style.mark(entry)
        data.append(
            {
                "label": plain(entry.title + stamps.get(entry.label, "")),
                "name": plain(style.within_panel(entry) + stamps.get(entry.label, "")),
                "candidate": candidate_of[entry.label],
                "context": names.index(contexts[entry.label]),
                "is_baseline": style.positions[entry.label] == 0,
                "colour": mark.colour,
                "dash": mark.dash,
                "symbol": mark.marker,
                "curves": curves,
                "difference": differences.get(entry.label),
            }
        )
    margin = summary.metric_tests["val_loss"].margin
    index = {entry.label: i for i, entry in enumerate(entries)}
    return {
        "shown": MAX_SHOWN,
        "named": MAX_NAMED,
        "unit": "tokens" if by_tokens else "steps",
        "y": f"loss, {unit}",
        "difference": f"difference, {difference_unit}",
        "floor": lowest_reachable_loss(study, unit),
        "margin": None if difference_unit == BITS else margin,
        "contexts": names,
        "main": [index[one.main.label] for one in candidates] if len(candidates) > 1 else [],
        "best": [index[one.entry.label] for one in best],
        "entries": data,
    }


def _contexts(summary: Summary) -> Mapping[str, str]:
    """Return the title of each entry's context by the entry's label; empty without contexts."""
    study = summary.study
    axes = collapsed_axes(study)
    return {
        entry.label: study.title_of({axis: entry.axes[axis] for axis in axes})
        for entry in study.entries
    }


def _difference(curve: DifferenceCurve) -> JsonDict:
    """Return the points of a difference: `x`, `y`, and its band from `low` to `high`."""
    points: JsonDict = {"x": curve.x.astype(np.int64).tolist(), "y": rounded(curve.mean)}
    if curve.has_band:
        points["low"] = rounded(curve.low)
        points["high"] = rounded(curve.high)
    return points


def _points(
    curve: Curve, n_points: int, by_tokens: bool, with_time: bool, with_range: bool
) -> JsonDict:
    """Return the points of a curve: `x` and `y`, `time` in seconds, `low` and `high` of seeds."""
    kept = thin(len(curve.step), n_points)
    losses = curve.losses[:, kept]
    x = curve.tokens.astype(np.int64) if by_tokens else curve.step
    points: JsonDict = {"x": x[kept].tolist(), "y": rounded(losses.mean(axis=0))}
    if with_time:
        points["time"] = rounded(curve.time_s[kept])
    if with_range and len(losses) > 1:
        points["low"] = rounded(losses.min(axis=0))
        points["high"] = rounded(losses.max(axis=0))
    return points
