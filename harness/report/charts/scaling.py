"""Speed-up against the number of processes, with the ideal."""

from harness.analysis.dataset import StudyResults
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
from harness.report.formatting import count, significant_figures
from harness.results.records.study_summary import ScalingRow

MARGIN = 1.15  # factor between the outermost values and the limits


def build(summary: Summary) -> list[ChartSpec]:
    """Return the speed-up of each group of entries that differ only in the number of processes."""
    groups: dict[str, list[ScalingRow]] = {}
    for row in summary.scaling:
        groups.setdefault(row.group, []).append(row)
    if not groups:
        return []
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
    y = Axis("speed-up", (low, high), log2=True, ticks=powers_of_two(low, high))
    title = "Speed-up against processes"
    how = "throughput relative to the fewest processes; bars: bootstrap 95 % interval"
    caption = f"{title}, with the ideal: {how}."
    if len(groups) > len(shown):
        caption += f" The first {len(shown)} of {len(groups):,} groups."
    plot = Lines([Panel("", x, y, lines, references)])
    return [ChartSpec("scaling", title, how, caption, _alt(title, groups), plot)]


def _alt(title: str, groups: dict[str, list[ScalingRow]]) -> str:
    rows = [row for group in groups.values() for row in group if row.entry != row.against]
    best = max(rows, key=lambda row: row.speedup.ratio)
    return (
        f"{title} for {count(len(groups), 'group')}; highest: {best.group} on "
        f"{count(best.world_size, 'process', 'processes')}, "
        f"{significant_figures(best.speedup.ratio)} times, efficiency {best.efficiency:.0%}."
    )


def _line(i: int, name: str, rows: list[ScalingRow]) -> Line:
    colour = COLOURS[i % len(COLOURS)]
    dash = DASHES[i // len(COLOURS) % len(DASHES)]
    points = [(row.world_size, row.speedup.ratio, row.speedup.ci95) for row in rows]
    return Line.with_bars(name, name, MarkStyle(colour, dash, MARKERS[i % len(MARKERS)]), points)


def physical_cores(study: StudyResults) -> int | None:
    """Return the number of cores if all runs used CPUs with the same number of them, else None."""
    environments = [run.env for run in study.runs if run.env]
    if any(environment.gpu for environment in environments):
        return None
    cores: set[int | None] = {environment.cores for environment in environments}
    return cores.pop() if len(cores) == 1 else None
