"""The peak memory of `make bench`, worked out by hand on small tensors."""

import json

import peak_memory
import torch

KB = 1000


def test_the_peak_is_that_of_storages_alive_at_once():
    """Views, results in place and freed tensors take no memory of their own."""

    def make_step():
        state = torch.zeros(250)  # 1 kB, kept by both steps

        def step():
            a = torch.ones(1000)  # 4 kB
            b = a * 2
            del a
            b.add_(1)
            c = b.view(10, 100)[:5] + 1  # 2 kB, while a is freed
            del b, c
            state.add_(1)

        return step

    assert peak_memory.peak_bytes(make_step) == 9 * KB


def test_the_peak_of_the_second_step_counts_what_the_first_one_keeps():
    def make_step():
        kept = []

        def step():
            if kept:
                torch.zeros(250)
            else:
                torch.zeros(10000)  # only in the first step
                kept.append(torch.zeros(500))

        return step

    assert peak_memory.peak_bytes(make_step) == 3 * KB


def test_the_backward_pass_counts():
    """The gradient of a saved activation is alive together with it."""

    def make_step():
        weight = torch.ones(250, requires_grad=True)

        def step():
            loss = (weight * 2).exp().sum()
            loss.backward()
            weight.grad = None

        return step

    # The weight, the saved exponential, and at most three of gradients and scalars at once.
    assert 3 * KB < peak_memory.peak_bytes(make_step) < 6 * KB


def test_peaks_are_written_in_bytes(tmp_path):
    file = tmp_path / "bench" / "memory.json"
    peak_memory.write(file, [peak_memory.Peak("b", 3, "peer", 4, 0.75)])
    assert json.loads(file.read_text())[0] | {"ratio": 0} == {
        "benchmark": "b",
        "ours_bytes": 3,
        "peer": "peer",
        "peer_bytes": 4,
        "ratio": 0,
    }
