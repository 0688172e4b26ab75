"""The loop writes down what happened, the same each time, and stops where there is nothing left to measure."""

import hashlib
import math

import numpy as np
import pytest
import torch

from harness.data.batches import Tokens, evaluation_offsets
from harness.distributed.process_group import DistributedContext
from harness.model.builder import ModelBuilder
from harness.model.initialization import init_parameters
from harness.probes.phases import PHASES
from harness.probes.post_training import N_TIMED
from harness.results.records import (
    LaunchSpec,
    PredictedCost,
    ResolvedData,
    ResolvedModel,
    RunSpec,
    TokenSlice,
    TrainSettings,
    VariantChoice,
)
from harness.results.store import Run
from harness.training import loop
from harness.training.errors import NotFiniteError
from harness.training.evaluation import Evaluation
from harness.training.loop import train
from variants.base import ModelShape

VOCAB, SEQ_LEN = 17, 8


@pytest.fixture(autouse=True)
def _restore_determinism():
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


def spec(folder, dropout=0.0, seed=0, **changes):
    """The resolved spec of a tiny run on tokens that count up, of which the last 101 validate."""
    tokens = (np.arange(1101) * 3 % VOCAB).astype(np.uint16)
    tokens.tofile(folder / "tokens.bin")
    np.save(folder / "bytes.npy", 1 + np.arange(VOCAB) % 3)
    variants = {"positional": "learned", "attention": "mha", "parallelism": "single"}
    axes = {axis: VariantChoice(name=use, label=use, options={}) for axis, use in variants.items()}
    train = {"steps": 6, "tokens_per_step": 8 * SEQ_LEN, "lr": 1e-2, "eval_every": 4} | changes
    return RunSpec(
        study="study",
        run_id="run",
        entry="run",
        seed=seed,
        settings_hash="",
        baseline=variants,
        axes=axes,
        model=ResolvedModel(
            n_layer=2, n_head=2, n_embd=16, seq_len=SEQ_LEN, vocab_size=VOCAB, dropout=dropout
        ),
        data=ResolvedData(corpus="synthetic", tokenizer="bytes", sha256=""),
        train=TrainSettings(**train),
        launch=LaunchSpec(
            world_size=1,
            timeout_s=None,
            variant_paths=[],
            token_bytes=str(folder / "bytes.npy"),
            train_tokens=[TokenSlice(file=str(folder / "tokens.bin"), start=0, stop=1000)],
            val_tokens=[TokenSlice(file=str(folder / "tokens.bin"), start=1000, stop=1101)],
        ),
        expected=PredictedCost(parameters=0, flops_per_token=0, memory_bytes=0),
    )


def trained(folder, ranks, name="run", **changes):
    """Train, and return the run with its steps as they can be compared, and what the probes measured."""
    run = Run(folder / name)
    run.path.mkdir()
    probes = train(run, spec(folder, **changes), ranks)
    return run, run.steps(), probes


# -- training --------------------------------------------------------------------------------------------------------


def test_every_step_and_evaluation_is_written_down(tmp_path, ranks):
    run, steps, probes = trained(tmp_path, ranks)
    assert steps.step.tolist() == list(range(6))
    assert (steps.tokens == 64).all() and (steps.step_s > 0).all() and (steps.grad_norm > 0).all()
    assert steps.lr[0] == 1e-2 and (np.diff(steps.lr) < 0).all()
    assert steps.warmup.tolist() == [True] * 3 + [False] * 3
    assert [line.step for line in run.evals()] == [0, 4, 6]
    assert [line.train_s for line in run.evals()] == pytest.approx(
        [0, steps.step_s[:4].sum(), steps.step_s.sum()]
    )
    assert probes.time.train_s == pytest.approx(steps.step_s.sum())
    assert (
        probes.memory[0].parameters == 4 * probes.parameters == probes.predicted_memory.parameters
    )
    assert probes.predicted_memory.optimizer == 8 * probes.parameters
    assert probes.attention_kernels == ["_scaled_dot_product_flash_attention_for_cpu"]
    assert probes.decoding == probes.lengths == []


