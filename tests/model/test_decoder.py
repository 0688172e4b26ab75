"""A captured step changes the speed of decoding and never the text."""

import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from tape import Tape

from harness.model import decoder
from harness.model.builder import ModelBuilder
from harness.model.decoder import MAX_LAYER_BYTES, MIN_STEPS, Decoder, StepGraph, uses_graph
from harness.model.generation import decode
from harness.model.weights import GPT2
from harness.probes.likelihood import Scorer
from harness.results.records import VariantChoice
from variants.attention.mha import MultiHead
from variants.base import ModelShape
from variants.mlp.gelu import Gelu

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=24, vocab_size=61)
B = 2
PROMPT = [7, 50, 31]
GPU = {
    "supports_static_cache": True,
    "training": False,
    "needs_gradients": False,
    "n_steps": MIN_STEPS,
    "layer_bytes": 2**20,
}
CHOICES = [
    ("cuda", {}, True),
    ("cpu", {}, False),
    ("mps", {}, False),
    ("cuda", {"supports_static_cache": False}, False),
    ("cuda", {"training": True}, False),
    ("cuda", {"needs_gradients": True}, False),
    ("cuda", {"n_steps": MIN_STEPS - 1}, False),
    ("cuda", {"n_steps": 10**6}, True),
    ("cuda", {"layer_bytes": MAX_LAYER_BYTES}, True),
    ("cuda", {"layer_bytes": MAX_LAYER_BYTES + 1}, False),
]
VARIANTS = [
    ("learned", "mha", {}),
    ("rope", "gqa", {"n_kv_head": 2}),
    ("alibi", "sliding_window", {"window": 5, "global_tokens": 1}),
    ("rope", "mla", {"kv_rank": 8, "rope_dim": 4}),
    ("t5", "differential", {}),
]
DEVICES = ["cpu"]
if torch.cuda.is_available():
    DEVICES.append(pytest.param("cuda", marks=pytest.mark.cuda))


def make(positional="learned", attention="mha", shape=SHAPE, **options):
    axes = {
        "positional": VariantChoice(name=positional, label="", options={}),
        "attention": VariantChoice(name=attention, label="", options=options),
    }
    model = ModelBuilder(shape, GPT2 | axes, []).model().to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        std = 0.1 if name.endswith("bias") or name == "wte.weight" else 0.5
        torch.nn.init.normal_(parameter, std=std, generator=generator)
    return model.eval()


def first(logits_BV):
    return logits_BV.argmax(-1)


def greedy(model, n_new, length):
    prompt_BT = torch.tensor([PROMPT, PROMPT[::-1]], device=model.wte.weight.device)
    caches = model.caches(B, length, torch.float32)
    return list(decode(model, prompt_BT, n_new, caches, first))


@pytest.fixture
def captures(monkeypatch):
    """Capture all steps, on a CPU by a tape, and return the graphs."""
    made = []

    def graph(device):
        made.append(cuda_graph(device) if device.type == "cuda" else Tape(device))
        return made[-1]

    cuda_graph = decoder.CudaGraph
    monkeypatch.setattr(decoder, "CudaGraph", graph)
    monkeypatch.setattr(decoder, "uses_graph", lambda *_, **__: True)
    return made


@pytest.mark.parametrize(("device", "changed", "expected"), CHOICES, ids=str)
def test_when_decoding_uses_a_graph(device, changed, expected):
    assert uses_graph(device, **GPU | changed) is expected


def test_the_page_about_gpus_states_both_limits():
    page = " ".join((Path(__file__).parents[2] / "docs/gpu.md").read_text(encoding="utf-8").split())
    assert f"at least {MIN_STEPS} tokens after the prompt" in page
    assert f"up to {MAX_LAYER_BYTES // 2**20} MiB of KV cache" in page


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("positional", "attention", "options"), VARIANTS, ids=str)
def test_tokens_are_those_of_decoding_without(positional, attention, options, device, request):
    """Also beyond the wrap of the cache, and on GPUs with the kernels for masks."""
    model = make(positional, attention, **options).to(device)
    n_new, length = (60, 16) if model.positional.extrapolates else (22, 24)
    expected = greedy(model, n_new, length)
    graphs = request.getfixturevalue("captures")
    assert greedy(model, n_new, length) == expected
    assert len(graphs) == 1
    assert len({token for token, _ in expected}) > 3


