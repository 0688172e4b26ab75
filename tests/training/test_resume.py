"""An interruption costs a few steps and changes no bit: a curve that was interrupted is the one that was not."""

import os
import shutil

import numpy as np
import pytest
import torch

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
from harness.training import loop, resume
from harness.training import optimizer as optim
from harness.training.checkpointing import StateError, drop_state, load_state, resumable_checkpoints
from harness.training.loop import train
from harness.training.signals import StopRequest, TrainingInterrupted

VOCAB, SEQ_LEN, STEPS = 17, 8, 9


class Cut(Exception):
    """What ends an attempt."""


@pytest.fixture(autouse=True)
def _restore_determinism():
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("resume")
    (np.arange(1101) * 3 % VOCAB).astype(np.uint16).tofile(root / "tokens.bin")
    np.save(root / "bytes.npy", np.ones(VOCAB, dtype=np.int64))
    return root


def spec(root, keep="weights", every=2, **changes):
    variants = {"positional": "learned", "attention": "mha", "parallelism": "single"}
    parts = [
        TokenSlice(file=str(root / "tokens.bin"), start=a, stop=b)
        for a, b in ((0, 1000), (1000, 1101))
    ]
    train = {
        "steps": STEPS,
        "tokens_per_step": 8 * SEQ_LEN,
        "micro_batch_size": 4,
        "lr": 1e-2,
        "eval_every": 3,
    }
    return RunSpec(
        study="study",
        run_id="run",
        entry="run",
        seed=0,
        settings_hash="",
        baseline=variants,
        axes={
            axis: VariantChoice(name=use, label=use, options={}) for axis, use in variants.items()
        },
        model=ResolvedModel(
            n_layer=2, n_head=2, n_embd=16, seq_len=SEQ_LEN, vocab_size=VOCAB, dropout=0.2
        ),
        data=ResolvedData(corpus="synthetic", tokenizer="bytes", sha256=""),
        train=TrainSettings(**train | changes),
        launch=LaunchSpec(
            world_size=1,
            timeout_s=None,
            checkpoint_every=every,
            keep_checkpoints=keep,
            variant_paths=[],
            train_tokens=parts[:1],
            val_tokens=parts[1:],
            token_bytes=str(root / "bytes.npy"),
        ),
        expected=PredictedCost(parameters=0, flops_per_token=0, memory_bytes=0),
    )


def begun(path, root, **changes):
    run = Run(path)
    run.create(spec(root, **changes))
    run.mark_running()
    return run


def attempt(run, ranks, stop_at=None, stop=None):
    """Train to the end and return what the probes measured; or break off while step `stop_at` is made, for None."""
    calls, clip = iter(range(1000)), optim.clip
    run_spec = run.spec

    def breaking(model, max_norm):
        if stop_at is not None and next(calls) == stop_at:
            raise Cut
        return clip(model, max_norm)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.optim, "clip", breaking)
        try:
            return train(run, run_spec, ranks, stop)
        except Cut:
            return None


def curve(run):
    """Return all of the curves but times and flags."""
    steps = run.steps()
    evals = [(line.step, line.val_loss, line.bits_per_byte) for line in run.evals()]
    return [
        *zip(
            steps.step.tolist(),
            steps.loss.tolist(),
            steps.grad_norm.tolist(),
            steps.lr.tolist(),
            strict=True,
        )
    ], evals


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """The curve of a run that nothing disturbed, what its probes measured, and its weights."""
    import torch.distributed as dist

    from harness.distributed.process_group import DistributedContext

    rendezvous = tmp_path_factory.mktemp("group") / "rendezvous"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)
    run = begun(root / "whole", root)
    probes = train(run, spec(root), DistributedContext(0, 1, torch.device("cpu")))
    dist.destroy_process_group()
    assert len(run.steps()) == STEPS and [line.step for line in run.evals()] == [0, 3, 6, 9]
    return curve(run), probes, (run.newest_checkpoint / "model.safetensors").read_bytes()


