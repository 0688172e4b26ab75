"""Without these, a run that lacks memory would name settings that do not help, or none."""

import pytest
from tiny_run import tiny_spec

from harness.results import host_memory
from harness.results.host_memory import Capacity, counter, lowest_limit
from harness.results.out_of_memory import (
    GIB,
    Machine,
    describe_remedies,
    exceeds_state,
    explain,
    explain_host,
    remedies,
    smaller_micro_batch,
)
from harness.results.records import BatchRamp, MemoryNeed, PredictedCost

PARAMETERS = 2**28  # 1 GiB in fp32
BASE = {
    "parameters": 1.0 * GIB,
    "gradients": 1.0 * GIB,
    "optimizer": 2.0 * GIB,
    "gathered": 0.0,
    "activations": 8.0 * GIB,
    "n_sequences": 8,
    "micro_batch_size": 8,
}
SMALLEST = {"n_sequences": 8, "micro_batch_size": 1}
LEAST = {"recompute": "block", "precision": "bf16", "loss_chunk": 128, "device": "cuda"}
MICRO_BATCH = "train.micro_batch_size = 4 (now 8)"
RECOMPUTE = 'train.recompute = "block" (now "none")'
BF16 = 'train.precision = "bf16" (now "fp32")'
CHUNK = "train.loss_chunk = 512 (all 8192)"
FSDP = 'parallelism = { variant = "fsdp", nproc = 2 } (shards the state)'
LION = 'optimizer = "lion", whose state is smaller (now 2.0 GiB)'

CASES = {  # settings, need, machine, whether the state exceeds the memory; settings that help
    "all": ({"device": "cuda"}, {}, Machine(2), False, [MICRO_BATCH, RECOMPUTE, CHUNK, BF16, FSDP]),
    "one GPU": ({"device": "cuda"}, {}, Machine(1), False, [MICRO_BATCH, RECOMPUTE, CHUNK, BF16]),
    "unknown GPUs": (LEAST, SMALLEST, Machine(), False, [f"with more GPUs {FSDP}"]),
    "on a CPU": ({"device": "cpu"}, {}, Machine(2), False, [MICRO_BATCH, RECOMPUTE, CHUNK, BF16]),
    "without bf16": (
        {"device": "cuda"},
        {},
        Machine(1, has_bf16=False),
        False,
        [MICRO_BATCH, RECOMPUTE, CHUNK],
    ),
    "bf16": (
        {"device": "cuda", "precision": "bf16"},
        {},
        Machine(1),
        False,
        [MICRO_BATCH, RECOMPUTE, CHUNK],
    ),
    "attention recomputed": (
        LEAST | {"recompute": "attention"},
        SMALLEST,
        Machine(1),
        False,
        ['train.recompute = "block" (now "attention")'],
    ),
    "smaller chunk": (
        LEAST | {"loss_chunk": 512},
        {**SMALLEST, "activations": 0.0, "optimizer": 0.0, "gradients": 0.0},
        Machine(1),
        False,
        ["train.loss_chunk = 256 (now 512)"],
    ),
    "exhausted": (LEAST, SMALLEST, Machine(1), False, []),
    "exhausted, shared": (
        LEAST,
        SMALLEST,
        Machine(1, is_shared=True),
        False,
        ["fewer runs at once: launch.parallel = 1"],
    ),
    "state exceeds": ({"device": "cuda"}, {}, Machine(2), True, [FSDP, LION]),
    "state exceeds one GPU": ({"device": "cuda"}, {}, Machine(1), True, [LION]),
    "state with an average": (
        {"device": "cuda", "ema_decay": 0.9},
        {"optimizer": 1.0 * GIB},
        Machine(1),
        True,
        ["no train.ema_decay, whose average is as large as the parameters"],
    ),
    "sharded": (
        LEAST,
        {**SMALLEST, "parameters": 0.5 * GIB},
        Machine(8),
        False,
        ["shards over more processes (now 1, up to 8)"],
    ),
    "sharded over all": (LEAST, {**SMALLEST, "parameters": 0.5 * GIB}, Machine(1), False, []),
}


def spec_of(folder, train, need, world_size=1, vocab_size=50_257):
    spec = tiny_spec(folder)
    settings = {"tokens_per_step": 8 * 1024} | train
    memory = MemoryNeed(**BASE | need)
    expected = PredictedCost(
        parameters=PARAMETERS, flops_per_token=0, memory_bytes=memory.total, memory=memory
    )
    return spec.model_copy(
        update={
            "train": spec.train.model_copy(update=settings),
            "model": spec.model.model_copy(update={"seq_len": 1024, "vocab_size": vocab_size}),
            "launch": spec.launch.model_copy(update={"world_size": world_size}),
            "expected": expected,
        }
    )


@pytest.mark.parametrize("name", CASES)
def test_only_settings_that_help_are_named(tmp_path, name):
    train, need, machine, exceeds, expected = CASES[name]
    spec = spec_of(tmp_path, train, need)
    assert list(remedies(spec, spec.expected.memory, machine, exceeds)) == expected
    text = describe_remedies(expected)
    assert all(remedy in text for remedy in expected)
    assert expected or text.startswith("no setting needs less memory")


def test_a_small_vocabulary_needs_no_chunks(tmp_path):
    spec = spec_of(tmp_path, {"device": "cpu"}, {}, vocab_size=256)
    named = list(remedies(spec, spec.expected.memory, Machine()))
    assert named == [MICRO_BATCH, RECOMPUTE, BF16]


def test_processes_on_a_gpu_each_are_sharded(tmp_path):
    """Two ranks of DDP hold the state twice; also on one CPU, where they share the memory."""
    for device in ("cuda", "cpu"):
        spec = spec_of(tmp_path, LEAST | {"device": device}, SMALLEST, world_size=2)
        assert list(remedies(spec, spec.expected.memory, Machine(2))) == [FSDP]


