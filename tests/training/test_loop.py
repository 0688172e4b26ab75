"""The loop records every step, gives the same bits every time, and stops when training diverges."""

import hashlib
import math
import operator

import numpy as np
import pytest
import torch
from tiny_run import N_VAL_TOKENS, SEQ_LEN, VOCAB, tiny_spec

from harness.data.batches import Tokens, evaluation_offsets
from harness.distributed.process_group import DistributedContext
from harness.model.builder import ModelBuilder
from harness.model.initialization import init_parameters
from harness.probes.post_training import N_TIMED
from harness.results.records import RankPhases
from harness.results.run import Run
from harness.training import loop
from harness.training.evaluation import Evaluation
from harness.training.loop import NotFiniteError, train
from variants.base import ModelShape


def train_tiny(folder, ranks, name="run", **changes):
    """Train, and return the run, its steps and the probes' results."""
    run = Run(folder / name)
    run.path.mkdir()
    probes = train(run, tiny_spec(folder, **changes), ranks)
    return run, run.steps(), probes


# -- training --------------------------------------------------------------------------------------


def test_every_step_and_evaluation_is_recorded(tmp_path, ranks):
    run, steps, probes = train_tiny(tmp_path, ranks)
    assert steps.step.tolist() == list(range(6))
    assert (steps.tokens == 64).all()
    assert (steps.step_s > 0).all()
    assert (steps.grad_norm > 0).all()
    assert steps.lr[0] == 1e-2
    assert (np.diff(steps.lr) < 0).all()
    assert steps.warmup.tolist() == [True] * 3 + [False] * 3
    evals = run.evals()
    assert [line.step for line in evals] == [0, 4, 6]
    train_s = [0, steps.step_s[:4].sum(), steps.step_s.sum()]
    assert [line.train_s for line in evals] == pytest.approx(train_s)
    assert probes.time.train_s == pytest.approx(steps.step_s.sum())
    parameter_bytes = 4 * probes.parameters
    assert probes.memory[0].parameters == parameter_bytes
    assert probes.predicted_memory.parameters == parameter_bytes
    assert probes.predicted_memory.optimizer == 2 * parameter_bytes
    assert probes.attention_kernels == ["_scaled_dot_product_flash_attention_for_cpu"]
    assert probes.decoding == []
    assert probes.lengths == []


def test_seed_sets_parameters_and_data_seed_sets_the_data_order(tmp_path, ranks):
    def initial_hash_and_losses(name, **seeds):
        run, steps, probes = train_tiny(tmp_path, ranks, name, **seeds)
        return probes.initial_hash, run.evals()[0].val_loss, steps.loss.tolist()

    hash_0, val_loss_0, losses_0 = initial_hash_and_losses("0", seed=0)
    hash_1, _, losses_1 = initial_hash_and_losses("1", seed=1)
    hash_0d1, val_loss_0d1, losses_0d1 = initial_hash_and_losses("0d1", seed=0, data_seed=1)
    assert hash_0d1 == hash_0 != hash_1
    assert val_loss_0d1 == val_loss_0
    assert losses_0d1[0] not in (losses_0[0], losses_1[0])
    assert initial_hash_and_losses("1d1", seed=1, data_seed=1)[2] == losses_1


def test_model_learns(tmp_path, ranks):
    """From a guess, ln 17, to a text that can be predicted."""
    run, steps, _ = train_tiny(tmp_path, ranks, steps=40, eval_every=40)
    assert steps.loss[0] == pytest.approx(math.log(VOCAB), abs=0.05)
    first, last = run.evals()
    assert first.val_loss == pytest.approx(math.log(VOCAB), abs=0.05)
    assert last.val_loss < 1.0


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_same_spec_gives_the_same_bits(tmp_path, ranks, dropout):
    run_1, steps_1, probes_1 = train_tiny(tmp_path, ranks, "1", dropout=dropout)
    run_2, steps_2, probes_2 = train_tiny(tmp_path, ranks, "2", dropout=dropout)
    _, other_steps, other_probes = train_tiny(tmp_path, ranks, "3", dropout=dropout, seed=1)
    assert steps_1.loss.tolist() == steps_2.loss.tolist()
    assert steps_1.grad_norm.tolist() == steps_2.grad_norm.tolist()
    assert run_1.evals()[-1].val_loss == run_2.evals()[-1].val_loss
    assert probes_1.initial_hash == probes_2.initial_hash != other_probes.initial_hash
    assert steps_1.loss.tolist() != other_steps.loss.tolist()


