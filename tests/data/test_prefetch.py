"""Steps read ahead are those that a run without it reads, in any order."""

import threading

import pytest
import torch

from harness.data.prefetch import Prefetch


class Source:
    """Makes a micro-batch that states its step; notes the threads that made them."""

    def __init__(self, fails_at=None):
        self.fails_at = fails_at
        self.made = {}

    def __call__(self, step):
        self.made.setdefault(step, []).append(threading.current_thread().name)
        if step == self.fails_at:
            raise OSError(f"step {step}: the disk is gone")
        tokens_BT = torch.full((2, 4), step)
        return [(tokens_BT[:, :-1], tokens_BT[:, 1:])]


def read(prefetch, step):
    ((tokens_BT, targets_BT),) = prefetch(step)
    assert set(tokens_BT.flatten().tolist()) == set(targets_BT.flatten().tolist()) == {step}
    assert tokens_BT.shape == targets_BT.shape == (2, 3)


def test_any_order_of_steps_reads_each_steps_own_tokens():
    """A resumed run begins anywhere, and repeats a step that it measures or diagnoses."""
    prefetch = Prefetch(Source(), pin=False)
    for step in (0, 0, 1, 2, 7, 8, 7, 7, 8, 3, 0, 1):
        read(prefetch, step)


def test_the_next_step_is_made_ahead_and_only_once():
    source = Source()
    prefetch = Prefetch(source, pin=False)
    for step in range(4):
        read(prefetch, step)
        prefetch._next[1].result()
        assert max(source.made) == step + 1
    assert all(len(threads) == 1 for threads in source.made.values())
    own = threading.current_thread().name
    assert [step for step, (thread,) in source.made.items() if thread == own] == [0]


def test_tokens_that_cannot_be_read_fail_the_step_that_needs_them():
    prefetch = Prefetch(Source(fails_at=2), pin=False)
    read(prefetch, 0)
    read(prefetch, 1)
    with pytest.raises(OSError, match="the disk is gone"):
        prefetch(2)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tokens_for_a_gpu_are_in_pinned_memory():
    prefetch = Prefetch(Source(), pin=True)
    for step in range(3):
        read(prefetch, step)
        ((tokens_BT, targets_BT),) = prefetch(step)
        assert tokens_BT.is_pinned() and targets_BT.is_pinned()