@pytest.mark.parametrize("at", range(STEPS))
def test_an_interrupted_curve_is_bit_for_bit_the_one_that_was_not(tmp_path, root, ranks, whole, at):
    """At any step: between two checkpoints, right behind one, before the first."""
    run = begun(tmp_path / "run", root)
    assert attempt(run, ranks, at) is None
    run.finish("interrupted", "killed", "x")
    run.mark_running()
    probes = attempt(run, ranks)
    expected, measured, weights = whole
    assert curve(run) == expected
    for key in type(measured).model_fields.keys() - {
        "time",
        "phases",
        "peak_flops",
        "resumed_at",
        "memory",
    }:
        assert getattr(probes, key) == getattr(measured, key), key
    known = measured.memory[0].model_dump().keys() - {"resident_peak"}
    assert [getattr(probes.memory[0], key) for key in known] == [
        getattr(measured.memory[0], key) for key in known
    ]
    assert (run.newest_checkpoint / "model.safetensors").read_bytes() == weights
    n_done = at // 2 * 2
    assert probes.resumed_at == [n_done] * (n_done > 0) and run.status.attempts == 2
    assert probes.time.train_s == pytest.approx(run.steps().step_s.sum())
    flagged = run.steps().warmup.tolist()
    n_warmup = STEPS // 2
    assert (
        flagged == [n < n_warmup or n_done <= n < n_done + n_warmup for n in range(STEPS)]
        if n_done
        else True
    )


def test_a_run_that_is_interrupted_again_and_again_still_has_that_curve_and_remembers(
    tmp_path, root, ranks, whole
):
    run = begun(tmp_path / "run", root, every=1)
    for n in range(STEPS):
        run_stop = StopRequest()
        run_stop.requested = True
        with pytest.raises(TrainingInterrupted, match=rf"after {n + 1} of 9 steps"):
            attempt(run, ranks, stop=run_stop)
        run.mark_running()
    probes = attempt(run, ranks)
    assert curve(run) == whole[0]
    assert probes.resumed_at == list(range(1, STEPS + 1)) and run.status.attempts == STEPS + 1


