"""The length probe gives the mean loss that the validation text has at each length, whoever computes it."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from harness.distributed.process_group import DistributedContext
from harness.model.builder import ModelBuilder
from harness.model.initialization import init_parameters
from harness.probes import eval_lengths as lengths
from harness.results.records import (
    LaunchSpec,
    ProbeSettings,
    TokenSlice,
    TrainSettings,
    VariantChoice,
)
from harness.training.evaluation import Evaluation, Windows
from variants.base import ModelShape

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=16, vocab_size=17)
N_TOKENS = 301  # of the validation part


class Spec:
    """As much of a run's spec as the probe and an evaluation read."""

    def __init__(self, folder, asked, **train):
        tokens = np.random.default_rng(0).integers(0, SHAPE.vocab_size, N_TOKENS).astype(np.uint16)
        tokens.tofile(folder / "tokens.bin")
        np.save(folder / "bytes.npy", np.ones(SHAPE.vocab_size))
        part = TokenSlice(file=str(folder / "tokens.bin"), start=0, stop=N_TOKENS)
        self.model, self.probes = SHAPE, ProbeSettings(eval_lengths=asked)
        self.train = TrainSettings(**{"steps": 1, "tokens_per_step": 1} | train)
        self.launch = LaunchSpec(
            world_size=1,
            timeout_s=None,
            variant_paths=[],
            token_bytes=str(folder / "bytes.npy"),
            train_tokens=[],
            val_tokens=[part],
        )


class Alone(DistributedContext):
    """A rank whose sums stay its own, so that a test can put several together."""

    def sum(self, *values):
        self.__dict__.setdefault("sums", []).append(values)
        return list(values)


class SyntheticStudy(nn.Module):
    """A model whose loss a test can foresee: a function of the targets."""

    def __init__(self, loss):
        super().__init__()
        self.loss, self.seen = loss, []

    def forward(self, tokens_BT, targets_BT):
        self.seen.append(tuple(tokens_BT.shape))
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


def measure(spec, model, ranks):
    return lengths.measure(spec, model, model, ranks)


@pytest.fixture
def one():
    """The only rank, which needs no process group."""
    return Alone(0, 1, torch.device("cpu"))


# -- what is measured ------------------------------------------------------------------------------------------------


def test_a_model_that_knows_nothing_has_ln_of_the_vocabulary_at_every_position(tmp_path, one):
    model = gpt()
    nn.init.zeros_(model.wte.weight)
    for record in measure(Spec(tmp_path, [8, 16, 64]), model, one):
        assert record["val_loss"] == pytest.approx(math.log(17), rel=1e-6)
        assert record["loss_by_position"] == pytest.approx(
            [math.log(17)] * record["length"], rel=1e-6
        )


def test_losses_windows_and_positions_of_a_hand_case(tmp_path, one):
    """Targets are the tokens after the first; at length 4, 75 windows hold all 300 of them."""
    spec = Spec(tmp_path, [4, 300])
    tokens = np.fromfile(tmp_path / "tokens.bin", dtype=np.uint16).astype(float)
    four, all_at_once = measure(spec, SyntheticStudy(lambda targets: targets), one)
    assert four["windows"] == 75 and all_at_once["windows"] == 1
    assert four["val_loss"] == pytest.approx(tokens[1:].mean()) == all_at_once["val_loss"]
    assert four["loss_by_position"] == pytest.approx(tokens[1:].reshape(75, 4).mean(0).tolist())
    assert all_at_once["loss_by_position"] == tokens[1:].tolist()
    assert four["reason"] is all_at_once["reason"] is None


def test_the_loss_of_a_length_is_that_length_and_order_is_the_studys(tmp_path, one):
    fake = SyntheticStudy(lambda targets: torch.full_like(targets, targets.shape[1]))
    found = measure(Spec(tmp_path, [32, 8, 32, 100]), fake, one)
    assert [(r["length"], r["val_loss"]) for r in found] == [(32, 32), (8, 8), (100, 100)]
    assert {length for _, length in fake.seen} == {8, 32, 100}


def test_every_length_has_about_the_tokens_of_an_evaluation(tmp_path, one):
    found = measure(
        Spec(tmp_path, [4, 10, 200], eval_tokens=100), SyntheticStudy(lambda targets: targets), one
    )
    assert [record["windows"] for record in found] == [25, 10, 1]


def test_long_sequences_go_through_the_model_a_few_at_a_time(tmp_path, one, monkeypatch):
    monkeypatch.setattr("harness.training.evaluation.MAX_TOKENS", 64)
    fake = SyntheticStudy(lambda targets: targets)
    measure(Spec(tmp_path, [4, 20, 100]), fake, one)
    assert {length: max(n for n, of in fake.seen if of == length) for _, length in fake.seen} == {
        4: 16,
        20: 3,
        100: 1,
    }


