"""Attention, forward and backward, and rotary embedding, against the usual alternatives."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.model.builder import ModelBuilder
from harness.model.gpt import Block
from harness.model.weights import GPT2
from variants import registry
from variants.base import Attention, ModelShape, NoOptions, Positional

HEADS, HEAD_DIM, WINDOW = 8, 64, 256
GPU_SCALE = 4  # a GPU has enough to do only at longer sequences and wider windows


def forward_backward(call: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], object]:
    """Return a call that runs forward and backward to all inputs."""
    with torch.no_grad():
        grad = torch.randn_like(call(*inputs))

    def run() -> None:
        torch.autograd.grad(call(*inputs), inputs, grad)

    return run


def heads(seq_len: int, device: torch.device) -> list[Tensor]:
    """Return q, k and v of one sequence, (1, HEADS, seq_len, HEAD_DIM)."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shape = (1, HEADS, seq_len, HEAD_DIM)
    return [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]


def shape_of(seq_len: int) -> ModelShape:
    return ModelShape(
        n_layer=1, n_head=HEADS, n_embd=HEADS * HEAD_DIM, seq_len=seq_len, vocab_size=1
    )


def layer(
    use: str, seq_len: int, device: torch.device, **options: int
) -> tuple[Attention, Tensor, Positional]:
    """Return an attention, its positions and no positional encoding."""
    shape, cls = shape_of(seq_len), registry.load("attention", use)
    positional = registry.load("positional", "none")(shape, NoOptions())
    return (
        cls(shape, cls.Options(**options), 0).to(device),
        torch.arange(seq_len, device=device),
        positional,
    )


def sliding_window(seq_len: int, window: int, device: torch.device) -> Callable[..., Tensor]:
    """Return the variant's attention between its projections."""
    attention, positions_T, positional = layer("sliding_window", seq_len, device, window=window)
    return lambda q, k, v: attention.attend(q, k, v, positions_T, positional)


def whole_layer(
    use: str, batch: int, seq_len: int, device: torch.device, **options: int
) -> Callable[[], object]:
    """Return forward and backward of a layer with its projections."""
    attention, positions_T, positional = layer(use, seq_len, device, **options)
    x_BTC = torch.randn(batch, seq_len, HEADS * HEAD_DIM, device=device, requires_grad=True)
    return forward_backward(lambda x: attention(x, positions_T, positional), x_BTC)


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@pytest.mark.parametrize("seq_len", [2048, 4096, 8192])
def test_window_against_causal(compare, device, seq_len):
    scale = GPU_SCALE if device.type == "cuda" else 1
    seq_len, window = seq_len * scale, WINDOW * scale
    qkv = heads(seq_len, device)
    ours = forward_backward(sliding_window(seq_len, window, device), *qkv)
    compare(ours=ours, peer="full causal SDPA", theirs=forward_backward(causal, *qkv), rounds=8)


def test_window_against_local_attention(compare, package, device):
    qkv = heads(8192, device)
    peer = package("local_attention").LocalAttention(
        window_size=WINDOW,
        causal=True,
        look_backward=1,
        look_forward=0,
        exact_windowsize=True,
        dim=HEAD_DIM,
    )
    ours = forward_backward(sliding_window(8192, WINDOW, device), *qkv)
    compare(
        ours=ours, peer="local-attention", theirs=forward_backward(peer.to(device), *qkv), rounds=8
    )