def test_who_is_asked_to_end_saves_first_wherever_it_is(tmp_path, root, ranks, whole):
    """Checkpoints are due every 100 steps; a polite end at the first step loses nothing."""
    run = begun(tmp_path / "run", root, every=100)
    with pytest.raises(TrainingInterrupted):
        attempt(run, ranks, stop=StopRequest(requested=True))
    assert [place.name for place in resumable_checkpoints(run)] == ["step-1"]
    run.mark_running()
    assert attempt(run, ranks).resumed_at == [1]
    assert curve(run) == whole[0]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "a bit": lambda place: flip(next((place / "state").glob("*.distcp"))),
    "cut short": lambda place: os.truncate(next((place / "state").glob("*.distcp")), 100),
    "no metadata": lambda place: (place / "state/.metadata").unlink(),
    "no sums": lambda place: (place / "state/checksums.json").unlink(),
    "no state": lambda place: shutil.rmtree(place / "state"),
    "empty sums": lambda place: (place / "state/checksums.json").write_text(""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_for_an_older_whole_one(
    tmp_path, root, ranks, whole, damage
):
    """Loaded in silence, one wrong bit would train another model."""
    run = begun(tmp_path / "run", root)
    attempt(run, ranks, 7)
    older = run.checkpoints / "step-4"  # as a crash between two renames would leave it
    if not older.exists():
        attempt(begun(tmp_path / "other", root), ranks, 5)
        shutil.copytree(tmp_path / "other/checkpoint/step-4", older)
    DAMAGE[damage](run.newest_checkpoint)
    run.mark_running()
    assert attempt(run, ranks).resumed_at == [4]
    assert curve(run) == whole[0]


def test_with_nothing_whole_left_it_starts_again(tmp_path, root, ranks, whole):
    run = begun(tmp_path / "run", root)
    attempt(run, ranks, 7)
    for place in resumable_checkpoints(run):
        flip(next((place / "state").glob("*.distcp")))
    run.mark_running()
    assert attempt(run, ranks).resumed_at == [] and curve(run) == whole[0]


def test_a_state_whose_loading_breaks_off_leaves_no_trace(
    tmp_path, root, ranks, whole, monkeypatch
):
    """Half loaded, it has changed parameters and moments."""
    run = begun(tmp_path / "run", root)
    attempt(run, ranks, 7)
    run.mark_running()

    def breaks_off(*args):
        load_state(*args)
        raise StateError("planted")

    monkeypatch.setattr(resume, "load_state", breaks_off)
    assert attempt(run, ranks).resumed_at == [] and curve(run) == whole[0]


@pytest.mark.parametrize("name", ["steps.rank0.jsonl", "eval.jsonl"])
@pytest.mark.parametrize("harm", ["lost", "torn", "cut"])
def test_a_state_ahead_of_its_curve_is_passed_over(tmp_path, root, ranks, whole, name, harm):
    """A power cut may lose lines that were written before the checkpoint; a gap in the curve would stay for ever."""
    run = begun(tmp_path / "run", root)
    attempt(run, ranks, 7)
    path = run.path / name
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    path.write_text(
        {
            "lost": "",
            "torn": "".join(lines[:1]) + '{"st',
            "cut": "".join(lines[:1]) + "}{\n" + text,
        }[harm]
    )
    run.mark_running()
    assert attempt(run, ranks).resumed_at == [] and curve(run) == whole[0]


@pytest.mark.parametrize("keep", ["none", "weights", "full"])
def test_at_the_end_no_more_is_kept_than_was_asked_for(tmp_path, root, ranks, whole, keep):
    run = begun(tmp_path / "run", root, keep=keep)
    attempt(run, ranks, 7)
    run.mark_running()
    n_done = 0 if keep == "none" else 6  # what keeps nothing starts again
    assert attempt(run, ranks).resumed_at == [n_done] * (n_done > 0)
    drop_state(run, keep)
    assert curve(run) == whole[0]
    assert [path.parent.name for path in run.checkpoints.glob("step-*/state")] == ["step-9"] * (
        keep == "full"
    )


def test_the_best_checkpoint_is_the_best_of_all_attempts(tmp_path, root, ranks):
    """The rate rises until it breaks what was learned: forgotten, the lowest loss would be that of a worse step."""
    changes = {"lr": 0.3, "warmup_steps": STEPS, "eval_every": 1, "every": 1}
    names = []
    for stops in ([], [8]):
        run = begun(tmp_path / f"run{len(stops)}", root, **changes)
        for at in stops:
            attempt(run, ranks, at)
            run.mark_running()
        attempt(run, ranks)
        names.append(run.best_checkpoint.resolve().name)
    assert names[0] == names[1] < "step-8"


@pytest.mark.parametrize(
    ("status", "reason", "goes_on"),
    [
        ("interrupted", "killed", True),
        ("failed", "killed", True),
        ("failed", "timeout", True),
        ("failed", "oom", True),
        ("failed", "nan", False),
        ("failed", "error", False),
        ("done", None, False),
    ],
)
def test_what_the_machine_ended_goes_on_and_what_ended_by_itself_starts_anew(
    tmp_path, root, status, reason, goes_on
):
    run = begun(tmp_path / "run", root)
    run.steps_path(0).touch()
    run.checkpoints.mkdir()
    run.log_path.write_text("x")
    run.finish(status, reason, "m")
    run.mark_running()
    left = {path.name for path in run.path.iterdir()} - {"spec.json", "status.json"}
    assert left == ({"steps.rank0.jsonl", "checkpoint", "log.txt"} if goes_on else set())
    assert run.status.attempts == 1 + goes_on
