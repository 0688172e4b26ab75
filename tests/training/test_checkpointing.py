"""Checkpoints survive interruptions undamaged, and any parallelism can load them."""

import errno
import itertools
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from optimizers import make_optimizer
from saved_state import save_state
from tiny_run import SEQ_LEN, VOCAB, join_alone, tiny_spec
from torch.distributed.tensor import DTensor

from harness.distributed.process_group import DistributedContext, join
from harness.errors import ClaimLost, ExitCode, UserError
from harness.model import weights as weights_module
from harness.model.builder import ModelBuilder
from harness.model.initialization import init_parameters
from harness.model.weights import atomic_folder, load_weights
from harness.published.convert import export_weights
from harness.results import checkpoints as checkpoints_module
from harness.results.checkpoints import drop_states
from harness.results.run import Run
from harness.training import checkpointing
from harness.training import optimizer as optim
from harness.training.averaging import ParameterAverage
from harness.training.checkpointing import (
    Checkpoints,
    StateError,
    load_state,
    resumable_checkpoints,
)
from harness.training.evaluation import Evaluation
from harness.training.loop import NotFiniteError, train
from harness.training.signals import StopRequest, TrainingInterrupted
from variants.base import ModelShape

TESTS = Path(__file__).parents[1]


def spec(folder, keep="weights", **changes):
    return tiny_spec(folder, keep_checkpoints=keep, **{"eval_every": 2} | changes)


def make(run_spec, ranks, seed=0):
    """Return the model, the same as its parallelism wraps it, and the optimizer."""
    shape = ModelShape(**run_spec.model.model_dump())
    builder = ModelBuilder(shape, run_spec.axes, [])
    gpt = builder.model()
    model = builder.parallelism().wrap(gpt, ranks.device, "fp32")
    init_parameters(gpt, seed)
    return gpt, model, make_optimizer(gpt, run_spec.train, whole=builder.model())


