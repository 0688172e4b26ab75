"""Every parallelism that lies in the folder, on several processes, trains the very model that one process trains."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from harness.model.builder import ModelBuilder
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
from variants import registry
from variants.base import ModelShape, Positional

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).parents[2]
SHAPE = ModelShape(
    n_layer=2, n_head=4, n_embd=16, seq_len=8, vocab_size=17
)  # ranks have unequal shares of 17 rows

SCRIPT = """
import json, os, sys
from pathlib import Path
from pytest import MonkeyPatch
from harness.results.records import RunSpec
from harness.results.store import Run
from harness.training import loop
from harness.model.initialization import check_same_parameters
from harness.probes import peak_flops as peak
from harness.distributed.process_group import join

peak.SIZE = 8  # of the matrix product that is timed: of no account here
models = []


def hash_of(gpt, ranks):
    models.append(gpt)
    return check_same_parameters(gpt, ranks)


loop.check_same_parameters = hash_of
faults = json.loads(os.environ["FAULTS"])
with join("cpu") as ranks:
    for folder in map(Path, sys.argv[1:]):
        run = Run(folder)
        patch = MonkeyPatch()
        exec(faults.get(folder.name, ""))
        try:
            probes = loop.train(run, run.spec, ranks)
            outcome = {"error": None, "final_hash": check_same_parameters(models[-1], ranks)}
            if ranks.is_first:
                run.write_probes(probes)
        except RuntimeError as error:
            outcome = {"error": str(error), "final_hash": None}
        patch.undo()
        if ranks.is_first:
            (folder / "outcome.json").write_text(json.dumps(outcome))