def test_micro_batches_change_memory_but_not_the_result(tmp_path, ranks):
    """Gradients that are summed instead of averaged would silently train at another rate."""
    _, whole_steps, whole = train_tiny(tmp_path, ranks, "whole")
    _, micro_steps, micro = train_tiny(tmp_path, ranks, "micro", micro_batch_size=2)
    assert micro_steps.loss.tolist() == pytest.approx(whole_steps.loss.tolist(), rel=1e-5)
    assert micro_steps.grad_norm.tolist() == pytest.approx(whole_steps.grad_norm.tolist(), rel=1e-4)
    activations = whole.memory[0].activations
    assert micro.memory[0].activations * 4 == pytest.approx(activations, rel=0.01)
    assert micro.flops_per_token_counted == whole.flops_per_token_counted


def test_evaluation_interval_does_not_change_training(tmp_path, ranks):
    """An evaluation must not draw random numbers or leave the model in evaluation mode."""
    _, seldom, _ = train_tiny(tmp_path, ranks, "seldom", eval_every=100, dropout=0.2)
    _, often, _ = train_tiny(tmp_path, ranks, "often", eval_every=1, dropout=0.2)
    assert seldom.loss.tolist() == often.loss.tolist()


def test_first_loss_is_that_of_the_untrained_model(tmp_path, ranks):
    """The step's loss is the mean over all of its tokens, before the update."""
    _, steps, probes = train_tiny(tmp_path, ranks, steps=1)
    _, large_rate, _ = train_tiny(tmp_path, ranks, "large_rate", steps=1, lr=10.0)
    assert steps.loss[0] == large_rate.loss[0]
    assert len(probes.initial_hash) == len(hashlib.sha256().hexdigest())


def test_diverged_run_stops_and_records_the_failing_step(tmp_path, ranks, monkeypatch):
    monkeypatch.setattr(loop.optim, "learning_rate", lambda step, settings, peak: 1e30)
    with pytest.raises(NotFiniteError, match=r"^step \d+: loss (nan|inf)"):
        train_tiny(tmp_path, ranks, steps=50, weight_decay=0.0)
    losses = Run(tmp_path / "run").steps().loss
    assert 0 < len(losses) < 50
    assert not np.isfinite(losses[-1])
    assert np.isfinite(losses[:-1]).all()


def test_measured_steps_follow_everything_that_is_kept(tmp_path, ranks, monkeypatch):
    """They change the model: a checkpoint or a hash after them would describe another model."""
    events = []

    def note(owner, name):
        original = getattr(owner, name)

        def noted(*args, **kwargs):
            events.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, noted)

    note(loop, "parameter_hashes")
    note(loop, "measure_memory")
    note(loop.decode, "measure")
    note(loop.eval_lengths, "measure")
    note(loop.Checkpoints, "save")
    note(loop.Evaluation, "__call__")
    make_step = loop.TrainStep.__call__

    def noted_step(self, step, *timer):
        if step >= self.settings.steps:
            events.append("extra")
        return make_step(self, step, *timer)

    monkeypatch.setattr(loop.TrainStep, "__call__", noted_step)
    train_tiny(tmp_path, ranks)
    first_extra = events.index("extra")
    kept = {"parameter_hashes", "measure_memory", "save", "__call__", "measure"}
    assert set(events[:first_extra]) == kept
    assert events.count("measure") == 2
    assert set(events[first_extra:]) == {"extra"}


