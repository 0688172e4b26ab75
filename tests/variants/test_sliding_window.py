"""Sliding window: visibility, gradients, cache and costs, with every option."""

import dataclasses
import math
import re
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from harness.config.axes import Axes
from harness.model.builder import ModelBuilder
from harness.model.gpt import GPT
from harness.probes.first_step import CPU_KERNELS
from variants import registry
from variants.attention import _block_sparse as _blocks
from variants.attention import mha, mla, sliding_window
from variants.attention._block_sparse import MAX_BLOCK_ELEMENTS, attend_blocks
from variants.attention._flex_tiles import attend_tiles, can_tile, tiles
from variants.attention._window import Window
from variants.base import ModelShape, Positional

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=24, vocab_size=13)
T, H, D = SHAPE.seq_len, SHAPE.n_head, SHAPE.head_dim
OPTIONS = [  # beyond a plain window
    {"window": 3, "dilation": 2},
    {"window": 5, "dilation": 3},
    {"window": 2, "dilation": 23},
    {"window": 4, "head_dilation": [1, 1, 2, 5]},
    {"window": 4, "head_dilation": [2, 1, 2, 8]},
    {"window": 24, "head_dilation": [1, 2, 1, 1]},
    {"window": 4, "global_tokens": 1},
    {"window": 5, "global_tokens": 3},
    {"window": 2, "global_tokens": 21},
    {"window": 2, "global_tokens": 100},
    {"window": 3, "dilation": 3, "global_tokens": 4},
    {"window": 2, "head_dilation": [1, 2, 3, 4], "global_tokens": 2},
]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


class DistanceBias(Positional):
    has_bias = True

    def bias(self, q_positions, k_positions):
        distance = (q_positions[..., :, None] - k_positions[..., None, :]).unsqueeze(-3)
        return -distance * 0.5 ** torch.arange(1.0, 5.0)[:, None, None]


def randomise(module):
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return module


def make(name, shape=SHAPE, layer=0, **options):
    cls = registry.load("attention", name)
    return randomise(cls(shape, cls.Options(**options), layer))


def rope(shape=SHAPE):
    cls = registry.load("positional", "rope")
    return cls(shape, cls.Options())


def inputs(n_batch=2, shape=SHAPE):
    return torch.randn(
        n_batch, shape.seq_len, shape.n_embd, generator=torch.Generator().manual_seed(2)
    )


def seen(seq_len, window, dilation=1, head_dilation=None, global_tokens=0, **_):
    """Return which key each query of each head sees, (H, T, T), from the definition in words."""
    sees = torch.zeros(H, seq_len, seq_len, dtype=torch.bool)
    for h, d in enumerate(head_dilation or [dilation] * H):
        for t in range(seq_len):
            sees[h, t, list(range(t, -1, -d))[:window]] = True
            sees[h, t, : min(global_tokens, t + 1)] = True
    return sees


positionals = pytest.mark.parametrize(
    "positional", [rope(), DistanceBias(SHAPE, None)], ids=["rope", "bias"]
)


# -- visibility ------------------------------------------------------------------------------------


@positionals
@pytest.mark.parametrize("options", [*({"window": w} for w in (1, 2, 5, 8, 23)), *OPTIONS], ids=str)
def test_only_tokens_in_the_window_change_the_output(options, positional):
    """A window that is ignored, or off by one, would be reported as a result about windows."""
    layer, x, sees = make("sliding_window", **options), 0.3 * inputs(), seen(T, **options)
    heads = []
    layer.c_proj.register_forward_pre_hook(
        lambda _, args: heads.append(args[0].unflatten(-1, (H, D)))
    )
    with torch.no_grad():
        layer(x, torch.arange(T), positional)
        for s in range(T):
            perturbed = x.clone()
            perturbed[:, s] += 0.3  # all so small that no key is lost in rounding
            layer(perturbed, torch.arange(T), positional)
            changed = (heads.pop() != heads[0]).any(-1)
            assert torch.equal(changed, sees[:, :, s].T.expand(2, T, H)), f"token {s}"