os._exit(0)  # what a fault left half-way must not abort Python's own end
"""

NAMES = sorted(registry.files("parallelism"))
HOW = {  # what is tried of each parallelism beside its defaults, on two processes or as many as it takes, four
    "ddp-small_buckets": ("ddp", {"bucket_mb": 1}),
    "fsdp-small_units": ("fsdp", {"wrap": {"min_params": 300}}),
    "fsdp-zero2": ("fsdp", {"reshard": False}),
    "fsdp-zero2-small_units": ("fsdp", {"wrap": {"min_params": 300}, "reshard": False}),
    "fsdp-cpu_offload": ("fsdp", {"cpu_offload": True}),
}
COARSE = {"ddp-bf16": ("ddp", {"compression": "bf16"})}  # is not to give the same


def takes(name, nproc):
    cls = registry.load("parallelism", name)
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


RUNS = {2: on(2), 4: on(4) | {"fsdp-four": ("fsdp", {"nproc": 4})}}
ALL = {label: how for runs in RUNS.values() for label, how in runs.items()}
EXACT = [label for label in ALL if label not in COARSE]
GPT2 = {"positional": "learned", "attention": "mha"}
OPTIONS = {"n_kv_head": 2, "window": 3}  # of those without a default


def attention(name):
    fields = dataclasses.fields(registry.load("attention", name).Options)
    return name, {field.name: OPTIONS[field.name] for field in fields if field.name in OPTIONS}


PARTS = {  # what is trained besides GPT-2, by the name of its run
    **{
        name: {"positional": "rope", "attention": attention(name)}
        for name in registry.files("attention")
    },
    **{
        f"{norm}-{mlp}": GPT2 | {"norm": norm, "mlp": mlp}
        for norm, mlp in itertools.product(registry.files("norm"), registry.files("mlp"))
    },
    "t5-qk_norm": {"positional": "t5", "attention": ("mha", {"qk_norm": True})},
    "alibi-gqa": {"positional": "alibi", "attention": attention("gqa")},
    "alibi-heads": {
        "positional": "alibi",
        "attention": (
            "sliding_window",
            {"window": 2, "head_dilation": [1, 2, 1, 3], "global_tokens": 1},
        ),
    },
    "t5-differential": {"positional": "t5", "attention": ("differential", {"qk_norm": True})},
    "swiglu-even": GPT2 | {"mlp": ("swiglu", {"width": 40})},
    "mla-q_rank": {"positional": "rope", "attention": ("mla", {"q_rank": 6})},
}


def chosen(parts):
    return {axis: part if isinstance(part, tuple) else (part, {}) for axis, part in parts.items()}


def why_unsupported(how, parts):
    """Return why a parallelism refuses a model."""
    name, options = how
    cls = registry.load("parallelism", name)
    axes = {
        axis: VariantChoice(name=use, label=use, options=options)
        for axis, (use, options) in chosen(parts).items()
    }
    return cls(cls.Options(**options)).why_unsupported(ModelBuilder(SHAPE, axes, []).model)


def plan(folder, label, how, parts=GPT2, steps=50, **train):
    """Write the spec of steps of 8 sequences, in micro-batches of 2, that keep the gradient clipped."""
    tokens = (np.arange(600) ** 2 % SHAPE.vocab_size).astype(np.uint16)
    tokens.tofile(folder / "tokens.bin")
    np.save(folder / "bytes.npy", np.ones(SHAPE.vocab_size, dtype=np.int64))
    axes = chosen(parts) | {"parallelism": how}
    slices = [
        TokenSlice(file=str(folder / "tokens.bin"), start=start, stop=stop)
        for start, stop in ((0, 500), (500, 600))
    ]
    shape = dataclasses.asdict(SHAPE)
    spec = RunSpec(
        study="study",
        run_id=label,
        entry=label,
        seed=0,
        settings_hash="",
        baseline={axis: use for axis, (use, _) in axes.items()},
        axes={
            axis: VariantChoice(name=use, label=use, options=options)
            for axis, (use, options) in axes.items()
        },
        model=ResolvedModel(**shape),
        data=ResolvedData(corpus="synthetic", tokenizer="bytes", sha256=""),
        train=TrainSettings(
            **{
                "steps": steps,
                "tokens_per_step": 64,
                "micro_batch_size": 2,
                "lr": 1e-2,
                "grad_clip": 0.5,
                "device": "cpu",
                "eval_every": 25,
                **train,
            }
        ),
        probes={"eval_lengths": [5]} if steps > 2 else {},
        launch=LaunchSpec(
            world_size=how[1]["nproc"],
            timeout_s=None,
            variant_paths=[],
            token_bytes=str(folder / "bytes.npy"),
            train_tokens=slices[:1],
            val_tokens=slices[1:],
            keep_checkpoints="weights" if steps > 2 else "none",
        ),
        expected=PredictedCost(parameters=0, flops_per_token=0, memory_bytes=0),
    )
    run = Run(folder / label)
    run.create(spec)
    return run


def torchrun(folder, nproc, runs, faults=None):
    """Train one run after the other: a start costs more than any of them."""
    (folder / "script.py").write_text(SCRIPT)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={nproc}",
    ]
    command += [str(folder / "script.py"), *(str(run.path) for run in runs)]
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "FAULTS": json.dumps(faults or {}),
    }
    ended = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]


def trained(folder, nproc, hows):
    """Train GPT-2 in 50 steps and all else in two."""
    runs = {}
    for label, how in hows.items():
        runs[label] = plan(folder, label, how)
        for of, parts in PARTS.items():
            if label in NAMES and not why_unsupported(how, parts):
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


def outcome(run):
    """Return the error that ended the training, or the hash of the parameters at its end."""
    return json.loads((run.path / "outcome.json").read_text())


def same_training(one, two, rel=1e-5):
    assert outcome(two)["error"] is None
    assert two.probes.initial_hash == one.probes.initial_hash
    assert two.probes.parameters == one.probes.parameters, "as many as when the embeddings are tied"
    assert two.probes.flops_per_token == one.probes.flops_per_token
    assert two.steps().loss.tolist() == pytest.approx(one.steps().loss.tolist(), rel=rel)
    assert two.steps().grad_norm.tolist() == pytest.approx(one.steps().grad_norm.tolist(), rel=rel)
    for mine, right in zip(two.evals(), one.evals(), strict=True):
        assert mine.val_loss == pytest.approx(right.val_loss, rel=rel)
        assert mine.bits_per_byte == pytest.approx(right.bits_per_byte, rel=rel)
    assert outcome(two)["final_hash"], "the ranks agree at the end as well"


@pytest.mark.parametrize("label", EXACT)
def test_several_processes_train_what_one_does(runs, label):
    """A speed-up from a model that has silently become another one is none."""
    same_training(runs["single"], runs[label])
    assert len(runs[label].steps()) == 50
    assert runs[label].steps().grad_norm.min() > 0.5, (
        "clipped, or the test says nothing of clipping"
    )
    for mine, right in zip(runs[label].probes.lengths, runs["single"].probes.lengths, strict=True):
        assert mine.val_loss == pytest.approx(right.val_loss, rel=1e-5)


FITTING = [
    (label, of)
    for label in EXACT
    if label in NAMES
    for of, parts in PARTS.items()
    if not why_unsupported(ALL[label], parts)
]


@pytest.mark.parametrize(("label", "of"), FITTING)
def test_several_processes_train_every_part_as_one_does(runs, label, of):
    """A parallelism knows nothing of what the model is made of; a part of another shape must be spread as well."""
    same_training(runs["single", of], runs[label, of])
    assert len(runs[label, of].steps()) == 2


def test_the_parts_are_different_models(runs):
    """Else the above says nothing of them."""
    losses = {tuple(runs["single", of].steps().loss) for of in PARTS}
    assert len(losses) == len(PARTS)


def test_what_is_counted_is_what_is_executed(runs):
    """Processes that compute a model together each compute the output projection by themselves, and no more."""
    output = 6 * SHAPE.n_embd * SHAPE.vocab_size
    one = runs["single"].probes.flops_per_token_counted
    for label, (name, options) in ALL.items():
        cls = registry.load("parallelism", name)
        parallelism = cls(cls.Options(**options))
        replication = parallelism.world_size // parallelism.data_parallel_size
        assert runs[label].probes.flops_per_token_counted == one + (replication - 1) * output, label


@pytest.mark.parametrize("label", ALL)
def test_a_rank_holds_the_part_that_is_stated(runs, label):
    """The memory estimate of `list` is made from it, and sharding is chosen for it."""
    name, options = ALL[label]
    cls = registry.load("parallelism", name)
    model = ModelBuilder(SHAPE, {}, []).model()
    shares = cls(cls.Options(**options)).memory_fractions(model)
    assert (
        next(model.parameters()).device.type == "meta" and model.h[0].attn.n_head == SHAPE.n_head
    ), "as it was"
    (one,), many = runs["single"].probes.memory, runs[label].probes.memory
    assert len(many) == options["nproc"]
    for category in ("parameters", "gradients", "optimizer"):
        assert max(getattr(rank, category) for rank in many) == pytest.approx(
            getattr(one, category) * shares[category], rel=0.05
        )
        assert min(getattr(rank, category) for rank in many) == pytest.approx(
            getattr(one, category) * shares[category], rel=0.1
        )
    for rank in many:
        assert rank.other == pytest.approx(one.parameters * shares["gathered"], rel=0.05), (
            "made whole at once"
        )


def held(rank):
    return rank.parameters + rank.gradients + rank.optimizer


def test_four_shards_are_a_quarter_each(runs):
    """A rank that holds more than its share in silence is the one that runs out of memory."""
    (one,), four = runs["single"].probes.memory, runs["fsdp-four"].probes.memory
    assert [held(rank) for rank in four] == pytest.approx([held(one) / 4] * 4, rel=0.02)


def test_gradients_that_travel_in_half_the_bytes_are_near_and_not_the_same(runs):
    """What is saved is paid for, by as much as bf16's eight bits tell."""
    one, two = (runs[label].steps().grad_norm[0] for label in ("single", "ddp-bf16"))
    assert two != one and two == pytest.approx(one, rel=0.01)


