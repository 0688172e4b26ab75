"""What each level of an axis changes, and each pair of levels beyond that, with its interval and its verdict."""

import math
from collections.abc import Callable

from matplotlib.figure import Figure

from harness.analysis.hypotheses import MetricTests, TestedEffect
from harness.report.charts.costs import BAR, BOTTOM, row_places
from harness.report.charts.mpl_setup import (
    FAINT,
    GRID,
    HEAD,
    INK,
    SMALL,
    add_axes,
    new_figure,
    widest,
)

WIDTH = 4.6  # inches
MOST = 60  # effects in one figure
COLOURS = {"better": "#0072B2", "worse": "#D55E00", "equivalent": INK, "unresolved": FAINT}
MARKS = {"better": "o", "worse": "s", "equivalent": "D", "unresolved": "o"}


def known(judged: MetricTests) -> list[TestedEffect]:
    """Return the effects that have an interval, main effects first."""
    return [level for level in (*judged.main, *judged.interactions) if level.effect.ci95]


def drawn(judged: MetricTests) -> list[TestedEffect]:
    """Return the effects that are drawn: of very many, the main effects and then what is clearest."""
    levels = known(judged)
    if len(levels) <= MOST:
        return levels
    clearest = sorted(levels, key=lambda level: (len(level.effect.levels), level.effect.p))[:MOST]
    return [level for level in levels if level in clearest]


def left_out(judged: MetricTests) -> str:
    """Say how many effects are not drawn; nothing where all are."""
    n = len(known(judged))
    return f" Of {n:,} effects, the {MOST} that are main effects or clearest." if n > MOST else ""


def draw(judged: MetricTests, title: str) -> Figure:
    """Draw a row for each effect: the estimate, its 95 % interval, the study's margin, and the verdict as a word."""
    levels, is_loss = drawn(judged), judged.quantity == "val_loss"
    places = row_places(["one" if len(level.effect.levels) == 1 else "two" for level in levels])
    names = [
        " with ".join(f"{axis} {name}" for axis, name in level.effect.levels.items())
        for level in levels
    ]
    subtitle = "against the baseline's level, in the mean over the other axes; line: 95 % interval"
    if judged.margin is not None:
        subtitle += "; grey: what makes no difference"
    left, right, height = widest(names) + 0.3, widest(list(COLOURS)) + 0.3, places[-1] + BAR * 0.7
    width = max(left + WIDTH + right, widest([subtitle]) + 0.3)
    figure = new_figure(width, HEAD + height + BOTTOM, title, subtitle)
    axes = add_axes(figure, left, HEAD, WIDTH, height)
    axes.set_ylim(height, 0)
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", length=0, labelcolor="black")
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("change in nats per token" if is_loss else "change in %")
    unit: Callable[[float], float] = float if is_loss else _percent
    if judged.margin is not None:
        axes.axvspan(unit(-judged.margin), unit(judged.margin), color=GRID, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    for level, place in zip(levels, places, strict=True):
        word, effect = level.verdict or "unresolved", level.effect
        assert effect.ci95 is not None and effect.estimate is not None
        colour = COLOURS[word]
        axes.plot(
            [unit(bound) for bound in effect.ci95], [place, place], color=colour, linewidth=1.6
        )
        face = "white" if word == "unresolved" else colour
        axes.plot(
            unit(effect.estimate),
            place,
            MARKS[word],
            color=colour,
            markerfacecolor=face,
            markersize=4.5,
        )
        axes.annotate(
            word,
            (1, place),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center_baseline",
            fontsize=SMALL,
            color=colour,
        )
    return figure


def _percent(logarithm: float) -> float:
    return 100 * math.expm1(logarithm)
