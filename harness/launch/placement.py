"""Decide which run starts next on the free devices of a machine, and in which order runs queue.

Pure: no clock, no files, no processes.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from harness.results.records import RunSpec

MAX_ORDERS = 30  # drawn per launch
# Above the lower bound of the time of all runs. A better order is not worth a less random one.
GOOD_ORDER = 1.02


@dataclass(frozen=True)
class Request:
    """A run that waits for `n_units` devices; `source` is the run that it starts from.

    `cost` is its predicted time in any unit.
    """

    run_id: str
    n_units: int = 1
    cost: float = 1.0
    source: str | None = None


class Queue:
    """The runs that have not started, in the order in which they should.

    A run that does not fit lets narrower ones pass, but no more than `max_passed` of them, so that
    a wide run starts in the end: then devices stay free until it fits.
    """

    def __init__(self, requests: Iterable[Request], max_passed: int) -> None:
        self._waiting = {request.run_id: request for request in requests}
        self._max_passed = max_passed
        self._n_passed: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(
        self, n_free: int, may_start: Callable[[Request], bool] = lambda request: True
    ) -> Request | None:
        """Remove and return the next run that fits in `n_free` devices; None if none does.

        A run whose source waits as well, or that may not start yet, is left out.
        """
        blocked: Request | None = None
        for request in self._waiting.values():
            fits = request.n_units <= n_free
            if request.source in self._waiting or not (fits or blocked is None):
                continue
            if not may_start(request):
                continue
            if fits:
                del self._waiting[request.run_id]
                if blocked is not None:
                    self._n_passed[blocked.run_id] += 1
                return request
            blocked = request
            if self._n_passed[request.run_id] >= self._max_passed:
                return None
        return None

    def put_back(self, request: Request) -> None:
        """Queue a run first that was taken and could not start."""
        self._waiting = {request.run_id: request, **self._waiting}


@dataclass(frozen=True)
class Span:
    """The time that a run has its devices, in a simulation."""

    request: Request
    start: float
    end: float
    units: tuple[int, ...]


def simulate(requests: Sequence[Request], n_units: int, max_passed: int) -> list[Span]:
    """Return when and where each run trains on `n_units` devices, by predicted times."""
    queue = Queue(requests, max_passed)
    free = list(range(n_units))
    spans: list[Span] = []
    ends: list[tuple[float, int]] = []  # of spans that have not ended, with their index
    running: set[str] = set()
    now = 0.0
    while True:
        while True:
            request = queue.take(len(free), lambda waiting: waiting.source not in running)
            if request is None:
                break
            units = tuple(free[: request.n_units])
            del free[: request.n_units]
            span = Span(request, now, now + request.cost, units)
            spans.append(span)
            heapq.heappush(ends, (span.end, len(spans) - 1))
            running.add(request.run_id)
        if not ends:
            return spans
        now, _ = ends[0]
        while ends and ends[0][0] <= now:  # runs that end together free their devices together
            _, index = heapq.heappop(ends)
            free += spans[index].units
            running.remove(spans[index].request.run_id)


def makespan(spans: Iterable[Span]) -> float:
    """Return the end of the last run."""
    return max((span.end for span in spans), default=0.0)


def randomize_within_seed(
    specs: Sequence[RunSpec], n_units: int = 1, width: Callable[[RunSpec], int] = lambda spec: 1
) -> list[RunSpec]:
    """Shuffle the runs within each seed, so that a slower machine affects all variants.

    Runs that others start from come first in their block. On several devices, of some random orders
    the first that keeps them busy to the end is taken, else the best one: with an unlucky order, a
    wide or long run at the end trains by itself. `width` is the number of devices of a run.
    """
    order = _shuffle(specs)
    if n_units == 1:
        return order
    requests = [request_of(spec, min(n_units, width(spec))) for spec in specs]
    total = sum(request.cost * request.n_units for request in requests)
    bound = max([total / n_units, *(request.cost for request in requests)])
    by_id = dict(zip((spec.run_id for spec in specs), requests, strict=True))
    best = order
    best_time: float | None = None
    for _ in range(MAX_ORDERS):
        time = makespan(simulate([by_id[spec.run_id] for spec in order], n_units, n_units))
        if best_time is None or time < best_time:
            best = order
            best_time = time
        if time <= GOOD_ORDER * bound:
            break
        order = _shuffle(specs)
    return best


def _shuffle(specs: Sequence[RunSpec]) -> list[RunSpec]:
    ordered: list[RunSpec] = []
    for _, block in groupby(specs, key=lambda spec: spec.seed):
        shuffled = list(block)
        random.shuffle(shuffled)
        shuffled.sort(key=lambda spec: spec.source_id is not None)
        ordered += shuffled
    return ordered


def request_of(spec: RunSpec, n_units: int) -> Request:
    """Return the request of a run for so many devices; its time is that of its FLOPs."""
    return Request(
        run_id=spec.run_id,
        n_units=n_units,
        cost=spec.total_flops / n_units,
        source=spec.source_id,
    )