def test_dividing_a_model_keeps_what_the_others_do_not_need(runs):
    """What is kept for the backward pass is divided with the heads; data parallelism keeps as much as one process."""
    (one,) = runs["single"].probes.memory
    for label in EXACT:
        for rank in runs[label].probes.memory:
            if label in ("tp", "fsdp_tp"):
                assert rank.activations < 0.9 * one.activations
            else:
                assert rank.activations == pytest.approx(one.activations, rel=0.1), (
                    "of equal micro-batches"
                )


# -- what is caught --------------------------------------------------------------------------------------------------

OTHER_SEED = """
from harness.training import warm_start as start
right = start.init_parameters
wrong = lambda gpt, seed, *more, **named: right(gpt, seed + ranks.rank, *more, **named)
patch.setattr(start, "init_parameters", wrong)
"""
NO_SUM_OF_SHARED = """
from variants.parallelism import _tensor
patch.setattr(_tensor, "add_up", lambda *_: None)
"""
NO_SUM_OF_PARTS = """
from variants.parallelism import _collective
patch.setattr(_collective, "_sum", lambda x, group: x.clone())
"""
NO_SUM_OF_REPLICAS = """
from torch.nn.parallel import DistributedDataParallel
patch.setattr(DistributedDataParallel, "forward", lambda wrapped, *given: wrapped.module(*given))
"""
UNTIED = """
import torch
from harness.model.gpt import GPT
linear = torch.nn.functional.linear
patch.setattr(GPT, "logits", lambda gpt, tokens: linear(gpt.hidden(tokens), gpt.wte.weight.detach()))
"""
FAULTS = {
    "seed of a replica": ("ddp", OTHER_SEED),
    "seed of a shard": ("fsdp", OTHER_SEED),
    "seed of a piece": ("tp", OTHER_SEED),
    "sum over replicas": ("ddp", NO_SUM_OF_REPLICAS),
    "sum of what heads share": ("tp", NO_SUM_OF_SHARED),
    "sum of the parts": ("tp", NO_SUM_OF_PARTS),
    "untied embedding": ("tp", UNTIED),
    "untied embedding of shards": ("fsdp", UNTIED),
    "none": ("tp", ""),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Two steps with each fault, and the same without any on one process."""
    folder, parts = tmp_path_factory.mktemp("faulty"), PARTS["t5-differential"]
    one = plan(folder, "single", ("single", {"nproc": 1}), parts, steps=2)
    torchrun(folder, 1, [one])
    codes = {fault.replace(" ", "_"): code for fault, (_, code) in FAULTS.items()}
    found = {
        fault: plan(folder, fault.replace(" ", "_"), (name, {"nproc": 2}), parts, steps=2)
        for fault, (name, _) in FAULTS.items()
    }
    torchrun(folder, 2, found.values(), codes)
    return one, found


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_by_what_is_compared_here(faulty, fault):
    one, found = faulty
    with nullcontext() if fault == "none" else pytest.raises(AssertionError):
        same_training(one, found[fault])


def test_replicas_that_start_apart_are_stopped_before_the_first_step(faulty):
    _, found = faulty
    for fault in ("seed of a replica", "seed of a piece"):
        assert "ranks start from different parameters" in outcome(found[fault])["error"]
        assert not list(found[fault].path.glob("steps.*.jsonl")) or not len(found[fault].steps())


# -- where bytes and time go ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_rank_sends_what_theory_predicts(runs, name):
    """Traffic is what a parallelism costs; what is sent twice, or whole where a part would do, shows here alone."""
    probes = runs[name].probes
    assert len(probes.traffic) == ALL[name][1]["nproc"]
    for rank in probes.traffic:
        sent = sum(calls.sent_bytes for calls in rank.values())
        assert sent > 0 and all(calls.calls > 0 for calls in rank.values())
        if probes.predicted_bytes_sent is not None:
            assert sent == pytest.approx(probes.predicted_bytes_sent, rel=0.02)


def test_traffic_by_hand(runs):
    """Two ranks: DDP's all-reduce sends each gradient once; FSDP gathers a block twice in each micro-batch."""
    numel = runs["single"].probes.parameters
    (all_reduce,) = runs["ddp"].probes.traffic[0].values()
    assert all_reduce.payload_bytes == all_reduce.sent_bytes == 4 * numel
    fsdp = runs["fsdp"].probes.traffic[0]
    padded, root = (
        numel + 16,
        17 * 16 + 16 + 8 * 16 + 2 * 16,
    )  # a row for wte's seventeenth; wte, wpe, the last norm
    assert fsdp["reduce_scatter"].model_dump() == {
        "calls": 3,
        "payload_bytes": 4 * padded,
        "sent_bytes": 2 * padded,
    }
    gathered = 2 * (2 * padded - root)  # in two micro-batches: all, and the blocks once more
    assert fsdp["all_gather"].model_dump() == {
        "calls": 10,
        "payload_bytes": 4 * gathered,
        "sent_bytes": 2 * gathered,
    }


@pytest.mark.parametrize("name", ALL)
def test_each_rank_tells_where_its_time_goes(runs, name):
    for rank in runs[name].probes.phases:
        assert all(min(seconds) >= 0 for seconds in rank.model_dump().values())
        assert min(rank.forward_s) > 0 and min(rank.backward_s) > 0 and max(rank.waiting_s) > 0


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_number_of_processes_that_cannot_work_is_refused(name):
    cls = registry.load("parallelism", name)
    assert cls.check(SHAPE, cls.Options()) == {}
    assert "nproc" in cls.check(SHAPE, cls.Options(nproc=0))


WRAP = "must be 'block' or { min_params = N }, N at least 1"
GROUPS = "no two groups of two at least; one group is fsdp, groups of one are ddp"


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("single", {"nproc": 2}, {"nproc": "2: single has one process; use ddp or fsdp"}),
        (
            "dp",
            {"nproc": 2},
            {"nproc": "2: dp has one process, with a thread for each GPU; use ddp or fsdp"},
        ),
        ("dp", {"n_gpu": 0}, {"n_gpu": "0: must be at least 1"}),
        ("ddp", {"bucket_mb": 0}, {"bucket_mb": "0: must be at least 1"}),
        ("fsdp", {"wrap": {"params": 3}}, {"wrap": "{'params': 3}: " + WRAP}),
        ("fsdp", {"wrap": {"min_params": 0}}, {"wrap": "{'min_params': 0}: " + WRAP}),
        ("hsdp", {"replicas": 3}, {"replicas": "3 does not divide nproc = 4; allowed: 1, 2, 4"}),
        ("hsdp", {"replicas": 1}, {"replicas": "1: " + GROUPS}),
        ("hsdp", {"nproc": 2}, {"nproc": "2: " + GROUPS}),
        (
            "fsdp_tp",
            {"tp": 4},
            {"tp": "4: no two groups of two at least; one group is tp, groups of one are fsdp"},
        ),
    ],
)
def test_options_that_cannot_work_are_refused_with_the_reason(name, options, told):
    cls = registry.load("parallelism", name)
    assert cls.check(SHAPE, cls.Options(**options)) == told