class Copy(torch.nn.Module):
    """Replaces a projection by the identity."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


@pytest.mark.parametrize("part", ["attention", "layer"])
def test_window_against_longformer(compare, package, device, part):
    """Longformer's window is two-sided; only our layer has the output projection."""
    transformers = package("transformers")
    width, seq_len = HEADS * HEAD_DIM, 8192
    config = transformers.LongformerConfig(
        hidden_size=width,
        num_attention_heads=HEADS,
        attention_window=[2 * WINDOW],
        attention_probs_dropout_prob=0.0,
    )
    longformer = transformers.models.longformer.modeling_longformer.LongformerSelfAttention(
        config, 0
    ).to(device)
    mask = torch.zeros(1, seq_len, device=device)

    def theirs(x_BTC: Tensor) -> Tensor:
        return longformer(
            x_BTC,
            attention_mask=mask,
            is_index_masked=mask < 0,
            is_index_global_attn=mask > 0,
            is_global_attn=False,
        )[0]

    x_BTC = torch.randn(1, seq_len, width, device=device, requires_grad=True)
    ours = whole_layer("sliding_window", 1, seq_len, device, window=WINDOW)
    if part == "attention":
        longformer.query = longformer.key = longformer.value = Copy()  # which it divides in place
        attend = sliding_window(seq_len, WINDOW, device)

        def attention(x_BTC: Tensor) -> Tensor:
            x_BHTD = x_BTC.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)
            return attend(x_BHTD, x_BHTD, x_BHTD).transpose(1, 2).flatten(2)

        ours = forward_backward(attention, x_BTC)
    compare(
        ours=ours, peer="LongformerSelfAttention", theirs=forward_backward(theirs, x_BTC), rounds=6
    )


@pytest.mark.parametrize("n", [4096, 8192, 16384])
def test_window_grows_linearly(compare, device, n):
    """The ratio is the time at 2048 over the time at n: linear growth gives 2048 / n."""
    ours, short = (
        forward_backward(sliding_window(length, WINDOW, device), *heads(length, device))
        for length in (n, 2048)
    )
    compare(ours=ours, peer="itself at T = 2048", theirs=short, rounds=8)


@pytest.mark.parametrize(
    ("use", "options"),
    [pytest.param("gqa", {"n_kv_head": 2}, id="gqa2"), pytest.param("mqa", {}, id="mqa")],
)
def test_layer(compare, device, use, options):
    ours, mha = whole_layer(use, 4, 1024, device, **options), whole_layer("mha", 4, 1024, device)
    compare(ours=ours, peer="mha", theirs=mha, rounds=16)


@pytest.mark.parametrize("seq_len", [256, 1024])
def test_block(compare, package, device, seq_len):
    """A block of GPT-2, with its norms and MLP, on 4 sequences."""
    transformers = package("transformers")
    config = transformers.GPT2Config(
        n_embd=HEADS * HEAD_DIM,
        n_head=HEADS,
        n_positions=seq_len,
        resid_pdrop=0.0,
        attn_pdrop=0.0,
        attn_implementation="sdpa",
    )
    peer = transformers.models.gpt2.modeling_gpt2.GPT2Block(config, layer_idx=0).to(device)
    shape = shape_of(seq_len)
    block = Block(ModelBuilder(shape, GPT2, ()), 0).to(device)
    positional = registry.load("positional", "learned")(shape, NoOptions())
    positions_T = torch.arange(seq_len, device=device)
    x_BTC = torch.randn(4, seq_len, HEADS * HEAD_DIM, device=device, requires_grad=True)
    ours = forward_backward(lambda x: block(x, positions_T, positional), x_BTC)
    compare(
        ours=ours,
        peer="transformers GPT2Block",
        theirs=forward_backward(lambda x: first(peer(x)), x_BTC),
        rounds=10,
    )


def first(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def test_rotary_embedding(compare, package, device):
    """On q of (8, 8, 1024, 64), forward and backward."""
    peer = package("rotary_embedding_torch").RotaryEmbedding(HEAD_DIM).to(device)
    cls = registry.load("positional", "rope")
    rope, positions_T = cls(shape_of(1024), cls.Options()), torch.arange(1024, device=device)
    q_BHTD = torch.randn(8, HEADS, 1024, HEAD_DIM, device=device, requires_grad=True)
    ours = forward_backward(lambda q: rope.rotate(q, q[:, :0], positions_T)[0], q_BHTD)
    theirs = forward_backward(peer.rotate_queries_or_keys, q_BHTD)
    compare(ours=ours, peer="rotary-embedding-torch", theirs=theirs, rounds=30)
