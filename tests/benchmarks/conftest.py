"""`make bench`: time each operation against its usual alternative, interleaved in one process.

pytest-benchmark times our side in pedantic mode and stores it in `raw.json`, with the machine and
the commit. The peer runs in the setup or teardown of each round, so that both alternate, and its
seconds are stored as well.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import baseline
import peak_memory
import pytest
import ratios
import torch
from tabulate import tabulate

REPORT = Path("reports/bench/ratios.json")  # from the repository's root
MEMORY_REPORT = REPORT.with_name("memory.json")
WARMUP = 2  # rounds
RATIOS = pytest.StashKey[list[ratios.Ratio]]()
PEAKS = pytest.StashKey[list[peak_memory.Peak]]()
BASELINE = pytest.StashKey[dict[str, baseline.Result]]()
DESELECTED = pytest.StashKey[set[str]]()


def pytest_addoption(parser):
    parser.addoption(
        "--baseline",
        type=Path,
        help="ratios.json or memory.json of an earlier run, or a folder with both; "
        "fail if ours became slower or needs more memory",
    )


def pytest_configure(config):
    config.stash[RATIOS] = []
    config.stash[PEAKS] = []
    config.stash[DESELECTED] = set()
    try:
        config.stash[BASELINE] = (
            baseline.read(config.option.baseline) if config.option.baseline else {}
        )
    except ValueError as error:
        raise pytest.UsageError(f"--baseline: {error}") from error


def pytest_sessionfinish(session):
    """Write the ratios, and fail if the comparison with the baseline does."""
    measured = session.config.stash[RATIOS]
    if measured:
        ratios.write(session.config.rootpath / REPORT, measured)
    peaks = session.config.stash[PEAKS]
    if peaks:
        peak_memory.write(session.config.rootpath / MEMORY_REPORT, peaks)
    if comparison_problems(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def comparison_problems(config) -> list[str]:
    """Return why the comparison with the baseline fails; empty without a baseline."""
    if config.option.baseline is None or config.option.collectonly:
        return []
    deselected = config.stash[DESELECTED]
    return baseline.problems(
        measured_results(config), config.stash[BASELINE], lambda name: name not in deselected
    )


def measured_results(config) -> list[baseline.Result]:
    return [*config.stash[RATIOS], *config.stash[PEAKS]]


def pytest_deselected(items):
    """Note the benchmarks that `-k` leaves out."""
    for item in items:
        item.config.stash[DESELECTED].add(benchmark_name(item))


def benchmark_name(item) -> str:
    return item.name.removeprefix("test_")


def pytest_terminal_summary(terminalreporter, config):
    before = config.stash[BASELINE]
    changes = baseline.verdicts(measured_results(config), before)
    summarize_memory(terminalreporter, config.stash[PEAKS], before, changes)
    for problem in comparison_problems(config):
        terminalreporter.write_line(f"FAILED against {config.option.baseline}: {problem}")
    summarize_ratios(terminalreporter, config.stash[RATIOS], before, changes)
    if config.option.baseline and changes:
        n_compared = len(before.keys() & changes.keys())
        counts = f"{n_compared} of {len(before)} benchmarks"
        terminalreporter.write_line(f"compared with {config.option.baseline}: {counts}")


def summarize_ratios(terminalreporter, measured: list[ratios.Ratio], before, changes) -> None:
    if not measured:
        return
    rows = []
    for ratio in measured:
        row = {
            "benchmark": ratio.benchmark,
            "ours, ms": f"{ratio.ours_s * 1e3:.4g}",
            "peer": ratio.peer,
            "peer, ms": f"{ratio.peer_s * 1e3:.4g}",
            "ratio [95 %]": interval(ratio),
        }
        if before:
            row["before"] = interval(before.get(ratio.benchmark))
            row["now"] = changes[ratio.benchmark]
        rows.append(row)
    terminalreporter.section("ratio = peer / ours; above 1, ours is faster")
    terminalreporter.write_line(tabulate(rows, headers="keys", disable_numparse=True))
    terminalreporter.write_line(f"written: {REPORT}")


def summarize_memory(terminalreporter, peaks: list[peak_memory.Peak], before, changes) -> None:
    if not peaks:
        return
    rows = []
    for peak in peaks:
        row = {
            "benchmark": peak.benchmark,
            "ours, GB": f"{peak.ours_bytes / 1e9:.2f}",
            "peer": peak.peer,
            "peer, GB": f"{peak.peer_bytes / 1e9:.2f}",
            "ratio": f"{peak.ratio:.2f}",
        }
        if before:
            earlier = before.get(peak.benchmark)
            row["before, GB"] = f"{earlier.ours_bytes / 1e9:.2f}" if earlier else ""
            row["now"] = changes[peak.benchmark]
        rows.append(row)
    terminalreporter.section("peak memory; ratio = ours / peer; below 1, ours needs less")
    terminalreporter.write_line(tabulate(rows, headers="keys", disable_numparse=True))
    terminalreporter.write_line(f"written: {MEMORY_REPORT}")


def interval(ratio: ratios.Ratio | None) -> str:
    return f"{ratio.ratio:.2f} [{ratio.ci95[0]:.2f}, {ratio.ci95[1]:.2f}]" if ratio else ""


@pytest.fixture(autouse=True, scope="session")
def _all_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def device():
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def package():
    """`package(name)` imports a peer, or skips the benchmark with the command that installs it."""
    command = ".venv/bin/pip install --constraint constraints.txt --editable '.[peers]'"
    return lambda name: pytest.importorskip(name, reason=f"{name} is not installed: {command}")


@pytest.fixture
def compare(benchmark, request):
    """`compare(ours=..., peer="name", theirs=..., rounds=n)` times two callables, once per round.

    The benchmark has the name of its test. Both sides are warmed up; the order alternates.
    """

    def run(
        *, ours: Callable[[], object], peer: str, theirs: Callable[[], object], rounds: int
    ) -> None:
        other = Peer(synchronized(theirs))
        benchmark.pedantic(
            synchronized(ours),
            rounds=rounds,
            warmup_rounds=WARMUP,
            setup=other.before_ours,
            teardown=other.after_ours,
        )
        if benchmark.enabled:  # not with --benchmark-disable, which runs everything once, untimed
            ours_s = benchmark.stats.stats.data
            peer_s = other.seconds[WARMUP:]
            benchmark.extra_info |= {"peer": peer, "peer_s": peer_s}
            name = benchmark_name(request.node)
            request.config.stash[RATIOS].append(ratios.ratio(name, ours_s, peer, peer_s))

    return run


@pytest.fixture
def compare_memory(request):
    """`compare_memory(bytes, peer="name", peer_bytes=bytes, at_most=r)` checks and reports a ratio.

    The benchmark has the name of its test.
    """

    def run(ours_bytes: int, *, peer: str, peer_bytes: int, at_most: float) -> None:
        name = benchmark_name(request.node)
        peak = peak_memory.Peak(name, ours_bytes, peer, peer_bytes, ours_bytes / peer_bytes)
        request.config.stash[PEAKS].append(peak)
        assert peak.ratio <= at_most

    return run


class Peer:
    """The other side, which runs before ours in every second round and after ours in the others."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.first = True
        self.seconds: list[float] = []

    def before_ours(self) -> None:
        if self.first:
            self.run()

    def after_ours(self) -> None:
        if not self.first:
            self.run()
        self.first = not self.first

    def run(self) -> None:
        start = time.perf_counter()
        self.call()
        self.seconds.append(time.perf_counter() - start)


def synchronized(call: Callable[[], object]) -> Callable[[], object]:
    """Return a call that waits for the GPU, so that the next call does not."""

    def run() -> None:
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return run
