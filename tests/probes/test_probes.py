"""What the probes say is what can be counted by hand."""

import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.distributed.process_group import DistributedContext
from harness.model.builder import ModelBuilder
from harness.model.initialization import init_parameters
from harness.probes import peak_flops as peak
from harness.probes.activations import Activations, held_bytes
from harness.probes.first_step import FirstStep
from harness.probes.memory import by_category
from harness.probes.timer import Timer
from harness.results.records import TrainSettings, VariantChoice
from harness.training import optimizer as optim
from variants.base import ModelShape

SHAPE = ModelShape(n_layer=2, n_head=2, n_embd=16, seq_len=8, vocab_size=11)
N_BATCH = 3
CPU = torch.device("cpu")


def make(attention="mha", positional="learned", **options):
    axes = {
        "positional": VariantChoice(name=positional, label=positional, options={}),
        "attention": VariantChoice(name=attention, label=attention, options=options),
    }
    model = ModelBuilder(SHAPE, axes, []).model().to_empty(device="cpu")
    init_parameters(model, 0)
    return model


def first_step(model, n_micro=1):
    """Run a step as the loop does; return its probe and the optimizer."""
    optimizer = optim.adamw(model, TrainSettings(steps=1, tokens_per_step=8))
    probe = FirstStep(model, optimizer)
    with probe:
        for _ in range(n_micro):
            tokens = torch.randint(SHAPE.vocab_size, (N_BATCH, SHAPE.seq_len))
            model(tokens, tokens.roll(-1, 1)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return probe, optimizer


# -- bytes -----------------------------------------------------------------------------------------------------------


def test_what_is_kept_for_the_backward_pass_is_counted_by_hand():
    """Linear keeps its input, ReLU its output; weights are parameters and not activations. 4 bytes a number."""
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    with Activations(model) as kept:
        model(torch.randn(7, 3)).sum().backward()
    assert kept.activation_bytes == 4 * (7 * 3 + 7 * 5)
    assert kept.gathered_bytes == 0


def test_memory_that_is_kept_twice_counts_once():
    class Square(nn.Module):
        def forward(self, x):
            return x * x.view(-1).view_as(x)

    model = Square()
    with Activations(model) as kept:
        model(torch.ones(4, 4, requires_grad=True)).sum().backward()
    assert kept.activation_bytes == 4 * 16


def test_of_several_micro_batches_the_largest_counts():
    """They follow one another and use the same memory: their sum would say that accumulation saves nothing."""
    model = nn.Linear(3, 5)
    with Activations(model) as kept:
        for n in (2, 7, 4):
            model(torch.randn(n, 3)).sum().backward()
    assert kept.activation_bytes == 4 * 7 * 3


def test_hooks_are_gone_after_counting():
    """A probe that stays on would slow down every step that is timed."""
    model = nn.Linear(3, 5)
    with Activations(model) as kept:
        model(torch.randn(2, 3)).sum().backward()
    before = kept.activation_bytes
    model(torch.randn(100, 3)).sum().backward()
    assert kept.activation_bytes == before
    assert not model._forward_pre_hooks


def test_held_bytes_count_shared_memory_once():
    whole = torch.zeros(100, dtype=torch.float32)
    assert (
        held_bytes([whole, whole[:10], whole.view(10, 10), torch.zeros(3, dtype=torch.int64)])
        == 400 + 24
    )
    assert held_bytes([whole[:10]]) == 400, "a view keeps all of the memory behind it"
    assert held_bytes([torch.zeros(6, device="meta")]) == 24
    assert held_bytes([]) == 0


def test_memory_by_category_of_a_tiny_model():
    model = make()
    n = sum(parameter.numel() for parameter in model.parameters())
    n_tensors = len(list(model.parameters()))
    probe, optimizer = first_step(model)
    memory = by_category(optimizer, probe, CPU)
    assert memory["parameters"] == memory["gradients"] == 4 * n
    assert (
        memory["optimizer"] == 2 * 4 * n + 4 * n_tensors
    )  # two moments, and a step count for each
    assert memory["activations"] == probe.kept.activation_bytes > 0
    assert memory["other"] == 0
    assert memory["peak"] == sum(
        memory[key] for key in ("parameters", "gradients", "optimizer", "activations")
    )
    assert 10**7 < memory["resident_peak"] < 10**11, "bytes, not KiB"


def test_gradients_are_counted_before_they_are_dropped():
    model = make()
    probe, _ = first_step(model)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert probe.gradient_bytes == 4 * sum(parameter.numel() for parameter in model.parameters())


# -- FLOPs and kernels -----------------------------------------------------------------------------------------------


def weights():
    """Weights of matrix products: four of C x C in attention and eight in the MLP of each layer, and the output's."""
    return SHAPE.n_layer * 12 * 16 * 16 + 11 * 16


@pytest.mark.parametrize("n_micro", [1, 2])
def test_flops_of_a_first_step_by_hand(n_micro):
    """Else the check of the stated formula against what was executed checks nothing."""
    probe, _ = first_step(make(), n_micro)
    n_tokens = N_BATCH * SHAPE.seq_len
    linear = 3 * 2 * n_tokens * weights()
    attention = (
        (4 + 10) * SHAPE.n_layer * n_tokens * SHAPE.seq_len * 16
    )  # backward computes the scores once more
    assert probe.flops == n_micro * (linear + attention)


def test_flops_of_the_slow_kernel_by_hand():
    with sdpa_kernel(SDPBackend.MATH):
        probe, _ = first_step(make())
    n_tokens = N_BATCH * SHAPE.seq_len
    assert (
        probe.flops
        == 3 * 2 * n_tokens * weights() + 12 * SHAPE.n_layer * n_tokens * SHAPE.seq_len * 16
    )


def test_stated_flops_are_executed_flops_but_for_the_hidden_half_and_the_scores_done_twice():
    """What is needed differs from what is executed by the causal half (8 of 4.5) and by 14 instead of 12 per pair."""
    model = make()
    probe, _ = first_step(model)
    n_tokens, per_pair = N_BATCH * SHAPE.seq_len, SHAPE.n_layer * 16
    executed = probe.flops / n_tokens
    assert model.flops_per_token() == pytest.approx(
        executed - 14 * 8 * per_pair + 12 * 4.5 * per_pair
    )


@pytest.mark.parametrize(
    ("attention", "options"),
    [("mha", {}), ("gqa", {"n_kv_head": 1}), ("sliding_window", {"window": 3})],
)
def test_the_kernel_that_ran_is_named(attention, options):
    """Whether a variant fell to the slow kernel has to be seen in the results, not guessed."""
    probe, _ = first_step(make(attention, **options))
    assert probe.kernels == ["_scaled_dot_product_flash_attention_for_cpu"]
    with sdpa_kernel(SDPBackend.MATH):
        probe, _ = first_step(make(attention, **options))
    assert probe.kernels == ["math"]


def test_counting_changes_no_value():
    """The first step is a step like all others."""
    parameters = []
    for counted in (True, False):
        torch.manual_seed(0)
        model = make()
        if counted:
            first_step(model)
        else:
            optimizer = optim.adamw(model, TrainSettings(steps=1, tokens_per_step=8))
            tokens = torch.randint(SHAPE.vocab_size, (N_BATCH, SHAPE.seq_len))
            model(tokens, tokens.roll(-1, 1)).mean().backward()
            optimizer.step()
        parameters.append(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*parameters, strict=True))


