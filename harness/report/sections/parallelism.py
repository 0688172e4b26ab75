"""The sections on what it takes to spread a run over processes: where the time goes, traffic, scaling."""

import math
from collections.abc import Iterable

from harness.analysis.step_breakdown import TOLERANCE
from harness.analysis.summary import Summary
from harness.report import formatting as cells
from harness.report.formatting import (
    MIB,
    NO_SPEED,
    NONE,
    figures,
    join,
    median,
    percent,
    picture,
    ratio,
)
from harness.results.records import PHASES

Captions = dict[str, str]


def phases(summary: Summary, captions: Captions) -> str:
    """Where the time of a step goes."""
    rows = []
    for label, found in summary.phases.items():
        if label in summary.diverging:
            rows.append([label, *[NO_SPEED] * (len(PHASES) + 2)])
        elif found:
            times = [_ms(seconds) for seconds in found.by_name.values()]
            waits = dict.fromkeys(
                _ms(of(found.waiting_by_rank_s, default=None)) for of in (min, max)
            )
            rows.append([label, *times, percent(found.waiting_share), " to ".join(waits)])
    if not any(summary.phases.values()):
        return ""
    text = (
        "Milliseconds of a step, the mean over ranks, from a few steps after the last one that are not kept. Waiting "
        "is the exposed wait: the time in which a rank does nothing but stand still for a collective, for a slower "
        "rank as well as for bytes. Communication that computation hides is not in it, and the other phases are less "
        "of it. On CUDA, where the device's queue waits and no thread, it is not known, and a phase holds its waits."
    )
    header = ["entry", *PHASES, "waiting, share", "waiting, by rank"]
    return join(
        "## Where the time goes", text, cells.table(header, rows), picture("phases", captions)
    )


def traffic(summary: Summary, captions: Captions) -> str:
    """What the ranks send each other in a step, as counted and as predicted."""
    rows = []
    for label, found in summary.traffic.items():
        if found and (found.collectives or found.predicted_bytes):
            calls = [
                f"{name} {int(of['calls']):,} × ({_mib(of['payload_bytes'])})"
                for name, of in found.collectives.items()
            ]
            numbers = [
                _mib(found.sent_bytes),
                _mib(found.predicted_bytes),
                signed_percent(found.deviation),
            ]
            rows.append([label, ", ".join(calls) or NONE, *numbers])
    if not rows:
        return ""
    text = (
        "Of one step and the rank that sends most: how often each collective is called, with the MiB of its whole "
        "buffers (payload), and the MiB that a rank sends if it is done by a bandwidth-optimal algorithm, which is "
        "2 (n - 1) / n of the payload in an all-reduce over n ranks and (n - 1) / n in the others. The prediction is "
        "the parallelism's own formula, from the parameters' sizes alone."
    )
    off = [label for label, found in summary.traffic.items() if found and beyond(found.deviation)]
    header = [
        "entry",
        "collectives (payload, MiB)",
        "sent per rank, MiB",
        "predicted, MiB",
        "deviation",
    ]
    return join(
        "## Traffic", text, cells.table(header, rows, left=2), deviates(off, "send other amounts")
    )


def scaling(summary: Summary, captions: Captions) -> str:
    """How speed grows with the number of processes."""
    if not summary.scaling:
        return ""
    rows = [
        [
            s.group,
            s.entry,
            str(s.world_size),
            median(s.tokens_per_s),
            ratio(s.speedup),
            percent(s.efficiency),
            s.against,
        ]
        for s in summary.scaling
    ]
    text = (
        "Speed-up is throughput over that of the entry named last; efficiency is the speed-up over how many times as "
        "many processes there are. All train the same number of tokens per step (strong scaling). Processes beyond the "
        "physical cores share them."
    )
    header = ["parallelism", "entry", "processes", "tokens/s", "speed-up", "efficiency", "against"]
    return join("## Scaling", text, cells.table(header, rows, left=2), picture("scaling", captions))


def beyond(deviation: float | None) -> bool:
    """Tell whether a deviation from what is predicted is one that is said."""
    return deviation is not None and abs(deviation) > TOLERANCE


def deviates(labels: Iterable[str], what: str) -> str:
    """Say which entries deviate from what is predicted; nothing where none does."""
    named = list(labels)
    if not named:
        return ""
    return f"**More than {TOLERANCE:.0%} off the prediction**: {cells.listing(named)} {what} than theory predicts."


def signed_percent(share: float | None) -> str:
    """Return +1.23 %, in bold where it is beyond what is tolerated."""
    if share is None:
        return NONE
    if math.isinf(share):
        return "**none predicted**"
    return f"**{100 * share:+.2f} %**" if beyond(share) else f"{100 * share:+.2f} %"


def _ms(seconds: float | None) -> str:
    return NONE if seconds is None else figures(1e3 * seconds)


def _mib(size: float | None) -> str:
    return NONE if size is None else f"{size / MIB:,.4g}"
