"""Every parallelism that lies in the folder, on two processes, trains the very model that one process trains."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.spec import Choice, Expected, Place, ResolvedData, ResolvedModel, RunSpec, TokenSlice, Train
from harness.store import Run
from variants import catalogue
from variants.api import Shape

ROOT = Path(__file__).parents[2]
SHAPE = Shape(n_layer=2, n_head=2, n_embd=16, seq_len=8, vocab_size=17)

SCRIPT = """
import json, sys
from pathlib import Path
from harness.spec import RunSpec
from harness.store import Run
from harness.worker.loop import train
from harness.worker.ranks import join

with join("cpu") as ranks:
    for folder in map(Path, sys.argv[1:]):
        run = Run(folder)
        probes = train(run, RunSpec.model_validate(run.spec), ranks)
        if ranks.is_first:
            run.write_probes(probes)
"""


def takes_two(name):
    cls = catalogue.load("parallelism", name)
    return not cls.check(SHAPE, cls.Options(nproc=2))


NAMES = sorted(catalogue.files("parallelism"))
PARALLEL = [name for name in NAMES if takes_two(name)]
GPT2 = {"positional": "learned", "attention": "mha"}
PARTS = {  # what is trained besides GPT-2, by the name of its run: each adds parameters of other shapes
    **{
        f"{norm}-{mlp}": GPT2 | {"norm": norm, "mlp": mlp}
        for norm, mlp in itertools.product(catalogue.files("norm"), catalogue.files("mlp"))
    },
    "t5-qk_norm": {"positional": "t5", "attention": ("mha", {"qk_norm": True})},
}


def plan(folder, name, parallelism, nproc, parts=GPT2, steps=6):
    """Write the spec of steps of 8 sequences, in micro-batches of 2, that keep the gradient clipped."""
    tokens = (np.arange(600) ** 2 % SHAPE.vocab_size).astype(np.uint16)
    tokens.tofile(folder / "tokens.bin")
    np.save(folder / "bytes.npy", np.ones(SHAPE.vocab_size, dtype=np.int64))
    chosen = {axis: part if isinstance(part, tuple) else (part, {}) for axis, part in parts.items()}
    chosen["parallelism"] = (parallelism, {"nproc": nproc})
    slices = [
        TokenSlice(file=str(folder / "tokens.bin"), start=start, stop=stop) for start, stop in ((0, 500), (500, 600))
    ]
    spec = RunSpec(
        study="study", run_id=name, entry_id=name, seed=0, comparable="",
        baseline={axis: use for axis, (use, _) in chosen.items()},
        axes={axis: Choice(use=use, label=use, options=options) for axis, (use, options) in chosen.items()},
        model=ResolvedModel(n_layer=2, n_head=2, n_embd=16, seq_len=8, vocab_size=17),
        data=ResolvedData(corpus="synthetic", tokenizer="bytes", sha256=""),
        train=Train(steps=steps, tokens_per_step=64, micro_batch=2, lr=1e-2, grad_clip=0.5, device="cpu"),
        launch=Place(
            nproc=nproc, timeout_s=None, variant_paths=[], token_bytes=str(folder / "bytes.npy"),
            train_tokens=slices[:1], val_tokens=slices[1:],
        ),
        expected=Expected(parameters=0, flops_per_token=0, memory_bytes=0),
    )  # fmt: skip
    run = Run(folder / name)
    run.plan(json.loads(spec.model_dump_json()))
    return run


def torchrun(folder, nproc, names):
    """Train GPT-2 in six steps and all else in two, one run after the other: a start costs more than any of them."""
    runs = {name: plan(folder, name, name, nproc) for name in names}
    for name, (of, parts) in itertools.product(names, PARTS.items()):
        runs[name, of] = plan(folder, f"{name}-{of}", name, nproc, parts, steps=2)
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={nproc}"]
    command += [str(folder / "script.py"), *(str(run.path) for run in runs.values())]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`single` on one process, all others on two."""
    one = torchrun(tmp_path_factory.mktemp("one"), 1, ["single"])
    return one | torchrun(tmp_path_factory.mktemp("two"), 2, PARALLEL)


def same_training(one, two):
    assert two.probes["initial_hash"] == one.probes["initial_hash"]
    assert two.probes["parameters"] == one.probes["parameters"], "as many as when the embeddings are tied"
    assert two.steps().loss.tolist() == pytest.approx(one.steps().loss.tolist(), rel=1e-5)
    assert two.steps().grad_norm.tolist() == pytest.approx(one.steps().grad_norm.tolist(), rel=1e-4)
    for mine, right in zip(two.evals(), one.evals(), strict=True):
        assert mine["val_loss"] == pytest.approx(right["val_loss"], rel=1e-5)
    assert two.probes["flops_per_token_counted"] == one.probes["flops_per_token_counted"]