def test_phases_of_a_step_are_measured(tmp_path, ranks):
    _, _, probes = train_tiny(tmp_path, ranks)
    (phases,) = probes.phases
    for name, seconds in phases.model_dump().items():
        assert len(seconds) == N_TIMED, name
        assert min(seconds) >= 0, name
    assert min(phases.forward_s + phases.backward_s + phases.optimizer_s) > 0
    assert phases.waiting_s == [0] * N_TIMED, "one process waits for no other"
    assert 0 < phases.data_wait < 1
    assert all(map(operator.le, phases.data_s, phases.other_s))
    older = RankPhases(**phases.model_dump(exclude={"data_s"}))
    assert older.data_wait is None
    assert probes.traffic == [{}]
    assert probes.predicted_bytes_sent == 0


# -- evaluation ------------------------------------------------------------------------------------


def make_model(spec):
    shape = ModelShape(**spec.model.model_dump())
    model = ModelBuilder(shape, spec.axes, []).model().to_empty(device="cpu")
    init_parameters(model, 0)
    return model


class UnsummedContext(DistributedContext):
    """A rank that records its own sums, so that a test can add up several ranks."""

    def sum(self, *values):
        self.__dict__["sums"] = values
        return [1.0 for _ in values]


def test_validation_loss_is_the_mean_over_all_windows(tmp_path, ranks):
    spec = tiny_spec(tmp_path, dropout=0.3)
    run = Run(tmp_path)
    model = make_model(spec)
    Evaluation(run, spec, ranks)(model, step=3, train_s=1.5)
    assert model.training, "dropout is active again"
    (line,) = run.evals()
    tokens = Tokens(spec.launch.val_tokens)
    offsets = evaluation_offsets(N_VAL_TOKENS, SEQ_LEN, None)
    inputs, targets = tokens.windows(offsets, SEQ_LEN)
    assert targets.numel() == 96
    nats = model.eval()(inputs, targets).double().sum().item()
    n_bytes = (1 + targets % 3).sum().item()
    assert (line.step, line.train_s) == (3, 1.5)
    assert line.val_loss == pytest.approx(nats / 96, rel=1e-6)
    assert line.bits_per_byte == pytest.approx(nats / n_bytes / math.log(2), rel=1e-6)


def test_separators_count_in_the_loss_but_not_in_bits_per_byte(tmp_path, ranks):
    """A separator has no bytes, so its nats would raise the bits per byte of the text."""
    spec = tiny_spec(tmp_path)
    run = Run(tmp_path)
    n_bytes = np.load(spec.launch.token_bytes)
    n_bytes[5] = 0
    np.save(spec.launch.token_bytes, n_bytes)
    model = make_model(spec)
    Evaluation(run, spec, ranks)(model, step=0, train_s=0.0)
    (line,) = run.evals()
    offsets = evaluation_offsets(N_VAL_TOKENS, SEQ_LEN, None)
    inputs, targets = Tokens(spec.launch.val_tokens).windows(offsets, SEQ_LEN)
    losses = model.eval()(inputs, targets).double()
    text_nats = losses[targets != 5].sum().item()
    assert line.val_loss == pytest.approx(losses.mean().item(), rel=1e-6)
    expected = text_nats / n_bytes[targets.numpy()].sum() / math.log(2)
    assert line.bits_per_byte == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("world_size", [2, 5, 7])
def test_sums_do_not_depend_on_the_world_size(tmp_path, world_size):
    """12 windows on 5 or 7 ranks: the windows that pad a rank's batches must not count."""
    spec = tiny_spec(tmp_path)
    model = make_model(spec)

    def total(n_ranks):
        totals = np.zeros(4)
        for rank in range(n_ranks):
            context = UnsummedContext(rank, n_ranks, torch.device("cpu"))
            Evaluation(Run(tmp_path), spec, context)(model, step=0, train_s=0.0)
            totals += context.sums
        return totals.tolist()

    expected = total(1)
    sums = total(world_size)
    assert sums == pytest.approx(expected, rel=1e-6)
    assert sums[2:] == expected[2:], "tokens and bytes are counted exactly"