@positionals
@pytest.mark.parametrize(
    "options",
    [
        *({"window": w} for w in (24, 25, 1000)),
        {"window": 4, "global_tokens": 20},
        {"window": 1, "layer_pattern": "SL"},
    ],
    ids=str,
)
def test_covering_window_equals_full_attention_bitwise(options, positional):
    """Else a study over window sizes would not meet its own baseline at the end of the scale."""
    results = []
    for layer in (make("mha"), make("sliding_window", layer=1, **options)):
        x = inputs().requires_grad_()
        y = layer(x, torch.arange(T), positional)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    for full, windowed in zip(*results, strict=True):
        assert torch.equal(full, windowed)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"window": [1, 3, 5, 30]}, [{"window": w} for w in (1, 3, 5, 30)]),
        (
            {"window": 3, "layer_pattern": "SSL"},
            [{"window": 3}, {"window": 3}, {"window": T}, {"window": 3}],
        ),
        (
            {"window": 3, "layer_pattern": "LS", "dilation": 2},
            [{"window": T}, {"window": 3, "dilation": 2}] * 2,
        ),
        (
            {"window": 3, "dilation": [1, 2, 3, 4]},
            [{"window": 3, "dilation": d} for d in (1, 2, 3, 4)],
        ),
        (
            {"window": [5, 4, 3, 2], "dilation": [1, 2, 3, 4]},
            [{"window": 6 - d, "dilation": d} for d in (1, 2, 3, 4)],
        ),
        (
            {"window": 2, "layer_pattern": "SL", "global_tokens": 2},
            [{"window": 2, "global_tokens": 2}, {"window": T}] * 2,
        ),
    ],
    ids=str,
)
def test_each_layer_and_head_has_its_own_window(options, expected):
    """A pattern that is off by one layer trains another model than the one reported."""
    shape = dataclasses.replace(SHAPE, n_layer=4)
    for layer, own in enumerate(expected):
        attention = make("sliding_window", shape, layer, **options)
        x = inputs(1).requires_grad_()
        for t in range(T):
            (grad,) = torch.autograd.grad(attention(x, torch.arange(T), rope())[:, t].sum(), x)
            assert torch.equal(grad[0].abs().amax(-1) > 0, seen(T, **own).any(0)[t]), (
                f"layer {layer}, query {t}"
            )


# -- agreement with masked attention ---------------------------------------------------------------


def scores(q, k, v, mask, is_causal):
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal)


def plain(q, k, v, mask, softcap):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    return (scores + mask).softmax(-1) @ v


@st.composite
def cases(draw):
    """Return (options, T, B), small, so that chunks, blocks and padding all occur."""
    options = {
        "window": draw(st.integers(1, 12)),
        "logit_softcap": draw(st.sampled_from([0.0, 0.0, 2.0])),
    }
    if draw(st.booleans()):
        options["head_dilation"] = draw(st.lists(st.integers(1, 5), min_size=H, max_size=H))
    else:
        options["dilation"] = draw(st.integers(1, 7))
    options["global_tokens"] = draw(st.sampled_from([0, 0, 1, 2, 5, 9]))
    return options, draw(st.integers(1, 90)), draw(st.integers(1, 2))


