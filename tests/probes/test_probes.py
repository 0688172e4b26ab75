"""The probes' results equal what can be counted by hand."""

import time
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from optimizers import make_optimizer
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.distributed import torch_internals
from harness.distributed.process_group import DistributedContext
from harness.model.builder import ModelBuilder
from harness.model.initialization import init_parameters
from harness.probes import peak_flops as peak_flops_probe
from harness.probes.activations import Activations, held_bytes
from harness.probes.allocator import AllocatorPeaks
from harness.probes.first_step import FirstStep
from harness.probes.memory import measure_memory
from harness.probes.peak_flops import peak_flops
from harness.probes.phases import PhaseTimer
from harness.probes.timer import Timer
from harness.results.records import TrainSettings, VariantChoice
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
    optimizer = make_optimizer(model, TrainSettings(steps=1, tokens_per_step=8))
    probe = FirstStep(model, optimizer, AllocatorPeaks(CPU))
    with probe:
        for _ in range(n_micro):
            tokens = torch.randint(SHAPE.vocab_size, (N_BATCH, SHAPE.seq_len))
            model(tokens, tokens.roll(-1, 1)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return probe, optimizer


# -- bytes -----------------------------------------------------------------------------------------


def test_activation_bytes_by_hand():
    """Linear saves its input, ReLU its output, in 4 bytes per number; weights do not count."""
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    with Activations(model) as activations:
        model(torch.randn(7, 3)).sum().backward()
    assert activations.saved_bytes == 4 * (7 * 3 + 7 * 5)
    assert activations.gathered_bytes == 0


def test_shared_activations_count_once():
    class Square(nn.Module):
        def forward(self, x):
            return x * x.view(-1).view_as(x)

    model = Square()
    with Activations(model) as activations:
        model(torch.ones(4, 4, requires_grad=True)).sum().backward()
    assert activations.saved_bytes == 4 * 16


def test_largest_micro_batch_counts():
    """They reuse the same memory: their sum would hide that gradient accumulation saves memory."""
    model = nn.Linear(3, 5)
    with Activations(model) as activations:
        for n in (2, 7, 4):
            model(torch.randn(n, 3)).sum().backward()
    assert activations.saved_bytes == 4 * 7 * 3


def test_hooks_are_removed_after_counting():
    """A probe that stays active would slow down every timed step."""
    model = nn.Linear(3, 5)
    with Activations(model) as activations:
        model(torch.randn(2, 3)).sum().backward()
    before = activations.saved_bytes
    model(torch.randn(100, 3)).sum().backward()
    assert activations.saved_bytes == before
    assert not model._forward_pre_hooks


def test_held_bytes_count_shared_memory_once():
    whole = torch.zeros(100, dtype=torch.float32)
    assert (
        held_bytes([whole, whole[:10], whole.view(10, 10), torch.zeros(3, dtype=torch.int64)])
        == 400 + 24
    )
    assert held_bytes([whole[:10]]) == 400, "a view keeps its whole storage"
    assert held_bytes([torch.zeros(6, device="meta")]) == 24
    assert held_bytes([]) == 0


def test_memory_by_category_of_a_tiny_model():
    model = make()
    n = sum(parameter.numel() for parameter in model.parameters())
    n_tensors = len(list(model.parameters()))
    probe, optimizer = first_step(model)
    memory = measure_memory(optimizer, probe)
    assert memory.parameters == memory.gradients == 4 * n
    assert memory.optimizer == 2 * 4 * n + 4 * n_tensors  # two moments, and a step count for each
    assert memory.activations == probe.activations.saved_bytes > 0
    assert memory.other == 0
    assert memory.peak == sum(
        getattr(memory, key) for key in ("parameters", "gradients", "optimizer", "activations")
    )
    assert 10**7 < memory.resident_peak < 10**11, "bytes, not KiB"
    assert memory.evaluation_peak is None


def test_peaks_of_training_and_evaluation_are_apart(monkeypatch):
    """The tensors of an evaluation, or of a probe, are not the memory that training needs."""
    peak = 0

    def use(size):
        nonlocal peak
        peak = max(peak, size)

    def reset(device):
        nonlocal peak
        peak = 0

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    model = make()
    optimizer = make_optimizer(model, TrainSettings(steps=1, tokens_per_step=8))
    peaks = AllocatorPeaks(torch.device("cuda"))
    probe = FirstStep(model, optimizer, peaks)
    use(500)  # initialization
    with peaks.evaluating():
        use(600)
    with probe:
        use(700)
    use(400)
    with peaks.evaluating():
        use(900)
    use(300)
    memory = measure_memory(optimizer, probe)
    assert (memory.peak, memory.evaluation_peak, memory.resident_peak) == (400, 900, None)


def test_gradients_are_counted_before_zero_grad():
    model = make()
    probe, _ = first_step(model)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert probe.gradient_bytes == 4 * sum(parameter.numel() for parameter in model.parameters())


# -- FLOPs and kernels -----------------------------------------------------------------------------


def weights():
    """Return the number of weights in matrix products: 12 C x C in each layer, and the output's."""
    return SHAPE.n_layer * 12 * 16 * 16 + 11 * 16


@pytest.mark.parametrize("n_micro", [1, 2])
def test_flops_of_a_first_step_by_hand(n_micro):
    """The stated formulas are checked against these counts."""
    probe, _ = first_step(make(), n_micro)
    n_tokens = N_BATCH * SHAPE.seq_len
    linear = 3 * 2 * n_tokens * weights()
    attention = (
        (4 + 10) * SHAPE.n_layer * n_tokens * SHAPE.seq_len * 16
    )  # the backward pass recomputes the scores
    assert probe.flops == n_micro * (linear + attention)


def test_flops_of_the_slow_kernel_by_hand():
    with sdpa_kernel(SDPBackend.MATH):
        probe, _ = first_step(make())
    n_tokens = N_BATCH * SHAPE.seq_len
    assert (
        probe.flops
        == 3 * 2 * n_tokens * weights() + 12 * SHAPE.n_layer * n_tokens * SHAPE.seq_len * 16
    )


def test_stated_flops_exclude_masked_pairs_and_recomputation():
    """Causal attention needs 4.5 of 8 pairs per token, and 12 of the executed 14 FLOPs per pair."""
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
def test_executed_attention_kernel_is_reported(attention, options):
    """The results show whether a variant fell back to the slow kernel."""
    probe, _ = first_step(make(attention, **options))
    assert probe.kernels == ["_scaled_dot_product_flash_attention_for_cpu"]
    with sdpa_kernel(SDPBackend.MATH):
        probe, _ = first_step(make(attention, **options))
    assert probe.kernels == ["math"]


def test_counting_changes_no_value():
    """The first step trains like every other step."""
    parameters = []
    for counted in (True, False):
        torch.manual_seed(0)
        model = make()
        if counted:
            first_step(model)
        else:
            optimizer = make_optimizer(model, TrainSettings(steps=1, tokens_per_step=8))
            tokens = torch.randint(SHAPE.vocab_size, (N_BATCH, SHAPE.seq_len))
            model(tokens, tokens.roll(-1, 1)).mean().backward()
            optimizer.step()
        parameters.append(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*parameters, strict=True))


