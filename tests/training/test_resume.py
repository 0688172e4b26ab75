"""An interruption costs a few steps and changes no bit of the curves."""

import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tiny_run import SEQ_LEN, join_alone, tiny_spec

from harness.data.batches import Batches, Tokens
from harness.distributed.process_group import DistributedContext
from harness.errors import ExitCode, UserError
from harness.model.weights import load_weights
from harness.results.checkpoints import drop_states
from harness.results.files import remove
from harness.results.records import StepRecord, VariantChoice
from harness.results.run import Run
from harness.training import optimizer as optim
from harness.training import resume
from harness.training.checkpointing import (
    StateError,
    load_state,
    resumable_checkpoints,
)
from harness.training.loop import train
from harness.training.signals import StopRequest, TrainingInterrupted
from variants import registry

STEPS = 9


class Interruption(Exception):
    """Ends an attempt in the middle of a step."""


def start(path, **changes):
    """Create a run, and mark it as running."""
    path.mkdir(parents=True)
    settings = {
        "keep_checkpoints": "weights",
        "checkpoint_every": 2,
        "dropout": 0.2,
        "steps": STEPS,
        "micro_batch_size": 4,
        "eval_every": 3,
    }
    run = Run(path)
    run.create(tiny_spec(path.parent, **settings | changes))
    run.mark_running()
    return run


def attempt(run, ranks, stop_at=None, stop=None):
    """Train and return the probes' results; or fail within step `stop_at` and return None."""
    n_calls = 0
    clip = optim.clip

    def failing_clip(model, max_norm):
        nonlocal n_calls
        n_calls += 1
        if stop_at is not None and n_calls == stop_at + 1:
            raise Interruption
        return clip(model, max_norm)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optim, "clip", failing_clip)
        try:
            return train(run, run.spec, ranks, stop)
        except Interruption:
            return None


def curve(run):
    """Return the recorded curves without times and flags."""
    steps = run.steps()
    columns = [steps.step, steps.loss, steps.grad_norm, steps.lr]
    evals = [(line.step, line.val_loss, line.bits_per_byte) for line in run.evals()]
    return [column.tolist() for column in columns], evals


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The curve of an uninterrupted run, its probes' results, and its weights."""
    folder = tmp_path_factory.mktemp("whole")
    join_alone(folder)
    run = start(folder / "run")
    probes = train(run, run.spec, DistributedContext(0, 1, torch.device("cpu")))
    dist.destroy_process_group()
    assert len(run.steps()) == STEPS
    assert [line.step for line in run.evals()] == [0, 3, 6, 9]
    return curve(run), probes, (run.newest_checkpoint / "model.safetensors").read_bytes()


def test_changed_tokens_fail_the_run_by_name(tmp_path, ranks):
    """Both before the first step and when it resumes, it would train on another text."""
    run = start(tmp_path / "resumed/run")
    attempt(run, ranks, stop_at=5)
    new = start(tmp_path / "new/run")
    for unfinished in (run, new):
        file = Path(unfinished.spec.launch.train_tokens[0].file)
        original = file.read_bytes()
        changed = bytearray(original)
        changed[-1] ^= 1
        file.write_bytes(changed)
        with pytest.raises(UserError, match=r"tokens\.bin: has changed since the run"):
            attempt(unfinished, ranks)
        file.write_bytes(original)
        attempt(unfinished, ranks)
        assert len(unfinished.steps()) == STEPS


@pytest.mark.parametrize("is_replaced", [True, False])
def test_tokens_overwritten_while_a_run_trains_fail_it(is_replaced, tmp_path, ranks, monkeypatch):
    """A file that is replaced by another stays mapped as it was: the run has read no other."""
    run = start(tmp_path / "study/run")
    file = Path(run.spec.launch.train_tokens[0].file)
    content = bytearray(file.read_bytes())
    clip = optim.clip

    def change(model, max_norm):
        content[-1] ^= 1
        other = file.with_name("other")
        other.write_bytes(content)
        if is_replaced:
            other.rename(file)
        else:
            shutil.copyfile(other, file)
        return clip(model, max_norm)

    monkeypatch.setattr(optim, "clip", change)
    if is_replaced:
        train(run, run.spec, ranks)
    else:
        with pytest.raises(UserError, match=r"tokens\.bin: was overwritten while the run trained"):
            train(run, run.spec, ranks)


@pytest.mark.parametrize("stop_at", [0, 1, 5, None])
def test_no_batch_is_seen_twice_along_a_chain(tmp_path, ranks, monkeypatch, stop_at):
    """Each run continues the data order of the one that it starts from, also when resumed."""
    offsets = Batches.offsets
    n_data_steps = 0
    for name in ("first", "second", "third"):
        seen = {}

        def record(batches, step, seen=seen):
            seen[step] = offsets(batches, step).tolist()
            return offsets(batches, step)

        monkeypatch.setattr(Batches, "offsets", record)
        run = start(tmp_path / name / "run", data_offset_steps=n_data_steps)
        attempt(run, ranks, stop_at)
        attempt(run, ranks)
        tokens = Tokens(run.spec.launch.train_tokens)
        order = Batches(tokens, SEQ_LEN, 8, run.spec.order_seed)
        for step in range(STEPS):
            assert seen[step] == offsets(order, n_data_steps + step).tolist()
        n_data_steps += STEPS
        assert load_weights(run.newest_checkpoint).data_steps == n_data_steps