def train_steps(model, optimizer, n=1):
    """Train on n different batches."""
    for i in range(n):
        tokens = torch.arange(4 * SEQ_LEN).view(4, SEQ_LEN) * (i + 2) % VOCAB
        model(tokens, tokens.roll(-1, 1)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def gather(value):
    whole = value.full_tensor() if isinstance(value, DTensor) else value
    return whole.detach().clone()


def gather_weights(gpt):
    return {name: gather(parameter) for name, parameter in gpt.named_parameters()}


def gather_state(gpt, optimizer):
    """Return every parameter and its optimizer state, unsharded, by name."""
    state = {}
    for name, parameter in gpt.named_parameters():
        for key, value in optimizer.state[parameter].items():
            state[f"{name} {key}"] = gather(value)
    weights = gather_weights(gpt)
    assert len(state) == 3 * len(weights), "exp_avg, exp_avg_sq and step"
    return weights | state


def equal(tensors, others):
    if tensors.keys() != others.keys():
        return False
    return all(torch.equal(tensors[name], others[name]) for name in tensors)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return Run(tmp_path / "run")


def write(checkpoints, step, val_loss):
    """Save, and wait until the checkpoint is whole."""
    checkpoints.save(step, val_loss)
    checkpoints.wait()


def listing(run):
    """Return the entries of the checkpoint folder: targets of links, None for folders."""
    paths = run.checkpoints.iterdir()
    return {path.name: str(path.readlink()) if path.is_symlink() else None for path in paths}


# -- which checkpoints are kept --------------------------------------------------------------------


def test_only_the_newest_and_the_best_are_kept(tmp_path, run, ranks):
    run_spec = spec(tmp_path)
    gpt, model, optimizer = make(run_spec, ranks)
    checkpoints = Checkpoints(run, run_spec, ranks, gpt, optimizer)
    weights = {}

    def save(n, val_loss):
        train_steps(model, optimizer)
        weights[n] = gather_weights(gpt)
        write(checkpoints, n, val_loss)
        return listing(run)

    assert save(2, None) == {"newest": "step-2", "step-2": None}, "an unknown loss is not the best"
    assert save(4, math.nan) == {"newest": "step-4", "step-4": None}
    assert save(6, 3.0) == {"newest": "step-6", "best": "step-6", "step-6": None}
    assert save(8, 2.0) == {"newest": "step-8", "best": "step-8", "step-8": None}
    best_8 = {"best": "step-8", "step-8": None}
    assert save(10, 2.5) == best_8 | {"newest": "step-10", "step-10": None}
    assert save(12, None) == best_8 | {"newest": "step-12", "step-12": None}
    assert equal(load_weights(run.newest_checkpoint).tensors, weights[12])
    assert equal(load_weights(run.best_checkpoint).tensors, weights[8])
    assert save(14, 1.0) == {"newest": "step-14", "best": "step-14", "step-14": None}


def test_other_files_in_the_folder_are_kept(tmp_path, run, ranks):
    run_spec = spec(tmp_path)
    gpt, _, optimizer = make(run_spec, ranks)
    checkpoints = Checkpoints(run, run_spec, ranks, gpt, optimizer)
    write(checkpoints, 1, 1.0)
    export_weights(run.best_checkpoint, run.checkpoints / "exported")
    write(checkpoints, 2, 0.5)
    assert set(listing(run)) == {"newest", "best", "step-2", "exported"}


@pytest.mark.parametrize("keep", ["none", "weights", "full"])
def test_only_the_requested_files_are_kept(tmp_path, run, ranks, keep):
    run_spec = spec(tmp_path, keep)
    gpt, model, optimizer = make(run_spec, ranks)
    checkpoints = Checkpoints(run, run_spec, ranks, gpt, optimizer)
    for n, val_loss in ((1, 1.0), (2, 2.0)):
        train_steps(model, optimizer)
        write(checkpoints, n, val_loss)
    assert (
        run.checkpoints.exists()
        == (keep != "none")
        == (checkpoints.blocked_s > 0)
        == (checkpoints.written_s > 0)
    )
    if keep != "none":
        files = {"model.safetensors", "checkpoint.json"}
        unfinished = {path.name for path in run.best_checkpoint.iterdir()}
        assert unfinished == files | {"state"}, "the run can resume"
        drop_states(run, keep)
        assert {path.name for path in run.best_checkpoint.iterdir()} == files
        state = {"state"} if keep == "full" else set()
        assert {path.name for path in run.newest_checkpoint.iterdir()} == files | state


def copy_with_links(source, dest):
    shutil.copytree(source, dest, symlinks=True)


def copy_following_links(source, dest):
    shutil.copytree(source, dest)


def copy_without_links(source, dest):
    links = [path.name for path in source.rglob("*") if path.is_symlink()]
    shutil.copytree(source, dest, ignore=shutil.ignore_patterns(*links))


def copy_links_as_texts(source, dest):
    copy_without_links(source, dest)
    for path in source.rglob("*"):
        if path.is_symlink():
            (dest / path.relative_to(source)).write_text(str(path.readlink()))


COPIES = [copy_with_links, copy_following_links, copy_without_links, copy_links_as_texts]


@pytest.mark.parametrize("copy", COPIES)
def test_a_copied_run_keeps_its_checkpoints(tmp_path, run, ranks, copy):
    """Links that became folders stopped the run; lost ones removed its best checkpoint."""
    run_spec = spec(tmp_path)
    gpt, model, optimizer = make(run_spec, ranks)
    checkpoints = Checkpoints(run, run_spec, ranks, gpt, optimizer)
    for step, val_loss in ((2, 3.0), (4, 1.0), (6, 2.0)):
        train_steps(model, optimizer)
        write(checkpoints, step, val_loss)
    copy(run.path, tmp_path / "copy")
    copied = Run(tmp_path / "copy")
    assert [folder.name for folder in resumable_checkpoints(copied)] == ["step-6", "step-4"]
    assert equal(load_weights(copied.newest_weights).tensors, gather_weights(gpt))
    resumed = Checkpoints(copied, run_spec, ranks, gpt, optimizer)
    resumed.restore_links(6, {2: 3.0, 4: 1.0, 6: 2.0})
    assert listing(copied) == listing(run)
    write(resumed, 8, 1.5)
    folders = {"step-8": None, "step-4": None}
    assert listing(copied) == {"newest": "step-8", "best": "step-4", **folders}


def test_checkpoints_are_kept_on_a_file_system_without_links(tmp_path, run, ranks, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    run_spec = spec(tmp_path, "full")
    gpt, model, optimizer = make(run_spec, ranks)
    checkpoints = Checkpoints(run, run_spec, ranks, gpt, optimizer)
    weights = {}
    for step, val_loss in ((2, 3.0), (4, 1.0), (6, 2.0), (8, 2.5)):
        train_steps(model, optimizer)
        weights[step] = gather_weights(gpt)
        write(checkpoints, step, val_loss)
    assert set(listing(run)) == {"newest", "best", "step-4", "step-8"}
    assert equal(load_weights(run.newest_checkpoint).tensors, weights[8])
    assert equal(load_weights(run.best_checkpoint).tensors, weights[4])
    drop_states(run, "full")
    assert [folder.name for folder in resumable_checkpoints(run)] == ["step-8"]


MOMENTS = ("_write", "write_state", "_link", "_point", "restore_links", "drop_states")


@pytest.mark.parametrize("moment", MOMENTS)
def test_after_its_run_was_taken_over_no_checkpoint_changes(
    tmp_path, run, ranks, monkeypatch, moment
):
    """The process was paused at any of its steps; the successor may have newer checkpoints."""
    first = run.claim()
    run_spec = spec(tmp_path, "full")
    gpt, _, optimizer = make(run_spec, ranks)
    checkpoints = Checkpoints(first.run, run_spec, ranks, gpt, optimizer)
    write(checkpoints, 2, 3.0)
    left = []

    def take_over_before(owner, name):
        function = getattr(owner, name)

        def call(*arguments, **options):
            first.release()
            run.claim()
            (run.checkpoints / "step-9" / "state").mkdir(parents=True)
            left.append(kept_files(run))
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    owners = (Checkpoints, checkpointing, checkpoints_module)
    take_over_before(next(owner for owner in owners if hasattr(owner, moment)), moment)
    with pytest.raises(ClaimLost):
        if moment == "restore_links":
            checkpoints.restore_links(0, {})
        elif moment == "drop_states":
            checkpoints_module.drop_states(first.run, "none")
        else:
            write(checkpoints, 4, 1.0)
    assert left[0] and kept_files(run) == left[0]


def kept_files(run):
    paths = run.checkpoints.rglob("*")
    kept = {path.relative_to(run.checkpoints) for path in paths if path.suffix != ".tmp"}
    return {path for path in kept if not path.parts[0].endswith(".tmp")} | {
        path.readlink() for path in run.checkpoints.iterdir() if path.is_symlink()
    }


# -- the loop --------------------------------------------------------------------------------------


def evaluate_folder(tmp_path, run_spec, ranks, folder):
    """Return the validation loss of a checkpoint's weights, using nothing but its folder."""
    weights = load_weights(folder)
    model = weights.model()
    (tmp_path / "again").mkdir(exist_ok=True)
    return Evaluation(Run(tmp_path / "again"), run_spec, ranks)(model, step=0, train_s=0.0)


def test_loop_keeps_the_last_and_the_best_weights(tmp_path, run, ranks):
    """The rate rises until training diverges, so that the last weights are not the best."""
    run_spec = spec(tmp_path, lr=0.3, warmup_steps=9, steps=9)
    probes = train(run, run_spec, ranks)
    losses = {line.step: line.val_loss for line in run.evals() if line.step > 0}
    best = min(losses, key=losses.get)
    assert best < 9, "otherwise best and last are the same"
    assert listing(run) == {
        "newest": "step-9",
        "best": f"step-{best}",
        "step-9": None,
        f"step-{best}": None,
    }
    assert evaluate_folder(tmp_path, run_spec, ranks, run.newest_checkpoint) == losses[9]
    assert evaluate_folder(tmp_path, run_spec, ranks, run.best_checkpoint) == losses[best]
    assert probes.time.checkpoint_s > 0


def test_checkpoint_describes_its_model(tmp_path, run, ranks):
    run_spec = spec(tmp_path)
    train(run, run_spec, ranks)
    weights = load_weights(run.newest_checkpoint)
    assert weights.shape == ModelShape(**run_spec.model.model_dump())
    assert run_spec.axes.items() <= weights.axes.items()
    assert weights.tokenizer == "bytes"
    assert weights.origin == dict.fromkeys(weights.tensors, "trained by run, 6 steps")


@pytest.mark.parametrize(
    ("every", "saved"),
    [
        (None, [(3, True), (6, True), (8, True)]),
        (2, [(2, False), (4, False), (6, True), (8, True)]),
    ],
)
def test_checkpoint_interval_and_final_checkpoint(tmp_path, run, ranks, monkeypatch, every, saved):
    """Steps 3, 6 and 8 are evaluated; a checkpoint of another step has no loss."""
    calls = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, *args: calls.append(args))
    train(run, spec(tmp_path, checkpoint_every=every, steps=8, eval_every=3), ranks)
    losses = {line.step: line.val_loss for line in run.evals()}
    assert calls == [(n, losses[n] if is_evaluated else None) for n, is_evaluated in saved]


def test_keeping_checkpoints_does_not_change_training(tmp_path, ranks):
    curves = []
    for keep in ("none", "full"):
        run = Run(tmp_path / keep)
        run.path.mkdir()
        train(run, spec(tmp_path, keep, checkpoint_every=1), ranks)
        curves.append((run.steps().loss.tolist(), [line.val_loss for line in run.evals()]))
    assert curves[0] == curves[1]


# -- the background -------------------------------------------------------------------------------


@pytest.fixture
def gate(monkeypatch):
    """Hold each write before it begins until the event is set."""
    is_open = threading.Event()
    begin = Checkpoints._begin

    def wait_and_begin(*args):
        assert is_open.wait(10)
        return begin(*args)

    monkeypatch.setattr(Checkpoints, "_begin", wait_and_begin)
    yield is_open
    is_open.set()


def test_the_checkpoint_holds_the_state_at_its_save(tmp_path, run, ranks, gate):
    """Steps after the save change the tensors that are still to be written."""
    run_spec = spec(tmp_path, "full", ema_decay=0.5)
    gpt, model, optimizer = make(run_spec, ranks)
    average = ParameterAverage(gpt, 0.5)
    checkpoints = Checkpoints(run, run_spec, ranks, gpt, optimizer, average)
    for step in (1, 2):  # the second one uses the memory of the first one again
        gate.clear()
        train_steps(model, optimizer)
        average.update(step)
        saved = gather_state(gpt, optimizer)
        saved_average = {name: value.clone() for name, value in average.values.items()}
        checkpoints.save(step, None)
        assert checkpoints.is_writing
        train_steps(model, optimizer)
        average.update(step + 1)
        gate.set()
        checkpoints.wait()
        assert not checkpoints.is_writing
        tensors = load_weights(run.newest_checkpoint).tensors
        assert all(torch.equal(tensors[name], saved[name]) for name in tensors)
        other_gpt, _, other_optimizer = make(run_spec, ranks, seed=1)
        other_average = ParameterAverage(other_gpt, 0.5)
        folder = run.newest_checkpoint
        assert load_state(folder, other_gpt, other_optimizer, other_average) == step
        assert equal(gather_state(other_gpt, other_optimizer), saved)
        assert equal(other_average.values, saved_average)


def join_writer():
    """Wait until the checkpoint in flight is written, or has failed."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()


def test_one_checkpoint_at_most_is_in_flight(tmp_path, run, ranks, gate):
    run_spec = spec(tmp_path)
    gpt, _, optimizer = make(run_spec, ranks)
    checkpoints = Checkpoints(run, run_spec, ranks, gpt, optimizer)
    checkpoints.save(1, 1.0)
    writer = checkpoints._thread

    def join_late(timeout=None):
        time.sleep(0.3)
        gate.set()
        threading.Thread.join(writer, timeout)

    writer.join = join_late
    checkpoints.save(2, 2.0)
    assert (run.newest_checkpoint / "model.safetensors").exists(), "the save waited"
    assert checkpoints.blocked_s >= 0.25
    checkpoints.wait()
    assert listing(run) == {"newest": "step-2", "best": "step-1", "step-1": None, "step-2": None}


def test_no_checkpoint_is_newer_than_the_curve(tmp_path, run, ranks, monkeypatch):
    """After a power cut, the lines of the curve may be lost until they are flushed."""
    linked = []
    flush = Run.flush

    def note_and_flush(self, rank):
        linked.append(run.newest_checkpoint.is_symlink())
        flush(self, rank)

    monkeypatch.setattr(Run, "flush", note_and_flush)
    run_spec = spec(tmp_path)
    gpt, _, optimizer = make(run_spec, ranks)
    write(Checkpoints(run, run_spec, ranks, gpt, optimizer), 1, None)
    assert linked == [False] and run.newest_checkpoint.is_symlink()


@pytest.mark.parametrize("end", ["done", "stopped", "not finite"])
def test_a_run_ends_after_its_write(tmp_path, run, ranks, monkeypatch, end):
    """Else a process that has been asked to end would take its newest checkpoint with it."""
    publish = Checkpoints._publish

    def publish_late(*args):
        time.sleep(0.3)
        publish(*args)

    monkeypatch.setattr(Checkpoints, "_publish", publish_late)
    if end == "stopped":  # such a run waits as long as it takes
        monkeypatch.setattr(checkpointing, "CRASH_GRACE_S", 0)
    stop = StopRequest(ExitCode.REQUEUE) if end == "stopped" else None
    if end == "not finite":
        norms = iter([1.0, math.nan])
        monkeypatch.setattr(optim, "clip", lambda *_: torch.tensor(next(norms)))
    run_spec = spec(tmp_path, checkpoint_every=1, steps=3)
    error = {"stopped": TrainingInterrupted, "not finite": NotFiniteError}.get(end)
    with pytest.raises(error) if error else nullcontext():
        train(run, run_spec, ranks, stop)
    newest = run.newest_checkpoint.resolve().name
    assert newest == ("step-3" if end == "done" else "step-1")


def test_a_failed_write_ends_the_run_at_the_next_step(tmp_path, run, ranks, monkeypatch):
    """The next save, at which the write would be waited for, is 10 steps away."""
    monkeypatch.setattr(weights_module, "save_file", fail)
    clip = optim.clip

    n_calls = itertools.count(1)

    def wait_in_step_11(*args):
        if next(n_calls) == 11:
            join_writer()
        return clip(*args)

    monkeypatch.setattr(optim, "clip", wait_in_step_11)
    message = r"checkpoint cannot be written \(\d+ bytes were free\): rank 0: OSError: .*No space"
    with pytest.raises(StateError, match=message):
        train(run, spec(tmp_path, eval_every=100, checkpoint_every=10, steps=20), ranks)
    assert len(run.steps()) == 11 and listing(run) == {}


def test_a_folder_that_cannot_be_written_is_named(tmp_path, run, ranks):
    run_spec = spec(tmp_path)
    gpt, _, optimizer = make(run_spec, ranks)
    checkpoints = Checkpoints(run, run_spec, ranks, gpt, optimizer)
    run.checkpoints.write_text("")
    with pytest.raises(StateError, match=r"run/checkpoint cannot be written .*rank 0: \w+Error"):
        write(checkpoints, 1, None)


def test_checkpoints_are_due_by_time(tmp_path, run, ranks, monkeypatch):
    calls = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, *args: calls.append(args))
    for every_s, saved in ((1e-9, [1, 2, 3, 4, 5, 6]), (3600.0, [4, 6]), (None, [4, 6])):
        calls.clear()
        run_spec = spec(tmp_path, eval_every=4)
        launch = run_spec.launch.model_copy(update={"checkpoint_every_s": every_s})
        train(run, run_spec.model_copy(update={"launch": launch}), ranks)
        assert [n for n, _ in calls] == saved


def test_the_time_counts_from_the_last_save(tmp_path, run, ranks, monkeypatch):
    run_spec = spec(tmp_path)
    launch = run_spec.launch.model_copy(update={"checkpoint_every_s": 10.0})
    run_spec = run_spec.model_copy(update={"launch": launch})
    gpt, _, optimizer = make(run_spec, ranks)
    now = 100.0
    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: now)
    checkpoints = Checkpoints(run, run_spec, ranks, gpt, optimizer)
    due = []
    for now in (105.0, 110.0, 119.0, 120.0):
        due.append(checkpoints.is_due)
        if checkpoints.is_due:
            write(checkpoints, int(now), None)
    assert due == [False, True, False, True]


def test_steps_beside_a_write_are_flagged(tmp_path, run, ranks, gate, monkeypatch):
    """Their times contain work of the writer."""
    clip = optim.clip
    n_calls = itertools.count(1)

    def open_in_step_6(*args):
        if next(n_calls) == 7:
            gate.set()
            join_writer()
        return clip(*args)

    monkeypatch.setattr(optim, "clip", open_in_step_6)
    train(run, spec(tmp_path, steps=8, checkpoint_every=4), ranks)
    assert run.steps().saving.tolist() == [False] * 4 + [True] * 3 + [False]


# -- the state -------------------------------------------------------------------------------------


def assert_tied(gpt):
    tokens = torch.arange(SEQ_LEN)[None]
    logits = F.linear(gpt.hidden(tokens), gpt.wte.weight)
    assert torch.equal(gpt.logits(tokens), logits), "input and output embeddings are tied"


def test_training_from_a_state_equals_uninterrupted_training(tmp_path, ranks):
    """Weight decay on the wrong parameters, for example, would silently train another model."""
    run_spec = spec(tmp_path, weight_decay=0.5)
    gpt, model, optimizer = make(run_spec, ranks)
    train_steps(model, optimizer, 3)
    save_state(tmp_path / "step-3", 3, gpt, optimizer)
    loaded_gpt, loaded_model, loaded_optimizer = make(run_spec, ranks, seed=1)
    embedding = loaded_gpt.wte.weight
    assert load_state(tmp_path / "step-3", loaded_gpt, loaded_optimizer) == 3
    train_steps(model, optimizer, 2)
    train_steps(loaded_model, loaded_optimizer, 2)
    assert equal(gather_state(gpt, optimizer), gather_state(loaded_gpt, loaded_optimizer))
    assert loaded_gpt.wte.weight is embedding
    assert_tied(loaded_gpt)


def truncate(state):
    (shard,) = state.glob("*.distcp")
    os.truncate(shard, shard.stat().st_size // 2)


DAMAGE = {
    "no state": shutil.rmtree,
    "no metadata": lambda state: (state / ".metadata").unlink(),
    "no shard": lambda state: next(state.glob("*.distcp")).unlink(),
    "truncated shard": truncate,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_incomplete_state_is_rejected_by_name(tmp_path, ranks, damage):
    gpt, model, optimizer = make(spec(tmp_path), ranks)
    train_steps(model, optimizer)
    save_state(tmp_path / "step-1", 1, gpt, optimizer)
    DAMAGE[damage](tmp_path / "step-1" / "state")
    with pytest.raises(StateError, match=r"step-1/state cannot be read: rank 0: "):
        load_state(tmp_path / "step-1", gpt, optimizer)


class Runs:
    """A pickle of it creates a file when it is loaded."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))

    def __deepcopy__(self, memo):
        return self  # the copy of a state that is written does not go through a pickle


@pytest.mark.parametrize("part", ["index", "value"])
def test_state_that_would_run_code_is_rejected(tmp_path, ranks, part, monkeypatch):
    """A results folder may come from someone else, and PyTorch's reader loads pickles."""
    gpt, model, optimizer = make(spec(tmp_path), ranks)
    train_steps(model, optimizer)
    ran = tmp_path / "ran"
    if part == "value":
        state = checkpointing._state
        monkeypatch.setattr(
            checkpointing, "_state", lambda *parts: state(*parts) | {"step": Runs(ran)}
        )
    save_state(tmp_path / "step-1", 1, gpt, optimizer)
    monkeypatch.undo()
    if part == "index":
        (tmp_path / "step-1/state/.metadata").write_bytes(pickle.dumps(Runs(ran)))
    assert not ran.exists()
    with pytest.raises(StateError, match=r"cannot be read: .*refused|Unsupported global"):
        load_state(tmp_path / "step-1", gpt, optimizer)
    assert not ran.exists()


def test_state_of_another_model_is_rejected(tmp_path, ranks):
    gpt, _, optimizer = make(spec(tmp_path), ranks)
    save_state(tmp_path / "step-1", 1, gpt, optimizer)
    wider_gpt, _, wider_optimizer = make(spec(tmp_path, n_embd=32), ranks)
    with pytest.raises(StateError, match=r"step-1/state cannot be read: .*[Ss]ize"):
        load_state(tmp_path / "step-1", wider_gpt, wider_optimizer)


# -- crashes ---------------------------------------------------------------------------------------


def fail(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def fail_at(n, function):
    """Return a function whose n-th call fails."""
    calls = itertools.count(1)

    def failing(*args, **kwargs):
        return fail() if next(calls) == n else function(*args, **kwargs)

    return failing


# Module, function, number of the failing call, and whether the new checkpoint counts already.
CRASHES = {
    "while weights are written": (weights_module, "save_file", 1, False),
    "while weights are flushed": (os, "fsync", 1, False),
    "while the description is flushed": (os, "fsync", 2, False),
    "while the state is written": (os, "fsync", 3, False),
    "before the state is complete": (os, "fsync", 4, False),
    "while checksums are written": (os, "fsync", 5, False),
    "before the folder is renamed": (os, "rename", 2, False),
    "before it is linked": (checkpointing, "_point", 1, False),
    "while it is linked": (os, "replace", 3, False),
    "before it is the best": (checkpointing, "_point", 2, True),
    "before the older one is removed": (checkpointing, "remove", 1, True),
    "while the older one is removed": (os, "rmdir", 1, True),
}


@pytest.mark.parametrize("kind", ["error", "power cut"])
@pytest.mark.parametrize("crash", CRASHES)
def test_crash_leaves_a_whole_checkpoint_and_no_litter(tmp_path, run, ranks, crash, kind):
    """After a power cut, unlike after an error, no code cleans up."""
    run_spec = spec(tmp_path, "full")
    gpt, model, optimizer = make(run_spec, ranks)
    train_steps(model, optimizer)
    states = {1: gather_state(gpt, optimizer)}
    write(Checkpoints(run, run_spec, ranks, gpt, optimizer), 1, 2.0)
    train_steps(model, optimizer)
    states[2] = gather_state(gpt, optimizer)
    checkpoints = Checkpoints(run, run_spec, ranks, gpt, optimizer)
    module, function, n_calls, is_new = CRASHES[crash]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, function, fail_at(n_calls, getattr(module, function)))
        if kind == "power cut":
            no_cleanup = SimpleNamespace(rmtree=lambda *_, **__: None)
            patch.setattr(weights_module, "shutil", no_cleanup)
        with pytest.raises((OSError, StateError), match="No space left"):
            write(checkpoints, 2, 1.0)

    newest = 2 if is_new else 1
    tensors = load_weights(run.newest_checkpoint).tensors
    assert all(torch.equal(tensors[name], states[newest][name]) for name in tensors)
    assert load_weights(run.best_checkpoint).parameters > 0
    loaded_gpt, _, loaded_optimizer = make(run_spec, ranks, seed=1)
    assert load_state(run.newest_checkpoint, loaded_gpt, loaded_optimizer) == newest
    assert equal(gather_state(loaded_gpt, loaded_optimizer), states[newest])

    write(checkpoints, 3, 0.5)
    assert listing(run) == {"newest": "step-3", "best": "step-3", "step-3": None}


def test_full_disk_raises_an_error_that_can_be_caught(tmp_path, ranks, monkeypatch):
    """PyTorch's own is not an `Exception`: the run's status would stay "running"."""
    gpt, _, optimizer = make(spec(tmp_path), ranks)
    monkeypatch.setattr(os, "fsync", fail)
    message = r"step-1/state cannot be written \(\d+ bytes were free\): rank 0: OSError"
    with pytest.raises(Exception, match=message):
        save_state(tmp_path / "step-1", 1, gpt, optimizer)


def test_existing_folder_is_never_overwritten(tmp_path):
    (tmp_path / "mine").mkdir()
    with (
        pytest.raises(UserError, match="exists already"),
        atomic_folder(tmp_path / "mine"),
    ):
        raise AssertionError("must not be reached")


# -- parallelism -----------------------------------------------------------------------------------


def relay(root):
    """On two ranks, load the state of one process with ddp, and ddp's with fsdp; save again."""
    with join("cpu") as ranks:
        folder = Run(root / "single").newest_checkpoint
        for name in ("ddp", "fsdp"):
            run = Run(root / name)
            run_spec = spec(root, "full", parallelism=name, nproc=2)
            gpt, model, optimizer = make(run_spec, ranks, seed=1)
            n_done = load_state(folder, gpt, optimizer)
            loaded = gather_state(gpt, optimizer)
            if name == "fsdp":
                train_steps(model, optimizer)
                n_done += 1
            checkpoints = Checkpoints(run, run_spec, ranks, gpt, optimizer)
            write(checkpoints, n_done, 1.0)
            saved = gather_state(gpt, optimizer)
            record = {"loaded": loaded, "saved": saved, "n_done": n_done}
            torch.save(record, root / f"{name}.{ranks.rank}.pt")
            folder = run.newest_checkpoint
        with pytest.MonkeyPatch.context() as patch:
            if ranks.rank == 1:
                patch.setattr(os, "fsync", fail)
            with pytest.raises(StateError, match=r"rank 1: OSError: .*No space left"):
                write(checkpoints, n_done + 1, 0.5)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(weights_module, "save_file", fail)  # which only rank 0 calls
            with pytest.raises(StateError, match=r"rank 0: OSError: .*No space left"):
                write(checkpoints, n_done + 1, 0.5)
        ranks.barrier()
        if ranks.is_first:
            (root / "litter.json").write_text(json.dumps(listing(run)))


@pytest.fixture(scope="module")
def relayed(tmp_path_factory):
    """Train on one process, then `relay`; return the folder and the state of the one process."""
    root = tmp_path_factory.mktemp("relay")
    join_alone(root)
    ranks = DistributedContext(0, 1, torch.device("cpu"))
    run_spec = spec(root, "full")
    gpt, model, optimizer = make(run_spec, ranks)
    train_steps(model, optimizer, 2)
    write(Checkpoints(Run(root / "single"), run_spec, ranks, gpt, optimizer), 2, 1.0)
    dist.destroy_process_group()

    script = root / "script.py"
    script.write_text(
        f"from pathlib import Path\nfrom {Path(__file__).stem} import relay\n"
        f"relay(Path({str(root)!r}))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    folders = [TESTS.parent, TESTS, Path(__file__).parent]
    paths = os.pathsep.join(map(str, folders))
    process = subprocess.run(
        [*command, str(script)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return root, gather_state(gpt, optimizer)


def records(root, name):
    return [torch.load(root / f"{name}.{rank}.pt") for rank in range(2)]


@pytest.mark.distributed
def test_state_moves_between_parallelisms_bit_for_bit(relayed, ranks):
    """From single to ddp to fsdp to single: each parameter, both moments, and the step count."""
    root, single = relayed
    for record in records(root, "ddp"):
        assert equal(record["loaded"], single)
        assert equal(record["saved"], single)
    first, second = records(root, "fsdp")
    assert equal(first["loaded"], single)
    assert equal(second["loaded"], single)
    assert equal(first["saved"], second["saved"])
    assert not equal(first["saved"], single), "fsdp has trained one more step"
    gpt, model, optimizer = make(spec(root), ranks, seed=1)
    assert load_state(Run(root / "fsdp").newest_checkpoint, gpt, optimizer) == 3 == first["n_done"]
    assert equal(gather_state(gpt, optimizer), first["saved"])
    assert_tied(gpt)
    train_steps(model, optimizer)


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_weights_of_two_ranks_are_those_of_one_model(relayed, name):
    root, _ = relayed
    tensors = load_weights(Run(root / name).newest_checkpoint).tensors
    saved = records(root, name)[0]["saved"]
    assert all(torch.equal(tensors[name], saved[name]) for name in tensors)


@pytest.mark.distributed
def test_write_error_on_one_rank_reaches_all_ranks(relayed):
    """Both raise the error of the other, and the older checkpoint stays undamaged."""
    root, _ = relayed
    expected = {"newest": "step-3", "best": "step-3", "step-3": None}
    assert json.loads((root / "litter.json").read_text()) == expected
