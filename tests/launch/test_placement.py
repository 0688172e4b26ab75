"""Without these, devices would idle or be used twice, or a wide run would never start."""

import itertools
import random

import pytest

from harness.launch.placement import (
    Queue,
    Request,
    makespan,
    randomize_within_seed,
    simulate,
)

N_DEVICES = 8
WIDTHS = (1, 1, 1, 2, 2, 2, 4, 4)  # of the entries of each of three seeds


def requests(cost=lambda width: 1.0):
    blocks = []
    for seed in range(3):
        block = [Request(f"{seed}-{i}", n, cost(n)) for i, n in enumerate(WIDTHS)]
        random.shuffle(block)
        blocks.append(block)
    return blocks


def test_devices_are_busy_for_every_random_order():
    random.seed(0)
    for _ in range(1000):
        order = [request for block in requests() for request in block]
        spans = simulate(order, N_DEVICES, N_DEVICES)
        busy = sum(span.request.cost * span.request.n_units for span in spans)
        assert busy / N_DEVICES / makespan(spans) >= 0.9
        assert {span.request.run_id for span in spans} == {request.run_id for request in order}


def test_no_device_has_two_runs_at_once():
    random.seed(0)
    for _ in range(100):
        order = [r for block in requests(lambda width: random.random()) for r in block]
        spans = simulate(order, N_DEVICES, N_DEVICES)
        for device in range(N_DEVICES):
            mine = sorted((span.start, span.end) for span in spans if device in span.units)
            assert all(end <= start for (_, end), (start, _) in itertools.pairwise(mine))
        assert all(len(span.units) == span.request.n_units for span in spans)


def test_a_wide_run_is_passed_a_bounded_number_of_times():
    """One device at a time becomes free: without a bound, narrow runs would always take it."""
    queue = Queue([Request("wide", 4), *(Request(f"{i}") for i in range(100))], max_passed=8)
    started = [queue.take(1) for _ in range(20)]
    assert [request is not None for request in started] == [True] * 8 + [False] * 12
    wide = queue.take(4)
    assert wide is not None and wide.run_id == "wide"
    assert queue.take(1) is not None


def test_a_run_waits_for_the_run_that_it_starts_from():
    order = [Request("child", source="parent"), Request("parent", cost=3.0), Request("other")]
    spans = {span.request.run_id: span for span in simulate(order, 4, 4)}
    assert spans["child"].start == spans["parent"].end and spans["other"].start == 0


def test_seeds_start_in_their_order():
    random.seed(1)
    blocks = requests()
    spans = simulate([request for block in blocks for request in block], 1000, 8)
    assert [span.request for span in spans] == [request for block in blocks for request in block]


class Spec:
    """The parts of a spec that an order depends on."""

    source_id = None

    def __init__(self, seed, width, steps):
        self.seed = seed
        self.width = width
        self.run_id = f"{seed}-{width}-{steps}"
        self.total_flops = steps


@pytest.mark.parametrize("n_devices", [1, 2])
def test_an_order_is_random_within_a_seed_and_ends_together(n_devices):
    """On two devices, a long run at the end of the last seed would train alone."""
    random.seed(2)
    specs = [Spec(seed, 1, steps) for seed in range(2) for steps in (1, 2, 3, 4, 5, 30)]
    orders = set()
    for _ in range(20):
        order = randomize_within_seed(specs, n_devices, lambda spec: spec.width)
        assert [spec.seed for spec in order] == [0] * 6 + [1] * 6
        assert sorted(spec.run_id for spec in order) == sorted(spec.run_id for spec in specs)
        orders.add(tuple(spec.run_id for spec in order))
        if n_devices == 2:
            queued = [Request(spec.run_id, 1, spec.total_flops) for spec in order]
            assert makespan(simulate(queued, 2, 2)) <= 1.15 * 45
    assert len(orders) >= 10
