"""Every parallelism trains the same model on several processes as on one.

A model combines several of the parts that are tried; `FUZZ=1` trains each part alone as well, and
each setting alone on more parallelisms.
"""

import dataclasses
import itertools
import json
from contextlib import nullcontext
from pathlib import Path

import equal_steps
import numpy as np
import pytest
import torch
from forked_ranks import run_script
from hostile import FUZZ
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
from harness.results.run import Run
from variants import registry
from variants.base import ModelShape, Positional
from variants.parallelism._vocabulary import rank_tokens

pytestmark = pytest.mark.distributed

SHAPE = ModelShape(
    n_layer=2, n_head=4, n_embd=16, seq_len=8, vocab_size=17
)  # ranks have unequal shares of 17 rows

# A fault may leave a process group in any state: its runs are the last.
SCRIPT = """
import equal_steps
import json, sys
import torch
from functools import partial
from pathlib import Path
from forked_ranks import fork_ranks
from pytest import MonkeyPatch
from harness.results.run import Run
from harness.training import loop
from harness.model.initialization import check_same_parameters
from harness.probes import peak_flops as peak, post_training
from harness.distributed.process_group import join
from torch._dynamo.utils import counters

loop.COMPILER = "aot_eager"  # traces the forward and the backward pass, generates no code
peak.SIZE = 8  # of the matrix product that is timed: of no account here
post_training.N_TIMED = 1
models = []


def hash_of(gpt, ranks):
    models.append(gpt)
    return check_same_parameters(gpt, ranks)


loop.check_same_parameters = hash_of


def train_all(folders, faults):
    with join("cpu") as ranks:
        equal_steps.compute_all(ranks, Path(folders[0]).parent)
        for folder in map(Path, folders):
            run = Run(folder)
            patch = MonkeyPatch()
            exec(faults.get(folder.name, ""), {"patch": patch, "ranks": ranks})
            try:
                probes = loop.train(run, run.spec, ranks)
                outcome = {"error": None, "final_hash": check_same_parameters(models[-1], ranks)}
                if ranks.is_first:
                    run.write_probes(probes)
            except (RuntimeError, loop.NotFiniteError) as error:
                outcome = {"error": str(error), "final_hash": None}
            patch.undo()
            if ranks.is_first:
                (folder / "outcome.json").write_text(json.dumps(outcome))


# Imports of the compiler that each rank would repeat.
torch.compile(torch.nn.Linear(1, 1), backend=loop.COMPILER)(torch.ones(1)).sum().backward()
torch.compiler.reset()
counters.clear()
for world_size, folders, faults in json.loads(Path(sys.argv[1]).read_text()):
    fork_ranks(world_size, partial(train_all, folders, faults))
"""

NAMES = sorted(registry.files("parallelism"))
N_STEPS = 16  # of GPT-2
VARIED = {  # options other than the defaults, on the fewest processes that the variant accepts
    "ddp-small_buckets": ("ddp", {"bucket_mb": 1}),
    "fsdp-small_units": ("fsdp", {"wrap": {"min_params": 300}}),
    "fsdp-zero2": ("fsdp", {"reshard": False}),
    "fsdp-zero2-small_units": ("fsdp", {"wrap": {"min_params": 300}, "reshard": False}),
    "fsdp-cpu_offload": ("fsdp", {"cpu_offload": True}),
}
COARSE = {"ddp-bf16": ("ddp", {"compression": "bf16"})}  # not equal to single


def takes(name, nproc):
    cls = registry.load("parallelism", name)
    return "cpu" in cls.devices and not cls.check(SHAPE, cls.Options(nproc=nproc))


