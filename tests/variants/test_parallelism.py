"""Every parallelism that lies in the folder, on several processes, trains the very model that one process trains."""

import dataclasses
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
from harness.worker.build import Parts
from variants import catalogue
from variants.api import Shape

ROOT = Path(__file__).parents[2]
SHAPE = Shape(n_layer=2, n_head=4, n_embd=16, seq_len=8, vocab_size=17)  # ranks have unequal shares of 17 rows

SCRIPT = """
import json, os, sys
from pathlib import Path
from harness.spec import RunSpec
from harness.store import Run
from harness.worker import loop
from harness.worker.initial import agreed_hash
from harness.worker.ranks import join

models = []


def hash_of(gpt, ranks):
    models.append(gpt)
    return agreed_hash(gpt, ranks)


loop.agreed_hash = hash_of
exec(os.environ.get("FAULT", ""))
with join("cpu") as ranks:
    for folder in map(Path, sys.argv[1:]):
        run = Run(folder)
        try:
            probes = loop.train(run, RunSpec.model_validate(run.spec), ranks)
            probes["final_hash"] = agreed_hash(models[-1], ranks)
        except RuntimeError as error:
            probes = {"error": str(error)}
        if ranks.is_first:
            run.write_probes(probes)
"""

NAMES = sorted(catalogue.files("parallelism"))
HOW = {  # what is tried of each parallelism beside its defaults, on two processes or as many as it takes, four
    "ddp-small_buckets": ("ddp", {"bucket_mb": 1}),
    "fsdp-small_units": ("fsdp", {"wrap": {"min_params": 300}}),
    "fsdp-zero2": ("fsdp", {"reshard": False}),
    "fsdp-zero2-small_units": ("fsdp", {"wrap": {"min_params": 300}, "reshard": False}),
    "fsdp-cpu_offload": ("fsdp", {"cpu_offload": True}),
}
COARSE = {"ddp-bf16": ("ddp", {"compression": "bf16"})}  # is not to give the same


def takes(name, nproc):
    cls = catalogue.load("parallelism", name)
    return "cpu" in cls.devices and not cls.check(SHAPE, cls.Options(nproc=nproc))


def on(nproc):
    """Return what is run on so many processes: each variant on as few as it takes."""
    fewer = range(2, nproc)
    mine = [name for name in NAMES if takes(name, nproc) and not any(takes(name, n) for n in fewer)]
    return {name: (name, {"nproc": nproc}) for name in mine} | {
        label: (name, options | {"nproc": nproc})
        for label, (name, options) in {**HOW, **COARSE}.items()
        if name in mine
    }


RUNS = {2: on(2), 4: on(4)}
ALL = {label: how for runs in RUNS.values() for label, how in runs.items()}
EXACT = [label for label in ALL if label not in COARSE]
GPT2 = {"positional": "learned", "attention": "mha"}
OPTIONS = {"n_kv_head": 2, "window": 3}  # of those without a default


def attention(name):
    fields = dataclasses.fields(catalogue.load("attention", name).Options)
    return name, {field.name: OPTIONS[field.name] for field in fields if field.name in OPTIONS}


PARTS = {  # what is trained besides GPT-2, by the name of its run
    **{name: {"positional": "rope", "attention": attention(name)} for name in catalogue.files("attention")},
    **{
        f"{norm}-{mlp}": GPT2 | {"norm": norm, "mlp": mlp}
        for norm, mlp in itertools.product(catalogue.files("norm"), catalogue.files("mlp"))
    },
    "t5-qk_norm": {"positional": "t5", "attention": ("mha", {"qk_norm": True})},
    "alibi-gqa": {"positional": "alibi", "attention": attention("gqa")},
    "alibi-heads": {
        "positional": "alibi",
        "attention": ("sliding_window", {"window": 2, "head_dilation": [1, 2, 1, 3], "global_tokens": 1}),
    },
    "t5-differential": {"positional": "t5", "attention": ("differential", {"qk_norm": True})},
    "swiglu-even": GPT2 | {"mlp": ("swiglu", {"width": 40})},
    "mla-q_rank": {"positional": "rope", "attention": ("mla", {"q_rank": 6})},
}


def chosen(parts):
    return {axis: part if isinstance(part, tuple) else (part, {}) for axis, part in parts.items()}


def misfit(how, parts):
    """Return why a parallelism refuses a model."""
    name, options = how
    cls = catalogue.load("parallelism", name)
    axes = {axis: Choice(use=use, label=use, options=options) for axis, (use, options) in chosen(parts).items()}
    return cls(cls.Options(**options)).misfit(Parts(SHAPE, axes, []).model)


