"""The tokens of a rank are a function of (seed, step), for every variant and world size."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.batches import (
    Batches,
    Tokens,
    evaluation_offsets,
    micro_batch_size,
    shard_eval_windows,
)
from harness.results.records import TokenSlice

quick = settings(max_examples=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokens")


def write(folder, *lengths):
    """Write tokens 0, 1, 2 ... to files of these lengths, with other tokens around each part."""
    slices, start = [], 0
    for index, length in enumerate(lengths):
        file = folder / f"{'-'.join(map(str, lengths))}.{index}.bin"
        margin = np.full(3, 60_000, dtype=np.uint16)
        own = np.arange(start, start + length, dtype=np.uint16)
        np.concatenate((margin, own, margin)).tofile(file)
        slices.append(TokenSlice(file=str(file), start=3, stop=3 + length))
        start += length
    return Tokens(slices)


# -- tokens ----------------------------------------------------------------------------------------


@quick
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), data=st.data())
def test_a_window_crosses_the_ends_of_files(folder, lengths, data):
    """A lost or repeated token at a boundary would train on text that does not exist."""
    tokens, total = write(folder, *lengths), sum(lengths)
    assert len(tokens) == total
    start = data.draw(st.integers(0, total - 1))
    length = data.draw(st.integers(1, total - start))
    assert tokens.window(start, length).tolist() == list(range(start, start + length))


def test_targets_are_the_tokens_one_later(folder):
    tokens, targets = write(folder, 5, 5).windows(np.array([0, 3]), 4)
    assert tokens.tolist() == [[0, 1, 2, 3], [3, 4, 5, 6]]
    assert targets.tolist() == [[1, 2, 3, 4], [4, 5, 6, 7]]
    assert tokens.dtype == targets.dtype == torch.int64


def test_tokens_above_32767_stay_positive(tmp_path):
    """GPT-2's vocabulary needs all 16 bits."""
    np.array([50_256, 65_535], dtype=np.uint16).tofile(tmp_path / "high.bin")
    tokens = Tokens([TokenSlice(file=str(tmp_path / "high.bin"), start=0, stop=2)])
    assert tokens.windows(np.array([0]), 1)[0].tolist() == [[50_256]]
    assert tokens.windows(np.array([0]), 1)[1].tolist() == [[65_535]]


# -- batches ---------------------------------------------------------------------------------------


def batches(folder, seed=0, n_sequences=12, n_tokens=500, seq_len=8):
    return Batches(write(folder, n_tokens), seq_len, n_sequences, seed)


def test_a_batch_depends_only_on_seed_and_step(folder):
    """A run resumed at step 7 continues with the batch of step 7, whatever was drawn before."""
    fresh = batches(folder).offsets(7)
    used = batches(folder)
    for step in range(7):
        used.offsets(step)
    np.random.seed(3)
    assert np.array_equal(used.offsets(7), fresh)
    assert not np.array_equal(used.offsets(8), fresh)
    assert not np.array_equal(batches(folder, seed=1).offsets(7), fresh)
    assert not np.array_equal(batches(folder, seed=7).offsets(0), fresh), (
        "seed and step must not be added"
    )


@quick
@given(offset=st.integers(0, 10_000), step=st.integers(0, 10_000), world_size=st.integers(1, 4))
def test_an_offset_continues_the_order_of_the_data(folder, offset, step, world_size):
    """A run that starts from another one would see its batches again."""
    whole = batches(folder)
    rest = Batches(whole.tokens, whole.seq_len, whole.n_sequences, whole.seed, offset)
    assert np.array_equal(rest.offsets(step), whole.offsets(offset + step))
    for rank in range(world_size):
        expected = whole.micro_batches(offset + step, rank, world_size, 1)
        found = rest.micro_batches(step, rank, world_size, 1)
        assert all(torch.equal(a[1], b[1]) for a, b in zip(expected, found, strict=True))


def test_batches_are_those_of_earlier_results(folder):
    """If they change, a resumed run gets other data, and new seeds do not pair with old ones."""
    offsets = batches(folder, seed=3, n_sequences=16, n_tokens=5000).offsets(11)
    assert (
        hashlib.sha256(offsets.astype("<i8").tobytes()).hexdigest()
        == "c9b22b789dd99954d0ac86808b02005ad74c0ca9ef3d739eddabffcc7ecadbbb"
    )


