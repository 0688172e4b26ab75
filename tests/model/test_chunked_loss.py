"""Losses in chunks equal those of all logits at once, and need the memory of one chunk only."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.model import gpt as gpt_module
from harness.model.builder import ModelBuilder
from harness.model.chunked_loss import chunked_token_losses, chunks
from harness.model.initialization import init_parameters
from harness.model.loss import Objective, mean_loss, token_losses
from variants.base import ModelShape

OBJECTIVES = [
    Objective(),
    Objective(label_smoothing=0.1),
    Objective(z_loss=0.01),
    Objective(label_smoothing=0.3, z_loss=1e-3),
]
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
SHAPE = ModelShape(n_layer=1, n_head=2, n_embd=16, seq_len=8, vocab_size=1009)
B = 3
CHUNKS = [1, 5, 8, 23, 24, 100]  # of 24 tokens


class Largest(TorchDispatchMode):
    """Keep the bytes of the largest tensor that an operator returns."""

    def __init__(self):
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **(kwargs or {}))
        for value in tree_leaves(outputs):
            if isinstance(value, torch.Tensor):
                self.nbytes = max(self.nbytes, value.nbytes)
        return outputs


def make_model(tied=True, objective=OBJECTIVES[3], dtype=torch.float32):
    shape = dataclasses.replace(SHAPE, tie_embeddings=tied)
    model = ModelBuilder(shape, {}, []).model().to_empty(device="cpu")
    init_parameters(model, seed=0)
    model.objective = objective
    return model.to(dtype)


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(SHAPE.vocab_size, (B, SHAPE.seq_len + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def trained(model, chunk, precision=torch.float32):
    """Return the losses and all gradients of one batch."""
    model.loss_chunk = chunk
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        losses = model(*batch())
    losses.mean().backward()
    return {"losses": losses.detach()} | {n: p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("equal", [True, False])
def test_losses_and_gradients_equal_the_plain_ones(objective, equal):
    """Whatever the gradients of the losses; the loop takes their mean, others may not."""
    for dtype, tolerance in TOLERANCES.items():
        generator = torch.Generator().manual_seed(1)
        hidden = torch.randn(2, 5, 6, generator=generator, dtype=dtype)
        weight = torch.randn(11, 6, generator=generator, dtype=dtype)
        targets = torch.randint(11, (2, 5), generator=generator)
        scale = torch.full((2, 5), 0.37, dtype=dtype)
        if not equal:
            scale = torch.rand(2, 5, generator=generator, dtype=dtype)
        results = []
        for max_tokens in (None, 1, 3, 4, 10, 99):
            h = hidden.clone().requires_grad_()
            w = weight.clone().requires_grad_()
            if max_tokens is None:
                losses = token_losses(F.linear(h, w), targets, objective)
            else:
                losses = chunked_token_losses(h, w, targets, objective, max_tokens)
            (losses * scale).sum().backward()
            results.append((losses.detach(), h.grad, w.grad))
        for result in results[1:]:
            torch.testing.assert_close(result, results[0], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_model_trains_the_same_in_chunks(tied, objective):
    for dtype, tolerance in TOLERANCES.items():
        model = make_model(tied, objective, dtype)
        plain = trained(model, None)
        assert plain["losses"].dtype == dtype
        for chunk in CHUNKS:
            torch.testing.assert_close(trained(model, chunk), plain, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("tied", [True, False])
def test_bf16_in_chunks_is_as_exact_as_all_at_once(tied):
    """Gradients of chunks are summed in fp32: many chunks do not lose bits of bf16."""
    model = make_model(tied)
    exact = trained(model, None)
    plain = trained(model, None, torch.bfloat16)
    for chunk in CHUNKS:
        chunked = trained(model, chunk, torch.bfloat16)
        assert all(value.dtype == torch.float32 for value in chunked.values())
        assert distance(chunked, exact) <= 1.2 * distance(plain, exact), chunk


def distance(one, other):
    return sum((value - other[name]).square().sum() for name, value in one.items()).sqrt()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_no_tensor_is_larger_than_a_chunk_of_logits(tied, precision):
    """All logits at once are most of the memory of a small model with a large vocabulary.

    Nor than the weight, which the gradients of several chunks in bf16 may be as large as.
    """
    model = make_model(tied)
    weight = SHAPE.vocab_size * SHAPE.n_embd
    n_logits = B * SHAPE.seq_len * SHAPE.vocab_size
    for chunk, expected in ((5, weight), (18, 18 * SHAPE.vocab_size), (None, n_logits)):
        with Largest() as largest:
            trained(model, chunk, precision)
        assert largest.nbytes <= 4 * expected, chunk
        assert largest.nbytes > 3 * expected, chunk


@pytest.mark.parametrize("tied", [True, False])
def test_evaluation_holds_the_logits_of_one_sequence(tied, monkeypatch):
    """Entries with other chunks, micro-batches or vocabularies are compared by this loss."""
    model = make_model(tied).eval()
    tokens, targets = (x.repeat(64, 1) for x in batch())
    model.loss_chunk = 1
    with torch.no_grad():
        with Largest() as largest:
            losses = model(tokens, targets)
        n_hidden = tokens.numel() * 4 * SHAPE.n_embd  # of the MLP
        assert SHAPE.seq_len * SHAPE.vocab_size < n_hidden
        assert largest.nbytes == 4 * n_hidden
        assert torch.equal(losses, token_losses(model.logits(tokens), targets))
        monkeypatch.setattr(gpt_module, "MAX_LOGITS", 5 * SHAPE.vocab_size)
        torch.testing.assert_close(model(tokens, targets), losses)


def test_the_loop_reads_no_gradients_of_losses():
    """Reading them makes the host wait for a GPU in each micro-batch. Fake ones have no values."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        h = torch.randn(2, 4, 6, requires_grad=True)
        w = torch.randn(11, 6, requires_grad=True)
        targets = torch.zeros(2, 4, dtype=torch.long)
        for reduce in (mean_loss, lambda losses: mean_loss(losses) / 3):
            reduce(chunked_token_losses(h, w, targets, Objective(), 2)).backward()
        with pytest.raises(DataDependentOutputException):
            chunked_token_losses(h, w, targets, Objective(), 2).mean().backward()


