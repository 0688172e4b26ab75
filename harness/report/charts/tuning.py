"""Loss against each tuned setting, with a line per entry."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from harness.analysis.dataset import Entry
from harness.analysis.summary import Summary
from harness.analysis.tuning import untuned_name
from harness.report.charts.entries import MAX_ENTRIES
from harness.report.charts.spec import (
    Axis,
    ChartSpec,
    Interval,
    Line,
    Lines,
    MarkStyle,
    Panel,
)
from harness.report.charts.style import COLOURS, choose_style
from harness.report.formatting import count, significant_figures
from harness.results.records.tuning import SettingResult, TuningResults

LOG_FROM = 4.0  # ratio of the highest to the lowest value from which an axis is logarithmic
SPREAD = 6.0  # the y axis ends this many times the median height above the lowest loss
MARGIN = 0.08  # of an axis, beyond its values
MAX_COLUMNS = 3
MAX_LABELS = 6  # of the ticks of an axis


def build(summary: Summary) -> Iterator[ChartSpec]:
    """Return the losses of all entries at each value of each numeric setting that was tuned."""
    tuning = summary.tuning
    if tuning is None:
        return
    styles = _styles(summary)
    entries = list(dict.fromkeys(trial.entry for trial in tuning.trials))[:MAX_ENTRIES]
    panels = []
    for key in tuning.settings.axes:
        for rung in sorted({trial.rung for trial in tuning.trials}):
            trials = [trial for trial in tuning.trials if trial.rung == rung and _counts(trial)]
            if trials and all(_is_number(trial.settings[key]) for trial in trials):
                panels.append(_panel(key, trials, entries, styles, len(tuning.settings.rungs) > 1))
    if not panels:
        return
    title = "Validation loss against tuned settings"
    others = "; the lowest loss over the other settings" if len(tuning.settings.axes) > 1 else ""
    failed = any(trial.seeds_failed for trial in tuning.trials)
    seeds = count(len(tuning.settings.seeds), "tuning seed")
    yield ChartSpec(
        name="tuning",
        title=title,
        subtitle=f"mean over {seeds}{others}; bars: lowest to highest seed; ringed: chosen",
        note=" A setting without a point has a trial that failed." if failed else "",
        alt=_alt(title, tuning, entries, summary.group_titles),
        plot=Lines(panels, min(len(panels), MAX_COLUMNS)),
    )


def _counts(trial: SettingResult) -> bool:
    """Return whether a setting has a loss: it is infinite if a seed failed."""
    return trial.val_loss is not None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(trial: SettingResult, key: str) -> float:
    value = trial.settings[key]
    assert isinstance(value, int | float)
    return float(value)


def _styles(summary: Summary) -> dict[str, MarkStyle]:
    """Return the style of each entry, as in the other charts, by its name without `tuning`."""
    style = choose_style(summary.study)
    styles: dict[str, MarkStyle] = {}
    entries: Sequence[Entry] = summary.study.entries
    for entry in entries:
        styles.setdefault(untuned_name(entry), style.mark(entry))
    return styles


def _panel(
    key: str,
    trials: Sequence[SettingResult],
    entries: Sequence[str],
    styles: dict[str, MarkStyle],
    has_rungs: bool,
) -> Panel:
    values = sorted({_number(trial, key) for trial in trials})
    lines = []
    for i, entry in enumerate(entries):
        own = [trial for trial in trials if trial.entry == entry]
        if own:
            style = styles.get(entry) or MarkStyle(COLOURS[i % len(COLOURS)])
            lines.append(_line(key, entry, own, style))
    shown = {line.entry for line in lines}
    return Panel(
        title=f"{trials[0].steps:,} steps" if has_rungs else "",
        x=_x_axis(key, values),
        y=Axis("loss on tuning windows, nats per token", _loss_limits(lines)),
        lines=lines,
        missing=[entry for entry in entries if entry not in shown],
        missing_reason="no trial is done",
    )


def _line(key: str, entry: str, trials: Sequence[SettingResult], style: MarkStyle) -> Line:
    """Return the lowest mean loss at each value, over the settings that share it."""
    best: dict[float, tuple[float, SettingResult]] = {}
    for trial in trials:
        value = _number(trial, key)
        assert trial.val_loss is not None
        loss = trial.val_loss.mean
        if value not in best or loss < best[value][0]:
            best[value] = (loss, trial)
    points = []
    ringed = []
    for i, value in enumerate(sorted(best)):
        loss, trial = best[value]
        points.append((value, loss, min(trial.val_loss_by_seed), max(trial.val_loss_by_seed)))
        if trial.chosen:
            ringed.append(i)
    line = Line.with_bars(entry, entry, style, points)
    return Line(
        line.name,
        line.entry,
        line.style,
        line.x,
        line.y,
        line.low,
        line.high,
        spread="bars",
        markers="all",
        ringed=ringed,
    )


def _x_axis(key: str, values: Sequence[float]) -> Axis:
    """Return an axis with the values as ticks, or with round numbers if there are many."""
    low = values[0]
    high = values[-1]
    few = len(values) <= MAX_LABELS
    if low > 0 and high / low >= LOG_FROM:
        margin = (high / low) ** MARGIN
        limits = (low / margin, high * margin)
        return Axis(key, limits, log2=True, ticks=values if few else _decades(*limits))
    room = MARGIN * (high - low or 1.0)
    return Axis(key, (low - room, high + room), ticks=values if few else ())


def _decades(low: float, high: float) -> list[float]:
    """Return 1, 3, 10, 30 and so on between the bounds, or powers of ten if these are many."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 3), (1,)):
        ticks = [float(f"{digit}e{exponent}") for exponent in exponents for digit in digits]
        within = [tick for tick in ticks if low <= tick <= high]
        if len(within) <= MAX_LABELS:
            break
    return within


def _loss_limits(lines: Sequence[Line]) -> Interval:
    """Return y limits around the lowest losses: a setting that diverges would hide the others."""
    losses = np.concatenate([np.array(line.y) for line in lines])
    low = min(min(line.bottom) for line in lines)
    highest = max(max(line.top) for line in lines)
    high = min(highest, float(low + SPREAD * (np.median(losses) - low)))
    room = MARGIN * (high - low or 0.01)
    return low - room, high + room


def _alt(
    title: str, tuning: TuningResults, entries: Sequence[str], titles: Mapping[str, str]
) -> str:
    text = f"{title} for {count(len(entries), 'entry', 'entries')}"
    chosen = [trial for trial in tuning.trials if trial.chosen and trial.val_loss]
    if not chosen:
        return f"{text}; no setting is chosen yet."
    best = min(chosen, key=lambda trial: trial.val_loss.mean if trial.val_loss else 0.0)
    assert best.val_loss is not None
    loss = significant_figures(best.val_loss.mean)
    entry = titles.get(best.entry, best.entry)
    return f"{text}; lowest: {entry} with {best.setting}, {loss} nats per token."
