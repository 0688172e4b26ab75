"""Speed relative to a peer, from rounds in which both ran, and the file ratios.json."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import stats

# The ratio of unchanged code may differ this much between runs; an interval covers one run only.
RUN_TO_RUN = 0.05


@dataclass(frozen=True)
class Ratio:
    """One benchmark and its peer: median seconds of both, and `ratio`, peer / ours."""

    benchmark: str
    ours_s: float
    peer: str
    peer_s: float
    ratio: float
    ci95: tuple[float, float]


def ratio(benchmark: str, ours_s: Sequence[float], peer: str, peer_s: Sequence[float]) -> Ratio:
    """Return the median of peer / ours over the rounds with its 95 % interval.

    The ratio is that of a round: a slow phase of the machine slows both sides. The interval ends
    at the i-th smallest and i-th largest ratios: it covers the median of any distribution (sign
    test). It is the whole range with fewer than 6 rounds, which cover it less often.
    """
    rounds = np.sort(np.asarray(peer_s) / np.asarray(ours_s))
    n_outside = max(int(stats.binom.ppf(0.025, len(rounds), 0.5)) - 1, 0)
    return Ratio(
        benchmark,
        float(np.median(ours_s)),
        peer,
        float(np.median(peer_s)),
        float(np.median(rounds)),
        (float(rounds[n_outside]), float(rounds[-1 - n_outside])),
    )


def verdict(now: Ratio, before: Ratio | None) -> str:
    """Return "slower" or "faster" if neither the intervals nor run-to-run noise explain the change.

    Otherwise return "same", or "new" without an earlier ratio for the same peer.
    """
    if before is None or before.peer != now.peer:
        return "new"
    if now.ci95[1] < before.ci95[0] and now.ratio < before.ratio * (1 - RUN_TO_RUN):
        return "slower"
    if now.ci95[0] > before.ci95[1] and now.ratio > before.ratio * (1 + RUN_TO_RUN):
        return "faster"
    return "same"


def write(file: Path, ratios: Iterable[Ratio]) -> None:
    """Write a list of objects, one for each benchmark, in seconds, unrounded."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        json.dumps([asdict(ratio) for ratio in ratios], indent=1) + "\n", encoding="utf-8"
    )