@pytest.mark.parametrize("n", [1, 2, 7, 256, 1021])
def test_the_mean_loss_has_the_bits_of_mean(n):
    values = torch.randn(3, n, generator=torch.Generator().manual_seed(n))
    gradients = []
    for mean in (mean_loss, torch.mean):
        leaf = values.clone().requires_grad_()
        loss = mean(leaf)
        assert torch.equal(loss, values.mean())
        (loss / 3).backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("n_tokens", [1, 7, 12, 13, 40])
def test_bf16_sums_products_of_several_chunks(n_tokens):
    """A sum in fp32 for each small chunk takes longer than the chunk's product."""
    products = Products()
    h = torch.randn(1, n_tokens, 6, requires_grad=True)
    w = torch.randn(11, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), products:
        chunked_token_losses(h, w, torch.zeros(1, n_tokens, dtype=torch.long), Objective(), 5)
    n_together = 12  # as many bytes of gradients (n, 11) in bf16 as of a weight (11, 6) in fp32
    assert products.n_weight_products == -(-n_tokens // n_together)


class Products(TorchDispatchMode):
    """Count the products of the size (11, 6)."""

    def __init__(self):
        super().__init__()
        self.n_weight_products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mm.default and output.shape == (11, 6):
            self.n_weight_products += 1
        return output


def test_chunks_cover_all_tokens_once_in_similar_sizes():
    for n_tokens in range(1, 40):
        for max_tokens in range(1, 45):
            parts = [range(n_tokens)[part] for part in chunks(n_tokens, max_tokens)]
            assert [i for part in parts for i in part] == list(range(n_tokens))
            assert max(len(part) for part in parts) <= max_tokens
            assert len(parts) == -(-n_tokens // len(parts[0]))


def test_a_second_backward_pass_is_refused():
    """The first has scaled the gradients in place: a second one would scale them again."""
    h = torch.randn(1, 4, 6, requires_grad=True)
    w = torch.randn(11, 6, requires_grad=True)
    losses = chunked_token_losses(h, w, torch.zeros(1, 4, dtype=torch.long), Objective(), 2)
    losses.mean().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses.mean().backward()