def test_only_the_first_step_runs_uncompiled():
    """Compiled code hides its matrix products from the counter; only the first step may be slow."""
    seen = []

    @torch.compile(backend=lambda graph, example: seen.append("compiled") or graph.forward)
    def double(x):
        return F.relu(x) * 2

    model = nn.Linear(2, 2)
    optimizer = make_optimizer(model, TrainSettings(steps=1, tokens_per_step=8))
    probe = FirstStep(model, optimizer, AllocatorPeaks(CPU))
    with probe:
        double(torch.ones(1, 2))
    assert not seen
    double(torch.ones(1, 2))
    assert seen == ["compiled"]


# -- peak ------------------------------------------------------------------------------------------


def vendor(monkeypatch, *names, precision="bf16"):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[0])
    monkeypatch.setattr(DistributedContext, "gather", lambda self, value: list(names))
    return peak_flops(DistributedContext(0, len(names), torch.device("cuda", 0)), precision)


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
def test_peak_of_a_known_gpu_is_the_vendors_dense_figure(monkeypatch, name, bf16, fp32):
    """With another GPU's figure, or the sparse one, MFU would be wrong without any sign of it."""
    assert vendor(monkeypatch, name).value == bf16 * 1e12
    assert vendor(monkeypatch, name, precision="fp32").value == fp32 * 1e12


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
def test_gpu_with_a_similar_name_has_no_peak(monkeypatch, name):
    peak = vendor(monkeypatch, name)
    assert peak.value is None
    assert name in peak.source


