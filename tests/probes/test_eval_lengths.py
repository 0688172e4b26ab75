"""The length probe gives the mean validation loss at each sequence length."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from harness.distributed.process_group import DistributedContext
from harness.model.builder import ModelBuilder
from harness.model.initialization import init_parameters
from harness.probes import eval_lengths
from harness.probes.validation import ValidationWindows
from harness.results.records import (
    LaunchSpec,
    LengthRecord,
    ProbeSettings,
    TokenSlice,
    TrainSettings,
    VariantChoice,
)
from harness.training.evaluation import Evaluation
from variants.base import ModelShape

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=16, vocab_size=17)
N_TOKENS = 301  # of the validation split


def spec(folder, lengths, **train):
    """The part of a run's spec that the probe and an evaluation read."""
    tokens = np.random.default_rng(0).integers(0, SHAPE.vocab_size, N_TOKENS).astype(np.uint16)
    tokens.tofile(folder / "tokens.bin")
    np.save(folder / "bytes.npy", np.ones(SHAPE.vocab_size))
    launch = LaunchSpec(
        world_size=1,
        timeout_s=None,
        variant_paths=[],
        token_bytes=str(folder / "bytes.npy"),
        train_tokens=[],
        val_tokens=[TokenSlice(file=str(folder / "tokens.bin"), start=0, stop=N_TOKENS)],
    )
    return SimpleNamespace(
        model=SHAPE,
        init=None,
        eval_windows="all",
        data=SimpleNamespace(tokenizer="gpt2", entropy_nats_per_byte=None),
        probes=ProbeSettings(eval_lengths=lengths),
        train=TrainSettings(**{"steps": 1, "tokens_per_step": 1} | train),
        launch=launch,
    )


class UnsummedContext(DistributedContext):
    """A rank that records its own sums, so that a test can add up several ranks."""

    def sum(self, *values):
        self.__dict__.setdefault("sums", []).append(values)
        return list(values)