@pytest.mark.parametrize("name", ["dp", "tp", "fsdp_tp"])
def test_dropout_that_would_not_be_the_models_is_refused(name):
    cls = registry.load("parallelism", name)
    (told,) = cls.check(dataclasses.replace(SHAPE, dropout=0.1), cls.Options()).values()
    assert told.startswith("dropout = 0.1: ") and "would drop the same places" in told


REFUSED = {  # of what is tried here; all else is trained
    "mqa": "MultiQuery at h.0.attn: 1 key-value heads do not divide over 2 processes",
    "mla": "LatentAttention at h.0.attn: without q_rank, one matrix holds the queries of each head and the latents",
    "layernorm-swiglu": "SwiGLU at h.0.mlp: gate: its width of 43 does not divide over 2 processes",
    "rmsnorm-swiglu": "SwiGLU at h.0.mlp: gate: its width of 43 does not divide over 2 processes",
}


@pytest.mark.parametrize("label", ["tp", "fsdp_tp"])
def test_what_does_not_divide_is_refused_and_nothing_else_is(label):
    """A key-value head that two processes share would be trained twice, and nobody would see it."""
    told = {of: why_unsupported(ALL[label], parts) for of, parts in PARTS.items()}
    assert {of for of in told if told[of]} == REFUSED.keys()
    assert all(told[of].startswith(reason) for of, reason in REFUSED.items())