def test_at_the_trained_length_it_is_the_validation_loss(tmp_path, one, monkeypatch):
    """A model left in training, or other windows, would give another number under the same name."""
    written = []
    file = type("File", (), {"append": lambda self, line: written.append(line)})()
    run = type("Run", (), {"eval_file": lambda self: file, "beat": lambda self: None})()
    for train in ({}, {"eval_tokens": 100}, {"precision": "bf16"}):
        spec, model = Spec(tmp_path, [SHAPE.seq_len], **train), gpt().train()
        val_loss = Evaluation(run, spec, one)(model, step=0, train_s=0.0)
        (record,) = measure(spec, model, one)
        assert record["val_loss"] == pytest.approx(val_loss, rel=1e-12)
        assert model.training


@pytest.mark.parametrize("positional", ["rope", "sinusoidal", "alibi", "t5", "none"])
@pytest.mark.parametrize("attention", [("mha", {}), ("sliding_window", {"window": 5})])
def test_positions_that_extend_have_finite_losses_beyond_the_trained_length(
    tmp_path, one, positional, attention
):
    (record,) = measure(Spec(tmp_path, [50]), gpt(positional, attention[0], **attention[1]), one)
    assert (
        record["reason"] is None
        and np.isfinite([record["val_loss"], *record["loss_by_position"]]).all()
    )
    assert record["val_loss"] == pytest.approx(np.mean(record["loss_by_position"]))


def test_what_comes_before_does_not_depend_on_the_length(tmp_path, one):
    """The model is causal: the first 8 of 16 positions are those of a window of 8 that begins at the same place."""
    model = gpt()
    windows = {length: Windows(Spec(tmp_path, [length]), one, length) for length in (8, 16)}
    losses = {
        length: np.concatenate([x.numpy() for x, *_ in w.losses(model)])
        for length, w in windows.items()
    }
    assert losses[8][::2][:18] == pytest.approx(losses[16][:18, :8], rel=1e-5)


# -- what is not defined ---------------------------------------------------------------------------------------------


def test_learned_positions_end_at_the_trained_length(tmp_path, one):
    within, beyond = measure(Spec(tmp_path, [16, 17]), gpt("learned"), one)
    assert within["reason"] is None and within["val_loss"] > 0
    assert beyond == {
        "length": 17,
        "val_loss": None,
        "loss_by_position": [],
        "windows": 0,
        "reason": "no positions beyond seq_len = 16",
    }


def test_a_loss_that_is_no_number_is_told(tmp_path, one):
    fake = SyntheticStudy(lambda targets: torch.where(targets > 15, torch.inf, targets))
    (record,) = measure(Spec(tmp_path, [8]), fake, one)
    assert record["reason"] == "the loss is not a finite number" and record["val_loss"] is None


def test_no_memory_for_one_length_leaves_the_others_unless_ranks_wait_for_each_other(tmp_path, one):
    def loss(targets):
        if targets.shape[1] > 20:
            raise torch.OutOfMemoryError("planted")
        return targets

    found = measure(Spec(tmp_path, [64, 8]), SyntheticStudy(loss), one)
    assert [record["reason"] for record in found] == ["out of memory", None]
    with pytest.raises(torch.OutOfMemoryError):
        measure(Spec(tmp_path, [64, 8]), SyntheticStudy(loss), Alone(0, 2, torch.device("cpu")))
    with pytest.raises(ZeroDivisionError):
        measure(Spec(tmp_path, [8]), SyntheticStudy(lambda targets: 1 / 0), one)


def test_nothing_is_measured_where_nothing_is_asked_for(tmp_path, one):
    assert measure(Spec(tmp_path, None), None, one) == []


@pytest.mark.parametrize("asked", [[], [0], [-4], [8.5], ["8"], 8])
def test_what_is_no_length_is_refused(asked):
    with pytest.raises(ValueError):
        ProbeSettings.model_validate({"eval_lengths": asked})


# -- ranks and bins --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [2, 7])
def test_the_sums_over_any_number_of_ranks_are_those_of_one(tmp_path, world_size):
    """18 windows of 16 and 6 of 50: those that only fill up a rank's share must not count."""
    spec, model, totals = Spec(tmp_path, [16, 50]), gpt(), []
    for n in (1, world_size):
        parts = [Alone(rank, n, torch.device("cpu")) for rank in range(n)]
        for part in parts:
            measure(spec, model, part)
        totals.append(
            [np.sum(of_all, axis=0) for of_all in zip(*(part.sums for part in parts), strict=True)]
        )
    for one, several in zip(*totals, strict=True):
        assert several == pytest.approx(one, rel=1e-6)


def test_positions_are_kept_one_by_one_up_to_a_limit_and_then_as_means_of_equal_bins(monkeypatch):
    assert lengths.binned(np.arange(1024.0)) == list(range(1024))
    assert lengths.binned(np.arange(4096.0)) == [4 * i + 1.5 for i in range(1024)]
    monkeypatch.setattr(lengths, "MAX_BINS", 3)
    assert lengths.binned(np.array([1.0, 2, 3, 5, 7, 9, 11, 13])) == [
        1.5,
        5,
        11,
    ]  # 2, 3 and 3 positions
