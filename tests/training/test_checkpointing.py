"""What a run has learned outlives it: whole whenever it is stopped, the newest and the best, on any parallelism."""

import errno
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributed.tensor import DTensor

from harness.distributed.process_group import DistributedContext, join
from harness.errors import UserError
from harness.model import weights as weights_module
from harness.model.builder import ModelBuilder
from harness.model.initialization import init_parameters
from harness.model.weights import atomic_folder, export_gpt2, load_weights
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
from harness.training import checkpointing as checkpoint
from harness.training import optimizer as optim
from harness.training.checkpointing import (
    Checkpoints,
    StateError,
    drop_state,
    load_state,
    save_state,
)
from harness.training.evaluation import Evaluation
from harness.training.loop import train
from variants.base import ModelShape

ROOT = Path(__file__).parents[2]
VOCAB, SEQ_LEN = 17, 8  # two ranks have unequal shares of 17 rows


@pytest.fixture(autouse=True)
def _restore_determinism():
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


def spec(
    root, keep="weights", checkpoint_every=None, parallelism="single", nproc=1, n_embd=16, **changes
):
    """The resolved spec of a tiny run on tokens that count up, of which the last 101 validate."""
    tokens = (np.arange(1101) * 3 % VOCAB).astype(np.uint16)
    tokens.tofile(root / "tokens.bin")
    np.save(root / "bytes.npy", np.ones(VOCAB, dtype=np.int64))
    variants = {"positional": "learned", "attention": "mha", "parallelism": parallelism}
    options = {"parallelism": {"nproc": nproc}}
    parts = [
        TokenSlice(file=str(root / "tokens.bin"), start=a, stop=b)
        for a, b in ((0, 1000), (1000, 1101))
    ]
    return RunSpec(
        study="study",
        run_id="run",
        entry="run",
        seed=0,
        settings_hash="",
        baseline=variants,
        axes={
            axis: VariantChoice(name=use, label=use, options=options.get(axis, {}))
            for axis, use in variants.items()
        },
        model=ResolvedModel(n_layer=2, n_head=2, n_embd=n_embd, seq_len=SEQ_LEN, vocab_size=VOCAB),
        data=ResolvedData(corpus="synthetic", tokenizer="bytes", sha256=""),
        train=TrainSettings(
            **{"steps": 6, "tokens_per_step": 8 * SEQ_LEN, "lr": 1e-2, "eval_every": 2} | changes
        ),
        launch=LaunchSpec(
            world_size=nproc,
            timeout_s=None,
            checkpoint_every=checkpoint_every,
            keep_checkpoints=keep,
            variant_paths=[],
            train_tokens=parts[:1],
            val_tokens=parts[1:],
            token_bytes=str(root / "bytes.npy"),
        ),
        expected=PredictedCost(parameters=0, flops_per_token=0, memory_bytes=0),
    )


def make(run_spec, ranks, seed=0):
    """Return the model, the same as its parallelism wraps it, and the optimizer."""
    parts = ModelBuilder(ModelShape(**run_spec.model.model_dump()), run_spec.axes, [])
    gpt = parts.model()
    model = parts.parallelism().wrap(gpt, ranks.device, "fp32")
    init_parameters(gpt, seed)
    return gpt, model, optim.adamw(gpt, run_spec.train)