@pytest.mark.cuda
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("positional", "attention", "options"), VARIANTS, ids=str)
def test_cuda_graph_gives_the_logits_of_eager_decoding(positional, attention, options, autocast):
    """The cast weights of autocast are allocated outside of the graph, which must find them."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    shape = ModelShape(n_layer=4, n_head=4, n_embd=256, seq_len=256, vocab_size=512)
    model = make(positional, attention, shape, **options).to("cuda")
    dtype = torch.bfloat16 if autocast else torch.float32
    tokens_BT = torch.randint(shape.vocab_size, (B, 200), device="cuda")
    context = torch.autocast("cuda", torch.bfloat16) if autocast else nullcontext()
    logits = []
    with torch.no_grad(), context, warnings.catch_warnings():
        warnings.simplefilter("error")  # a failed capture warns
        for next_logits in (
            Decoder(model, model.caches(B, 256, dtype), MIN_STEPS),
            EagerDecoder(model, model.caches(B, 256, dtype)),
        ):
            pieces = [tokens_BT[:, :9], *tokens_BT[:, 9:].split(1, dim=1)]
            logits.append(torch.stack([next_logits(piece).float().clone() for piece in pieces]))
    got, expected = logits
    assert (got - expected).norm() < (0.02 if autocast else 1e-4) * expected.norm()


class EagerDecoder:
    def __init__(self, model, caches):
        self.model = model
        self.caches = caches

    def __call__(self, tokens_BT):
        return self.model.next_logits(tokens_BT, self.caches)


@torch.no_grad()
def test_each_step_uses_the_same_memory(captures):
    """A graph reads its inputs from where they were when it was captured."""
    model = make("rope")
    caches = model.caches(B, 16, torch.float32)
    decoder = Decoder(model, caches, 9)
    decoder(torch.tensor([PROMPT] * B))
    outputs = [decoder(torch.full((B, 1), token)) for token in range(9)]
    (tape,) = captures
    assert len({id(output) for output in outputs}) == 1
    assert len(tape.outputs) == 9
    addresses = {static.data_ptr() for static in tape.recorder.statics}
    buffers = [buffer.data_ptr() for cache in caches for buffer in cache.visible()]
    assert len(buffers) == 2 * SHAPE.n_layer and addresses.issuperset(buffers)
    assert [cache.n_seen for cache in caches] == [3] * SHAPE.n_layer


@torch.no_grad()
def test_a_step_that_is_set_back_repeats_its_position():
    """The benchmarks time one position."""
    model = make("rope")
    caches = model.caches(B, 16, torch.float32)
    model.next_logits(torch.tensor([PROMPT] * B), caches)
    step = StepGraph(model, caches, B, Tape())
    token_B1 = torch.tensor([[5], [9]])
    logits = [step(token_B1).clone() for _ in range(2)]
    assert step.n_seen == 5
    step.n_seen = 3
    assert torch.equal(step(token_B1), logits[0])
    assert not torch.equal(logits[0], logits[1])


def test_positions_beyond_the_table_are_rejected(captures):
    """On a GPU, an index beyond the table ends the process."""
    model = make("learned")
    assert len(greedy(model, 22, 24)) == 22
    with pytest.raises(IndexError, match="no positions beyond seq_len = 24"):
        greedy(model, 23, 24)


class Waits(Gelu):
    def forward(self, x_BTC):
        return super().forward(x_BTC) * (2.0 if x_BTC.sum().item() > 0 else 1.0)


def test_a_step_that_cannot_be_captured_runs_without(captures):
    """A user's part may wait for the device; sampling worked with it before there were graphs."""
    model = make("rope")
    for block in model.h:
        block.mlp.__class__ = Waits
    caches = model.caches(B, 16, torch.float32)
    prompt_BT = torch.tensor([PROMPT] * B)
    with pytest.warns(RuntimeWarning, match="without a CUDA graph, which is slower: .*capturing"):
        got = list(decode(model, prompt_BT, 30, caches, first))
    assert all(cache.static is None for cache in caches)
    plain = EagerDecoder(model, model.caches(B, 16, torch.float32))
    tokens_BT, expected = prompt_BT, []
    with torch.no_grad():
        for _ in range(30):
            tokens_BT = first(plain(tokens_BT))[:, None]
            expected.append(tokens_BT[:, 0].tolist())
    assert got == expected


class OwnCache(MultiHead):
    def attend_cache(self, q_BH1D, cache, position_1, positional):
        return super().attend_cache(q_BH1D, cache, position_1, positional)


class OwnTraining(MultiHead):
    def attend(self, *args, **kwargs):
        return super().attend(*args, **kwargs)


class OwnStaticCache(OwnCache):
    supports_static_cache = True


def test_an_attention_that_decodes_by_itself_declares_its_support():
    """It may ignore the mask of empty slots, and only a GPU would show it."""
    assert MultiHead.supports_static_cache and OwnTraining.supports_static_cache
    assert OwnStaticCache.supports_static_cache and not OwnCache.supports_static_cache
    model = make()
    assert model.supports_static_cache
    model.h[1].attn.__class__ = OwnCache
    assert not model.supports_static_cache


@pytest.mark.parametrize(("positional", "attention", "options"), VARIANTS[:3], ids=str)
def test_tasks_are_answered_by_graphs_alike(positional, attention, options, request):
    """Prompts of unequal lengths share a batch, and each batch has a graph of its own."""
    model = make(positional, attention, **options)
    prompts = [[1, 2, 3], [4] * 7, [9, 8], [5, 6, 7, 8], [11]]
    n_new = [9, 4, 12, 0, 30]

    def answers():
        scorer = Scorer(model, batch_size=3)
        return scorer.continuations(prompts, n_new, lambda i, tokens: tokens[-1] == 3)

    expected = answers()
    graphs = request.getfixturevalue("captures")
    assert answers() == expected
    assert len(graphs) == 2 and [len(answer) for answer in expected][3] == 0
