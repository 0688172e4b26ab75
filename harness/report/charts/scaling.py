"""Speedup against the number of processes, with the ideal."""

from collections.abc import Iterator

from harness.analysis.dataset import StudyResults
from harness.analysis.summary import Summary
from harness.report.charts.entries import MAX_ENTRIES
from harness.report.charts.spec import (
    DASHES,
    MARKERS,
    Axis,
    ChartSpec,
    Line,
    Lines,
    MarkStyle,
    Panel,
    ReferenceLine,
    powers_of_two,
)
from harness.report.charts.style import COLOURS, GREY
from harness.report.formatting import count, significant_figures
from harness.results.records.study_summary import ScalingRow

MARGIN = 1.15  # factor between the outermost values and the limits


def build(summary: Summary) -> Iterator[ChartSpec]:
    """Return the speedup of each group of entries that differ only in the number of processes."""
    groups: dict[str, list[ScalingRow]] = {}
    for row in summary.scaling:
        groups.setdefault(row.group, []).append(row)
    if not groups:
        return
    shown = list(groups.items())[:MAX_ENTRIES]
    world_sizes = sorted({row.world_size for row in summary.scaling})
    fewest = min(row.against_world_size for row in summary.scaling)
    ideal = [size / fewest for size in world_sizes]
    lines = [
        Line("ideal", "ideal", MarkStyle(GREY, "dash"), world_sizes, ideal),
        *(_line(i, name, rows) for i, (name, rows) in enumerate(shown)),
    ]
    low = min(min(line.bottom) for line in lines) / MARGIN
    high = max(max(line.top) for line in lines) * MARGIN
    references = []
    cores = physical_cores(summary.study)
    if cores is not None and world_sizes[0] <= cores <= world_sizes[-1]:
        references.append(ReferenceLine("x", cores, f"physical cores: {cores}"))
    x = Axis("processes", log2=True, ticks=world_sizes)
    y = Axis("speedup", (low, high), log2=True, ticks=powers_of_two(low, high))
    title = "Speedup against processes"
    note = ""
    if len(groups) > len(shown):
        note = f" The first {len(shown)} of {len(groups):,} groups."
    scaled = [row for row in summary.scaling if row.entry != row.against]
    best = max(scaled, key=lambda row: row.speedup.ratio)
    yield ChartSpec(
        name="scaling",
        title=title,
        subtitle="throughput relative to the fewest processes, with the ideal; bars: 95 % "
        "interval over seeds",
        note=note,
        alt=f"{title} for {count(len(groups), 'group')}; highest: "
        f"{summary.group_titles[best.group]} on "
        f"{count(best.world_size, 'process', 'processes')}, "
        f"{significant_figures(best.speedup.ratio)} times, efficiency {best.efficiency:.0%}.",
        plot=Lines([Panel("", x, y, lines, references)]),
    )


def _line(i: int, name: str, rows: list[ScalingRow]) -> Line:
    colour = COLOURS[i % len(COLOURS)]
    dash = DASHES[i // len(COLOURS) % len(DASHES)]
    points = []
    for row in rows:
        speedup = row.speedup.ratio
        points.append((row.world_size, speedup, *(row.speedup.ci95 or (speedup, speedup))))
    return Line.with_bars(name, name, MarkStyle(colour, dash, MARKERS[i % len(MARKERS)]), points)


def physical_cores(study: StudyResults) -> int | None:
    """Return the number of cores if all runs used CPUs with the same number of them, else None."""
    environments = [run.env for run in study.runs if run.env]
    if any(environment.gpu for environment in environments):
        return None
    cores: set[int | None] = {environment.cores for environment in environments}
    return cores.pop() if len(cores) == 1 else None
