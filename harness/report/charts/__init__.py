"""Every figure of the report, as PNG and SVG; importing this imports matplotlib."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from harness.analysis.dataset import Entry
from harness.analysis.hypotheses import METRIC_NAMES
from harness.analysis.metrics import PARALLELISM
from harness.analysis.summary import Summary
from harness.report.charts import costs, curves, decoding, effects, tradeoff
from harness.report.charts import eval_lengths as lengths
from harness.report.charts import mpl_setup as canvas
from harness.report.charts import parallelism as spread
from harness.report.charts import style as look

MOST_ENTRIES = 40  # in a figure

Wanted = tuple[str, str, Callable[[], Figure]]  # name, caption, and what draws it


@dataclass(frozen=True)
class Drawn:
    """A figure's file name without suffix, its caption, and its content by suffix."""

    name: str
    caption: str
    files: dict[str, bytes]

    @property
    def alt(self) -> str:
        """What the figure shows."""
        return self.caption


def draw_all(summary: Summary, floor: float | None) -> list[Drawn]:
    """Draw all figures; none where no run is done. `floor` is the lowest validation loss reachable."""
    whole, summary = summary, _legible(summary)
    entries = summary.study.entries
    done = [entry for entry in entries if entry.done]
    if not done:
        return []
    of_all = (
        f" Of {len(whole.study.entries):,} entries, the baseline's and those of lowest loss."
        if summary is not whole
        else ""
    )
    style = look.look(summary.study)
    window = curves.smoothing(max(len(entry.done[0].steps) for entry in done))
    band = (
        "mean of the seeds; band: lowest to highest seed"
        if any(len(e.done) > 1 for e in done)
        else "one seed"
    )
    smoothed = f"each seed's running mean over {window} steps; {band}" if window > 1 else band

    wanted: list[Wanted] = []
    for name, title, how, kind, lowest in (
        ("val_loss", "Validation loss", band, curves.validation, floor),
        ("train_loss", "Training loss", smoothed, curves.training, None),
    ):
        for against_time, x in ((False, "steps"), (True, "training time")):
            shown = [
                entry
                for entry in entries
                if not against_time or entry.label not in summary.diverging
            ]
            if not any(entry.done for entry in shown):
                continue
            draw = partial(
                curves.draw, shown, kind, style, f"{title} against {x}", how, against_time, lowest
            )
            wanted.append(
                (
                    f"{name}_{'time' if against_time else 'steps'}",
                    f"{title} against {x}: {how}.",
                    draw,
                )
            )
    caption = "Memory of each entry's fullest rank, by category."
    wanted.append(("memory", caption, partial(costs.memory, summary, style)))
    n_timed = sum(result.tokens_per_s is not None for result in summary.with_results)
    if n_timed:
        caption = "Throughput of each entry with its bootstrap 95 % interval."
        wanted.append(("throughput", caption, partial(costs.throughput, summary, style)))
    if n_timed > 1:
        caption = "Throughput against final validation loss; no entry beats a ringed one in both."
        wanted.append(("throughput_loss", caption, partial(tradeoff.draw, summary, style)))
    if any(summary.phases.values()):
        caption = "Where the time of a step goes, for each entry: mean over ranks, by phase."
        wanted.append(("phases", caption, partial(spread.phases, summary, style)))
    if summary.scaling:
        caption = "Speed-up against the number of processes, with what would be ideal."
        wanted.append(("scaling", caption, partial(spread.scaling, summary)))
    wanted += [*_lengths(summary, style, band), *_decoding(summary, style)]
    wanted = [(name, caption + of_all, draw) for name, caption, draw in wanted] + _effects(whole)
    with canvas.styled():
        return [Drawn(name, caption, canvas.render(draw())) for name, caption, draw in wanted]


def _legible(summary: Summary) -> Summary:
    """Return as much of a summary as a figure can show."""
    entries = summary.study.entries
    if len(entries) <= MOST_ENTRIES:
        return summary
    bases = {comparison.against for comparison in summary.comparisons}

    def rank(entry: Entry) -> tuple[bool, float]:
        loss = summary.results[entry.label].val_loss
        return entry.label not in bases, loss.mean if loss else math.inf

    best = {entry.label for entry in sorted(entries, key=rank)[:MOST_ENTRIES]}
    return summary.restricted_to([entry for entry in entries if entry.label in best])


def _effects(summary: Summary) -> list[Wanted]:
    if len(summary.study.varying()) < 2:
        return []
    return [
        (
            f"effects_{quantity}",
            f"What each level, and each pair of levels, changes in {METRIC_NAMES[quantity]}, with its verdict."
            + effects.left_out(judged),
            partial(effects.draw, judged, f"Effects on {METRIC_NAMES[quantity]}"),
        )
        for quantity, judged in summary.metric_tests.items()
        if effects.drawn(judged)
    ]


def _decoding(summary: Summary, style: look.Look) -> list[Wanted]:
    if not decoding.defined(summary):
        return []
    how = "the marks of one context stand side by side"
    if any(found.reason for places in summary.decoding.values() for found in places):
        how += "; a line ends where decoding is no longer defined, and dots lead on to its name"
    how += _one_parallelism(
        summary, len(decoding.shown(summary)) < sum(map(bool, summary.decoding.values()))
    )
    return [
        (
            f"decode_{name}",
            f"{kind.title} against context: {how}.",
            partial(decoding.draw, summary, style, kind),
        )
        for name, kind in (("time", decoding.TIME), ("cache", decoding.CACHE))
    ]


def _lengths(summary: Summary, style: look.Look, band: str) -> list[Wanted]:
    if not lengths.defined(summary):
        return []
    shown = _one_parallelism(
        summary, len(lengths.shown(summary)) < sum(map(bool, summary.lengths.values()))
    )
    smoothed = (
        f"mean over {lengths.BINS_PER_DOUBLING} bins for each doubling of the position; {band}"
    )
    ends = ""
    if any(at.reason for found in summary.lengths.values() for at in found):
        ends = "; a line ends where the loss is no longer defined, and dots lead on to its name"
    captions = (
        f"Validation loss against the length of the sequences: {band}{ends}{shown}.",
        f"Validation loss against the position in the sequence: {smoothed}{shown}. "
        "The beginning, where the loss is far higher, is cut off.",
    )
    return [
        ("length_loss", captions[0], partial(lengths.against_length, summary, style, band)),
        ("position_loss", captions[1], partial(lengths.against_position, summary, style, smoothed)),
    ]


def _one_parallelism(summary: Summary, some_left_out: bool) -> str:
    if not some_left_out:
        return ""
    label = summary.study.baseline[PARALLELISM]
    return f"; of entries that differ in the parallelism alone, that of `{label}` is shown"
