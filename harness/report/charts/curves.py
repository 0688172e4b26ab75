"""Loss against steps and against time: one line per entry, one panel per parallelism."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.analysis import comparability, settings
from harness.analysis.dataset import Entry, StudyResults
from harness.analysis.intervals import running_mean
from harness.analysis.summary import Summary
from harness.report.charts.entries import lines_alt, seeds_note
from harness.report.charts.spec import (
    Axis,
    ChartSpec,
    Interval,
    Line,
    Lines,
    Panel,
    ReferenceLine,
)
from harness.report.charts.style import Style, choose_style

SETTLED = 0.3  # the y axis covers each curve from this fraction of its steps on
MIN_SPAN = 0.01  # nats that a loss axis covers at least, so that rounding errors stay invisible
MINUTES_FROM = 600.0  # seconds
HOURS_FROM = 3 * 3600.0  # seconds
MAX_POINTS = 400
MAX_COLUMNS = 4
LOSS_LABEL = "loss, nats per token"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """The losses of an entry's completed seeds, shape (n_seeds, n_points), and their mean time.

    `tokens` are those of the completed steps.
    """

    entry: Entry
    step: NDArray[np.int64]
    tokens: Array
    time_s: Array
    losses: Array


def validation(entry: Entry) -> Curve:
    """Return the curve of the evaluations."""
    evals = [run.evals for run in entry.done]
    n = min(len(run.step) for run in evals)
    losses = np.array([run.val_loss[:n] for run in evals])
    time_s = np.mean([run.train_s[:n] for run in evals], axis=0)
    return _curve(entry, evals[0].step[:n], time_s, losses)


def training(entry: Entry) -> Curve:
    """Return the curve of the training loss, each seed smoothed by a running mean."""
    steps = [run.steps for run in entry.done]
    n = min(len(run) for run in steps)
    losses = np.array([running_mean(run.loss[:n], smoothing_window(n)) for run in steps])
    time_s = np.mean([np.cumsum(run.step_s[:n]) for run in steps], axis=0)
    completed_steps = steps[0].step[:n] + 1  # as in evaluations
    return _curve(entry, completed_steps, time_s, losses)


def smoothing_window(n_steps: int) -> int:
    """Return the odd number of steps over which a training curve of `n_steps` is averaged."""
    return n_steps // 40 // 2 * 2 + 1


def thin(n: int, n_points: int) -> NDArray[np.int64]:
    """Return evenly spaced indices of at most `n_points` of `n` points, with the first and last."""
    return np.unique(np.linspace(0, n - 1, min(n, n_points)).round().astype(np.int64))


def _curve(entry: Entry, step: NDArray[np.int64], time_s: Array, losses: Array) -> Curve:
    kept = thin(len(step), MAX_POINTS)
    tokens = entry.done[0].tokens_at(step[kept])
    return Curve(entry, step[kept], tokens, time_s[kept], losses[:, kept])


LOSSES = {"Validation loss": validation, "Training loss": training}


def has_curve(entry: Entry, loss: Callable[[Entry], Curve]) -> bool:
    """Return whether every run has the curve, at the same steps if they are imported.

    The table of an imported run may state no curve, and other steps for each seed.
    """
    if loss is not validation:
        return all(len(run.steps) > 0 for run in entry.done)
    steps = [run.evals.step for run in entry.done]
    if not any(run.imported for run in entry.done):
        return all(len(evaluated) > 0 for evaluated in steps)
    return len(steps[0]) > 1 and all(np.array_equal(steps[0], other) for other in steps)


def has_times(entry: Entry) -> bool:
    """Return whether the training time of each evaluation is known."""
    return all(bool(np.isfinite(run.evals.train_s).all()) for run in entry.done)


def build(summary: Summary) -> Iterator[ChartSpec]:
    """Return validation and training loss, each against steps and against training time.

    If the numbers of tokens of a step differ, the curves are against tokens instead of steps.
    Entries whose parallelism diverges, or on another machine than the baseline, are left out of the
    latter.
    """
    for loss, curve in LOSSES.items():
        entries = [entry for entry in summary.study.entries if has_curve(entry, curve)]
        if not any(entry.done for entry in entries):
            continue
        untimed = summary.diverging | summary.other_machines
        timed = [entry for entry in entries if entry.label not in untimed]
        timed = [entry for entry in timed if has_times(entry)]
        yield _chart(summary, entries, loss, against_time=False)
        if any(entry.done for entry in timed):
            yield _chart(summary, timed, loss, against_time=True)


def counts_tokens(study: StudyResults) -> bool:
    """Return whether curves are against tokens, because steps of entries have different numbers."""
    numbers: set[int] = set()
    for entry in study.entries:
        for run in entry.done[:1]:
            numbers.update(np.unique(run.steps.tokens).tolist())
    return len(numbers) > 1


def lowest_reachable_loss(study: StudyResults) -> float | None:
    """Return the corpus entropy in nats per token; None if unknown or if a token is not a byte."""
    texts = settings.texts(study)
    if len(texts) != 1 or texts[0].tokenizer != "bytes":
        return None
    return texts[0].entropy_nats_per_byte


def _chart(summary: Summary, entries: Sequence[Entry], loss: str, against_time: bool) -> ChartSpec:
    style = choose_style(summary.study)
    is_validation = loss == "Validation loss"
    curves = [LOSSES[loss](entry) for entry in entries if entry.done]
    unit_s = 1.0
    by_tokens = counts_tokens(summary.study)
    x_label = "tokens" if by_tokens else "steps"
    if against_time:
        unit_s, unit = time_unit(max(float(curve.time_s[-1]) for curve in curves))
        x_label = f"training time, {unit}"
    lines = []
    for curve in curves:
        x_values = curve.tokens if by_tokens else curve.step.astype(float)
        if against_time:
            x_values = curve.time_s / unit_s
        lines.append(line_of_seeds(curve.entry, style, x_values, curve.losses))
    floor = lowest_reachable_loss(summary.study) if is_validation else None
    references = []
    if floor is not None:
        references.append(ReferenceLine("y", floor, f"corpus entropy: {floor:.3f}"))
    x = Axis(x_label, (0, max(line.x[-1] for line in lines) or 1))
    y = Axis(LOSS_LABEL, loss_limits(lines, floor))
    panels = _panels(entries, lines, style, Panel("", x, y, (), references))
    title = f"{loss} against {'training time' if against_time else x_label}"
    subtitle = seeds_note(entries)
    window = smoothing_window(max(len(curve.entry.done[0].steps) for curve in curves))
    if not is_validation and window > 1:
        subtitle = f"running mean over {window} steps; {subtitle}"
    stem = "val_loss" if is_validation else "train_loss"
    return ChartSpec(
        name=f"{stem}_{'time' if against_time else 'steps'}",
        title=title,
        subtitle=subtitle,
        note=f" The y axis omits the high initial loss.{_incomparable(summary.study)}",
        alt=lines_alt(summary, title, lines, "lowest at the end", "nats per token"),
        plot=Lines(panels, _columns(style, len(panels)), shared_axes=True),
    )


def _incomparable(study: StudyResults) -> str:
    if comparability.unit_of_all(study) == "nats per token":
        return ""
    return " Losses on other texts, or under other tokenizers, are not comparable."


def time_unit(longest_s: float) -> tuple[float, str]:
    """Return the unit for times up to `longest_s`: its length in seconds and its name."""
    if longest_s < MINUTES_FROM:
        return 1.0, "s"
    return (60.0, "min") if longest_s < HOURS_FROM else (3600.0, "h")


def loss_limits(lines: Iterable[Line], floor: float | None, settled: float = SETTLED) -> Interval:
    """Return y limits that cover each line from the fraction `settled` of its length on.

    They include `floor` if that does not flatten the lines.
    """
    lows = []
    highs = []
    for line in lines:
        late = np.array(line.x) >= settled * line.x[-1]
        lows.append(float(np.array(line.bottom)[late].min()))
        highs.append(float(np.array(line.top)[late].max()))
    spare = max(0.0, MIN_SPAN - (max(highs) - min(lows))) / 2
    low = min(lows) - spare
    high = max(highs) + spare
    span = high - low
    if floor is not None and low - span < floor < low:
        low = floor
    return low - 0.09 * span, high + 0.04 * span


def _panels(
    entries: Sequence[Entry], lines: Sequence[Line], style: Style, empty: Panel
) -> list[Panel]:
    """Return the `empty` panel with the lines of each group of entries that has any."""
    by_entry = {line.entry: line for line in lines}
    by_panel: dict[str, list[Entry]] = {}
    for entry in entries:
        by_panel.setdefault(style.panel(entry), []).append(entry)
    panels = []
    for title, members in by_panel.items():
        shown = [by_entry[entry.label] for entry in members if entry.done]
        missing = [style.within_panel(entry) for entry in members if not entry.done]
        if shown:
            panels.append(replace(empty, title=title, lines=shown, missing=missing))
    return panels


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


def _columns(style: Style, n_panels: int) -> int:
    last = len(style.levels[style.panel_axes[-1]]) if style.panel_axes else 1
    return min(n_panels, last if last <= MAX_COLUMNS else MAX_COLUMNS - 1)