def on(nproc):
    """Return what is run on so many processes: each variant on as few as it takes."""
    fewer = range(2, nproc)
    mine = [name for name in NAMES if takes(name, nproc) and not any(takes(name, n) for n in fewer)]
    return {name: (name, {"nproc": nproc}) for name in mine} | {
        label: (name, options | {"nproc": nproc})
        for label, (name, options) in {**VARIED, **COARSE}.items()
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


EVEN_SWIGLU = ("swiglu", {"width": 40})
WINDOWED_HEADS = (
    "sliding_window",
    {"window": 2, "head_dilation": [1, 2, 1, 3], "global_tokens": 1},
)
PARTS = {  # what every parallelism trains besides GPT-2, or refuses
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
    "alibi-heads": {"positional": "alibi", "attention": WINDOWED_HEADS},
    "t5-differential": {"positional": "t5", "attention": ("differential", {"qk_norm": True})},
    "swiglu-even": GPT2 | {"mlp": EVEN_SWIGLU},
    "mla-q_rank": {"positional": "rope", "attention": ("mla", {"q_rank": 6})},
    "documents": {"positional": "alibi", "attention": attention("gqa")},
}
SGD = ("sgd", {"nesterov": True})
LION = ("lion", {"lr": 1e-3})
ADAFACTOR = ("adafactor", {"lr": 0.2})
MUON = ("muon", {"lr": 0.02})
OPTIMIZERS = {  # each but the default
    "sgd": GPT2 | {"optimizer": SGD},
    "lion": GPT2 | {"optimizer": LION},
    "adafactor": GPT2 | {"attention": attention("gqa"), "optimizer": ADAFACTOR},
    "muon": GPT2 | {"attention": attention("gqa"), "mlp": EVEN_SWIGLU, "optimizer": MUON},
}
PARTS |= OPTIMIZERS
# Each part is in a model whose parts tensor parallelism takes, unless it refuses the part itself.
MODELS = {
    "layernorm-gelu": GPT2 | {"norm": "layernorm", "mlp": "gelu"},
    "gqa-sgd": {
        "positional": "rope",
        "attention": attention("gqa"),
        "norm": "rmsnorm",
        "mlp": "relu2",
        "optimizer": SGD,
    },
    "differential-lion": {
        "positional": "rope",
        "attention": "differential",
        "norm": "rmsnorm",
        "mlp": "gelu",
        "optimizer": LION,
    },
    "t5-qk_norm": {
        "positional": "t5",
        "attention": ("mha", {"qk_norm": True}),
        "norm": "layernorm",
        "mlp": "relu2",
    },
    "documents": {
        "positional": "alibi",
        "attention": attention("gqa"),
        "optimizer": ADAFACTOR,
    },
    "alibi-heads": {"positional": "alibi", "attention": WINDOWED_HEADS, "mlp": EVEN_SWIGLU},
    "muon": {
        "positional": "rope",
        "attention": attention("gqa"),
        "mlp": EVEN_SWIGLU,
        "optimizer": MUON,
    },
    "mla-q_rank": {
        "positional": "rope",
        "attention": ("mla", {"q_rank": 6}),
        "norm": "rmsnorm",
        "mlp": EVEN_SWIGLU,
    },
    "mla": {"positional": "rope", "attention": "mla", "norm": "rmsnorm", "mlp": "swiglu"},
    "sliding_window": {"positional": "rope", "attention": attention("sliding_window")},
    "t5-differential": {"positional": "t5", "attention": ("differential", {"qk_norm": True})},
    "mqa": {"positional": "rope", "attention": "mqa", "norm": "layernorm", "mlp": "swiglu"},
}
if FUZZ:
    MODELS |= {of: parts for of, parts in PARTS.items() if of not in MODELS}
SEPARATOR = {"documents": [16]}  # of the models with masked documents


# Settings with which every parallelism trains the same model as one process, by the names of runs.
MODEL_SETTINGS = ("tie_embeddings", "bias", "init_std", "vocab_size", "n_embd")
SETTINGS = {
    "untied": {"tie_embeddings": False, "bias": False, "init_std": 0.05},
    "objective": {"label_smoothing": 0.2, "z_loss": 0.01},
    "chunks": {"loss_chunk": 3},
    "attentions": {"recompute": "attention"},
    "average": {"ema_decay": 0.7},
    "ramp": {"batch_ramp": {"start_tokens": 32, "steps": 1}},
}
SETTINGS["all"] = {key: value for settings in SETTINGS.values() for key, value in settings.items()}
ONE_BY_ONE = ("ddp", "fsdp", "tp") if FUZZ else ("tp",)  # others: all of them together
AVERAGED = ("ddp", "fsdp", "tp")
GPT2_VOCABULARY = {"vocab_size": 50_257, "n_embd": 32}  # an embedding of 1.6 million parameters
WITH_GPT2_VOCABULARY = ("ddp", "zero1", "fsdp", "tp")
WITH_BF16 = {  # and what rounds the same: tensor parallelism rounds the sums of some heads only
    "ddp": "single",
    "fsdp": "single",
    "fsdp-small_units": "single",
    "hsdp": "single",
    "fsdp_tp": "tp",
}


def settings_of(label):
    """Return the settings with which a parallelism trains, by the names of its runs."""
    if label in ("single", *ONE_BY_ONE):
        return SETTINGS
    names = ["all"] if label in NAMES else []
    if label in AVERAGED:
        names.append("average")
    return {name: SETTINGS[name] for name in names}


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


def models_of(label, how):
    """Return the models besides GPT-2 that a parallelism trains."""
    if label not in NAMES:
        return {}
    return {of: parts for of, parts in MODELS.items() if not why_unsupported(how, parts)}


def plan(folder, label, how, parts=GPT2, steps=N_STEPS, dropout=0.0, separator=None, **train):
    """Write a spec with steps of 8 sequences, in micro-batches of 2, and clipped gradients."""
    shape = dataclasses.asdict(SHAPE) | {"dropout": dropout}
    shape |= {name: train.pop(name) for name in MODEL_SETTINGS if name in train}
    vocab_size = shape["vocab_size"]
    token_file = folder / f"tokens{vocab_size}.bin"
    bytes_file = folder / f"bytes{vocab_size}.npy"
    (np.arange(600) ** 2 % vocab_size).astype(np.uint16).tofile(token_file)
    np.save(bytes_file, np.ones(vocab_size, dtype=np.int64))
    axes = chosen(parts) | {"parallelism": how}
    slices = [
        TokenSlice(file=str(token_file), start=start, stop=stop)
        for start, stop in ((0, 500), (500, 600))
    ]
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
        data=ResolvedData(
            corpus="synthetic",
            tokenizer="bytes",
            sha256="",
            documents="cross" if separator is None else "mask",
            separator=separator,
        ),
        train=TrainSettings(
            **{
                "steps": steps,
                "tokens_per_step": 64,
                "micro_batch_size": 2,
                "lr": 1e-2,
                "grad_clip": 0.5,
                "device": "cpu",
                "eval_every": N_STEPS // 2,
                **train,
            }
        ),
        probes={"eval_lengths": [5]} if steps > 2 else {},
        launch=LaunchSpec(
            world_size=how[1]["nproc"],
            timeout_s=None,
            variant_paths=[],
            token_bytes=str(bytes_file),
            train_tokens=slices[:1],
            val_tokens=slices[1:],
            keep_checkpoints="weights" if steps > 2 else "none",
        ),
        expected=PredictedCost(parameters=0, flops_per_token=0, memory_bytes=0),
    )
    run = Run(folder / label)
    run.create(spec)
    return run


