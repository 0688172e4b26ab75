"""The costs of a step: its time by phase, communication, scaling, memory and FLOPs."""

import math
from collections.abc import Iterator, Mapping, Sequence

from harness.analysis.candidates import without_copies
from harness.analysis.contexts import compared_axes
from harness.analysis.metrics import CATEGORIES
from harness.analysis.step_breakdown import TOLERANCE
from harness.analysis.summary import Summary
from harness.report import formatting
from harness.report.document import (
    Block,
    Cell,
    Emphasis,
    Paragraph,
    Table,
    code_list,
    paragraph,
)
from harness.report.formatting import MIB, MISSING
from harness.report.sections import Charts, chart_blocks, contexts, of_shown
from harness.report.tables import display, interval_column, number_column, text_column
from harness.report.tables import table as table_of
from harness.results.records import PHASES

PHASE_METHOD = (
    "Milliseconds, mean over ranks, of a few extra steps after the last one. Waiting: a rank "
    "blocks in a collective; on CUDA it is part of the other phases."
)
TRAFFIC_METHOD = (
    "Collectives per step on the busiest rank: calls, payload (MiB of the whole buffers), and MiB "
    "sent by a bandwidth-optimal algorithm. The prediction needs the sizes of parameters only."
)
SCALING_METHOD = (
    "Speedup is the throughput over that of the reference entry, with the 95 % t interval of its "
    "logarithm over seeds: paired by seed, or Welch's if the two have no seed in common. A single "
    "seed has no interval. Efficiency is the speedup over "
    "the ratio of the numbers of processes. All entries train the same number of tokens per step "
    "(strong scaling). Processes beyond the number of physical cores share cores."
)
MEMORY_METHOD = (
    "MiB of the fullest rank. The peak is the allocator's in training on CUDA, the sum of the "
    "categories on a CPU. The peak of evaluations is on CUDA only. The resident peak is that of "
    "the whole process."
)
MEMORY_PREDICTION = (
    "In theory a rank holds its shard of the parameters and of the gradients, 4 bytes each, and of "
    "the two states of Adam."
)
FLOPS_METHOD = (
    "FLOPs that the variant needs by its formula, and FLOPs that were executed: a ratio above 1 is "
    "work of the kernel that the variant does not need."
)