class PredictableModel(nn.Module):
    """A model whose loss is a function of the targets."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss
        self.shapes = []

    def forward(self, tokens_BT, targets_BT):
        self.shapes.append(tuple(tokens_BT.shape))
        return self.loss(targets_BT.float())

    def why_unsupported_length(self, length):
        return None


def gpt(positional="rope", attention="mha", **options):
    axes = {
        "positional": VariantChoice(name=positional, label="", options={}),
        "attention": VariantChoice(name=attention, label="", options=options),
    }
    model = ModelBuilder(SHAPE, axes, []).model().to_empty(device="cpu")
    init_parameters(model, 0)
    return model


def measure(spec, model, context):
    return eval_lengths.measure(spec, model, model, context)


@pytest.fixture
def one():
    """The only rank, without a process group."""
    return UnsummedContext(0, 1, torch.device("cpu"))


# -- what is measured ------------------------------------------------------------------------------


def test_uniform_model_has_loss_ln_vocab_at_every_position(tmp_path, one):
    model = gpt()
    nn.init.zeros_(model.wte.weight)
    for record in measure(spec(tmp_path, [8, 16, 64]), model, one):
        assert record.val_loss == pytest.approx(math.log(17), rel=1e-6)
        expected = [math.log(17)] * record.length
        assert record.loss_by_position == pytest.approx(expected, rel=1e-6)


def test_losses_windows_and_positions_by_hand(tmp_path, one):
    """The targets are the tokens after the first; at length 4, 75 windows hold all 300 of them."""
    run_spec = spec(tmp_path, [4, 300])
    targets = np.fromfile(tmp_path / "tokens.bin", dtype=np.uint16).astype(float)[1:]
    short, long = measure(run_spec, PredictableModel(lambda targets: targets), one)
    assert (short.windows, long.windows) == (75, 1)
    assert short.val_loss == pytest.approx(targets.mean()) == long.val_loss
    assert short.loss_by_position == pytest.approx(targets.reshape(75, 4).mean(0).tolist())
    assert long.loss_by_position == targets.tolist()
    assert short.reason is None
    assert long.reason is None


def test_records_follow_the_studys_order_of_lengths(tmp_path, one):
    model = PredictableModel(lambda targets: torch.full_like(targets, targets.shape[1]))
    records = measure(spec(tmp_path, [32, 8, 32, 100]), model, one)
    losses = [(record.length, record.val_loss) for record in records]
    assert losses == [(32, 32), (8, 8), (100, 100)]
    assert {length for _, length in model.shapes} == {8, 32, 100}


def test_every_length_uses_about_eval_tokens(tmp_path, one):
    model = PredictableModel(lambda targets: targets)
    records = measure(spec(tmp_path, [4, 10, 200], eval_tokens=100), model, one)
    assert [record.windows for record in records] == [25, 10, 1]


def test_batches_are_limited_by_tokens_per_forward_pass(tmp_path, one, monkeypatch):
    monkeypatch.setattr("harness.probes.validation.MAX_TOKENS", 64)
    model = PredictableModel(lambda targets: targets)
    measure(spec(tmp_path, [4, 20, 100]), model, one)
    largest = {}
    for batch, length in model.shapes:
        largest[length] = max(batch, largest.get(length, 0))
    assert largest == {4: 16, 20: 3, 100: 1}


@pytest.mark.parametrize("train", [{}, {"eval_tokens": 100}, {"precision": "bf16"}])
def test_loss_at_seq_len_is_the_validation_loss(tmp_path, one, train):
    """A model in training mode, or other windows, would give another number under the same name."""
    run = SimpleNamespace(
        eval_file=lambda: SimpleNamespace(append=lambda record: None), touch=lambda: None
    )
    run_spec = spec(tmp_path, [SHAPE.seq_len], **train)
    model = gpt().train()
    val_loss = Evaluation(run, run_spec, one)(model, step=0, train_s=0.0)
    (record,) = measure(run_spec, model, one)
    assert record.val_loss == pytest.approx(val_loss, rel=1e-12)
    assert model.training


@pytest.mark.parametrize("positional", ["rope", "sinusoidal", "alibi", "t5", "none"])
@pytest.mark.parametrize("attention", ["mha", "sliding_window"])
def test_extrapolating_positions_have_finite_losses(tmp_path, one, positional, attention):
    options = {"window": 5} if attention == "sliding_window" else {}
    (record,) = measure(spec(tmp_path, [50]), gpt(positional, attention, **options), one)
    assert record.reason is None
    assert np.isfinite(record.loss_by_position).all()
    assert record.val_loss == pytest.approx(np.mean(record.loss_by_position))


def test_early_positions_do_not_depend_on_the_length(tmp_path, one):
    """The model is causal: the first 8 of 16 positions are those of a window of 8."""
    model = gpt()
    losses = {}
    for length in (8, 16):
        windows = ValidationWindows(spec(tmp_path, [length]), one, length)
        losses[length] = np.concatenate([loss_BT.numpy() for loss_BT, *_ in windows.losses(model)])
    assert losses[8][::2][:18] == pytest.approx(losses[16][:18, :8], rel=1e-5)


# -- what is undefined -----------------------------------------------------------------------------


def test_learned_positions_are_undefined_beyond_seq_len(tmp_path, one):
    within, beyond = measure(spec(tmp_path, [16, 17]), gpt("learned"), one)
    assert within.reason is None
    assert within.val_loss > 0
    assert beyond == LengthRecord(
        length=17,
        val_loss=None,
        loss_by_position=[],
        windows=0,
        reason="no positions beyond seq_len = 16",
    )


def test_infinite_loss_gives_a_reason(tmp_path, one):
    model = PredictableModel(lambda targets: torch.where(targets > 15, torch.inf, targets))
    (record,) = measure(spec(tmp_path, [8]), model, one)
    assert record.reason == "the loss is not a finite number"
    assert record.val_loss is None


def test_out_of_memory_skips_one_length_on_a_single_rank_only(tmp_path, one):
    def loss(targets):
        if targets.shape[1] > 20:
            raise torch.OutOfMemoryError("planted")
        return targets

    records = measure(spec(tmp_path, [64, 8]), PredictableModel(loss), one)
    assert [record.reason for record in records] == ["out of memory", None]
    two = UnsummedContext(0, 2, torch.device("cpu"))
    with pytest.raises(torch.OutOfMemoryError):
        measure(spec(tmp_path, [64, 8]), PredictableModel(loss), two)
    with pytest.raises(ZeroDivisionError):
        measure(spec(tmp_path, [8]), PredictableModel(lambda targets: 1 / 0), one)


def test_probe_is_optional(tmp_path, one):
    assert measure(spec(tmp_path, None), None, one) == []


@pytest.mark.parametrize("lengths", [[], [0], [-4], [8.5], ["8"], 8])
def test_invalid_lengths_are_rejected(lengths):
    with pytest.raises(ValueError, match="eval_lengths"):
        ProbeSettings.model_validate({"eval_lengths": lengths})


# -- ranks and bins --------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [2, 7])
def test_sums_do_not_depend_on_the_world_size(tmp_path, world_size):
    """18 windows of 16 and 6 of 50: the windows that pad a rank's batches must not count."""
    run_spec = spec(tmp_path, [16, 50])
    model = gpt()

    def totals(n_ranks):
        by_length = [np.zeros(16), np.zeros(50)]
        for rank in range(n_ranks):
            context = UnsummedContext(rank, n_ranks, torch.device("cpu"))
            measure(run_spec, model, context)
            for i, sums in enumerate(context.sums):
                by_length[i] += sums
        return by_length

    for expected, total in zip(totals(1), totals(world_size), strict=True):
        assert total == pytest.approx(expected, rel=1e-6)


def test_long_sequences_are_averaged_in_equal_bins(monkeypatch):
    bin_positions = eval_lengths.bin_positions
    assert bin_positions(np.arange(1024.0)) == list(range(1024))
    assert bin_positions(np.arange(4096.0)) == [4 * i + 1.5 for i in range(1024)]
    monkeypatch.setattr(eval_lengths, "MAX_BINS", 3)
    losses = np.array([1.0, 2, 3, 5, 7, 9, 11, 13])
    assert bin_positions(losses) == [1.5, 5, 11], "bins of 2, 3 and 3 positions"