def train_in_processes(folder, jobs):
    """Train the runs of each job, (world size, runs, code of faults by run folder)."""
    jobs = [
        (world_size, [str(run.path) for run in runs], faults) for world_size, runs, faults in jobs
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    run_script(SCRIPT, folder, folder / "jobs.json", paths=(Path(__file__).parent,))


def planned(folder, hows):
    """Plan `N_STEPS` steps of GPT-2 and two steps of all other models."""
    runs = {}
    for label, how in hows.items():
        runs[label] = plan(folder, label, how)
        if label == "single":
            runs[label, "uncompiled"] = plan(folder, "single-uncompiled", how, steps=3)
        for of, parts in models_of(label, how).items():
            runs[label, of] = plan(
                folder,
                f"{label}-{of}",
                how,
                parts,
                steps=2,
                separator=SEPARATOR.get(of),
                micro_batch_size=4,
            )
        if label in ("single", *NAMES):
            memory = {"recompute": "block", "loss_chunk": 3}
            runs[label, "compiled"] = plan(
                folder, f"{label}-compiled", how, steps=3, compile=True, **memory
            )
        if label in ("single", *WITH_GPT2_VOCABULARY):
            name = f"{label}-gpt2_vocabulary"
            runs[label, "gpt2"] = plan(folder, name, how, steps=2, **GPT2_VOCABULARY)
        if label in {*WITH_BF16, *WITH_BF16.values()}:
            runs[label, "bf16"] = plan(folder, f"{label}-in_bf16", how, steps=2, precision="bf16")
        for name, settings in settings_of(label).items():
            runs[label, name] = plan(folder, f"{label}-{name}", how, steps=2, **settings)
    return runs


@pytest.fixture(scope="module")
def all_runs(tmp_path_factory):
    """Return the runs of all parallelisms, and the runs with planted faults."""
    folder = tmp_path_factory.mktemp("runs")
    single = planned(folder, {"single": ("single", {"nproc": 1})})
    on_two = planned(folder, RUNS[2])
    on_four = planned(folder, RUNS[4])
    faulty = {
        fault: plan(folder, fault.replace(" ", "_"), (name, {"nproc": 2}), FAULTY_PARTS, steps=2)
        for fault, (name, _) in FAULTS.items()
    }
    codes = {fault.replace(" ", "_"): code for fault, (_, code) in FAULTS.items()}
    jobs = [(1, single.values(), {})]
    for nproc, hows in RUNS.items():
        nans = {}
        dropouts = {}
        for label, how in hows.items():
            nans[label, "nan"] = plan(folder, f"{label}-nan", how, steps=2)
            for again in ("", "-again") if label in NAMES else ():
                name = f"{label}-dropout{again}"
                recompute = "block" if again else "none"  # which must draw the same numbers
                dropouts[name] = plan(folder, name, how, steps=2, dropout=0.3, recompute=recompute)
        codes |= {run.path.name: NAN_ON_LAST_RANK for run in nans.values()}
        faulty |= nans | dropouts
        runs = {2: on_two, 4: on_four}[nproc]
        jobs.append((nproc, [*runs.values(), *nans.values(), *dropouts.values()], codes))
    jobs[1][1].extend(run for fault, run in faulty.items() if fault in FAULTS)
    train_in_processes(folder, jobs)
    return single | on_two | on_four, faulty


@pytest.fixture(scope="module")
def runs(all_runs):
    return all_runs[0]


@pytest.fixture(scope="module")
def steps(runs):
    return equal_steps.read(runs["single"].path.parent)


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
        if right.ema_val_loss is not None:
            assert mine.ema_val_loss == pytest.approx(right.ema_val_loss, rel=rel)
    assert outcome(two)["final_hash"], "the ranks agree at the end as well"


@pytest.mark.parametrize("label", EXACT)
def test_parallel_training_equals_single_process(runs, label):
    """A speedup of a model that has silently become another one is worthless."""
    same_training(runs["single"], runs[label])
    assert len(runs[label].steps()) == N_STEPS
    assert runs[label].steps().grad_norm.min() > 0.5, (
        "clipped, or the test says nothing of clipping"
    )
    for mine, right in zip(runs[label].probes.lengths, runs["single"].probes.lengths, strict=True):
        assert mine.val_loss == pytest.approx(right.val_loss, rel=1e-5)


@pytest.mark.parametrize("label", WITH_GPT2_VOCABULARY)
def test_norms_agree_with_a_large_vocabulary(runs, label):
    """PyTorch's fp32 norm of a large tensor depends on how it is sharded, by 1e-4 and more."""
    one, many = runs["single", "gpt2"], runs[label, "gpt2"]
    same_training(one, many)
    norms = one.steps().grad_norm.tolist()
    assert many.steps().grad_norm.tolist() == pytest.approx(norms, rel=1e-6)


@pytest.mark.parametrize("label", WITH_BF16)
def test_bf16_rounds_what_a_single_process_rounds(runs, label):
    """One process keeps embeddings, norms and the residual stream in fp32; so must sharding."""
    one, many = runs[WITH_BF16[label], "bf16"], runs[label, "bf16"]
    assert outcome(many)["error"] is None
    assert one.steps().loss[0] != runs["single"].steps().loss[0]
    assert many.steps().loss.tolist() == pytest.approx(one.steps().loss.tolist(), rel=1e-4)
    for mine, right in zip(many.evals(), one.evals(), strict=True):
        assert mine.val_loss == pytest.approx(right.val_loss, rel=1e-4)
    predicted = many.probes.predicted_bytes_sent
    for rank in many.probes.traffic:
        sent = sum(calls.sent_bytes for calls in rank.values())
        assert predicted is None or sent == pytest.approx(predicted, rel=0.02)
    assert (predicted is None) == (label == "fsdp_tp")


MODELS_OF = {label: models_of(label, ALL[label]) for label in EXACT}
TRAINED = [(label, of) for label, models in MODELS_OF.items() for of in models]


@pytest.mark.parametrize(("label", "of"), TRAINED)
def test_parallel_training_of_every_part_equals_single(runs, label, of):
    """A parallelism does not know the model's parts; parts of other shapes are sharded too."""
    same_training(runs["single", of], runs[label, of])
    assert len(runs[label, of].steps()) == 2


WITH_SETTINGS = [(label, name) for label in EXACT for name in settings_of(label)]


@pytest.mark.parametrize(("label", "name"), WITH_SETTINGS)
def test_settings_train_the_same_on_every_parallelism(runs, label, name):
    """An average of other shards, or a ramp that shares sequences otherwise, is another model."""
    one, many = runs["single", name], runs[label, name]
    same_training(one, many)
    assert many.steps().tokens.tolist() == one.steps().tokens.tolist()
    averaged = many.evals()[-1].ema_val_loss
    assert (averaged is not None) == ("ema_decay" in SETTINGS[name])
    assert averaged != many.evals()[-1].val_loss


@pytest.mark.parametrize("label", ["single", *(label for label in EXACT if label in NAMES)])
def test_compiled_blocks_train_the_same(runs, label):
    """Hooks that a compiled block skips, also when it is computed again, train another model."""
    compiled = runs[label, "compiled"]
    same_training(runs["single", "uncompiled"], compiled)
    report = compiled.probes.compilation
    assert (report.n_graphs, report.n_graph_breaks, report.limit_reached) == (1, 0, False)
    assert report.n_recompiles == 0


STEPS = [(label, *case) for label in equal_steps.PARALLELISMS for case in equal_steps.cases(label)]


@pytest.mark.parametrize(("label", "name", "dtype"), STEPS, ids=str)
def test_every_way_of_computing_gives_the_same_step(steps, label, name, dtype):
    """Losses and whole gradients are those of one process that holds all logits."""
    step = steps[label][name, dtype]
    one = steps["single"][equal_steps.PLAIN[name], dtype]
    tolerance = equal_steps.TOLERANCES[dtype]
    assert step["gradients"].keys() == one["gradients"].keys()
    torch.testing.assert_close(step["losses"], one["losses"], atol=tolerance, rtol=tolerance)
    for parameter, gradient in one["gradients"].items():
        assert gradient.abs().max() > 1e-4, "compared with the tolerance"
        torch.testing.assert_close(
            step["gradients"][parameter], gradient, atol=tolerance, rtol=tolerance
        )
    if equal_steps.STEPS[name].compiled:
        report = step["report"]
        assert (report.n_graphs, report.n_graph_breaks, report.n_recompiles) == (1, 0, 0)


@pytest.mark.parametrize("label", equal_steps.PARALLELISMS)
def test_chunks_and_recomputation_send_what_is_predicted(steps, label):
    """Sharded parameters are gathered once, not for each chunk, and nothing is reduced again."""
    for name, dtype in equal_steps.cases(label):
        if name == "unequal chunks" or equal_steps.STEPS[name].compiled:
            continue  # the backward pass computes the losses again, which training does not do
        step = steps[label][name, dtype]
        predicted = step["predicted"] * dtype.itemsize / 4
        if label == "zero1":  # the step ends before the update, whose rows are broadcast
            predicted -= step["n_parameters"] * dtype.itemsize / 2
        for rank in step["traffic"]:
            sent = sum(calls.sent_bytes for calls in rank.values())
            assert sent == pytest.approx(predicted, rel=1e-6), name


@pytest.mark.parametrize(("label", "n_ranks"), [("tp", 2), ("tp-four", 4)])
def test_no_rank_holds_all_logits(steps, label, n_ranks):
    """The logits of a large vocabulary are most of a small model's memory."""
    width = equal_steps.SHAPE.n_embd
    n_tokens = equal_steps.N_SEQUENCES * equal_steps.SHAPE.seq_len
    for name, dtype in equal_steps.cases(label):
        step = equal_steps.STEPS[name]
        if step.compiled:
            continue
        n_rows = n_tokens if step.chunk is None else width  # those of a chunk are fewer
        for rank, largest in enumerate(steps[label][name, dtype]["largest"]):
            tokens = rank_tokens(equal_steps.SHAPE.vocab_size, rank, n_ranks)
            assert largest == n_rows * len(tokens), (name, rank)


def test_tokens_are_divided_as_evenly_as_possible():
    for size, n_ranks in itertools.product(range(1, 30), range(1, 9)):
        if size < n_ranks:
            with pytest.raises(ValueError, match=f"a vocabulary of {size} tokens does not divide"):
                rank_tokens(size, 0, n_ranks)
            continue
        parts = [rank_tokens(size, rank, n_ranks) for rank in range(n_ranks)]
        assert [token for part in parts for token in part] == list(range(size))
        lengths = [len(part) for part in parts]
        assert lengths == sorted(lengths, reverse=True) and lengths[0] - lengths[-1] <= 1


def test_settings_are_different_models(runs):
    models = SETTINGS.keys() - {"chunks", "attentions"}  # which train what "average" evaluates
    losses = {tuple(runs["single", name].steps().loss) for name in models}
    assert len(losses) == len(models)
    chunks = runs["single", "chunks"].steps()
    assert chunks.loss.tolist() == pytest.approx(runs["single", "average"].steps().loss.tolist())


@pytest.mark.parametrize("label", AVERAGED)
def test_an_average_is_sharded_as_the_parameters(runs, label):
    """A whole average on each rank would take the memory that sharding saves."""
    plain = runs[label, "layernorm-gelu"].probes
    probes = runs[label, "average"].probes
    for rank, plain_rank in zip(probes.memory, plain.memory, strict=True):
        averaged = rank.optimizer - plain_rank.optimizer
        assert averaged == pytest.approx(rank.parameters, rel=0.05)  # whose shards are padded
    added = probes.predicted_memory.optimizer - plain.predicted_memory.optimizer
    assert max(rank.parameters for rank in probes.memory) == pytest.approx(added, rel=0.1)


def test_every_optimizer_is_trained():
    assert {"adamw", *OPTIMIZERS} == set(registry.files("optimizer"))


@pytest.mark.parametrize("label", [label for label in EXACT if label in NAMES])
def test_every_parallelism_trains_every_part_it_takes(label):
    """A part that only other models have is not tried."""
    models = [chosen(parts) for parts in MODELS_OF[label].values()]
    common = chosen(GPT2)
    for of, parts in PARTS.items():
        if why_unsupported(ALL[label], parts):
            continue
        needed = {axis: use for axis, use in chosen(parts).items() if use != common.get(axis)}
        assert any(needed.items() <= model.items() for model in models), of


def test_models_are_different(runs):
    """Otherwise the previous tests would check a single model."""
    losses = {tuple(runs["single", of].steps().loss) for of in MODELS}
    assert len(losses) == len(MODELS)


def test_counted_flops_equal_the_executed(runs):
    """No process computes what another one has computed."""
    one = runs["single"].probes.flops_per_token_counted
    for label in ALL:
        assert runs[label].probes.flops_per_token_counted == one, label


WITH_OPTIMIZER = [pair for pair in TRAINED if "optimizer" in MODELS[pair[1]]]


@pytest.mark.parametrize(("label", "of"), WITH_OPTIMIZER)
def test_predictions_hold_for_every_optimizer(runs, label, of):
    """Users choose an optimizer, and how to shard it, by its memory and traffic."""
    probes = runs[label, of].probes
    predicted = probes.predicted_memory.optimizer
    assert max(rank.optimizer for rank in probes.memory) == pytest.approx(predicted, rel=0.1)
    for rank in probes.traffic:
        sent = sum(calls.sent_bytes for calls in rank.values())
        assert sent == pytest.approx(probes.predicted_bytes_sent, rel=0.02)


@pytest.mark.parametrize("label", ALL)
def test_rank_memory_equals_memory_fractions(runs, label):
    """`list` estimates memory from the fractions, and users choose sharding for it."""
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
    """A rank that holds more than its shard runs out of memory."""
    (one,), four = runs["single"].probes.memory, runs["fsdp-four"].probes.memory
    assert [held(rank) for rank in four] == pytest.approx([held(one) / 4] * 4, rel=0.02)


def test_bf16_gradients_are_close_but_not_equal(runs):
    """Compression costs the precision of bf16's eight bits, and no more."""
    one, two = (runs[label].steps().grad_norm[0] for label in ("single", "ddp-bf16"))
    assert two != one and two == pytest.approx(one, rel=0.01)


def test_tensor_parallelism_shards_activations(runs):
    """Activations are sharded with the heads; data parallelism stores as much as one process."""
    (one,) = runs["single"].probes.memory
    for label in EXACT:
        for rank in runs[label].probes.memory:
            if label in ("tp", "fsdp_tp"):
                assert rank.activations < 0.9 * one.activations
            else:
                assert rank.activations == pytest.approx(one.activations, rel=0.1), (
                    "of equal micro-batches"
                )


# -- planted faults --------------------------------------------------------------------------------

OTHER_SEED = """
from harness.training import warm_start as start
right = start.init_parameters
wrong = lambda gpt, seed, *more, **named: right(gpt, seed + ranks.rank, *more, **named)
patch.setattr(start, "init_parameters", wrong)
"""
NO_SUM_OF_SHARED = """
from variants.parallelism import _tensor
patch.setattr(_tensor, "reduce_gradients", lambda *_: None)
"""
NO_SUM_OF_PARTS = """
from variants.parallelism import _collective
patch.setattr(_collective, "all_reduce", lambda x, *_: x.clone())
"""
NO_SUM_OF_REPLICAS = """
from torch.nn.parallel import DistributedDataParallel
patch.setattr(DistributedDataParallel, "forward", lambda wrapped, *given: wrapped.module(*given))
"""
UNTIED = """
import torch
from harness.model.gpt import GPT
def project(gpt, hidden):
    return torch.nn.functional.linear(hidden, gpt.wte.weight.detach())
patch.setattr(GPT, "_project", project)
"""
NAN_ON_LAST_RANK = """
import torch
from harness.model.gpt import GPT
from harness.training import loop
from variants.mlp.gelu import Gelu
steps = []
seed_step = loop.seed_step
patch.setattr(loop, "seed_step", lambda seed, step, rank: steps.append(step))
def activation(mlp, x):
    is_last = ranks.rank == ranks.world_size - 1
    return x * torch.nan if mlp.training and is_last and steps[-1:] == [1] else x.relu()
patch.setattr(Gelu, "activation", activation)
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


FAULTY_PARTS = MODELS["t5-differential"]


@pytest.fixture(scope="module")
def faulty(all_runs):
    """Return two steps on one process, and two steps with each fault on two."""
    runs, with_faults = all_runs
    return runs["single", "t5-differential"], with_faults


@pytest.mark.parametrize("fault", FAULTS)
def test_comparison_detects_every_planted_fault(faulty, fault):
    one, found = faulty
    with nullcontext() if fault == "none" else pytest.raises(AssertionError):
        same_training(one, found[fault])


def test_different_initial_parameters_stop_the_run(faulty):
    _, found = faulty
    for fault in ("seed of a replica", "seed of a piece"):
        assert "ranks start from different parameters" in outcome(found[fault])["error"]
        assert not list(found[fault].path.glob("steps.*.jsonl")) or not len(found[fault].steps())


@pytest.mark.parametrize("label", ALL)
def test_nan_on_one_rank_is_located_by_all(all_runs, label):
    """The ranks repeat the step together: if one did not, the others would wait for it."""
    run = all_runs[1][label, "nan"]
    error = outcome(run)["error"]
    rank = ALL[label][1]["nproc"] - 1
    assert error.startswith("step 1: loss nan, gradient norm nan, ")
    assert "is the input of h.0.mlp.c_proj (" in error
    assert error.endswith(f"on rank {rank}")
    assert len(run.steps()) == 2


@pytest.mark.parametrize("label", [label for label in ALL if label in NAMES])
def test_dropout_repeats_and_keeps_the_ranks_equal(all_runs, label):
    """Masks that differ in replicated activations would train other parameters on each rank."""
    one = all_runs[1][f"{label}-dropout"]
    two = all_runs[1][f"{label}-dropout-again"]
    assert outcome(one) == outcome(two)
    assert outcome(one)["error"] is None
    assert one.steps().loss.tolist() == two.steps().loss.tolist()
    for run in (one, two):  # the second computes blocks again
        predicted = run.probes.predicted_bytes_sent
        for rank in run.probes.traffic:
            sent = sum(calls.sent_bytes for calls in rank.values())
            assert sent == pytest.approx(predicted, rel=0.02)
    assert one.steps().loss[0] != all_runs[0][label].steps().loss[0]


# -- communication and time ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_sent_bytes_equal_the_prediction(runs, name):
    """Only this test shows tensors sent twice, or sent whole although a shard would do."""
    probes = runs[name].probes
    assert len(probes.traffic) == ALL[name][1]["nproc"]
    for rank in probes.traffic:
        sent = sum(calls.sent_bytes for calls in rank.values())
        assert sent > 0 and all(calls.calls > 0 for calls in rank.values())
        if probes.predicted_bytes_sent is not None:
            assert sent == pytest.approx(probes.predicted_bytes_sent, rel=0.02)


def test_sent_bytes_by_hand(runs):
    """Two ranks: DDP all-reduces each gradient once; FSDP gathers a block twice per micro-batch."""
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
def test_each_rank_reports_its_phases(runs, name):
    for rank in runs[name].probes.phases:
        assert all(min(seconds) >= 0 for seconds in rank.model_dump().values())
        assert min(rank.forward_s) > 0 and min(rank.backward_s) > 0 and max(rank.waiting_s) > 0


# -- rejected options ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_invalid_nproc_is_rejected(name):
    cls = registry.load("parallelism", name)
    assert cls.check(SHAPE, cls.Options()) == {}
    assert "nproc" in cls.check(SHAPE, cls.Options(nproc=0))


WRAP = "must be 'block' or { min_params = N }, N at least 1"
GROUPS = (
    "needs at least 2 groups of at least 2 processes; use fsdp for one group, ddp for groups of one"
)


@pytest.mark.parametrize(
    ("name", "options", "reasons"),
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
            {
                "tp": "4: needs at least 2 groups of at least 2 processes; use tp for one group, "
                "fsdp for groups of one"
            },
        ),
    ],
)
def test_invalid_options_are_rejected_with_the_reason(name, options, reasons):
    cls = registry.load("parallelism", name)
    assert cls.check(SHAPE, cls.Options(**options)) == reasons


def test_dropout_with_equal_masks_is_rejected():
    cls = registry.load("parallelism", "dp")
    (reason,) = cls.check(dataclasses.replace(SHAPE, dropout=0.1), cls.Options()).values()
    assert reason.startswith("dropout = 0.1: ") and "would apply the same dropout mask" in reason


REFUSED = {  # of what is tried here; all else is trained
    "mqa": "MultiQuery at h.0.attn: 1 key-value heads do not divide over 2 processes",
    "mla": "LatentAttention at h.0.attn: without q_rank, one matrix holds the queries of each head",
    "layernorm-swiglu": "SwiGLU at h.0.mlp: gate: its width of 43 does not divide over 2 processes",
    "rmsnorm-swiglu": "SwiGLU at h.0.mlp: gate: its width of 43 does not divide over 2 processes",
}


@pytest.mark.parametrize("label", ["tp", "fsdp_tp"])
def test_only_indivisible_parts_are_rejected(label):
    """Two processes that share a key-value head would train it twice, without an error."""
    reasons = {of: why_unsupported(ALL[label], parts) for of, parts in PARTS.items()}
    assert {of for of in reasons if reasons[of]} == REFUSED.keys()
    assert all(reasons[of].startswith(reason) for of, reason in REFUSED.items())


def test_part_without_a_sharding_plan_is_rejected():
    """A user's attention with further parameters, or a bias by head, needs a plan of its own."""

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

    assert make(Scaled) == "Scaled at h.0.attn: `tensor_parallel_plan` does not cover scale"
    assert make(positional=Biased).startswith(
        "Biased at positional: does not define how it is sharded"
    )
    assert make() == make(mha) == make(positional=Added) == ""