@settings(max_examples=150)
@given(
    case=cases(),
    biased=st.booleans(),
    part=st.sampled_from([1, 1000, MAX_BLOCK_ELEMENTS]),
    seed=st.integers(0, 1000),
)
def test_all_options_equal_masked_attention(case, biased, part, seed):
    """Blocks, residues, padding and prefixes only change the speed."""
    options, seq_len, n_batch = case
    attention = make("sliding_window", **options).double()
    positional = DistanceBias(SHAPE, None) if biased else Positional(SHAPE, None)
    generator = torch.Generator().manual_seed(seed)
    q, k, v, probe = torch.randn(
        4, n_batch, H, seq_len, 3, generator=generator, dtype=torch.float64
    ).unbind()
    wanted = [x.requires_grad_() for x in (q, k, v)]
    positions = torch.arange(seq_len)
    bias = positional.bias(positions, positions) if biased else torch.zeros(())
    mask = bias.double().masked_fill(~seen(seq_len, **options), -torch.inf)
    with mock.patch.object(_blocks, "MAX_BLOCK_ELEMENTS", part):  # a block at once, some, all
        y = attention.attend(q, k, v, positions, positional)
    expected = plain(q, k, v, mask, options["logit_softcap"])
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-6)  # the bias is float32's
    got, right = (torch.autograd.grad((z * probe).sum(), wanted) for z in (y, expected))
    for found, grad in zip(got, right, strict=True):
        torch.testing.assert_close(found, grad, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "window", [Window(4), Window(3, 2), Window(2, 1, 2), Window(2, 2, 3)], ids=str
)
@pytest.mark.parametrize("part", [1, MAX_BLOCK_ELEMENTS])
def test_gradients_equal_finite_differences(window, part, monkeypatch):
    """Where blocks overlap, their gradients are added up by hand."""
    monkeypatch.setattr(_blocks, "MAX_BLOCK_ELEMENTS", part)
    generator = torch.Generator().manual_seed(3)
    qkv = torch.randn(3, 1, 2, 17, 2, generator=generator, dtype=torch.float64).unbind()

    qkv = [x.requires_grad_() for x in qkv]
    assert gradcheck(lambda *qkv: attend_blocks(window, *qkv, None, scores), qkv)


@pytest.mark.filterwarnings(
    "ignore:.*torch.autograd.function.Function.*should not be instantiated:DeprecationWarning"
)
@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[4], OPTIONS[-1]], ids=str)
def test_compiled_attention_equals_the_uncompiled(options):
    """A graph break on an option would make a compiled study measure that and not the option."""
    layer, outcomes = make("sliding_window", **options), []
    torch._dynamo.reset()
    for run in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=False)):
        x = inputs().requires_grad_()
        y = run(x, torch.arange(T), rope())
        outcomes.append([y, *torch.autograd.grad((y * inputs()).sum(), [x, *layer.parameters()])])
    for expected, compiled in zip(*outcomes, strict=True):
        torch.testing.assert_close(compiled, expected, atol=1e-4, rtol=1e-4)


@given(
    window=st.integers(1, 12),
    dilations=st.lists(st.integers(1, 5), min_size=H, max_size=H),
    n_global=st.integers(0, 9),
    seq_len=st.integers(1, 40),
)
def test_visible_keys_equal_the_counted(window, dilations, n_global, seq_len):
    """FLOPs follow from them, and from FLOPs what a window is said to save."""
    options = {"window": window, "head_dilation": dilations, "global_tokens": n_global}
    layer = make("sliding_window", **options)
    assert layer.visible_keys(seq_len) == pytest.approx(
        seen(seq_len, **options).sum().item() / seq_len / H
    )


# -- decoding --------------------------------------------------------------------------------------


def decode(model, tokens, prompt, length):
    caches = model.caches(len(tokens), length, torch.float32)
    pieces = [tokens[:, :prompt], *tokens[:, prompt:].split(1, dim=1)]
    return torch.stack([model.next_logits(piece, caches) for piece in pieces], dim=1), caches


@positionals
@pytest.mark.parametrize(
    "options",
    [
        *OPTIONS,
        {"window": 3, "layer_pattern": "SL"},
        {"window": 3, "layer_pattern": "LS", "global_tokens": 2},
        {"window": [2, 7]},
    ],
    ids=str,
)
@torch.no_grad()
def test_cached_logits_equal_the_full_forward_pass(options, positional):
    """Sampled text must be the model's, also after the ring wraps."""
    parts = ModelBuilder(SHAPE, {}, [])
    parts.positional = lambda: positional
    parts.attention = lambda layer: make("sliding_window", layer=layer, **options)
    model = randomise(GPT(SHAPE, parts))
    tokens = torch.randint(SHAPE.vocab_size, (2, 60), generator=torch.Generator().manual_seed(9))
    full = model.logits(tokens)
    for prompt, length in ((1, 60), (5, 60), (59, 60), (30, 200)):
        got, caches = decode(model, tokens, prompt, length)
        torch.testing.assert_close(got, full[:, prompt - 1 :], atol=1e-5, rtol=1e-5)
        for cache in caches:
            cache.n_seen -= 1
        assert torch.equal(model.next_logits(tokens[:, -1:], caches), got[:, -1])


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"window": 5}, 5),
        ({"window": 5, "dilation": 3}, 4 * 3 + 1),
        ({"window": 5, "head_dilation": [1, 2, 3, 4]}, 4 * 4 + 1),
        ({"window": 5, "dilation": 2, "global_tokens": 7}, 4 * 2 + 1 + 7),
        ({"window": 5, "layer_pattern": "LS"}, 1000),
        ({"window": 999, "global_tokens": 2}, 1000),
    ],
    ids=str,
)
def test_cache_keeps_only_visible_positions(options, kept):
    cache = make("sliding_window", **options).cache(3, 1000, torch.device("cpu"), torch.float32)
    assert cache.nbytes == 2 * 3 * SHAPE.n_embd * kept * 4