def test_peak_sums_over_all_ranks(monkeypatch):
    peak = vendor(monkeypatch, "NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3")
    assert peak.value == 2 * 989e12
    assert peak.source == "vendor, dense bf16: 2 x NVIDIA H100 80GB HBM3"
    assert vendor(monkeypatch, "NVIDIA H100 80GB HBM3", "Tesla T4").value is None


def test_peak_of_a_cpu_is_measured(monkeypatch):
    monkeypatch.setattr(DistributedContext, "gather", lambda self, value: [value, value])
    peak = peak_flops(DistributedContext(0, 2, CPU), "fp32")
    assert 1e8 < peak.value < 1e14
    assert "measured" in peak.source


@pytest.mark.parametrize(
    ("product_s", "n_products"),
    [(1e-4, peak_flops_probe.REPEATS), (0.3, 2), (60.0, 1)],
)
def test_slow_products_are_not_repeated(monkeypatch, product_s, n_products):
    """In bf16, a CPU without it would compute for seconds after each run."""
    times = [product_s * n for product in range(n_products) for n in (product, product + 1)]
    clock = iter(times)
    monkeypatch.setattr(peak_flops_probe.time, "perf_counter", clock.__next__)
    flops = peak_flops_probe.measure_cpu_flops("fp32")
    assert flops == pytest.approx(2 * peak_flops_probe.SIZE**3 / product_s)
    assert not list(clock), "as many products as expected"


# -- time ------------------------------------------------------------------------------------------


def test_timer_measures_each_block_separately(monkeypatch):
    clock = Clock(monkeypatch)
    timer = Timer(CPU)
    for seconds in (0.5, 0.0, 2.0):
        with timer:
            clock.advance(seconds)
        assert timer.seconds == seconds
        clock.advance(1.0)


def test_timer_synchronizes_the_gpu_before_reading_the_clock(monkeypatch):
    """Without it, the time would be that of queueing the work."""
    events, device = [], torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append("synchronize"))
    monkeypatch.setattr(time, "perf_counter", lambda: events.append("clock") or 0.0)
    with Timer(device):
        events.append("work")
    assert events == ["synchronize", "clock", "work", "synchronize", "clock"]


# -- phases ----------------------------------------------------------------------------------------


class Clock:
    """A clock that a test advances."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def advance(self, seconds):
        self.now += seconds


def test_phases_exclude_waits_and_sum_to_the_step(monkeypatch):
    """Two micro-batches; a collective waits within another, and one wait belongs to no scope."""
    clock = Clock(monkeypatch)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    collectives = torch_internals.functional_collectives

    def wait_tensor(seconds, inner=0.0):
        if inner:
            collectives.wait_tensor(inner)
        clock.advance(seconds)

    monkeypatch.setattr(collectives, "wait_tensor", wait_tensor)
    with PhaseTimer(nn.Linear(1, 1), CPU) as timer:
        for _ in range(2):
            clock.advance(0.75)
            with timer.data():
                clock.advance(0.25)
            with timer.forward():
                clock.advance(2)
                collectives.wait_tensor(3, inner=4)
            with timer.backward():
                clock.advance(8)
        collectives.wait_tensor(16)
        with timer.optimizer():
            clock.advance(32)
    assert timer.seconds == {
        "forward": 4,
        "backward": 16,
        "optimizer": 32,
        "waiting": 2 * 7 + 16,
        "other": 2,
    }
    assert sum(timer.seconds.values()) == clock.now
    assert timer.data_s == 0.5, "part of other"


def test_ddp_waits_from_the_last_gradient_to_the_end(monkeypatch):
    """DDP's reducer waits in C++, where no Python function can be observed."""
    clock = Clock(monkeypatch)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    model = nn.Linear(1, 1)
    with PhaseTimer(model, CPU) as timer, timer.backward():
        clock.advance(1)
        model(torch.ones(1, 1)).sum().backward()
        clock.advance(5)
    assert timer.seconds["backward"] == 1
    assert timer.seconds["waiting"] == 5


def test_observed_functions_are_restored():
    work_wait = vars(dist.Work)["wait"]
    wait_tensor = torch_internals.functional_collectives.wait_tensor
    with pytest.raises(ZeroDivisionError), torch_internals.observe_waits(nullcontext):
        assert vars(dist.Work)["wait"] is not work_wait
        assert torch_internals.functional_collectives.wait_tensor is not wait_tensor
        raise ZeroDivisionError
    assert vars(dist.Work)["wait"] is work_wait
    assert torch_internals.functional_collectives.wait_tensor is wait_tensor
