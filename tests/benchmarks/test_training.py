"""A training step against transformers' GPT-2 and plain matrix products; rope; batches.

The model is nanoGPT's small one on any device: 6 layers x 384, T = 256, batch 8, vocabulary 65.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.data.batches import Batches, Tokens
from harness.model.builder import ModelBuilder
from harness.model.chunked_loss import chunked_token_losses
from harness.model.initialization import init_parameters
from harness.model.loss import CROSS_ENTROPY, mean_loss, token_losses
from harness.model.precision import autocast, dtype_of
from harness.model.weights import GPT2
from harness.probes.peak_flops import SIZE
from harness.results.records import TokenSlice, TrainSettings, VariantChoice
from harness.training import optimizer as optim
from variants.base import ModelShape
from variants.optimizer.adamw import AdamW, AdamWOptions
from variants.parameters import OptimizerDefaults, ParameterInfo, TrainedParameter

SHAPE = ModelShape(n_layer=6, n_head=6, n_embd=384, seq_len=256, vocab_size=65)
BATCH = 8
CFG = TrainSettings(steps=1, tokens_per_step=BATCH * SHAPE.seq_len)

precisions = pytest.mark.parametrize(
    ("precision", "compiled"),
    [
        pytest.param("fp32", False, id="fp32"),
        pytest.param("bf16", False, id="bf16"),
        pytest.param("bf16", True, id="bf16_compiled"),
    ],
)


@pytest.fixture(scope="module")
def batch(device):
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(SHAPE.vocab_size, (BATCH, SHAPE.seq_len + 1), generator=generator).to(
        device
    )
    return tokens_BT[:, :-1], tokens_BT[:, 1:]


def whole_step(
    model: nn.Module, losses: Callable[[], torch.Tensor], device, precision="fp32"
) -> Callable[[], object]:
    """Return a step of the loop: forward, backward, clipping, fused AdamW."""
    parameters = []
    for name, value in model.named_parameters():
        info = ParameterInfo(name, "matrix" if value.dim() > 1 else "vector", value.shape)
        parameters.append(TrainedParameter(info, value))
    optimizer = AdamW(AdamWOptions(), OptimizerDefaults()).make(parameters)

    def step() -> None:
        with autocast(device, precision):
            loss = mean_loss(losses())
        loss.backward()
        optim.clip(model, CFG.grad_clip)
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(
    device,
    batch,
    precision="fp32",
    compiled=False,
    positional="learned",
    recompute="none",
    prepares=True,
) -> Callable[[], object]:
    model = ModelBuilder(
        SHAPE,
        GPT2 | {"positional": VariantChoice(name=positional, label="", options={})},
        (),
    ).model()
    model.to_empty(device=device)
    init_parameters(model, seed=0)
    model.recompute = recompute
    if not prepares:
        model.positional.prepare = lambda *_: None
    if compiled:
        for block in model.h:
            block.compile()
    return whole_step(model, lambda: model(*batch), device, precision)


def their_step(transformers, device, batch) -> Callable[[], object]:
    config = transformers.GPT2Config(
        vocab_size=SHAPE.vocab_size,
        n_positions=SHAPE.seq_len,
        n_embd=SHAPE.n_embd,
        n_layer=SHAPE.n_layer,
        n_head=SHAPE.n_head,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = transformers.GPT2LMHeadModel(config).to(device).train()
    tokens_BT, targets_BT = batch

    def losses() -> torch.Tensor:
        logits_BTV = model(tokens_BT).logits.float()
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none")

    return whole_step(model, losses, device)


@precisions
def test_training_step(compare, package, device, batch, precision, compiled):
    ours = our_step(device, batch, precision, compiled)
    theirs = their_step(package("transformers"), device, batch)
    compare(ours=ours, peer="transformers, fp32, eager", theirs=theirs, rounds=8)


@precisions
def test_training_step_mfu(compare, device, batch, precision, compiled):
    """The ratio is the MFU: required FLOPs relative to a matrix product of that precision."""
    flops = ModelBuilder(SHAPE, GPT2, ()).model().flops_per_token() * BATCH * SHAPE.seq_len
    size = SIZE if device.type == "cpu" else 8192
    a = torch.ones(size, size, device=device, dtype=dtype_of(precision))

    def products() -> None:
        for _ in range(max(1, round(flops / (2 * size**3)))):
            a @ a

    ours = our_step(device, batch, precision, compiled)
    compare(
        ours=ours,
        peer=f"its FLOPs as products of {size}x{size}, {precision}",
        theirs=products,
        rounds=8,
    )


def test_rope_in_a_training_step(compare, device, batch):
    """The ratio is the speed of rope relative to learned positions."""
    ours, learned = (our_step(device, batch, positional=name) for name in ("rope", "learned"))
    compare(ours=ours, peer="learned positions", theirs=learned, rounds=16)


@precisions
def test_rotary_tables(compare, device, batch, precision, compiled):
    """The ratio is the speed of sharing rotary tables relative to tables of each layer."""
    ours = our_step(device, batch, precision, compiled, "rope")
    theirs = our_step(device, batch, precision, compiled, "rope", prepares=False)
    compare(ours=ours, peer="tables of each layer", theirs=theirs, rounds=16)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loss_in_chunks(compare, device, precision):
    """Output projection and losses of GPT-2 124M, forward and backward, 512 of 1024 at a time.

    The weight has GPT-2's initial scale. Logits of a larger one have probabilities that underflow,
    for which MKL's exponential is 20 times slower.
    """
    hidden_BTC = torch.randn(2, 512, 768, device=device, requires_grad=True)
    weight_VC = (0.02 * torch.randn(50257, 768, device=device)).requires_grad_()
    targets_BT = torch.arange(1024, device=device).view(2, 512)

    def chunked() -> torch.Tensor:
        return chunked_token_losses(hidden_BTC, weight_VC, targets_BT, CROSS_ENTROPY, 512)

    def plain() -> torch.Tensor:
        return token_losses(F.linear(hidden_BTC, weight_VC).float(), targets_BT)

    def step(losses: Callable[[], torch.Tensor]) -> Callable[[], object]:
        def run() -> None:
            with autocast(device, precision):
                loss = mean_loss(losses())
            loss.backward()
            hidden_BTC.grad = None
            weight_VC.grad = None

        return run

    compare(ours=step(chunked), peer="all logits at once", theirs=step(plain), rounds=6)


@pytest.mark.parametrize("recompute", ["block", "attention"])
def test_recompute(compare, device, batch, recompute):
    """The ratio is the speed of recomputing activations relative to keeping them."""
    ours = our_step(device, batch, recompute=recompute)
    compare(ours=ours, peer="activations kept", theirs=our_step(device, batch), rounds=8)


def test_batches(compare, tmp_path):
    """A batch as a function of (seed, step), against PyTorch's way to sample random windows."""
    file = tmp_path / "tokens.bin"
    (np.arange(1_000_000) % 50257).astype(np.uint16).tofile(file)
    tokens = Tokens([TokenSlice(file=str(file), start=0, stop=1_000_000)])
    batches = Batches(tokens, SHAPE.seq_len, 64, seed=0)
    data = torch.from_numpy(np.fromfile(file, dtype=np.uint16).astype(np.int64))
    windows = data.unfold(0, SHAPE.seq_len + 1, 1)
    sampler = torch.utils.data.RandomSampler(range(len(windows)), replacement=True, num_samples=64)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(windows), batch_size=64, sampler=sampler
    )
    compare(
        ours=lambda: batches.micro_batches(0, 0, 1, 64),
        peer="DataLoader",
        theirs=lambda: list(loader),
        rounds=60,
    )