@pytest.mark.parametrize(
    ("n_sequences", "micro_batch_size", "ramp", "smaller"),
    [
        (8, 8, None, 4),
        (8, 4, None, 2),
        (12, 6, None, 4),
        (7, 7, None, 1),
        (8, 1, None, None),
        (8, 8, BatchRamp(start_tokens=3 * 1024, steps=2), 1),
    ],
)
def test_a_smaller_micro_batch_is_valid(tmp_path, n_sequences, micro_batch_size, ramp, smaller):
    tokens = 3 * 1024 * 8 if ramp else n_sequences * 1024
    n_sequences = tokens // 1024
    spec = spec_of(
        tmp_path,
        {"tokens_per_step": tokens, "batch_ramp": ramp},
        {"n_sequences": n_sequences, "micro_batch_size": micro_batch_size},
    )
    found = smaller_micro_batch(spec, spec.expected.memory)
    if ramp is None:
        assert found == smaller
        return
    # A ramp of 3, 15, 24 sequences: those that divide each, or hold a whole step.
    counts = {count // 1024 for count in (*spec.train.ramp_tokens, tokens)}
    assert found == max(
        size
        for size in range(1, micro_batch_size)
        if all(count <= size or count % size == 0 for count in counts)
    )


GPU = Capacity("the GPU (A100)", 10 * GIB, GIB // 4, is_of_each_rank=True)
HOST = Capacity("the machine", 16 * GIB, 2 * GIB)


def test_the_message_has_what_is_needed_and_available(tmp_path):
    spec = spec_of(tmp_path, {"device": "cuda"}, {})
    assert explain(spec, [GPU], Machine(1)) == (
        "predicted: 12.0 GiB (parameters, gradients and optimizer state 4.0 GiB; activations 8.0 "
        "GiB); available: 10.0 GiB (256.0 MiB free) of the GPU (A100); to need less: "
        f"{MICRO_BATCH}, or {RECOMPUTE}, or {CHUNK}, or {BF16}"
    )
    unknown = spec_of(tmp_path, {"device": "cuda"}, {"activations": None})
    assert "predicted: at least 4.0 GiB" in explain(unknown, [GPU], Machine(1))
    two = spec_of(tmp_path, {"device": "cpu"}, {}, world_size=2)
    assert "predicted: 12.0 GiB for each of 2 ranks" in explain(two, [HOST], Machine(1), 2)


def test_ranks_share_the_memory_of_a_machine_not_of_gpus(tmp_path):
    need = MemoryNeed(**BASE)
    assert [exceeds_state(need, HOST, n) for n in (1, 4, 5)] == [False, False, True]
    assert not exceeds_state(need, GPU, 8)


def test_the_prediction_for_gpus_does_not_explain_a_lack_of_cpu_memory(tmp_path):
    on_gpu = spec_of(tmp_path, {"device": "cuda"}, {})
    message = explain_host(on_gpu, [HOST], Machine(is_shared=True))
    assert "--mem" in message and "launch.parallel" in message and "recompute" not in message
    offloaded = spec_of(tmp_path, {"device": "cuda"}, {"state_on_host": True})
    assert "state 4.0 GiB in CPU memory" in explain_host(offloaded, [HOST], Machine())
    on_cpu = spec_of(tmp_path, {"device": "cpu"}, {})
    assert explain_host(on_cpu, [HOST], Machine()) == explain(on_cpu, [HOST], Machine())


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "1000\n", "memory.current": "400\n"}, (1000, 600)),
        ({"memory.max": "max\n", "memory.current": "400\n"}, None),
        ({"memory.limit_in_bytes": "1000", "memory.usage_in_bytes": "2000"}, (1000, 0)),
        ({"memory.limit_in_bytes": "9223372036854771712"}, None),
        ({"memory.max": "1000\n"}, (1000, None)),
        ({}, None),
    ],
)
def test_the_limit_of_a_group_is_read(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found = lowest_limit([tmp_path])
    assert (found and (found.total_bytes, found.free_bytes)) == expected


def test_the_lowest_limit_of_the_parents_counts(tmp_path):
    for name, limit in (("a", 300), ("a/b", 200), ("a/b/c", 800)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "memory.max").write_text(f"{limit}\n")
    found = lowest_limit([tmp_path / "a/b/c", tmp_path / "a/b", tmp_path / "a"])
    assert found.total_bytes == 200 and str(tmp_path / "a/b") in found.name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("low 0\nhigh 2\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n", 2),  # version 2
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n", 5),  # version 1
        ("nr_free_pages 12\noom_kill 0\nfoo 3\n", 0),  # /proc/vmstat
        ("low 0\noom 3\n", None),
        ("", None),
    ],
)
def test_the_kills_of_the_kernel_are_counted(tmp_path, monkeypatch, text, expected):
    (tmp_path / "memory.events").write_text(text)
    assert counter(tmp_path / "memory.events") == expected
    monkeypatch.setattr(host_memory, "own_folders", lambda controller: [tmp_path])
    monkeypatch.setattr(host_memory, "VMSTAT", tmp_path / "none")
    assert host_memory.n_oom_kills() == expected


def test_a_run_without_a_prediction_is_explained(tmp_path):
    """A spec of an earlier version has none."""
    message = explain(tiny_spec(tmp_path), [HOST], Machine())
    assert message == "predicted: unknown; available: 16.0 GiB (2.0 GiB free) of the machine"


def test_variants_that_are_named_exist():
    from variants import registry

    assert "fsdp" in registry.files("parallelism") and "lion" in registry.files("optimizer")