def test_first_values_follow_one_seed_and_the_order_of_the_data_another(tmp_path, ranks):
    def starts(name, seed, data_seed=None):
        run = Run(tmp_path / name)
        run.path.mkdir()
        asked = spec(tmp_path, seed=seed).model_copy(update={"data_seed": data_seed})
        probes = train(run, asked, ranks)
        return probes.initial_hash, run.steps().loss.tolist(), run.evals()[0].val_loss

    both_0, both_1, crossed = starts("0", 0), starts("1", 1), starts("0d1", 0, 1)
    assert crossed[0] == both_0[0] != both_1[0] and crossed[2] == both_0[2]
    assert crossed[1][0] not in (both_0[1][0], both_1[1][0])
    assert starts("1d1", 1, 1)[1] == both_1[1]


def test_the_model_learns(tmp_path, ranks):
    """From a guess, ln 17, to text that it can foresee."""
    run, steps, _ = trained(tmp_path, ranks, steps=40, eval_every=40)
    assert steps.loss[0] == pytest.approx(math.log(VOCAB), abs=0.05)
    assert run.evals()[0].val_loss == pytest.approx(math.log(VOCAB), abs=0.05)
    assert run.evals()[-1].val_loss < 1.0


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_same_spec_gives_the_same_bits_and_another_seed_does_not(tmp_path, ranks, dropout):
    attempts = [
        trained(tmp_path, ranks, str(i), dropout=dropout, seed=seed)
        for i, seed in enumerate((0, 0, 1))
    ]
    (_, one, first), (_, two, second), (_, other, third) = attempts
    assert (
        one.loss.tolist() == two.loss.tolist() and one.grad_norm.tolist() == two.grad_norm.tolist()
    )
    assert first.initial_hash == second.initial_hash != third.initial_hash
    assert one.loss.tolist() != other.loss.tolist()
    assert attempts[0][0].evals()[-1].val_loss == attempts[1][0].evals()[-1].val_loss


def test_micro_batches_change_memory_and_not_the_result(tmp_path, ranks):
    """Gradients that are summed where they should be averaged would train at another rate, in silence."""
    _, whole, wide = trained(tmp_path, ranks, "whole")
    _, parts, narrow = trained(tmp_path, ranks, "parts", micro_batch_size=2)
    assert parts.loss.tolist() == pytest.approx(whole.loss.tolist(), rel=1e-5)
    assert parts.grad_norm.tolist() == pytest.approx(whole.grad_norm.tolist(), rel=1e-4)
    assert narrow.memory[0].activations * 4 == pytest.approx(wide.memory[0].activations, rel=0.01)
    assert narrow.flops_per_token_counted == wide.flops_per_token_counted


def test_how_often_it_is_evaluated_changes_nothing(tmp_path, ranks):
    """With dropout, random numbers that an evaluation uses up, or a model left in eval(), would change the training."""
    _, seldom, _ = trained(tmp_path, ranks, "seldom", eval_every=100, dropout=0.2)
    _, often, _ = trained(tmp_path, ranks, "often", eval_every=1, dropout=0.2)
    assert seldom.loss.tolist() == often.loss.tolist()


def test_the_first_loss_is_that_of_the_untrained_model_on_the_steps_tokens(tmp_path, ranks):
    """The step's loss is the mean over all of its tokens, before the update."""
    _, steps, probes = trained(tmp_path, ranks, steps=1)
    _, again, _ = trained(tmp_path, ranks, "again", steps=1, lr=10.0)
    assert steps.loss[0] == again.loss[0]
    assert len(probes.initial_hash) == len(hashlib.sha256().hexdigest())


def test_a_run_that_breaks_stops_and_keeps_the_step_that_broke_it(tmp_path, ranks):
    with pytest.raises(NotFiniteError, match=r"^step \d+: loss (nan|inf)"):
        trained(tmp_path, ranks, lr=1e30, steps=50, weight_decay=0.0)
    steps = Run(tmp_path / "run").steps()
    assert 0 < len(steps) < 50
    assert not np.isfinite(steps.loss[-1]) and np.isfinite(steps.loss[:-1]).all()


