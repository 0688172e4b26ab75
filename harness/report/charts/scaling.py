"""Speed-up against the number of processes, with the ideal."""

from harness.analysis.dataset import StudyResults
from harness.analysis.scaling import ScalingRow
from harness.analysis.summary import Summary
from harness.report.charts.entries import MAX_ENTRIES
from harness.report.charts.spec import (
    Axis,
    ChartSpec,
    Line,
    Lines,
    MarkStyle,
    Panel,
    ReferenceLine,
    powers_of_two,
)
from harness.report.charts.style import COLOURS, DASHES, GREY, MARKERS
from harness.report.charts.text import count, number

MARGIN = 1.15  # factor between the outermost values and the limits


def build(summary: Summary) -> list[ChartSpec]:
    """Return the speed-up of each group of entries that differ only in the number of processes."""
    groups: dict[str, list[ScalingRow]] = {}
    for row in summary.scaling:
        groups.setdefault(row.group, []).append(row)
    if not groups:
        return []
    shown = list(groups.items())[:MAX_ENTRIES]
    lines = [_line(i, name, rows) for i, (name, rows) in enumerate(shown)]
    world_sizes = sorted({row.world_size for row in summary.scaling})
    fewest = min(row.against_world_size for row in summary.scaling)
    ideal = Line(
        name="ideal",
        entry="ideal",
        style=MarkStyle(GREY, "dash"),
        x=tuple(float(size) for size in world_sizes),
        y=tuple(size / fewest for size in world_sizes),
    )
    limits = (
        min(min(line.bottom) for line in (*lines, ideal)) / MARGIN,
        max(max(line.top) for line in (*lines, ideal)) * MARGIN,
    )
    cores = physical_cores(summary.study)
    references: tuple[ReferenceLine, ...] = ()
    if cores is not None and world_sizes[0] <= cores <= world_sizes[-1]:
        references = (ReferenceLine("x", cores, f"physical cores: {cores}"),)
    panel = Panel(
        title="",
        x=Axis("processes", log2=True, ticks=ideal.x),
        y=Axis("speed-up", limits, log2=True, ticks=powers_of_two(*limits)),
        lines=(ideal, *lines),
        references=references,
    )
    caption = "Speed-up against the number of processes, with the ideal: throughput relative to "
    caption += "that on the fewest processes. Bars: bootstrap 95 % intervals."
    if len(groups) > len(shown):
        caption += f" The first {len(shown)} of {len(groups):,} groups."
    return [
        ChartSpec(
            name="scaling",
            title="Speed-up against processes",
            subtitle="throughput relative to the fewest processes; bars: bootstrap 95 % interval",
            caption=caption,
            alt=_alt(groups),
            plot=Lines((panel,)),
        )
    ]


def _alt(groups: dict[str, list[ScalingRow]]) -> str:
    rows = [row for group in groups.values() for row in group if row.entry != row.against]
    best = max(rows, key=lambda row: row.speedup.ratio)
    return (
        f"Speed-up against processes for {count(len(groups), 'group')}; highest: {best.group} on "
        f"{count(best.world_size, 'process', 'processes')}, {number(best.speedup.ratio)} times, "
        f"efficiency {best.efficiency:.0%}."
    )


def _line(i: int, name: str, rows: list[ScalingRow]) -> Line:
    return Line(
        name=name,
        entry=name,
        style=MarkStyle(
            COLOURS[i % len(COLOURS)],
            DASHES[i // len(COLOURS) % len(DASHES)],
            MARKERS[i % len(MARKERS)],
        ),
        x=tuple(float(row.world_size) for row in rows),
        y=tuple(row.speedup.ratio for row in rows),
        low=tuple(row.speedup.ci95[0] for row in rows),
        high=tuple(row.speedup.ci95[1] for row in rows),
        spread="bars",
        markers="all",
    )


def physical_cores(study: StudyResults) -> int | None:
    """Return the number of cores if all runs used CPUs with the same number of them, else None."""
    environments = [run.env for run in study.runs if run.env]
    if any(environment.gpu for environment in environments):
        return None
    cores: set[int | None] = {environment.cores for environment in environments}
    return cores.pop() if len(cores) == 1 else None