@pytest.mark.parametrize("name", PARALLEL)
def test_two_processes_train_what_one_does(runs, name):
    """A speed-up from a model that has silently become another one is none."""
    same_training(runs["single"], runs[name])
    assert len(runs[name].steps()) == 6
    assert runs[name].steps().grad_norm.min() > 0.5, "clipped, or the test says nothing of clipping"


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("name", PARALLEL)
def test_two_processes_train_every_part_as_one_does(runs, name, parts):
    """A parallelism knows nothing of what the model is made of; a part of another shape must be spread as well."""
    same_training(runs["single", parts], runs[name, parts])
    assert len(runs[name, parts].steps()) == 2


def test_the_parts_are_different_models(runs):
    """Else the above says nothing of them."""
    losses = {tuple(run.steps().loss) for key, run in runs.items() if key == "single" or key[0] == "single"}
    assert len(losses) == len(PARTS) + 1


@pytest.mark.parametrize("name", PARALLEL)
def test_a_rank_holds_the_part_that_is_stated(runs, name):
    """The memory estimate of `list` is made from it, and sharding is chosen for it."""
    cls = catalogue.load("parallelism", name)
    shares = cls(cls.Options(nproc=2)).shares()
    (one,), two = runs["single"].probes["memory"], runs[name].probes["memory"]
    assert len(two) == 2
    for rank in two:
        for category, share in shares.items():
            assert rank[category] == pytest.approx(one[category] * share, rel=0.03), category
        assert rank["activations"] == pytest.approx(one["activations"], rel=0.1), "of equal micro-batches"
        if shares["parameters"] < 1:
            assert 0 < rank["other"] < one["parameters"], (
                "sharding makes one block whole after the other, not all at once"
            )
        else:
            assert rank["other"] == 0


@pytest.mark.parametrize("name", PARALLEL)
def test_a_rank_sends_what_theory_predicts(runs, name):
    """Traffic is what a parallelism costs; what is sent twice, or whole where a part would do, shows here alone."""
    probes = runs[name].probes
    assert len(probes["traffic"]) == 2
    for rank in probes["traffic"]:
        sent = sum(calls["sent_bytes"] for calls in rank.values())
        assert sent > 0 and all(calls["calls"] > 0 for calls in rank.values())
        if probes["traffic_predicted_bytes"] is not None:
            assert sent == pytest.approx(probes["traffic_predicted_bytes"], rel=0.02)


def test_traffic_by_hand(runs):
    """Two ranks: DDP's all-reduce sends each gradient once; FSDP gathers a block twice in each micro-batch."""
    numel = runs["single"].probes["parameters"]
    (all_reduce,) = runs["ddp"].probes["traffic"][0].values()
    assert all_reduce["payload_bytes"] == all_reduce["sent_bytes"] == 4 * numel
    fsdp = runs["fsdp"].probes["traffic"][0]
    padded, root = numel + 16, 17 * 16 + 16 + 8 * 16 + 2 * 16  # a row for wte's seventeenth; wte, wpe, the last norm
    assert fsdp["reduce_scatter"] == {"calls": 3, "payload_bytes": 4 * padded, "sent_bytes": 2 * padded}
    gathered = 2 * (2 * padded - root)  # in two micro-batches: all, and the blocks once more
    assert fsdp["all_gather"] == {"calls": 10, "payload_bytes": 4 * gathered, "sent_bytes": 2 * gathered}


@pytest.mark.parametrize("name", PARALLEL)
def test_each_rank_tells_where_its_time_goes(runs, name):
    for rank in runs[name].probes["phases"]:
        assert all(min(seconds) >= 0 for seconds in rank.values())
        assert min(rank["forward_s"]) > 0 and min(rank["backward_s"]) > 0 and max(rank["waiting_s"]) > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_number_of_processes_that_cannot_work_is_refused(name):
    cls = catalogue.load("parallelism", name)
    assert cls.check(SHAPE, cls.Options()) == {}
    assert "nproc" in cls.check(SHAPE, cls.Options(nproc=0))


def test_single_is_one_process_and_says_what_to_use_for_more():
    cls = catalogue.load("parallelism", "single")
    assert cls.check(SHAPE, cls.Options(nproc=2)) == {"nproc": "2: single has one process; use ddp or fsdp"}