# -- costs -----------------------------------------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """Notes how many elements the largest tensor has that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [
            t.untyped_storage().nbytes() // t.element_size()
            for t in tree_leaves(out)
            if isinstance(t, torch.Tensor)
        ]
        self.largest = max(self.largest, *sizes, 0)
        return out


def cost(name, seq_len, positional=None, **options):
    """Return the kernels' FLOPs and the elements of the largest tensor, forward and backward."""
    shape = ModelShape(n_layer=1, n_head=4, n_embd=32, seq_len=seq_len, vocab_size=13)
    layer, x = make(name, shape, **options), inputs(1, shape).requires_grad_()
    counter, largest = FlopCounterMode(display=False, custom_mapping=CPU_KERNELS), LargestTensor()
    with counter, largest:
        layer(x, torch.arange(seq_len), positional or rope(shape)).sum().backward()
    counts = counter.get_flop_counts()["Global"]
    return sum(n for op, n in counts.items() if "attention" in str(op)), largest.largest


@pytest.mark.parametrize("window", [32, 100, 512])
def test_flops_grow_with_sequence_times_window(window):
    """Otherwise a window costs as much as full attention and only loses quality."""
    per_pair = (
        14 * SHAPE.n_embd
    )  # 4 forward, 10 backward, by the fused kernels: others are not counted
    for seq_len in (512, 1024, 2048):
        counted = cost("sliding_window", seq_len, window=window)[0]
        assert per_pair * window * (seq_len - window) < counted <= per_pair * 1.5 * window * seq_len
    assert cost("mha", 2048)[0] == per_pair * 2048**2


@pytest.mark.parametrize("kind", ["rope", "bias"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dilation": 4},
        {"global_tokens": 5},
        {"head_dilation": [1, 1, 2, 4]},
        {"dilation": 2, "global_tokens": 5},
        {"logit_softcap": 3.0},
    ],
    ids=str,
)
def test_memory_grows_linearly_with_the_sequence(options, kind):
    """One T x T tensor, even in the backward pass, and long sequences do not fit."""
    positional = DistanceBias(SHAPE, None) if kind == "bias" else None
    largest = [
        cost("sliding_window", n, positional, window=32, **options)[1] for n in (1024, 2048, 4096)
    ]
    assert largest[1] <= 2.2 * largest[0] and largest[2] <= 2.1 * largest[1]
    assert largest[2] <= 4096 * max(3 * SHAPE.n_embd, 4 * (3 * 32 + 5))
    assert cost("mha", 1024, DistanceBias(SHAPE, None))[1] == 4 * 1024**2


# -- rejected options ------------------------------------------------------------------------------