def step(model, optimizer, n=1):
    """Train on n batches, of which each is another."""
    for i in range(n):
        tokens = torch.arange(4 * SEQ_LEN).view(4, SEQ_LEN) * (i + 2) % VOCAB
        model(tokens, tokens.roll(-1, 1)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def whole(value):
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()


def values(gpt, optimizer):
    """Return every parameter with its optimizer state, whole."""
    named = dict(gpt.named_parameters())
    state = {
        f"{name} {key}": whole(v)
        for name, p in named.items()
        for key, v in optimizer.state[p].items()
    }
    assert len(state) == 3 * len(named), "exp_avg, exp_avg_sq and step"
    return {name: whole(parameter) for name, parameter in named.items()} | state


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def weights(gpt):
    return {name: whole(parameter) for name, parameter in gpt.named_parameters()}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return Run(tmp_path / "run")


def listing(run):
    """Return what lies in the folder of checkpoints: names of folders, and where the links lead."""
    return {
        path.name: str(path.readlink()) if path.is_symlink() else None
        for path in run.checkpoints.iterdir()
    }


# -- which of them are kept ------------------------------------------------------------------------------------------


def test_the_newest_and_the_best_are_kept_and_no_other(tmp_path, run, ranks):
    run_spec = spec(tmp_path)
    gpt, model, optimizer = make(run_spec, ranks)
    checkpoints, made = Checkpoints(run, run_spec, ranks, gpt, optimizer), {}

    def save(n, val_loss):
        step(model, optimizer)
        made[n] = weights(gpt)
        checkpoints.save(n, val_loss)
        return listing(run)

    assert save(2, None) == {"newest": "step-2", "step-2": None}, (
        "a loss that nobody knows is not the lowest"
    )
    assert save(4, math.nan) == {"newest": "step-4", "step-4": None}
    assert save(6, 3.0) == {"newest": "step-6", "best": "step-6", "step-6": None}
    assert save(8, 2.0) == {"newest": "step-8", "best": "step-8", "step-8": None}
    assert save(10, 2.5) == {"newest": "step-10", "best": "step-8", "step-8": None, "step-10": None}
    assert save(12, None) == {
        "newest": "step-12",
        "best": "step-8",
        "step-8": None,
        "step-12": None,
    }
    assert same(load_weights(run.newest_checkpoint).tensors, made[12])
    assert same(load_weights(run.best_checkpoint).tensors, made[8])
    assert save(14, 1.0) == {"newest": "step-14", "best": "step-14", "step-14": None}


def test_what_others_have_put_beside_them_stays(tmp_path, run, ranks):
    run_spec = spec(tmp_path)
    gpt, _, optimizer = make(run_spec, ranks)
    checkpoints = Checkpoints(run, run_spec, ranks, gpt, optimizer)
    checkpoints.save(1, 1.0)
    export_gpt2(run.best_checkpoint, run.checkpoints / "exported")
    checkpoints.save(2, 0.5)
    assert set(listing(run)) == {"newest", "best", "step-2", "exported"}


@pytest.mark.parametrize("keep", ["none", "weights", "full"])
def test_no_more_is_kept_than_was_asked_for(tmp_path, run, ranks, keep):
    run_spec = spec(tmp_path, keep)
    gpt, model, optimizer = make(run_spec, ranks)
    checkpoints = Checkpoints(run, run_spec, ranks, gpt, optimizer)
    for n, val_loss in ((1, 1.0), (2, 2.0)):
        step(model, optimizer)
        checkpoints.save(n, val_loss)
    assert run.checkpoints.exists() == (keep != "none") == (checkpoints.total_s > 0)
    if keep != "none":
        files = {"model.safetensors", "checkpoint.json"}
        assert {path.name for path in run.best_checkpoint.iterdir()} == files | {"state"}, (
            "while it is unfinished"
        )
        drop_state(run, keep)
        assert {path.name for path in run.best_checkpoint.iterdir()} == files
        state = {"state"} if keep == "full" else set()
        assert {path.name for path in run.newest_checkpoint.iterdir()} == files | state


# -- the loop --------------------------------------------------------------------------------------------------------


def val_loss(tmp_path, run_spec, ranks, place):
    """Evaluate a checkpoint's weights as anyone would who has nothing but its folder."""
    found = load_weights(place)
    model = ModelBuilder(found.shape, found.axes, []).model()
    model.load_state_dict(found.tensors, assign=True)
    (tmp_path / "again").mkdir(exist_ok=True)
    return Evaluation(Run(tmp_path / "again"), run_spec, ranks)(model, step=0, train_s=0.0)


def test_the_loop_keeps_the_weights_that_it_ends_with_and_those_that_did_best(tmp_path, run, ranks):
    """The rate rises until it breaks what was learned; a "best" of another step would be worth nothing then."""
    run_spec = spec(tmp_path, lr=0.3, warmup_steps=9, steps=9)
    probes = train(run, run_spec, ranks)
    losses = {line.step: line.val_loss for line in run.evals() if line.step > 0}
    best = min(losses, key=losses.get)
    assert best < 9, "or the test says nothing"
    assert listing(run) == {
        "newest": "step-9",
        "best": f"step-{best}",
        "step-9": None,
        f"step-{best}": None,
    }
    assert val_loss(tmp_path, run_spec, ranks, run.newest_checkpoint) == losses[9]
    assert val_loss(tmp_path, run_spec, ranks, run.best_checkpoint) == losses[best]
    assert probes.time.checkpoint_s > 0


def test_a_checkpoint_says_what_made_it(tmp_path, run, ranks):
    run_spec = spec(tmp_path)
    train(run, run_spec, ranks)
    found = load_weights(run.newest_checkpoint)
    assert (
        found.shape == ModelShape(**run_spec.model.model_dump())
        and run_spec.axes.items() <= found.axes.items()
    )
    assert found.tokenizer == "bytes"
    assert (
        set(found.origin.values()) == {"trained by run, 6 steps"}
        and found.origin.keys() == found.tensors.keys()
    )


@pytest.mark.parametrize(
    ("every", "saved"),
    [
        (None, [(3, True), (6, True), (8, True)]),
        (2, [(2, False), (4, False), (6, True), (8, True)]),
    ],
)
def test_checkpoints_are_written_as_often_as_asked_and_at_the_end(
    tmp_path, run, ranks, monkeypatch, every, saved
):
    """Evaluated after 3, 6 and 8 steps; what was not evaluated when it was written has no loss."""
    calls = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, *args: calls.append(args))
    train(run, spec(tmp_path, checkpoint_every=every, steps=8, eval_every=3), ranks)
    losses = {line.step: line.val_loss for line in run.evals()}
    assert calls == [(n, losses[n] if known else None) for n, known in saved]