OPTIMIZERS = [*((name, {}) for name in registry.files("optimizer")), ("sgd", {"momentum": 0.0})]


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_every_optimizer_resumes_bit_for_bit(tmp_path, ranks, name, options):
    """Also one without any state, and in the midst of a decay."""
    choice = VariantChoice(name=name, label=name, options=options)
    changes = {"optimizer": choice, "schedule": "wsd", "decay_fraction": 0.6}
    uninterrupted = start(tmp_path / "uninterrupted/run", **changes)
    attempt(uninterrupted, ranks)
    resumed = start(tmp_path / "resumed/run", **changes)
    assert attempt(resumed, ranks, stop_at=7) is None
    resumed.mark_running()
    assert attempt(resumed, ranks).resumed_at == [6]
    assert curve(resumed) == curve(uninterrupted)
    weights = [
        (run.newest_checkpoint / "model.safetensors").read_bytes()
        for run in (uninterrupted, resumed)
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("stop_at", range(STEPS))
def test_resumed_curve_equals_the_uninterrupted_one(tmp_path, ranks, whole, stop_at):
    """At any step: before the first checkpoint, directly after one, between two."""
    run = start(tmp_path / "run")
    assert attempt(run, ranks, stop_at) is None
    run.finish("interrupted", "killed", "x")
    run.mark_running()
    probes = attempt(run, ranks)
    expected_curve, expected_probes, weights = whole
    assert curve(run) == expected_curve
    assert (run.newest_checkpoint / "model.safetensors").read_bytes() == weights

    not_reproducible = {"time", "phases", "peak_flops", "resumed_at", "memory"}
    reproducible = type(probes).model_fields.keys() - not_reproducible
    for name in reproducible:
        assert getattr(probes, name) == getattr(expected_probes, name), name
    memory, expected_memory = (
        results.memory[0].model_dump(exclude={"resident_peak"})
        for results in (probes, expected_probes)
    )
    assert memory == expected_memory

    n_done = stop_at // 2 * 2
    assert probes.resumed_at == [n_done] * (n_done > 0)
    assert run.status.attempts == 2
    steps = run.steps()
    assert probes.time.train_s == pytest.approx(steps.step_s.sum())
    n_warmup = STEPS // 2
    warmup = [n < n_warmup or n_done <= n < n_done + n_warmup for n in range(STEPS)]
    assert steps.warmup.tolist() == warmup


def test_repeatedly_interrupted_run_has_the_same_curve(tmp_path, ranks, whole):
    run = start(tmp_path / "run", checkpoint_every=1)
    for n in range(STEPS):
        with pytest.raises(TrainingInterrupted, match=rf"after {n + 1} of 9 steps"):
            attempt(run, ranks, stop=StopRequest(ExitCode.INTERRUPTED))
        run.mark_running()
    probes = attempt(run, ranks)
    assert curve(run) == whole[0]
    assert probes.resumed_at == list(range(1, STEPS + 1))
    assert run.status.attempts == STEPS + 1


def test_stop_request_saves_before_it_ends(tmp_path, ranks, whole):
    """Checkpoints are due every 100 steps; a stop request at the first step still saves one."""
    run = start(tmp_path / "run", checkpoint_every=100)
    with pytest.raises(TrainingInterrupted):
        attempt(run, ranks, stop=StopRequest(ExitCode.INTERRUPTED))
    assert [folder.name for folder in resumable_checkpoints(run)] == ["step-1"]
    run.mark_running()
    assert attempt(run, ranks).resumed_at == [1]
    assert curve(run) == whole[0]


def shard(folder):
    return next((folder / "state").glob("*.distcp"))


def flip_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "flipped bit": lambda folder: flip_bit(shard(folder)),
    "truncated": lambda folder: os.truncate(shard(folder), 100),
    "no metadata": lambda folder: (folder / "state/.metadata").unlink(),
    "no checksums": lambda folder: (folder / "state/checksums.json").unlink(),
    "no state": lambda folder: shutil.rmtree(folder / "state"),
    "empty checksums": lambda folder: (folder / "state/checksums.json").write_text(""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_falls_back_to_an_older_one(tmp_path, ranks, whole, damage):
    """Loaded without a check, one wrong bit would silently train another model."""
    run = start(tmp_path / "run")
    attempt(run, ranks, 5)
    shutil.copytree(run.checkpoints / "step-4", tmp_path / "step-4")
    run.mark_running()
    attempt(run, ranks, 3)
    older = run.checkpoints / "step-4"  # as a crash between two renames would leave it
    if not older.exists():
        shutil.copytree(tmp_path / "step-4", older)
    assert run.newest_checkpoint.resolve().name == "step-6"
    DAMAGE[damage](run.newest_checkpoint)
    run.mark_running()
    assert attempt(run, ranks).resumed_at == [4]
    assert curve(run) == whole[0]


def test_run_without_an_undamaged_state_starts_again(tmp_path, ranks, whole):
    run = start(tmp_path / "run")
    attempt(run, ranks, 7)
    for folder in resumable_checkpoints(run):
        flip_bit(shard(folder))
    run.mark_running()
    assert attempt(run, ranks).resumed_at == []
    assert curve(run) == whole[0]


def test_partly_loaded_state_is_reset(tmp_path, ranks, whole, monkeypatch):
    """A load that fails halfway has changed parameters and moments."""
    run = start(tmp_path / "run")
    attempt(run, ranks, 7)
    run.mark_running()

    def failing_load(*args):
        load_state(*args)
        raise StateError("planted")

    monkeypatch.setattr(resume, "load_state", failing_load)
    assert attempt(run, ranks).resumed_at == []
    assert curve(run) == whole[0]


@pytest.mark.parametrize("name", ["steps.rank0.jsonl", "eval.jsonl", "checkpoint"])
def test_state_of_other_curves_is_skipped(tmp_path, ranks, whole, name):
    """Each file of another run is whole: it would train on from that run's parameters."""
    run = start(tmp_path / "run")
    attempt(run, ranks, 7)
    other = start(tmp_path / "other/run", lr=0.5 * run.spec.train.lr)
    attempt(other, ranks, 7)
    remove(run.path / name)
    copy = shutil.copyfile if (other.path / name).is_file() else shutil.copytree
    copy(other.path / name, run.path / name)
    assert resumable_checkpoints(run)
    run.mark_running()
    assert attempt(run, ranks).resumed_at == []
    assert curve(run) == whole[0]


@pytest.mark.parametrize("name", ["steps.rank0.jsonl", "eval.jsonl"])
@pytest.mark.parametrize("damage", ["lost", "torn", "garbled"])
def test_state_ahead_of_its_curve_is_skipped(tmp_path, ranks, whole, name, damage):
    """A power cut may lose lines that were written before the checkpoint."""
    run = start(tmp_path / "run")
    attempt(run, ranks, 7)
    path = run.path / name
    text = path.read_text()
    first_line = text.splitlines(keepends=True)[0]
    damaged = {"lost": "", "torn": first_line + '{"st', "garbled": first_line + "}{\n" + text}
    path.write_text(damaged[damage])
    run.mark_running()
    assert attempt(run, ranks).resumed_at == []
    assert curve(run) == whole[0]


@pytest.mark.parametrize("keep", ["none", "weights", "full"])
def test_resumed_run_keeps_only_the_requested_files(tmp_path, ranks, whole, keep):
    run = start(tmp_path / "run", keep_checkpoints=keep)
    attempt(run, ranks, 7)
    run.mark_running()
    resumed_at = [] if keep == "none" else [6]
    assert attempt(run, ranks).resumed_at == resumed_at
    drop_states(run, keep)
    assert curve(run) == whole[0]
    folders = [path.parent.name for path in run.checkpoints.glob("step-*/state")]
    assert folders == (["step-9"] if keep == "full" else [])


def test_best_checkpoint_is_the_best_of_all_attempts(tmp_path, ranks):
    """The rate rises until training diverges, so that no later checkpoint is the best."""
    changes = {"lr": 0.3, "warmup_steps": STEPS, "eval_every": 1, "checkpoint_every": 1}
    uninterrupted = start(tmp_path / "uninterrupted", **changes)
    attempt(uninterrupted, ranks)
    resumed = start(tmp_path / "resumed", **changes)
    attempt(resumed, ranks, 8)
    resumed.mark_running()
    attempt(resumed, ranks)
    best, best_resumed = (run.best_checkpoint.resolve().name for run in (uninterrupted, resumed))
    assert best == best_resumed < "step-8"


@pytest.mark.parametrize(
    ("status", "reason", "resumes"),
    [
        ("interrupted", "killed", True),
        ("failed", "killed", True),
        ("failed", "timeout", True),
        ("failed", "oom", True),
        ("failed", "disk", True),
        ("failed", "nan", False),
        ("failed", "error", False),
        ("done", None, False),
    ],
)
def test_only_transient_failures_resume(tmp_path, status, reason, resumes):
    run = start(tmp_path / "run")
    record = StepRecord(step=0, loss=1.0, step_s=1.0, tokens=1, grad_norm=1.0, lr=1.0, warmup=False)
    run.steps_file(0).append(record)
    run.checkpoints.mkdir()
    run.log_path.write_text("x")
    run.finish(status, reason, "m")
    run.mark_running()
    kept = {path.name for path in run.path.iterdir()} - {"spec.json", "status.json"}
    assert kept == ({"steps.rank0.jsonl", "checkpoint", "log.txt"} if resumes else set())
    assert run.status.attempts == (2 if resumes else 1)