def throughput(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the chart of throughputs."""
    yield from chart_blocks(charts, "throughput")


def step_breakdown(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the phases of a step of each entry, if they were measured."""
    table = _phases(summary, [entry.label for entry in without_copies(summary.study)])
    if table is not None:
        yield paragraph(PHASE_METHOD)
        yield table
        yield from chart_blocks(charts, "phases")


def phases_by_context(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the phases of a step of the baseline in each context, if they were measured."""
    if not compared_axes(summary.study):
        return
    table = _phases(summary, [entry.label for entry in contexts.context_entries(summary)])
    if table is not None:
        yield table
        yield from chart_blocks(charts, "phases_by_context")


def _phases(summary: Summary, labels: Sequence[str]) -> Table | None:
    """Return the table of the phases of these entries; None if none was measured."""
    if not any(summary.results[label].phases for label in labels):
        return None
    rows = []
    for label in labels:
        phases = summary.results[label].phases
        if label in summary.diverging:
            rows.append([label, *[formatting.NO_SPEED] * (len(PHASES) + 2)])
        elif phases:
            times = [_ms(seconds) for seconds in phases.by_name.values()]
            share = formatting.number(phases.waiting_fraction, formatting.percent)
            rows.append([label, *times, share, _waiting_range(phases.waiting_by_rank_s)])
    titles = ["entry", *PHASES, "waiting, fraction", "waiting, by rank"]
    return table_of("Milliseconds of a step by phase", titles, rows, titles[1:])


def _ms(seconds: float | None) -> str:
    return formatting.number(seconds, formatting.milliseconds)


def _waiting_range(waits: Sequence[float]) -> str:
    """Return the shortest and longest waiting time of a rank."""
    shortest = _ms(min(waits, default=None))
    longest = _ms(max(waits, default=None))
    return shortest if shortest == longest else f"{shortest} to {longest}"


def communication(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the bytes that the ranks of the baseline send in each context, if they communicate."""
    rows: list[list[Cell]] = []
    deviations = {}
    labels = {entry.label for entry in contexts.context_entries(summary)}
    for label, result in summary.results.items():
        traffic = result.traffic
        if traffic is None or not (traffic.collectives or traffic.predicted_bytes):
            continue
        deviations[label] = [traffic.deviation]
        if label in labels:
            calls = [
                f"{name} {counts.calls:,} × ({_payload(counts.payload_bytes)})"
                for name, counts in traffic.collectives.items()
            ]
            sizes = [traffic.sent_bytes, traffic.predicted_bytes]
            shown = [formatting.number(size, _payload) for size in sizes]
            rows.append([label, ", ".join(calls) or MISSING, *shown, _deviation(traffic.deviation)])
    if not deviations:
        return
    numeric = ["sent per rank, MiB", "predicted, MiB", "deviation"]
    yield paragraph(TRAFFIC_METHOD)
    titles = ["entry", "collectives (payload, MiB)", *numeric]
    if rows:
        yield table_of("Communication of a step", titles, rows, numeric)
    yield from _deviation_warning(deviations, "communication volume")
    yield from chart_blocks(charts, "traffic")


def _payload(size_bytes: float) -> str:
    return f"{size_bytes / MIB:,.4g}"


def scaling(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the speedups, if some parallelism has several numbers of processes."""
    if "scaling" not in summary.tables:
        return
    columns = [
        text_column("parallelism", "group"),
        text_column("entry"),
        number_column("processes", "world_size"),
        interval_column("tokens/s", "tokens_per_s", formatting.significant_figures),
        interval_column("speedup", "speedup", formatting.ratio),
        interval_column("efficiency", "efficiency", formatting.percent),
        text_column("reference", "against"),
    ]
    yield paragraph(SCALING_METHOD)
    frame = summary.tables["scaling"]
    yield display("Strong scaling", frame, columns)
    yield from chart_blocks(charts, "scaling")


def memory(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the memory of the entries that have results, measured and predicted."""
    ranks = summary.tables["memory"]
    if ranks.empty:
        return
    columns = [text_column("entry")]
    shown = [*CATEGORIES, "peak", "resident_peak"]
    if ranks["evaluation_peak"].notna().any():
        shown.insert(-1, "evaluation_peak")
    for name in shown:
        columns.append(number_column(name.replace("_", " "), name, formatting.mib))
    fullest = of_shown(summary, ranks.loc[ranks.groupby("entry", sort=False)["peak"].idxmax()])
    yield from chart_blocks(charts, "memory")
    yield paragraph(MEMORY_METHOD)
    yield display("Memory by category, MiB", fullest, columns)
    yield from _predicted_memory(summary)


def _predicted_memory(summary: Summary) -> Iterator[Block]:
    """Return whether the memory between steps is as predicted, and the entries that deviate."""
    titles: dict[str, None] = {}
    rows: list[list[Cell]] = []
    deviations = {}
    for label, result in summary.results.items():
        held = result.predicted_memory
        if held:
            deviations[label] = list(held.deviation.values())
            if any(map(_exceeds_tolerance, held.deviation.values())):
                row: list[Cell] = [label]
                for category, size in held.predicted.items():
                    row += [formatting.mib(size), _deviation(held.deviation[category])]
                    titles |= {category: None, f"{category}, deviation": None}
                rows.append(row)
    if not deviations:
        return
    within = "" if rows else f" All measurements are within {TOLERANCE:.0%} of it."
    yield paragraph(f"{MEMORY_PREDICTION}{within}")
    if rows:
        yield table_of("Predicted memory, MiB", ["entry", *titles], rows, titles)
        yield from _deviation_warning(deviations, "memory")


def _exceeds_tolerance(deviation: float | None) -> bool:
    return deviation is not None and abs(deviation) > TOLERANCE


def _deviation(deviation: float | None) -> Cell:
    """Return +1.23 %, emphasized if it exceeds the tolerance."""
    if deviation is None:
        return MISSING
    shown = "none predicted" if math.isinf(deviation) else f"{100 * deviation:+.2f} %"
    return Emphasis(shown) if _exceeds_tolerance(deviation) else shown


def _deviation_warning(
    deviations: Mapping[str, Sequence[float | None]], measurement: str
) -> Iterator[Paragraph]:
    """Return a warning on the entries that deviate from the prediction, if there are any."""
    labels = [label for label, values in deviations.items() if any(map(_exceeds_tolerance, values))]
    if labels:
        yield paragraph(
            Emphasis(f"More than {TOLERANCE:.0%} off the prediction"),
            f": the {measurement} of ",
            code_list(labels),
            ".",
        )


def flops(summary: Summary, charts: Charts) -> Iterator[Block]:
    """Return the FLOPs per token by formula and as counted, and the attention kernels that ran."""
    rows = []
    for entry in without_copies(summary.study):
        if not entry.done or entry.done[0].imported:
            continue
        kernels: set[str] = set()
        for run in entry.done:
            kernels.update(run.measured.attention_kernels)
        formula = entry.done[0].measured.flops_per_token
        counted = entry.done[0].measured.flops_per_token_counted
        ratios = [f"{counted:.4g}", f"{counted / formula:.3f}"] if counted else [MISSING, MISSING]
        rows.append([entry.label, ", ".join(sorted(kernels)) or MISSING, f"{formula:.4g}", *ratios])
    if rows:
        numeric = ["FLOPs per token, by formula", "as counted", "counted ÷ formula"]
        yield paragraph(FLOPS_METHOD)
        yield table_of("FLOPs per token", ["entry", "attention kernels", *numeric], rows, numeric)