def test_what_is_kept_changes_nothing_in_the_training(tmp_path, ranks):
    losses = []
    for keep in ("none", "full"):
        run = Run(tmp_path / keep)
        run.path.mkdir()
        train(run, spec(tmp_path, keep, checkpoint_every=1), ranks)
        losses.append((run.steps().loss.tolist(), [line.val_loss for line in run.evals()]))
    assert losses[0] == losses[1]


# -- the state -------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_from_its_state_as_if_it_had_never_stopped(tmp_path, ranks):
    """Groups too: weight decay on the wrong parameters would train another model, in silence."""
    run_spec = spec(tmp_path, weight_decay=0.5)
    _, model, optimizer = first = make(run_spec, ranks)
    step(model, optimizer, 3)
    save_state(tmp_path / "step-3", 3, first[0], optimizer)
    gpt, model, optimizer = second = make(run_spec, ranks, seed=1)
    table = gpt.wte.weight
    assert load_state(tmp_path / "step-3", gpt, optimizer) == 3
    for _, model, optimizer in (first, second):
        step(model, optimizer, 2)
    assert same(values(first[0], first[2]), values(gpt, optimizer))
    assert gpt.wte.weight is table
    tokens = torch.arange(SEQ_LEN)[None]
    assert torch.equal(gpt.logits(tokens), F.linear(gpt.hidden(tokens), table)), (
        "embeddings are tied as before"
    )


