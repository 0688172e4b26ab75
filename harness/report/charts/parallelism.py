"""Where the time of a step goes, as one bar per entry, and how speed grows with the number of processes."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from harness.analysis.dataset import StudyResults
from harness.analysis.scaling import ScalingRow
from harness.analysis.summary import Summary
from harness.report.charts import costs
from harness.report.charts.mpl_setup import FAINT, HEAD, INK, SMALL, add_axes, new_figure, thousands
from harness.report.charts.small_multiples import scale_powers
from harness.report.charts.style import COLOURS, DASHES, MARKERS, Look
from harness.results.run_data import PHASES

# Computing in one hue, as memory's categories; waiting is hollow.
PHASE_COLOURS = {
    "forward": "#2f3e4e",
    "backward": "#56697c",
    "optimizer": "#8396a8",
    "other": "#cfd8df",
    "waiting": "white",
}
WIDTH, HEIGHT, LEFT, BOTTOM = 4.6, 3.4, 0.7, 0.5  # inches


def phases(summary: Summary, look: Look) -> Figure:
    """Draw each entry's mean seconds of a step, stacked by phase, waiting last."""
    subtitle = (
        "mean over ranks, by phase; at the end: the part that is spent waiting for communication"
    )
    figure, axes, places = costs.rows(
        summary, look, "Where the time of a step goes", subtitle, "ms per step", 0.3
    )
    order = sorted(PHASES, key=list(PHASE_COLOURS).index)
    totals = []
    for entry, place in zip(summary.study.entries, places, strict=True):
        found = summary.phases[entry.label]
        if found is None:
            costs.status(axes, entry, place, entry.label in summary.diverging)
            continue
        sizes = [1e3 * (found.by_name[phase] or 0.0) for phase in order]
        costs.stack(axes, place, sizes, [PHASE_COLOURS[phase] for phase in order])
        totals.append(sum(sizes))
        axes.barh(
            place,
            sizes[-1],
            left=sum(sizes[:-1]),
            height=costs.BAR * 0.72,
            facecolor="white",
            edgecolor=INK,
            hatch="//////",
            linewidth=0.5,
        )
        share = "not known" if found.waiting_fraction is None else f"{found.waiting_share:.0%}"
        axes.annotate(
            share,
            (sum(sizes), place),
            (4, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=SMALL,
        )
    axes.set_xlim(0, max(totals) * 1.13 or 1)
    handles = [axes.barh([places[0]], [0], color=PHASE_COLOURS[phase]) for phase in order[:-1]]
    handles.append(
        axes.barh([places[0]], [0], facecolor="white", edgecolor=INK, hatch="//////", linewidth=0.5)
    )
    costs.legend(figure, axes, handles, order)
    return figure


def scaling(summary: Summary) -> Figure:
    """Draw speed-up against processes: a line for each parallelism, the ideal, and where the physical cores end."""
    groups: dict[str, list[ScalingRow]] = {}
    for scale in summary.scaling:
        groups.setdefault(scale.group, []).append(scale)
    subtitle = "throughput over that on the fewest processes; lines: bootstrap 95 % interval"
    figure = new_figure(
        LEFT + WIDTH + 0.3, HEAD + HEIGHT + BOTTOM, "Speed-up against processes", subtitle
    )
    axes = add_axes(figure, LEFT, HEAD, WIDTH, HEIGHT)
    places = sorted({scale.world_size for scale in summary.scaling})
    scale_powers(axes, places)
    axes.set_xlabel("processes")
    axes.set_ylabel("speed-up")
    least = min(scale.against_world_size for scale in summary.scaling)
    axes.plot(
        places,
        [n / least for n in places],
        color=FAINT,
        linestyle=(0, (3, 2)),
        linewidth=1.0,
        label="ideal",
    )
    for i, (name, scales) in enumerate(groups.items()):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]
        x, y = [scale.world_size for scale in scales], [scale.speedup.ratio for scale in scales]
        axes.plot(
            x,
            y,
            color=colour,
            linestyle=dash,
            marker=MARKERS[i % len(MARKERS)],
            markersize=5,
            label=name,
        )
        for scale in scales:
            axes.plot(
                [scale.world_size] * 2, scale.speedup.ci95, color=colour, linewidth=0.9, alpha=0.6
            )
    axes.set_yscale("log", base=2)  # as the processes, so that the ideal is straight
    axes.yaxis.set_major_formatter(thousands())
    axes.yaxis.set_minor_locator(NullLocator())
    cores = physical_cores(summary.study)
    if cores is not None and places[0] <= cores <= places[-1]:
        axes.axvline(
            cores,
            color=INK,
            linewidth=0.9,
            linestyle=(0, (1, 1.5)),
            label=f"physical cores: {cores}",
        )
    axes.legend(loc="upper left", framealpha=1.0, edgecolor="white", fontsize=SMALL)
    return figure


def physical_cores(study: StudyResults) -> int | None:
    """Return how many cores the runs' machine has, where all ran on one kind of it and on no GPU."""
    found = {run.env.get("cores") for run in study.runs if run.env and not run.env.get("gpu")}
    on_gpu = any(run.env.get("gpu") for run in study.runs)
    cores: Sequence[int | None] = tuple(found)
    return cores[0] if len(cores) == 1 and not on_gpu else None