def plan(folder, label, how, parts=GPT2, steps=50, **train):
    """Write the spec of steps of 8 sequences, in micro-batches of 2, that keep the gradient clipped."""
    tokens = (np.arange(600) ** 2 % SHAPE.vocab_size).astype(np.uint16)
    tokens.tofile(folder / "tokens.bin")
    np.save(folder / "bytes.npy", np.ones(SHAPE.vocab_size, dtype=np.int64))
    axes = chosen(parts) | {"parallelism": how}
    slices = [
        TokenSlice(file=str(folder / "tokens.bin"), start=start, stop=stop) for start, stop in ((0, 500), (500, 600))
    ]
    shape = dataclasses.asdict(SHAPE)
    spec = RunSpec(
        study="study", run_id=label, entry_id=label, seed=0, comparable="",
        baseline={axis: use for axis, (use, _) in axes.items()},
        axes={axis: Choice(use=use, label=use, options=options) for axis, (use, options) in axes.items()},
        model=ResolvedModel(**shape),
        data=ResolvedData(corpus="synthetic", tokenizer="bytes", sha256=""),
        train=Train(**{
            "steps": steps, "tokens_per_step": 64, "micro_batch": 2, "lr": 1e-2, "grad_clip": 0.5, "device": "cpu",
            "eval_every": 25, **train,
        }),
        probes={"lengths": [5]} if steps > 2 else {},
        launch=Place(
            nproc=how[1]["nproc"], timeout_s=None, variant_paths=[], token_bytes=str(folder / "bytes.npy"),
            train_tokens=slices[:1], val_tokens=slices[1:], keep="weights" if steps > 2 else "nothing",
        ),
        expected=Expected(parameters=0, flops_per_token=0, memory_bytes=0),
    )  # fmt: skip
    run = Run(folder / label)
    run.plan(json.loads(spec.model_dump_json()))
    return run


def torchrun(folder, nproc, runs, fault=""):
    """Train one run after the other: a start costs more than any of them."""
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={nproc}"]
    command += [str(folder / "script.py"), *(str(run.path) for run in runs)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "FAULT": fault}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr[-9000:]


def trained(folder, nproc, hows):
    """Train GPT-2 in 50 steps and all else in two."""
    runs = {}
    for label, how in hows.items():
        runs[label] = plan(folder, label, how)
        for of, parts in PARTS.items():
            if not misfit(how, parts) and label not in COARSE:
                runs[label, of] = plan(folder, f"{label}-{of}", how, parts, steps=2)
    torchrun(folder, nproc, runs.values())
    return runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`single` on one process, all others on two or four."""
    found = trained(tmp_path_factory.mktemp("one"), 1, {"single": ("single", {"nproc": 1})})
    for nproc, hows in RUNS.items():
        found |= trained(tmp_path_factory.mktemp(f"on{nproc}"), nproc, hows)
    return found


def same_training(one, two, rel=1e-5):
    assert two.probes.get("error") is None
    assert two.probes["initial_hash"] == one.probes["initial_hash"]
    assert two.probes["parameters"] == one.probes["parameters"], "as many as when the embeddings are tied"
    assert two.probes["flops_per_token"] == one.probes["flops_per_token"]
    assert two.steps().loss.tolist() == pytest.approx(one.steps().loss.tolist(), rel=rel)
    assert two.steps().grad_norm.tolist() == pytest.approx(one.steps().grad_norm.tolist(), rel=rel)
    for mine, right in zip(two.evals(), one.evals(), strict=True):
        assert mine["val_loss"] == pytest.approx(right["val_loss"], rel=rel)
        assert mine["bits_per_byte"] == pytest.approx(right["bits_per_byte"], rel=rel)
    assert two.probes["final_hash"], "the ranks agree at the end as well"


@pytest.mark.parametrize("label", EXACT)
def test_several_processes_train_what_one_does(runs, label):
    """A speed-up from a model that has silently become another one is none."""
    same_training(runs["single"], runs[label])
    assert len(runs[label].steps()) == 50
    assert runs[label].steps().grad_norm.min() > 0.5, "clipped, or the test says nothing of clipping"
    for mine, right in zip(runs[label].probes["lengths"], runs["single"].probes["lengths"], strict=True):
        assert mine["val_loss"] == pytest.approx(right["val_loss"], rel=1e-5)


FITTING = [(label, of) for label in EXACT for of, parts in PARTS.items() if not misfit(ALL[label], parts)]


@pytest.mark.parametrize(("label", "of"), FITTING)
def test_several_processes_train_every_part_as_one_does(runs, label, of):
    """A parallelism knows nothing of what the model is made of; a part of another shape must be spread as well."""
    same_training(runs["single", of], runs[label, of])
    assert len(runs[label, of].steps()) == 2


def test_the_parts_are_different_models(runs):
    """Else the above says nothing of them."""
    losses = {tuple(run.steps().loss[:2]) for key, run in runs.items() if key == "single" or key[0] == "single"}
    assert len(losses) == len(PARTS) + 1