def cut(place):
    (shard,) = place.glob("*.distcp")
    os.truncate(shard, shard.stat().st_size // 2)


DAMAGE = {
    "no state": shutil.rmtree,
    "no metadata": lambda place: (place / ".metadata").unlink(),
    "no shard": lambda place: next(place.glob("*.distcp")).unlink(),
    "a torn shard": cut,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_state_that_is_not_whole_is_refused_by_name(tmp_path, ranks, damage):
    gpt, model, optimizer = make(spec(tmp_path), ranks)
    step(model, optimizer)
    save_state(tmp_path / "step-1", 1, gpt, optimizer)
    DAMAGE[damage](tmp_path / "step-1" / "state")
    with pytest.raises(StateError, match=r"step-1/state cannot be read: rank 0: "):
        load_state(tmp_path / "step-1", gpt, optimizer)


def test_another_models_state_is_refused(tmp_path, ranks):
    gpt, _, optimizer = make(spec(tmp_path), ranks)
    save_state(tmp_path / "step-1", 1, gpt, optimizer)
    gpt, _, optimizer = make(spec(tmp_path, n_embd=32), ranks)
    with pytest.raises(StateError, match=r"step-1/state cannot be read: .*[Ss]ize"):
        load_state(tmp_path / "step-1", gpt, optimizer)


# -- crashes ---------------------------------------------------------------------------------------------------------


def fail(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def fail_at(n, function):
    """Return the function, of which the n-th call fails."""
    calls = itertools.count(1)
    return lambda *args, **kwargs: (fail if next(calls) == n else function)(*args, **kwargs)


CRASHES = {  # which call of what fails, and whether the new checkpoint counts already
    "while weights are written": (weights_module, "save_file", 1, False),
    "while they are put on disk": (os, "fsync", 1, False),
    "while they are described": (os, "fsync", 2, False),
    "while the state is written": (os, "fsync", 3, False),
    "before the state is whole": (os, "fsync", 4, False),
    "while it is summed up": (os, "fsync", 5, False),
    "before it has its name": (os, "rename", 2, False),
    "before it is linked": (checkpoint, "_point", 1, False),
    "while it is linked": (os, "replace", 3, False),
    "before it is the best": (checkpoint, "_point", 2, True),
    "before the older is removed": (checkpoint, "_remove", 1, True),
    "while the older is removed": (os, "rmdir", 1, True),
}


@pytest.mark.parametrize("how", ["an error", "a power cut"])
@pytest.mark.parametrize("crash", CRASHES)
def test_a_crash_leaves_a_whole_checkpoint_and_the_next_save_leaves_no_litter(
    tmp_path, run, ranks, crash, how
):
    """A power cut differs from an error in that nobody tidies up."""
    run_spec = spec(tmp_path, "full")
    gpt, model, optimizer = make(run_spec, ranks)
    made, (place, name, n_calls, is_new) = {}, CRASHES[crash]
    for n in (1, 2):
        step(model, optimizer)
        made[n] = values(gpt, optimizer)
        checkpoints = Checkpoints(run, run_spec, ranks, gpt, optimizer)
        if n == 1:
            checkpoints.save(n, 2.0)
            continue
        with (
            pytest.MonkeyPatch.context() as patch,
            pytest.raises((OSError, StateError), match="No space left"),
        ):
            patch.setattr(place, name, fail_at(n_calls, getattr(place, name)))
            if how == "a power cut":
                patch.setattr(
                    weights_module, "shutil", SimpleNamespace(rmtree=lambda *_, **__: None)
                )
            checkpoints.save(n, 1.0)

    newest = 2 if is_new else 1
    found = load_weights(run.newest_checkpoint).tensors
    assert all(torch.equal(found[name], made[newest][name]) for name in found)
    assert load_weights(run.best_checkpoint).parameters > 0
    again, _, fresh = make(run_spec, ranks, seed=1)
    assert load_state(run.newest_checkpoint, again, fresh) == newest
    assert same(values(again, fresh), made[newest])

    checkpoints.save(3, 0.5)
    assert listing(run) == {"newest": "step-3", "best": "step-3", "step-3": None}


def test_a_full_disk_while_a_state_is_written_is_an_error_that_can_be_caught(
    tmp_path, ranks, monkeypatch
):
    """PyTorch's own is no `Exception`: the run's status would stay "running"."""
    gpt, _, optimizer = make(spec(tmp_path), ranks)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(
        Exception, match=r"step-1/state cannot be written \(\d+ bytes were free\): rank 0: OSError"
    ):
        save_state(tmp_path / "step-1", 1, gpt, optimizer)


def test_a_folder_is_never_written_over(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="exists already"), atomic_folder(tmp_path / "mine"):
        raise AssertionError("is not reached")


# -- parallelism -----------------------------------------------------------------------------------------------------


def relay(root):
    """On two ranks: take over what one process has saved by ddp, that by fsdp; train on, and save again."""
    with join("cpu") as ranks:
        place = Run(root / "single").newest_checkpoint
        for name in ("ddp", "fsdp"):
            run, run_spec = Run(root / name), spec(root, "full", parallelism=name, nproc=2)
            gpt, model, optimizer = make(run_spec, ranks, seed=1)
            n_done = load_state(place, gpt, optimizer)
            loaded = values(gpt, optimizer)
            if name == "fsdp":
                step(model, optimizer)
                n_done += 1
            checkpoints = Checkpoints(run, run_spec, ranks, gpt, optimizer)
            checkpoints.save(n_done, 1.0)
            record = {"loaded": loaded, "saved": values(gpt, optimizer), "n_done": n_done}
            torch.save(record, root / f"{name}.{ranks.rank}.pt")
            place = run.newest_checkpoint
        fsync, os.fsync = os.fsync, fail if ranks.rank == 1 else os.fsync
        with pytest.raises(StateError, match=r"rank 1: OSError: .*No space left"):
            checkpoints.save(n_done + 1, 0.5)
        os.fsync = fsync
        ranks.gather(None)
        if ranks.is_first:
            (root / "litter.json").write_text(json.dumps(listing(run)))


@pytest.fixture(scope="module")
def relayed(tmp_path_factory):
    """Two steps on one process, then `relay`; return the folder, and what the one process has saved."""
    root = tmp_path_factory.mktemp("relay")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{root}/rendezvous", rank=0, world_size=1
    )
    ranks, run_spec = DistributedContext(0, 1, torch.device("cpu")), spec(root, "full")
    gpt, model, optimizer = make(run_spec, ranks)
    step(model, optimizer, 2)
    Checkpoints(Run(root / "single"), run_spec, ranks, gpt, optimizer).save(2, 1.0)
    torch.distributed.destroy_process_group()

    (root / "script.py").write_text(
        f"from pathlib import Path\nfrom {Path(__file__).stem} import relay\n"
    )
    with open(root / "script.py", "a") as script:
        script.write(f"relay(Path({str(root)!r}))\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*command, str(root / "script.py")],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return root, values(gpt, optimizer)


def records(root, name):
    return [torch.load(root / f"{name}.{rank}.pt") for rank in range(2)]


@pytest.mark.distributed
def test_a_state_crosses_from_one_parallelism_to_another_bit_for_bit(relayed, ranks):
    """single to ddp to fsdp to single; each parameter, both moments, and the count of steps."""
    root, single = relayed
    for record in records(root, "ddp"):
        assert same(record["loaded"], single) and same(record["saved"], single)
    first, second = records(root, "fsdp")
    assert same(first["loaded"], single) and same(second["loaded"], single)
    assert same(first["saved"], second["saved"]) and not same(first["saved"], single), (
        "it has trained on"
    )
    gpt, model, optimizer = make(spec(root), ranks, seed=1)
    assert load_state(Run(root / "fsdp").newest_checkpoint, gpt, optimizer) == 3 == first["n_done"]
    assert same(values(gpt, optimizer), first["saved"])
    tokens = torch.arange(SEQ_LEN)[None]
    assert torch.equal(gpt.logits(tokens), F.linear(gpt.hidden(tokens), gpt.wte.weight)), (
        "embeddings are still tied"
    )
    step(model, optimizer)


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
@pytest.mark.distributed
def test_the_weights_of_two_ranks_are_those_of_one_model(relayed, name):
    root, _ = relayed
    found = load_weights(Run(root / name).newest_checkpoint).tensors
    saved = records(root, name)[0]["saved"]
    assert all(torch.equal(found[name], saved[name]) for name in found)


@pytest.mark.distributed
def test_a_rank_that_cannot_write_is_told_to_all_and_leaves_the_older_whole(relayed):
    root, _ = relayed
    assert json.loads((root / "litter.json").read_text()) == {
        "newest": "step-3",
        "best": "step-3",
        "step-3": None,
    }
