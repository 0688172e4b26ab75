"""`make bench`: this project beside what one would use instead, in one process and in turn; no part of `make test`.

pytest-benchmark times our side in its pedantic mode and keeps it in `raw.json`, with the machine and the commit. The
peer runs in the set-up or the clean-up of each round, so that the two alternate, and its seconds are kept beside ours.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ratios
import torch
from tabulate import tabulate

REPORT = Path("reports/bench/ratios.json")  # from the repository's root
WARMUP = 2  # rounds
FOUND = pytest.StashKey[list[ratios.Ratio]]()
BEFORE = pytest.StashKey[dict[str, ratios.Ratio]]()


def pytest_addoption(parser):
    parser.addoption(
        "--baseline", type=Path, help="ratios.json of an earlier run; fail where ours became slower"
    )


def pytest_configure(config):
    config.stash[FOUND] = []
    try:
        config.stash[BEFORE] = ratios.read(config.option.baseline) if config.option.baseline else {}
    except ValueError as error:
        raise pytest.UsageError(f"--baseline: {error}") from error


def pytest_sessionfinish(session):
    """Write what was found, and fail where ours became slower."""
    found, before = session.config.stash[FOUND], session.config.stash[BEFORE]
    if found:
        ratios.write(session.config.rootpath / REPORT, found)
    if "slower" in ratios.verdicts(found, before).values():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    found, before = config.stash[FOUND], config.stash[BEFORE]
    if not found:
        return
    changes = ratios.verdicts(found, before)
    rows = [
        {
            "benchmark": one.benchmark,
            "ours, ms": f"{one.ours_s * 1e3:.4g}",
            "peer": one.peer,
            "peer, ms": f"{one.peer_s * 1e3:.4g}",
            "ratio [95 %]": interval(one),
            **(
                {"before": interval(before.get(one.benchmark)), "now": changes[one.benchmark]}
                if before
                else {}
            ),
        }
        for one in found
    ]
    terminalreporter.section("beside its peers: ratio = peer / ours, above 1 ours is faster")
    terminalreporter.write_line(tabulate(rows, headers="keys", disable_numparse=True))
    terminalreporter.write_line(f"written: {REPORT}")
    if missing := sorted(before.keys() - changes.keys()):
        terminalreporter.write_line(f"only in the baseline: {', '.join(missing)}")


def interval(one: ratios.Ratio | None) -> str:
    return f"{one.ratio:.2f} [{one.ci95[0]:.2f}, {one.ci95[1]:.2f}]" if one else ""


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
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def package():
    """`package(name)` imports a peer; where it is not installed, the benchmark is skipped and says what installs it."""
    command = ".venv/bin/pip install --constraint constraints.txt --editable '.[peers]'"
    return lambda name: pytest.importorskip(name, reason=f"{name} is not installed: {command}")


@pytest.fixture
def compare(benchmark, request):
    """`compare(ours=..., peer="name", theirs=..., rounds=n)` times two callables in turn, once each in a round.

    The benchmark is called as its test is. Both sides are warmed up; who is first changes from round to round.
    """

    def run(
        *, ours: Callable[[], object], peer: str, theirs: Callable[[], object], rounds: int
    ) -> None:
        other = Peer(synchronised(theirs))
        turns = {"setup": other.before_ours, "teardown": other.after_ours}
        benchmark.pedantic(synchronised(ours), rounds=rounds, warmup_rounds=WARMUP, **turns)
        if benchmark.enabled:  # not with --benchmark-disable, which runs everything once, untimed
            ours_s, peer_s = benchmark.stats.stats.data, other.seconds[WARMUP:]
            benchmark.extra_info |= {"peer": peer, "peer_s": peer_s}
            name = request.node.name.removeprefix("test_")
            request.config.stash[FOUND].append(ratios.ratio(name, ours_s, peer, peer_s))

    return run


class Peer:
    """The other side: it runs before ours in every second round, and after ours in the others."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call, self.first = call, True
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


def synchronised(call: Callable[[], object]) -> Callable[[], object]:
    """Return a call that ends when the GPU has done its work, which the next one then does not wait for."""

    def run() -> None:
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return run
