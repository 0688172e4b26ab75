"""How much faster than a peer: pure arithmetic on rounds in which both ran, and the file that keeps it, ratios.json."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from harness.analysis import intervals as statistics

BETWEEN_RUNS = 0.05  # by so much the ratio of unchanged code may differ from run to run; an interval knows one run only


@dataclass(frozen=True)
class Ratio:
    """One benchmark beside its peer: median seconds of both, and `ratio`, peer / ours: above 1 where ours is faster."""

    benchmark: str
    ours_s: float
    peer: str
    peer_s: float
    ratio: float
    ci95: tuple[float, float]


def ratio(benchmark: str, ours_s: Sequence[float], peer: str, peer_s: Sequence[float]) -> Ratio:
    """Return the median of peer / ours over the rounds, with its bootstrap interval; the i-th of both are one round.

    Rounds are drawn as pairs: what slows the machine down slows both sides of a round, and counts for neither.
    """
    rounds = statistics.median([np.asarray(peer_s) / np.asarray(ours_s)])
    return Ratio(
        benchmark,
        float(np.median(ours_s)),
        peer,
        float(np.median(peer_s)),
        rounds.median,
        rounds.ci95,
    )


def verdict(now: Ratio, before: Ratio | None) -> str:
    """Tell whether ours became "slower" or "faster" beside its peer: what neither the intervals nor noise explain.

    Else "same", and "new" where there is nothing to compare it with.
    """
    if before is None or before.peer != now.peer:
        return "new"
    if now.ci95[1] < before.ci95[0] and now.ratio < before.ratio * (1 - BETWEEN_RUNS):
        return "slower"
    if now.ci95[0] > before.ci95[1] and now.ratio > before.ratio * (1 + BETWEEN_RUNS):
        return "faster"
    return "same"


def verdicts(now: Iterable[Ratio], before: Mapping[str, Ratio]) -> dict[str, str]:
    """Return by benchmark the verdict on each of this run."""
    return {one.benchmark: verdict(one, before.get(one.benchmark)) for one in now}


def write(file: Path, ratios: Iterable[Ratio]) -> None:
    """Write a list of objects, one for each benchmark, in seconds and unrounded."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([asdict(one) for one in ratios], indent=1) + "\n", encoding="utf-8")


def read(file: Path) -> dict[str, Ratio]:
    """Return by benchmark what `write` has written.

    Raises:
        ValueError: it is no such file; the message says why.
    """
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
        return {
            record["benchmark"]: Ratio(**record | {"ci95": tuple(record["ci95"])})
            for record in records
        }
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file}: no ratios of an earlier run: {error}") from error