def test_the_first_step_runs_without_compilation_and_the_next_one_with_it():
    """Compiled code would hide its matrix products from the counter; but only the first step may be slow."""
    seen = []

    @torch.compile(backend=lambda graph, example: seen.append("compiled") or graph.forward)
    def double(x):
        return F.relu(x) * 2

    model = nn.Linear(2, 2)
    probe = FirstStep(model, optim.adamw(model, TrainSettings(steps=1, tokens_per_step=8)))
    with probe:
        double(torch.ones(1, 2))
    assert not seen
    double(torch.ones(1, 2))
    assert seen == ["compiled"]


# -- peak ------------------------------------------------------------------------------------------------------------


def vendor(monkeypatch, *names, precision="bf16"):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[0])
    monkeypatch.setattr(DistributedContext, "gather", lambda self, value: list(names))
    return peak.peak_flops(DistributedContext(0, len(names), torch.device("cuda", 0)), precision)


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 67),
        ("NVIDIA H100 PCIe", 756, 51),
        ("NVIDIA H100 NVL", 835, 60),
        ("NVIDIA H200", 989, 67),
        ("NVIDIA A100-SXM4-40GB", 312, 19.5),
        ("NVIDIA A100 80GB PCIe", 312, 19.5),
        ("NVIDIA GeForce RTX 4090", 165, 82.6),
        ("NVIDIA B200", 2250, 75),
    ],
)
def test_the_peak_of_a_known_gpu_is_its_vendors_dense_figure(monkeypatch, name, bf16, fp32):
    """With another card's figure, or the sparse one, MFU is off by a factor and nobody sees it."""
    assert vendor(monkeypatch, name)["value"] == bf16 * 1e12
    assert vendor(monkeypatch, name, precision="fp32")["value"] == fp32 * 1e12


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA Tomorrow 9000",
        "Tesla T4",
        "NVIDIA RTX A1000 Laptop GPU",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA H200 NVL MIG 1g.18gb",
        "NVIDIA GB200",
        "NVIDIA H20",
    ],
)
def test_an_unknown_gpu_has_no_peak_rather_than_that_of_one_with_a_similar_name(monkeypatch, name):
    found = vendor(monkeypatch, name)
    assert found["value"] is None
    assert name in found["source"]


def test_the_peak_is_that_of_all_ranks_together(monkeypatch):
    found = vendor(monkeypatch, "NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3")
    assert found["value"] == 2 * 989e12
    assert found["source"] == "vendor, dense bf16: 2 x NVIDIA H100 80GB HBM3"
    assert vendor(monkeypatch, "NVIDIA H100 80GB HBM3", "Tesla T4")["value"] is None


def test_the_peak_of_a_cpu_is_measured(monkeypatch):
    monkeypatch.setattr(DistributedContext, "gather", lambda self, value: [value, value])
    found = peak.peak_flops(DistributedContext(0, 2, CPU), "fp32")
    assert 1e8 < found["value"] < 1e14
    assert "measured" in found["source"]


# -- time ------------------------------------------------------------------------------------------------------------


def test_the_timer_measures_wall_time_each_time_anew():
    timer = Timer(CPU)
    with timer:
        time.sleep(0.03)
    assert 0.03 <= timer.seconds < 1
    with timer:
        pass
    assert timer.seconds < 0.03


def test_the_timer_empties_a_gpus_queue_before_it_looks_at_the_clock(monkeypatch):
    """Without it, the time is that of handing out the work, not of doing it."""
    events, device = [], torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append("synchronize"))
    monkeypatch.setattr(time, "perf_counter", lambda: events.append("clock") or 0.0)
    with Timer(device):
        events.append("work")
    assert events == ["synchronize", "clock", "work", "synchronize", "clock"]
