"""Loss curves, one for each candidate, and their differences from the baseline, paired by seed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.analysis import comparability, settings
from harness.analysis.candidates import collapsed_axes, find_candidates
from harness.analysis.curve_differences import (
    DifferenceCurve,
    DifferenceCurves,
    find_differences,
)
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.loss_curves import (
    BITS,
    Array,
    Curve,
    counts_tokens,
    has_curve,
    smoothing_window,
    training,
    validation,
)
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.charts.entries import MAX_ENTRIES, lines_alt, seeds_note
from harness.report.charts.limits import difference_limits, loss_limits
from harness.report.charts.spec import (
    Axis,
    ChartSpec,
    Line,
    Lines,
    MarkStyle,
    Panel,
    ReferenceLine,
)
from harness.report.charts.style import GREY, Style, choose_style
from harness.results.records.comparisons import LossUnit

MAX_NAMED = 8  # curves in colour, with names; the others are grey
LOSS_LABEL = "loss, nats per token"


def lowest_reachable_loss(study: StudyResults, unit: LossUnit = "nats per token") -> float | None:
    """Return the corpus entropy; None if unknown or if a token is not a byte."""
    texts = settings.texts(study)
    if len(texts) != 1 or texts[0].tokenizer != "bytes" or unit == BITS:
        return None
    return texts[0].entropy_nats_per_byte


# -- which curves ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """An entry that has a curve, with its name in the chart."""

    entry: Entry
    name: str


def drawn(summary: Summary) -> list[Drawn]:
    """Return one entry for each candidate, or all if there is one candidate, the best first.

    Of more than `MAX_ENTRIES`, these are the baselines and the first in the order of the answer.
    """
    study = summary.study
    candidates = find_candidates(study)
    if len(candidates) == 1:
        axes = collapsed_axes(study)
        names = {}
        for entry in study.entries:
            levels = {axis: entry.axes[axis] for axis in axes}
            names[entry.label] = study.title_of(levels) or entry.title
        return [Drawn(entry, names[entry.label]) for entry in study.entries[:MAX_ENTRIES]]
    rank = {row.entry: i for i, row in enumerate(summary.answer.rows)}
    positions = choose_style(study).positions
    candidates.sort(key=lambda one: (positions[one.main.label] > 0, rank.get(one.main.label, 0)))
    return [Drawn(one.main, one.title) for one in candidates[:MAX_ENTRIES]]


def loss_unit(study: StudyResults, entries: Sequence[Entry]) -> LossUnit:
    """Return bits per byte if only these make the validation losses of all entries comparable."""
    if not entries or study.imported:
        return "nats per token"
    is_in_bits = comparability.unit_of_all(replace(study, entries=tuple(entries))) == BITS
    runs = [run for entry in entries for run in entry.done]
    has_bits = all(bool(np.isfinite(run.evals.bits_per_byte).any()) for run in runs)
    return "bits per byte" if is_in_bits and has_bits else "nats per token"


# -- charts ---------------------------------------------------------------------------------------


def build(summary: Summary) -> Iterator[ChartSpec]:
    """Return the validation loss with its differences from the baseline, and the training loss.

    If the numbers of tokens of a step differ, the curves are against tokens instead of steps.
    """
    chosen = drawn(summary)
    if any(one.entry.done and has_curve(one.entry, validation) for one in chosen):
        yield _validation_chart(
            summary, [one for one in chosen if has_curve(one.entry, validation)]
        )
    if any(one.entry.done and has_curve(one.entry, training) for one in chosen):
        yield _training_chart(summary, [one for one in chosen if has_curve(one.entry, training)])


def _validation_chart(summary: Summary, chosen: Sequence[Drawn]) -> ChartSpec:
    study = summary.study
    by_tokens = counts_tokens(study)
    with_results = [one for one in chosen if one.entry.done]
    unit = loss_unit(study, [one.entry for one in with_results])
    lines = _loss_lines(summary, with_results, lambda entry: validation(entry, unit), by_tokens)
    floor = lowest_reachable_loss(study, unit)
    x = Axis("tokens" if by_tokens else "steps", (0, max(line.x[-1] for line in lines) or 1))
    panels = [
        replace(panel, x=x, missing=[one.name for one in chosen if not one.entry.done])
        for panel in _loss_panels(lines, with_results, unit, floor)
    ]
    found = find_differences(
        study, summary.metric_tests["val_loss"], [one.entry for one in with_results], by_tokens
    )
    difference = _difference_panel(summary, with_results, found)
    title = f"Validation loss against {x.label}"
    subtitle = seeds_note([one.entry for one in with_results])
    note = " The y axis omits the high initial loss; triangles mark curves beyond it."
    note += _others_note(lines)
    if len(panels) > 1:
        note += " Losses on other texts are not comparable, and have panels of their own."
    if difference is not None:
        panels.append(replace(difference, x=x))
        note += _difference_note(summary, with_results, found)
    return ChartSpec(
        name="val_loss",
        title=title,
        subtitle=subtitle,
        note=note,
        alt=lines_alt(summary, title, lines, "lowest at the end", unit),
        plot=Lines(panels, stacked=True),
    )


def _training_chart(summary: Summary, chosen: Sequence[Drawn]) -> ChartSpec:
    by_tokens = counts_tokens(summary.study)
    with_results = [one for one in chosen if one.entry.done]
    lines = _loss_lines(summary, with_results, training, by_tokens)
    label = "tokens" if by_tokens else "steps"
    title = f"Training loss against {label}"
    window = smoothing_window(max(len(one.entry.done[0].steps) for one in with_results))
    subtitle = seeds_note([one.entry for one in with_results])
    if window > 1:
        subtitle = f"running mean over {window} steps; {subtitle}"
    note = " The y axis omits the high initial loss; triangles mark curves beyond it."
    if comparability.unit_of_all(summary.study) != "nats per token":
        note += " Losses on other texts, or under other tokenizers, are not comparable."
    panel = Panel(
        title="",
        x=Axis(label, (0, max(line.x[-1] for line in lines) or 1)),
        y=Axis(LOSS_LABEL, loss_limits(lines, None, hide_failed=True)),
        lines=lines,
        missing=[one.name for one in chosen if not one.entry.done],
        marks_beyond=True,
    )
    return ChartSpec(
        name="train_loss",
        title=title,
        subtitle=subtitle,
        note=note + _others_note(lines),
        alt=lines_alt(summary, title, lines, "lowest at the end", "nats per token"),
        plot=Lines([panel], stacked=True),
    )


def _loss_lines(
    summary: Summary,
    chosen: Sequence[Drawn],
    curve_of: Callable[[Entry], Curve],
    by_tokens: bool,
) -> list[Line]:
    """Return the curves, the named ones last, so that they are drawn above the others."""
    style = choose_style(summary.study)
    lines = []
    for i, one in enumerate(chosen):
        curve = curve_of(one.entry)
        x = curve.tokens if by_tokens else curve.step.astype(float)
        line = line_of_seeds(one.entry, style, x, curve.losses)
        line = replace(line, name=one.name, value=formatting.mean(line.y[-1]))
        lines.append(_weighted(line, style, one.entry, i))
    return lines[::-1]


def _weighted(line: Line, style: Style, entry: Entry, rank: int) -> Line:
    """Return a thick line for the baseline, and a grey one beyond the first `MAX_NAMED`."""
    if rank >= MAX_NAMED:
        return replace(line, style=MarkStyle(GREY), low=(), high=(), markers="none", weight="faint")
    return replace(line, weight="normal" if style.positions[entry.label] else "thick")


def _others_note(lines: Sequence[Line]) -> str:
    n_faint = sum(line.weight == "faint" for line in lines)
    return f" Grey: {n_faint} others." if n_faint else ""


def _loss_panels(
    lines: Sequence[Line], chosen: Sequence[Drawn], unit: LossUnit, floor: float | None
) -> Iterator[Panel]:
    """Yield a panel for each group of entries whose losses are comparable."""
    groups: list[list[Drawn]] = []
    for one in chosen:
        for group in groups:
            if comparability.of_entries(one.entry, group[0].entry).unit in ("nats per token", unit):
                group.append(one)
                break
        else:
            groups.append([one])
    for group in groups:
        labels = {one.entry.label for one in group}
        own = [line for line in lines if line.entry in labels]
        references = []
        if floor is not None:
            references.append(ReferenceLine("y", floor, f"corpus entropy: {floor:.3f}"))
        yield Panel(
            title="" if len(groups) == 1 else f"comparable with {group[0].name}",
            x=Axis(""),
            y=Axis(f"loss, {unit}", loss_limits(own, floor, hide_failed=True)),
            lines=own,
            references=references,
            marks_beyond=True,
        )


def _difference_panel(
    summary: Summary, chosen: Sequence[Drawn], found: DifferenceCurves
) -> Panel | None:
    """Return the differences in the unit that most of them have, None without any."""
    unit = common_unit(found.curves)
    style = choose_style(summary.study)
    by_label = {curve.entry.label: curve for curve in found.curves if curve.unit == unit}
    lines = []
    bands = []
    for i, one in enumerate(chosen):
        curve = by_label.get(one.entry.label)
        if curve is None:
            continue
        line = _difference_line(curve, one, style)
        bands.append((line.bottom[-1], line.top[-1]))
        lines.append(_weighted(line, style, one.entry, i))
    if not lines:
        return None
    margin = summary.metric_tests["val_loss"].margin
    band = None if margin is None or unit == BITS else (-margin, margin)
    return Panel(
        title="Minus the baseline, paired by seed",
        x=Axis(""),
        y=Axis(f"difference, {unit}", difference_limits(lines, band)),
        lines=lines[::-1],
        references=[ReferenceLine("y", 0.0, "")],
        band=band,
        marks_beyond=True,
    )


def common_unit(curves: Sequence[DifferenceCurve]) -> LossUnit:
    """Return the unit of most of the differences."""
    units = [curve.unit for curve in curves]
    return max(dict.fromkeys(units, 0) or {"nats per token": 0}, key=units.count)


def _difference_line(curve: DifferenceCurve, one: Drawn, style: Style) -> Line:
    return Line(
        name=one.name,
        entry=one.entry.label,
        style=style.mark(one.entry),
        x=curve.x.tolist(),
        y=curve.mean.tolist(),
        low=curve.low.tolist() if curve.has_band else (),
        high=curve.high.tolist() if curve.has_band else (),
        markers=style.markers(one.entry),
        value=f"{curve.mean[-1]:+.4f}",
    )


def _difference_note(summary: Summary, chosen: Sequence[Drawn], found: DifferenceCurves) -> str:
    """Explain the bands, and say which candidates have none, or no difference, and why."""
    names = {one.entry.label: one.name for one in chosen}
    unit = common_unit(found.curves)
    shown = [curve for curve in found.curves if curve.unit == unit]
    note = ""
    if any(curve.has_band for curve in shown):
        note = (
            " Differences: band: 95 % interval, simultaneous over the curves at each evaluation; "
            "at the last, that of the verdict."
        )
    if summary.metric_tests["val_loss"].margin is not None and unit != BITS:
        note += " Grey: equivalence margin."
    reasons: dict[str, list[str]] = {}
    for label, reason in found.left_out.items():
        reasons.setdefault(f"no difference: {reason}", []).append(names[label])
    for curve in found.curves:
        name = names[curve.entry.label]
        if curve.unit != unit:
            reasons.setdefault(f"difference in {curve.unit}, not shown", []).append(name)
            continue
        if curve.ends_early:
            reason = "its training ends at another step, at which the verdict compares it"
            reasons.setdefault(reason, []).append(name)
        if not curve.has_band:
            reasons.setdefault(f"no band: {_no_band(curve)}", []).append(name)
    for reason, concerned in reasons.items():
        note += f" {listed(concerned)}: {reason}."
    return note


def _no_band(curve: DifferenceCurve) -> str:
    if curve.n_seeds < 2:
        return "one seed in common with the baseline"
    if curve.entry.lost_seeds or curve.base.lost_seeds:
        return "lost seeds"
    return "not tested, or equal in every seed"


def listed(names: Sequence[str], limit: int = 3) -> str:
    """Return at most `limit` names, and the number of others."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} others" if more > 0 else "")


def line_of_seeds(entry: Entry, style: Style, x: Array, losses: Array) -> Line:
    """Return the mean of an entry's seeds with their range; losses of shape (n_seeds, n_points)."""
    several = len(losses) > 1
    return Line(
        name=style.within_panel(entry),
        entry=entry.label,
        style=style.mark(entry),
        x=x.tolist(),
        y=losses.mean(axis=0).tolist(),
        low=losses.min(axis=0).tolist() if several else (),
        high=losses.max(axis=0).tolist() if several else (),
        markers=style.markers(entry),
    )