LETTERS = "must be letters S (the window) and L (all earlier positions), at least one S"


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        ({"window": [4, 8, 16]}, {"window": "3 numbers for n_layer = 2: give one for each"}),
        ({"window": [4, 0]}, {"window[1]": "0: must be at least 1"}),
        ({"window": 4, "dilation": 0}, {"dilation": "0: must be at least 1"}),
        (
            {"window": 4, "dilation": [1, 2, 3]},
            {"dilation": "3 numbers for n_layer = 2: give one for each"},
        ),
        (
            {"window": 4, "head_dilation": [1, 2]},
            {"head_dilation": "2 numbers for n_head = 4: give one for each"},
        ),
        (
            {"window": 4, "head_dilation": []},
            {"head_dilation": "0 numbers for n_head = 4: give one for each"},
        ),
        (
            {"window": 4, "head_dilation": [1, 2, 0, 4]},
            {"head_dilation[2]": "0: must be at least 1"},
        ),
        (
            {"window": 4, "dilation": 2, "head_dilation": [1, 2, 3, 4]},
            {"head_dilation": "dilation = 2 is given as well: give one of them"},
        ),
        ({"window": 4, "global_tokens": -1}, {"global_tokens": "-1: must be at least 0"}),
        (
            {"window": 4, "layer_pattern": "sl"},
            {"layer_pattern": "'sl': " + LETTERS},
        ),
        (
            {"window": 4, "layer_pattern": "L"},
            {"layer_pattern": "'L': " + LETTERS},
        ),
        (
            {"window": 4, "layer_pattern": "SSSL"},
            {"layer_pattern": "'SSSL': has 4 letters for n_layer = 2"},
        ),
        (
            {"window": [4, 8], "layer_pattern": "SL"},
            {
                "layer_pattern": "'SL': window = [4, 8] already sets each layer's window: "
                "give one of them"
            },
        ),
        (
            {"window": 0, "dilation": -2},
            {"window": "0: must be at least 1", "dilation": "-2: must be at least 1"},
        ),
    ],
    ids=str,
)
def test_invalid_options_are_rejected_with_the_reason(options, problems):
    cls = registry.load("attention", "sliding_window")
    assert cls.check(SHAPE, cls.Options(**options)) == problems


@pytest.mark.parametrize(
    "options",
    [
        {"window": [4, 8]},
        {"window": 4, "layer_pattern": "SL"},
        {"window": 4, "dilation": [1, 2]},
        *OPTIONS,
    ],
    ids=str,
)
def test_study_file_may_list_windows(options):
    """A list from TOML reaches the variant unchanged, under a label that is a valid folder name."""
    axes = Axes("study.toml", [], shape=SHAPE)
    choice = axes.choose("attention", {"variant": "sliding_window", **options}, "axes.attention[0]")
    assert not axes.problems
    assert {name: choice.options[name] for name in options} == options
    assert re.fullmatch(r"[A-Za-z0-9._+]+", choice.label)


# -- flex_attention --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "n_global"), [(1, 0), (100, 0), (128, 0), (256, 0), (300, 5), (130, 130)]
)
@pytest.mark.parametrize("seq_len", [128, 512, 700])
def test_tiles_equal_those_of_pytorch(window, n_global, seq_len):
    """A tile too few, and keys go missing; full tiles are not masked at all."""
    mine = tiles(Window(window, 1, n_global), seq_len, torch.device("cpu"))
    theirs = create_block_mask(mine.mask_mod, None, None, seq_len, seq_len, device="cpu")
    assert mine.shape == theirs.shape
    for name in ("kv", "full_kv", "q", "full_q"):
        counts = getattr(mine, f"{name}_num_blocks")
        assert torch.equal(counts, getattr(theirs, f"{name}_num_blocks")), name
        for row, count in enumerate(counts.flatten()):
            mine_in_row, theirs_in_row = (
                getattr(x, f"{name}_indices")[0, 0, row, :count] for x in (mine, theirs)
            )
            assert set(mine_in_row.tolist()) == set(theirs_in_row.tolist()), name


# Of two sequences: one is a single document, one has short and long ones, also at a tile's edge.
ENDS = torch.tensor([1, 2, 50, 128, 129, 290])
DOCUMENTS = torch.stack((torch.zeros(301).int(), torch.bucketize(torch.arange(301), ENDS).int()))


