"""Decoding: GPT-2 124M against transformers and memory bandwidth, attentions against mha.

Shapes: B batch, T sequence.
"""

import time
from collections.abc import Callable

import pytest
import torch
from decoding_step import decoding_step
from torch import Tensor

from harness.model.builder import ModelBuilder
from harness.model.gpt import GPT
from harness.model.initialization import init_parameters
from harness.model.weights import GPT2, load_weights
from harness.published.convert import import_weights
from variants import registry
from variants.base import ModelShape, NoOptions

GPT2_124M = ModelShape(n_layer=12, n_head=12, n_embd=768, seq_len=1024, vocab_size=50257)
PROMPT, N_NEW = 32, 32  # tokens, batch 1

LAYER = ModelShape(n_layer=1, n_head=8, n_embd=512, seq_len=4096, vocab_size=1)  # heads of 64
BATCH = 8


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def prompt_BT(device):
    return torch.randint(
        GPT2_124M.vocab_size, (1, PROMPT), generator=torch.Generator().manual_seed(0)
    ).to(device)


def greedy(model: GPT, prompt_BT: Tensor, n_new: int) -> Tensor:
    """Return the prompt and its greedy continuation."""
    caches = model.caches(len(prompt_BT), prompt_BT.shape[1] + n_new, model.wte.weight.dtype)
    tokens_BT = [prompt_BT]
    for _ in range(n_new):
        tokens_BT.append(model.next_logits(tokens_BT[-1], caches).argmax(-1, keepdim=True))
    return torch.cat(tokens_BT, dim=1)


def test_greedy_decoding(compare, package, tmp_path, device, prompt_BT):
    transformers = package("transformers")
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    import_weights(str(tmp_path / "theirs"), tmp_path / "ours")
    weights = load_weights(tmp_path / "ours")
    ours = weights.model()
    ours.to(device).eval()
    theirs.to(device)

    def generate() -> Tensor:
        return theirs.generate(
            prompt_BT,
            attention_mask=torch.ones_like(prompt_BT),
            pad_token_id=0,
            do_sample=False,
            use_cache=True,
            max_new_tokens=N_NEW,
            min_new_tokens=N_NEW,
        )

    assert torch.equal(greedy(ours, prompt_BT, N_NEW), generate())
    compare(
        ours=lambda: greedy(ours, prompt_BT, N_NEW),
        peer="transformers generate",
        theirs=generate,
        rounds=16,
    )


def test_decoding_step(compare, device, prompt_BT):
    """A token reads each weight once, and one row of the position table: a bound on its speed."""
    model = ModelBuilder(GPT2_124M, GPT2, ()).model().to_empty(device=device).eval()
    init_parameters(model, seed=0)
    step, n_read = decoding_step(model, prompt_BT)
    read = fastest_read(torch.randn(n_read, device=device))
    compare(ours=step, peer="reading the weights once", theirs=read, rounds=60)


def fastest_read(buffer: Tensor) -> Callable[[], object]:
    """Return the fastest of several kernels that read a buffer and write almost nothing."""
    rows, half = buffer.view(-1, GPT2_124M.n_embd), len(buffer) // 2
    vector = torch.ones_like(rows[0])
    kernels: list[Callable[[], object]] = [
        lambda: torch.mv(rows, vector),
        lambda: torch.dot(buffer[:half], buffer[half : 2 * half]),
        buffer.sum,
        buffer.amax,
    ]

    def seconds(kernel: Callable[[], object]) -> float:
        start = time.perf_counter()
        kernel()
        if buffer.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return min(kernels, key=lambda kernel: min(seconds(kernel) for _ in range(8)))


@pytest.mark.parametrize(
    ("use", "options"),
    [
        pytest.param("mqa", {}, id="mqa"),
        pytest.param("gqa", {"n_kv_head": 1}, id="gqa1"),
        pytest.param("sliding_window", {"window": 256}, id="window256"),
    ],
)
def test_attention_step(compare, device, use, options):
    compare(
        ours=attention_step(use, device, **options),
        peer="mha",
        theirs=attention_step("mha", device),
        rounds=200,
    )


def attention_step(use: str, device: torch.device, **options: int) -> Callable[[], object]:
    """Return a layer's decoding step at the last position, with all others in the cache."""
    cls, positional = (
        registry.load("attention", use),
        registry.load("positional", "none")(LAYER, NoOptions()),
    )
    layer = cls(LAYER, cls.Options(**options), 0).eval().to(device)
    x_BTC = torch.randn(BATCH, LAYER.seq_len, LAYER.n_embd, device=device)
    positions_T = torch.arange(LAYER.seq_len, device=device)
    cache = layer.cache(BATCH, LAYER.seq_len, device, x_BTC.dtype)
    layer(x_BTC[:, :-1], positions_T[:-1], positional, cache)

    def step() -> None:
        cache.n_seen = LAYER.seq_len - 1
        layer(x_BTC[:, -1:], positions_T[-1:], positional, cache)

    return step
