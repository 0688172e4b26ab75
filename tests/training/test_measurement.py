"""Each setting either leaves the loss of given weights bit for bit, or forbids a comparison.

If these failed, two entries with the same weights could get a verdict on their losses.
"""

import numpy as np
import pytest
from peak_memory import LiveBytes
from tiny_run import SEQ_LEN, tiny_spec

from harness.analysis.comparability import compare_losses
from harness.results.records import BatchRamp, ResolvedData, TrainSettings
from harness.results.run import Run
from harness.training import loop

SEPARATOR = 6  # in every third window

# Settings with another value that leave the initial weights as they are.
CHANGES = {
    "model.dropout": 0.5,
    "model.seq_len": 2 * SEQ_LEN,
    "data.corpus": "another name of it",
    "data.entropy_nats_per_byte": 0.1,
    "data.documents": "mask",
    "train.steps": 7,
    "train.tokens_per_step": 4 * SEQ_LEN,
    "train.batch_ramp": BatchRamp(start_tokens=2 * SEQ_LEN, steps=2),
    "train.micro_batch_size": 1,
    "train.lr": 0.1,
    "train.min_lr": 1e-3,
    "train.warmup_steps": 2,
    "train.schedule": "linear",
    "train.decay_fraction": 0.5,
    "train.beta1": 0.5,
    "train.beta2": 0.5,
    "train.weight_decay": 0.5,
    "train.grad_clip": 0.5,
    "train.ema_decay": 0.5,
    "train.label_smoothing": 0.5,
    "train.z_loss": 0.5,
    "train.loss_chunk": 3,
    "train.recompute": "block",
    "train.precision": "bf16",
    "train.compile": True,
    "train.eval_every": 5,
    "train.eval_tokens": 4 * SEQ_LEN,
    "train.deterministic": False,
    "train.device": "cpu",
}
# The text and its tokens: by definition another measurement, or in bits per byte.
TEXT = {"data.sha256", "data.tokenizer", "data.separator"}
ROUNDING = {"train.precision"}  # compared with a caveat
MAX_ROUNDING = 5e-3  # nats per token


@pytest.fixture
def spec(tmp_path):
    spec = tiny_spec(tmp_path)
    axes = spec.axes | {"positional": spec.axes["positional"].model_copy(update={"name": "rope"})}
    return spec.model_copy(update={"axes": axes})


def changed(spec, key):
    section, name = key.split(".")
    update = {name: CHANGES[key]}
    if key == "data.documents":
        update["separator"] = [SEPARATOR]
    return spec.model_copy(update={section: getattr(spec, section).model_copy(update=update)})


def initial_loss(folder, spec, ranks):
    """Return the validation loss of the initial weights, which the seed determines."""
    run = Run(folder / "measured" / spec.run_id)
    run.path.mkdir(parents=True, exist_ok=True)
    run.create(spec)
    model = loop.set_up(run, spec, ranks).model
    return loop.Evaluation(run, spec, ranks).loss(model)


def test_every_setting_is_tried():
    settings = {f"train.{name}" for name in TrainSettings.model_fields}
    settings |= {f"data.{name}" for name in ResolvedData.model_fields}
    tried = {key for key in CHANGES if not key.startswith("model.")}
    assert tried | TEXT == settings, "state how these change the measurement of a loss"


@pytest.mark.parametrize("key", CHANGES)
def test_a_setting_keeps_the_measurement_or_is_refused(tmp_path, ranks, spec, key, monkeypatch):
    monkeypatch.setattr(loop, "COMPILER", "eager")
    other = changed(spec, key)
    loss = initial_loss(tmp_path, spec, ranks)
    other_loss = initial_loss(tmp_path, other, ranks)
    comparison = compare_losses(other, spec)
    if key in ROUNDING:
        assert 0 < abs(other_loss - loss) < MAX_ROUNDING
    else:
        assert (other_loss == loss) == (comparison.unit == "nats per token")
    if comparison.unit is None:
        assert str(CHANGES[key]) in comparison.reason


@pytest.mark.parametrize("windows", ["tuning", "final"])
def test_windows_of_a_tuning_are_refused(tmp_path, ranks, spec, windows):
    other = spec.model_copy(update={"eval_windows": windows})
    assert initial_loss(tmp_path, other, ranks) != initial_loss(tmp_path, spec, ranks)
    assert compare_losses(other, spec).unit is None


def test_the_last_evaluation_is_that_of_the_last_step(tmp_path, ranks, spec):
    """Neither its interval nor an average of the parameters changes the final loss."""
    losses = set()
    for i, key in enumerate(("train.eval_every", "train.ema_decay", "train.device")):
        other = changed(spec, key).model_copy(update={"run_id": f"run{i}"})
        run = Run(tmp_path / other.run_id)
        run.create(other)
        loop.train(run, other, ranks)
        line = run.evals()[-1]
        assert line.step == other.train.steps
        losses.add(line.val_loss)
    assert len(losses) == 1


@pytest.mark.parametrize("settings", [{}, {"loss_chunk": 4, "recompute": "block"}], ids=str)
def test_evaluation_needs_less_memory_than_training(tmp_path, spec, ranks, settings):
    """With GPT-2's vocabulary, logits of an evaluation's windows may exceed all of the training."""
    vocab_size = 50_257
    train = spec.train.model_copy(update={"micro_batch_size": 1, **settings})
    model = spec.model.model_copy(update={"vocab_size": vocab_size})
    spec = spec.model_copy(update={"train": train, "model": model})
    np.save(spec.launch.token_bytes, np.ones(vocab_size, dtype=np.int64))
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.create(spec)
    with LiveBytes() as memory:
        setup = loop.set_up(run, spec, ranks)
        evaluation = loop.Evaluation(run, spec, ranks)
        setup.train_step(0)  # makes the optimizer's state
        peaks = []
        for measured in (lambda: setup.train_step(1), lambda: evaluation.loss(setup.model)):
            memory.peak = memory.now
            measured()
            peaks.append(memory.peak)
    training, evaluating = peaks
    assert evaluating < training
