"""`make gpu-bench`: measure the figures of one GPU, about three minutes on an H100.

`python tests/benchmarks/gpu_figures.py NAME` writes results/gpu/NAME.json. Both sides of a ratio
alternate. The functions take any device and shape, so that a CPU tests them at a small one.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import ratios
import torch
import torch.nn.functional as F
from decoding_step import captured_step, decoding_step
from torch import Tensor

from harness.model.builder import ModelBuilder
from harness.model.decoder import CudaGraph, Graph
from harness.model.gpt import GPT
from harness.model.initialization import init_parameters
from harness.model.precision import autocast
from harness.model.weights import GPT2
from harness.probes.peak_flops import vendor_flops
from harness.probes.timer import synchronized_time
from harness.provenance.git import commit
from harness.results.files import write_json
from harness.results.records import now
from harness.results.records.gpu import GpuFigure, GpuFigures
from harness.training.compilation import compile_blocks
from harness.training.optimizer import clip
from variants import registry
from variants.base import ModelShape
from variants.optimizer.adamw import AdamW, AdamWOptions
from variants.parameters import OptimizerDefaults, ParameterInfo, TrainedParameter

GPT2_124M = ModelShape(n_layer=12, n_head=12, n_embd=768, seq_len=1024, vocab_size=50257)
MICRO_BATCH = 32  # sequences
N_MICRO_BATCHES = 4
N_ROUNDS = 12
N_WARMUP = 3
Call = Callable[[], object]


def seconds(device: torch.device, *calls: Call) -> list[list[float]]:
    """Return the seconds of each call in each round; every second round has the reverse order."""
    taken: list[list[float]] = [[] for _ in calls]
    for n in range(N_WARMUP + N_ROUNDS):
        for i in range(len(calls))[:: 1 if n % 2 else -1]:
            start = synchronized_time(device)
            calls[i]()
            taken[i].append(synchronized_time(device) - start)
    return [values[N_WARMUP:] for values in taken]


def figure(name: str, values: Sequence[float], unit: str, target: float | None = None) -> GpuFigure:
    """Return the median of the values of all rounds, with its interval."""
    found = ratios.ratio(name, [1.0] * len(values), "", values)
    return GpuFigure(
        figure=name,
        value=found.ratio,
        unit=unit,
        interval=list(found.ci95),
        target=target,
    )


def speedup(
    name: str,
    ours_s: Sequence[float],
    peer: str,
    peer_s: Sequence[float],
    target: float | None = None,
) -> GpuFigure:
    """Return how many times faster than a peer ours is."""
    found = ratios.ratio(name, ours_s, peer, peer_s)
    return GpuFigure(
        figure=name,
        value=found.ratio,
        unit="x",
        interval=list(found.ci95),
        compared_with=peer,
        target=target,
    )


def gpt2(shape: ModelShape, device: torch.device) -> GPT:
    """Return GPT-2 of a shape with initial parameters."""
    model = ModelBuilder(shape, GPT2, ()).model()
    model.to_empty(device=device)
    init_parameters(model, seed=0)
    return model


def training(
    device: torch.device,
    shape: ModelShape = GPT2_124M,
    micro_batch: int = MICRO_BATCH,
    peak: float | None = None,
    backend: str | Callable[..., object] = "inductor",
) -> list[GpuFigure]:
    """Return throughput and MFU of the compiled bf16 step, and its speed-up by compilation.

    `peak` is the vendor's FLOP/s; without it there is no MFU.
    """
    size = (micro_batch, shape.seq_len + 1)
    tokens_BT = torch.randint(shape.vocab_size, size, device=device)

    def step_of(model: GPT) -> Call:
        parameters = []
        for name, value in model.named_parameters():
            kind = "matrix" if value.dim() > 1 else "vector"
            parameters.append(TrainedParameter(ParameterInfo(name, kind, value.shape), value))
        optimizer = AdamW(AdamWOptions(), OptimizerDefaults()).make(parameters)

        def step() -> None:
            for _ in range(N_MICRO_BATCHES):
                with autocast(device, "bf16"):
                    loss = model(tokens_BT[:, :-1], tokens_BT[:, 1:]).mean() / N_MICRO_BATCHES
                loss.backward()
            clip(model, 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step

    compiled, plain = gpt2(shape, device), gpt2(shape, device)
    compile_blocks(list(compiled.h), backend)
    ours_s, plain_s = seconds(device, step_of(compiled), step_of(plain))
    n_tokens = N_MICRO_BATCHES * micro_batch * shape.seq_len
    throughput = np.divide(n_tokens, ours_s)
    name = "training step of GPT-2 124M, bf16, compiled"
    figures = [figure(name, throughput.tolist(), "tokens/s", target=500_000)]
    if peak is not None:
        mfu = throughput * plain.flops_per_token() / peak
        figures.append(figure(f"MFU of the {name}", mfu.tolist(), "of the vendor's peak", 0.5))
    figures.append(speedup(name, ours_s, "the uncompiled step", plain_s))
    return figures


def window(
    device: torch.device, seq_len: int = 16384, width: int = 1024, n_head: int = 12
) -> list[GpuFigure]:
    """Return the speed-up of a compiled window over full attention, forward and backward."""
    shape = ModelShape(n_layer=1, n_head=n_head, n_embd=64 * n_head, seq_len=seq_len, vocab_size=1)
    cls = registry.load("attention", "sliding_window")
    layer = cls(shape, cls.Options(window=width), 0).to(device)
    positional_cls = registry.load("positional", "none")
    positional = positional_cls(shape, positional_cls.Options())
    positions_T = torch.arange(seq_len, device=device)
    size = (1, n_head, seq_len, 64)
    qkv = [
        torch.randn(size, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)
    ]

    def windowed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return layer.attend(q, k, v, positions_T, positional)

    def full(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    if device.type == "cuda":
        windowed = torch.compile(windowed, dynamic=False)

    def both_passes(attend: Callable[..., Tensor]) -> Call:
        return lambda: torch.autograd.grad(attend(*qkv).sum(), qkv)

    ours_s, full_s = seconds(device, both_passes(windowed), both_passes(full))
    name = f"window {width:,} at T = {seq_len:,}, bf16, forward and backward"
    return [speedup(name, ours_s, "full flash attention", full_s, target=5.0)]


@torch.inference_mode()
def decoding(
    device: torch.device,
    shape: ModelShape = GPT2_124M,
    make_graph: Callable[[torch.device], Graph] = CudaGraph,
) -> list[GpuFigure]:
    """Return the speed of decoding one token at batch 1 with and without a CUDA graph.

    The speed is relative to reading the weights once, and that of the graph also to eager decoding.
    """
    model = gpt2(shape, device).to(torch.bfloat16).eval()
    n_prompt = min(32, shape.seq_len // 2)
    prompt_BT = torch.randint(shape.vocab_size, (1, n_prompt), device=device)
    eager, n_read = decoding_step(model, prompt_BT)
    replayed = captured_step(model, prompt_BT, make_graph(device))
    buffer = torch.randn(n_read, device=device, dtype=torch.bfloat16)
    replayed_s, eager_s, read_s = seconds(device, replayed, eager, buffer.amax)
    name = "decoding step of GPT-2 124M, bf16, batch 1"
    peer = "reading the weights once"
    return [
        speedup(f"{name}, CUDA graph", replayed_s, peer, read_s, target=0.7),
        speedup(f"{name}, eager", eager_s, peer, read_s),
        speedup(f"{name}, CUDA graph", replayed_s, "the eager step", eager_s),
    ]


def main() -> None:
    """Measure all figures and write them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name", help="name of the file in results/gpu/")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu-bench: PyTorch finds no NVIDIA GPU on this machine; no figure is measured")
    device = torch.device("cuda")
    gpu = torch.cuda.get_device_name(device)
    started = time.monotonic()
    figures = [
        *training(device, peak=vendor_flops(gpu, "bf16")),
        *window(device),
        *decoding(device),
    ]
    for one in figures:
        print(f"{one.figure}: {one.value:,.4g} {one.unit}")
    file = Path("results/gpu") / f"{arguments.name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    record = GpuFigures(
        device=gpu,
        torch_version=torch.__version__,
        cuda_version=torch.version.cuda,
        commit=commit(),
        measured_at=now(),
        figures=figures,
    )
    write_json(file, record)
    print(f"{file}, after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