def test_the_steps_that_are_only_measured_come_after_all_that_is_kept(tmp_path, ranks, monkeypatch):
    """They train on: a checkpoint, a hash or a probe of the trained model after them would be of another model."""
    events = []

    def note(owner, name):
        right = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *given, **named: (events.append(name), right(*given, **named))[1]
        )

    for owner, name in (
        (loop, "parameter_hashes"),
        (loop, "by_category"),
        (loop.decoding, "measure"),
        (loop.lengths, "measure"),
        (loop.Checkpoints, "save"),
        (loop.Evaluation, "__call__"),
    ):
        note(owner, name)
    note(loop.PostTrainingProbe, "measure")
    monkeypatch.setattr(loop.PostTrainingProbe, "_step", lambda self, step: events.append("extra"))
    monkeypatch.setattr(
        loop.PostTrainingProbe, "_timed", lambda self, step: dict.fromkeys(PHASES, 0.0)
    )
    trained(tmp_path, ranks)
    assert {"parameter_hashes", "by_category", "save", "__call__", "extra"} <= set(
        events
    ) and events.count("measure") == 3
    assert set(events[events.index("extra") :]) == {"extra"}


def test_the_phases_of_a_step_are_measured_and_add_up(tmp_path, ranks):
    _, _, probes = trained(tmp_path, ranks)
    (phases,) = probes.phases
    for name, seconds in phases.model_dump().items():
        assert len(seconds) == N_TIMED and min(seconds) >= 0, name
    assert min(phases.forward_s) > 0 and min(phases.backward_s) > 0 and min(phases.optimizer_s) > 0
    assert phases.waiting_s == [0] * N_TIMED, "one process waits for nobody"
    assert probes.traffic == [{}] and probes.predicted_bytes_sent == 0


# -- evaluation ------------------------------------------------------------------------------------------------------


def model(run_spec):
    made = (
        ModelBuilder(ModelShape(**run_spec.model.model_dump()), run_spec.axes, [])
        .model()
        .to_empty(device="cpu")
    )
    init_parameters(made, 0)
    return made


class Alone(DistributedContext):
    """A rank whose sums stay its own, so that a test can put several together."""

    def sum(self, *values):
        self.__dict__["sums"] = values
        return [1.0 for _ in values]


def test_validation_loss_is_the_mean_over_all_windows_and_in_bits_per_byte(tmp_path, ranks):
    run_spec = spec(tmp_path, dropout=0.3)
    run = Run(tmp_path)
    net = model(run_spec)
    Evaluation(run, run_spec, ranks)(net, step=3, train_s=1.5)
    assert net.training, "training goes on with dropout"
    (line,) = run.evals()
    tokens = Tokens(run_spec.launch.val_tokens)
    inputs, targets = tokens.windows(evaluation_offsets(101, SEQ_LEN, None), SEQ_LEN)
    assert targets.numel() == 96
    nats = net.eval()(inputs, targets).double().sum().item()
    n_bytes = (1 + targets % 3).sum().item()
    assert (line.step, line.train_s) == (3, 1.5)
    assert line.val_loss == pytest.approx(nats / 96, rel=1e-6)
    assert line.bits_per_byte == pytest.approx(nats / n_bytes / math.log(2), rel=1e-6)


@pytest.mark.parametrize("world_size", [2, 5, 7])
def test_the_sums_over_any_number_of_ranks_are_those_of_one(tmp_path, world_size):
    """12 windows on 5 or 7 ranks: those that only fill up must not count."""
    run_spec, totals = spec(tmp_path), []
    net = model(run_spec)
    for n in (1, world_size):
        parts = [Alone(rank, n, torch.device("cpu")) for rank in range(n)]
        for part in parts:
            Evaluation(Run(tmp_path), run_spec, part)(net, step=0, train_s=0.0)
        totals.append(np.sum([part.sums for part in parts], axis=0).tolist())
    assert totals[1] == pytest.approx(totals[0], rel=1e-6)
    assert totals[1][1:] == totals[0][1:], "tokens and bytes are counted exactly"