@pytest.mark.parametrize("window", [Window(301), Window(1), Window(100), Window(130, 1, 40)])
def test_tiles_of_documents_are_those_of_the_dense_mask(window):
    """A tile too few, and keys go missing; full tiles would show another document."""
    mask = tiles(window, 301, torch.device("cpu"), DOCUMENTS)
    index = torch.arange(301)
    same = DOCUMENTS[:, :, None] == DOCUMENTS[:, None]
    dense = F.pad(window.sees(index[:, None], index) & same, (0, 83, 0, 83))
    seen_BNN = dense.unflatten(1, (3, 128)).unflatten(3, (3, 128)).sum((2, 4))
    for b, row in ((b, row) for b in range(2) for row in range(3)):
        full, partial = (
            getattr(mask, f"{name}_indices")[
                b, 0, row, : getattr(mask, f"{name}_num_blocks")[b, 0, row]
            ]
            for name in ("full_kv", "kv")
        )
        assert (seen_BNN[b, row, full] == 128**2).all()
        assert {*full.tolist(), *partial.tolist()} >= set(
            seen_BNN[b, row].nonzero().flatten().tolist()
        )
    assert mask.full_kv_num_blocks[1].sum() == 0 or window.width == 1
    if window.width == 301:  # the work that documents save
        assert mask.full_kv_num_blocks[0].sum() > 0 and mask.kv_num_blocks[1].sum() <= 5