def test_windows_begin_at_every_possible_offset(folder):
    """A first or last token that is never drawn, or a window over the end, is an off-by-one."""
    drawn = batches(folder, n_sequences=400, n_tokens=20, seq_len=8).offsets(0)
    assert set(drawn.tolist()) == set(range(20 - 8))
    only = batches(folder, n_tokens=9, seq_len=8)
    assert not only.offsets(0).any()
    assert only.micro_batches(0, 0, 1, 12)[0][1][0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


@quick
@given(
    world_size=st.integers(1, 4),
    per_rank=st.integers(1, 4),
    micro_batch=st.integers(1, 4),
    step=st.integers(0, 10_000),
)
def test_the_ranks_partition_the_sequences_of_a_step(
    folder, world_size, per_rank, micro_batch, step
):
    """Two ranks with the same sequences would train on half a batch, reported as a whole one."""
    source = batches(folder, n_sequences=world_size * per_rank * micro_batch)
    whole, _ = source.tokens.windows(source.offsets(step), 8)
    parts = [
        source.micro_batches(step, rank, world_size, micro_batch) for rank in range(world_size)
    ]
    assert {len(part) for part in parts} == {per_rank}
    assert {tokens.shape for part in parts for tokens, _ in part} == {(micro_batch, 8)}
    together = torch.cat([tokens for part in parts for tokens, _ in part])
    assert torch.equal(together, whole)
    assert all(torch.equal(tokens + 1, targets) for part in parts for tokens, targets in part)


# -- micro-batches ---------------------------------------------------------------------------------


@quick
@given(local_sequences=st.integers(1, 400), limit=st.none() | st.integers(1, 400))
def test_a_micro_batch_must_divide_the_local_sequences(local_sequences, limit):
    """Rounded without notice, the step would have another number of tokens than the study."""
    if limit is None or limit >= local_sequences:
        assert micro_batch_size(local_sequences, limit) == local_sequences
    elif local_sequences % limit == 0:
        assert micro_batch_size(local_sequences, limit) == limit
    else:
        message = f"^{limit} does not divide the {local_sequences} sequences of a rank$"
        with pytest.raises(ValueError, match=message):
            micro_batch_size(local_sequences, limit)


# -- evaluation ------------------------------------------------------------------------------------


@quick
@given(n_tokens=st.integers(2, 5000), seq_len=st.integers(1, 64))
def test_evaluation_covers_the_validation_part_without_overlap(n_tokens, seq_len):
    """Each token is predicted exactly once, except for an incomplete window at the end."""
    if n_tokens <= seq_len:
        return
    offsets = evaluation_offsets(n_tokens, seq_len, None)
    assert np.array_equal(offsets, np.arange(len(offsets)) * seq_len)
    predicted = offsets[-1] + seq_len
    assert predicted <= n_tokens - 1 < predicted + seq_len


@quick
@given(
    n_windows=st.integers(1, 300),
    seq_len=st.integers(1, 32),
    rest=st.integers(0, 31),
    eval_tokens=st.integers(1, 9000),
)
def test_fewer_evaluation_tokens_are_spread_evenly(n_windows, seq_len, rest, eval_tokens):
    """The beginning of the validation part would be only one scene of the play."""
    n_tokens = n_windows * seq_len + 1 + min(rest, seq_len - 1)
    offsets = evaluation_offsets(n_tokens, seq_len, eval_tokens)
    assert len(offsets) == min(n_windows, max(1, eval_tokens // seq_len))
    assert offsets[0] == 0 and (offsets % seq_len == 0).all() and offsets[-1] + seq_len < n_tokens
    gaps = np.diff(offsets, append=n_windows * seq_len) // seq_len
    assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


@quick
@given(n_windows=st.integers(1, 120), world_size=st.integers(1, 8), batch=st.integers(1, 20))
def test_each_window_counts_once_and_ranks_have_equal_batches(n_windows, world_size, batch):
    """A rank without a batch would deadlock; a window counted twice would change the loss."""
    offsets = np.arange(n_windows) * 64
    shares = [shard_eval_windows(offsets, rank, world_size, batch) for rank in range(world_size)]
    assert len({tuple(len(chunk) for chunk, _ in share) for share in shares}) == 1
    assert all(
        1 <= len(chunk) == len(weights) <= batch for share in shares for chunk, weights in share
    )
    counted = [
        offset
        for share in shares
        for chunk, weights in share
        for offset, weight in zip(chunk.tolist(), weights.tolist(), strict=True)
        for _ in range(int(weight))
    ]
    assert sorted(counted) == offsets.tolist()
    assert {weight for share in shares for _, weights in share for weight in weights.tolist()} <= {
        0.0,
        1.0,
    }
    assert all(np.isin(chunk, offsets).all() for share in shares for chunk, _ in share)
