"""Speed relative to a peer, from rounds in which both ran, and the file ratios.json."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
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


def verdicts(now: Iterable[Ratio], before: Mapping[str, Ratio]) -> dict[str, str]:
    """Return the verdict of each benchmark of this run by name."""
    return {ratio.benchmark: verdict(ratio, before.get(ratio.benchmark)) for ratio in now}


def problems(
    now: Sequence[Ratio], before: Mapping[str, Ratio], is_wanted: Callable[[str], bool]
) -> list[str]:
    """Return why the comparison with an earlier run fails: benchmarks that are slower or missing.

    `is_wanted` says of a benchmark's name whether this run was to measure it. A benchmark of the
    earlier run that this run lacks, or that has another peer, is missing: a new name or another
    peer would hide that it became slower.
    """
    if not before:
        return ["the earlier run has no benchmarks to compare with"]
    found = verdicts(now, before)
    wanted = [name for name in before if is_wanted(name)]
    slower = [f"{name}: slower" for name, verdict in found.items() if verdict == "slower"]
    missing = [f"{name}: only in the earlier run" for name in wanted if name not in found]
    new_peers = [
        f"{ratio.benchmark}: compared with {ratio.peer}, with {before[ratio.benchmark].peer} before"
        for ratio in now
        if ratio.benchmark in before and before[ratio.benchmark].peer != ratio.peer
    ]
    failed = [*slower, *missing, *new_peers]
    if not failed and not any(name in before for name in found):
        failed.append("this run has no benchmark in common with the earlier run")
    return failed


def write(file: Path, ratios: Iterable[Ratio]) -> None:
    """Write a list of objects, one for each benchmark, in seconds, unrounded."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        json.dumps([asdict(ratio) for ratio in ratios], indent=1) + "\n", encoding="utf-8"
    )


def read(file: Path) -> dict[str, Ratio]:
    """Read the ratios that `write` has written, by benchmark.

    Raises:
        ValueError: the file is missing or invalid; the message gives the reason.
    """
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
        return {
            record["benchmark"]: Ratio(**record | {"ci95": tuple(record["ci95"])})
            for record in records
        }
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file}: no ratios of an earlier run: {error}") from error