def compare_with_flex(window, device, backend, gradients, documents=False, n_kv_head=H):
    generator = torch.Generator().manual_seed(3)
    qkv = [
        torch.randn(2, n, 301, 16, generator=generator).to(device).requires_grad_(gradients)
        for n in (H, n_kv_head, n_kv_head)
    ]
    documents_BT = DOCUMENTS.to(device) if documents else None
    torch._dynamo.reset()
    compiled = torch.compile(attend_tiles, backend=backend, fullgraph=True, dynamic=False)
    flex = compiled(window, *qkv, documents_BT)
    q, k, v = qkv
    if n_kv_head < H:
        k, v = (x.repeat_interleave(H // n_kv_head, dim=1) for x in (k, v))
    blocks = attend_blocks(window, q, k, v, None, scores, documents_BT)
    torch.testing.assert_close(flex, blocks, atol=1e-3 if gradients else 1e-5, rtol=1e-3)
    if gradients:
        got, right = (torch.autograd.grad(y.square().sum(), qkv) for y in (flex, blocks))
        for found, grad in zip(got, right, strict=True):
            torch.testing.assert_close(found, grad, atol=5e-3, rtol=5e-3)


FLEX = [Window(100), Window(30, 3), Window(20, 1, 7)]


FLEX_DOCUMENTS = [Window(301), Window(100), Window(20, 1, 7)]


@pytest.mark.parametrize("window", FLEX, ids=str)
def test_flex_attention_equals_blocks(window):
    """What it computes, without its kernel, for which there is no gradient on a CPU."""
    compare_with_flex(window, "cpu", "aot_eager", gradients=False)


@pytest.mark.parametrize(
    ("window", "n_kv_head"), list(zip(FLEX_DOCUMENTS, (1, H, 2), strict=True)), ids=str
)
def test_flex_attention_masks_documents(window, n_kv_head):
    """On a GPU, compiled runs with masked documents would train on other documents."""
    compare_with_flex(window, "cpu", "aot_eager", False, documents=True, n_kv_head=n_kv_head)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
warns_of_compiler = pytest.mark.filterwarnings(  # of the compiler itself, and of fp32 on a GPU
    "ignore:.*torch.autograd.function.Function.*should not be instantiated:DeprecationWarning",
    "ignore:.*torch.jit.script_method.*:DeprecationWarning",
    "ignore:TensorFloat32 tensor cores:UserWarning",
)


@pytest.mark.cuda
@needs_gpu
@warns_of_compiler
@pytest.mark.parametrize("window", FLEX, ids=str)
def test_flex_attention_kernel_equals_blocks(window):
    compare_with_flex(window, "cuda", "inductor", gradients=True)


FLEX_LAYERS = {
    "mha": ({}, 1),
    "gqa": ({"n_kv_head": 2}, 1),
    "mqa": ({}, 1),
    "differential": ({}, 2),
    "mla": ({}, 1),
    "sliding_window": ({"window": 40, "head_dilation": [1, 1, 2, 2]}, 1),
}


ATTENTIONS = {name: registry.load("attention", name) for name in registry.files("attention")}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("name", FLEX_LAYERS)
@torch.no_grad()
def test_layers_mask_documents_with_flex_attention(monkeypatch, name):
    """The choices of a compiled run on a GPU, here computed by plain operations."""
    shape = ModelShape(n_layer=1, n_head=4, n_embd=64, seq_len=301, vocab_size=13)
    options, n_expected = FLEX_LAYERS[name]
    layer = make(name, shape, **options).eval()
    arguments = (inputs(2, shape), torch.arange(301), rope(shape), None, DOCUMENTS)
    expected = layer(*arguments)

    def as_compiled_for_cuda(window, device_type, dtype, head_dim, *, compiling, **more):
        return can_tile(window, "cuda", dtype, head_dim, compiling=True, **more)

    tiled = mock.Mock(side_effect=attend_tiles)
    for module in (mha, mla):
        monkeypatch.setattr(module, "can_tile", as_compiled_for_cuda)
    for module in (mha, mla, sliding_window):
        monkeypatch.setattr(module, "attend_tiles", tiled)
    torch.testing.assert_close(layer(*arguments), expected, atol=1e-5, rtol=1e-5)
    assert tiled.call_count == n_expected  # not of dilated heads
    without_documents = (*arguments[:4], None)
    assert not torch.allclose(layer(*without_documents), expected, atol=1e-3)


def test_every_attention_masks_documents_with_flex_attention():
    """A T x T mask for each head is more memory than the model."""
    masking = {name for name, cls in ATTENTIONS.items() if cls.supports_documents}
    assert masking == FLEX_LAYERS.keys()


@pytest.mark.cuda
@needs_gpu
@warns_of_compiler
@pytest.mark.parametrize("n_kv_head", [H, 1])
@pytest.mark.parametrize("window", FLEX_DOCUMENTS, ids=str)
def test_flex_attention_kernel_masks_documents(window, n_kv_head):
    compare_with_flex(window, "cuda", "inductor", True, documents=True, n_kv_head=n_kv_head)


COMPILED = {"cpu": "aot_eager", "cuda": "inductor"}
on_gpu = [pytest.mark.cuda, needs_gpu]
LAYERS = [
    ("sliding_window", {"window": 40, "global_tokens": 3}, True, "cpu"),
    ("mla", {}, True, "cpu"),
    pytest.param("sliding_window", {"window": 40, "qk_norm": True}, False, "cuda", marks=on_gpu),
    pytest.param("sliding_window", {"window": 40, "dilation": 2}, False, "cuda", marks=on_gpu),
    pytest.param("sliding_window", {"window": 40, "global_tokens": 3}, True, "cuda", marks=on_gpu),
    pytest.param(
        "sliding_window", {"window": 9, "logit_softcap": 5.0}, False, "cuda", marks=on_gpu
    ),
    pytest.param("mha", {"qk_norm": True}, True, "cuda", marks=on_gpu),
    pytest.param("mla", {}, True, "cuda", marks=on_gpu),
    pytest.param("mla", {"kv_rank": 32, "rope_dim": 16}, True, "cuda", marks=on_gpu),
]


@warns_of_compiler
@pytest.mark.parametrize(("name", "options", "documents", "device"), LAYERS, ids=str)
def test_compiled_layer_equals_the_uncompiled(name, options, documents, device):
    """On a GPU it takes another path, and under autocast with operands of several precisions."""
    shape = ModelShape(n_layer=1, n_head=4, n_embd=64, seq_len=301, vocab_size=13)
    layer = make(name, shape, **options).to(device)
    positions_T = torch.arange(301, device=device)
    positional = rope(shape)
    documents_BT = DOCUMENTS.to(device) if documents else None
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend=COMPILED[device], dynamic=False, fullgraph=True)
    for precision, close in ((torch.float32, 1e-3), (torch.bfloat16, 5e-2)):
        results = []
        for run in (layer, compiled):
            x = inputs(2, shape).to(device).requires_grad_()
            with torch.autocast(device, torch.bfloat16, enabled=precision == torch.bfloat16):
                y = run(x, positions_T, positional, None, documents_BT)
            results.append((y, *torch.autograd.grad(y.float().square().sum(), [x])))
        for expected, got in zip(*results, strict=True):
            assert (got - expected).norm() < close * expected.norm()