def test_a_part_that_does_not_say_how_it_divides_is_refused():
    """A user's own attention, whose parameters the shipped one knows nothing of, or a bias of all heads."""

    def make(attention=None, positional=None):
        parts = ModelBuilder(SHAPE, {}, [])
        if attention is not None:
            parts.attention = lambda layer: attention(SHAPE, attention.Options(), layer)
        if positional is not None:
            parts.positional = lambda: positional(SHAPE, None)
        cls = registry.load("parallelism", "tp")
        return cls(cls.Options(nproc=2)).why_unsupported(parts.model)

    mha = registry.load("attention", "mha")

    class Scaled(mha):
        def __init__(self, *given):
            super().__init__(*given)
            self.scale = nn.Parameter(torch.ones(1))

    class Biased(Positional):
        def bias(self, q_positions, k_positions):
            return torch.zeros(SHAPE.n_head, len(q_positions), len(k_positions))

    class Added(Positional):
        def embed(self, x_BTC, positions_T):
            return x_BTC + positions_T[:, None]

    assert (
        make(Scaled)
        == "Scaled at h.0.attn: `tensor_parallel_plan` does not say what becomes of scale"
    )
    assert make(positional=Biased).startswith(
        "Biased at positional: does not define how it is sharded"
    )
    assert make() == make(mha) == make(positional=Added) == ""
