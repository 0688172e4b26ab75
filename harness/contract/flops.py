"""Compare the stated FLOPs of a model with those that PyTorch counts, at the study's shape.

Formulas count what is required: visible keys only. The counter counts what the kernels execute.
The required FLOPs of an attention are derived from three counts on the meta device, per token:

    n(1) = projections + scores of one key      n(2) = projections + scores of two keys
    required(T) = projections + scores of one key * visible keys(T) / `kernel_overhead`

The visible keys are measured by gradient. Attention that executes fewer products than all pairs of
positions (in blocks, for example) is only required to state a number between its required and its
executed FLOPs.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from harness.contract.architecture import (
    Architecture,
    deep_shape,
    fill_with_noise,
    one_thread,
)
from harness.contract.violation import Violation
from harness.model.builder import VariantLayers
from harness.model.gpt import GPT
from harness.probes.first_step import CPU_KERNELS
from variants.base import Attention, FeedForward, ModelShape, NoOptions, Positional
from variants.errors import CODE_ERRORS

TOLERANCE = 0.05
LENGTH = 128  # tokens of the sequences in which visible keys are measured, or beyond the window
MAX_PAIRS = 1 << 23  # positions x positions x heads x sequences in the measurement of visible keys


@dataclass(frozen=True)
class PartFlops:
    """Forward FLOPs per token of one part: as stated and as counted."""

    path: str
    stated: float
    counted: float

    @property
    def differs(self) -> bool:
        """Return whether the two are more than 5 % apart."""
        return _differ(self.stated, self.counted)


@dataclass(frozen=True)
class ModelFlops:
    """Training FLOPs per token of a model, as stated and as counted, and parts that differ."""

    stated: float
    counted: float
    parts: tuple[PartFlops, ...]

    @property
    def differs(self) -> bool:
        """Return whether the two are more than 5 % apart."""
        return _differ(self.stated, self.counted)


def _differ(stated: float, counted: float) -> bool:
    return abs(stated - counted) > TOLERANCE * counted


@dataclass(frozen=True)
class LayerFlops:
    """Forward FLOPs per token of an attention: its projections, and its scores for each key."""

    projections: float
    scores_of_key: float
    visible_keys: float


def count_flops(architecture: Architecture, shape: ModelShape) -> ModelFlops:
    """Return stated and counted FLOPs of the model at a shape."""
    with one_thread():
        return _count(architecture, shape)


def wrong_flops(architecture: Architecture, shape: ModelShape) -> list[Violation]:
    """Report parts, or the whole model, whose stated FLOPs are more than 5 % off."""
    flops = count_flops(architecture, shape)
    violations = []
    for part in flops.parts:
        message = (
            f"`flops_per_token` states {part.stated:,.0f} FLOPs, {part.counted:,.0f} are counted"
        )
        violations.append(Violation("flops", message, part.path, fatal=False))
    if flops.differs and not violations:
        message = f"{flops.stated:,.0f} FLOPs per token are stated, {flops.counted:,.0f} counted"
        violations.append(Violation("flops", message, fatal=False))
    return violations[:2]


def _count(architecture: Architecture, shape: ModelShape) -> ModelFlops:
    model = architecture.model(shape)
    counter = AttentionCounter(architecture, shape)
    try:
        executed = _by_module(model, shape.seq_len)
    except CODE_ERRORS:  # a model that depends on values: its parts are counted one by one
        executed = {}
    parts = []
    hidden_pairs = 0.0  # FLOPs that attention executes, but that are not required
    for path, module in model.named_modules():
        if isinstance(module, Attention):
            sequence = executed.get(path) or _attention_flops(module, shape, shape.seq_len)
            part = counter.count(path, module, sequence)
            hidden_pairs += sequence - part.counted
        elif isinstance(module, FeedForward):
            if executed:
                counted = executed.get(path, 0.0)
            else:
                counted = _flops(module, torch.empty(1, LENGTH, shape.n_embd, device="meta"))
                counted /= LENGTH
            part = PartFlops(path, module.flops_per_token(), counted)
        else:
            continue
        parts.append(part)
    stated = model.flops_per_token()
    total = stated / 3.0 + sum(part.counted - part.stated for part in parts)
    if executed:  # norms and positional encodings may multiply matrices, too
        total = executed[""] - hidden_pairs
    differing = tuple(part for part in parts if part.differs)
    return ModelFlops(stated, 3.0 * total, differing)


def _by_module(model: GPT, length: int) -> dict[str, float]:
    """Return the executed forward FLOPs per token by path of module; "" is the whole model."""
    tokens = torch.zeros((1, length), dtype=torch.long, device=model.wte.weight.device)
    with FlopCounterMode(display=False, custom_mapping=CPU_KERNELS) as counter, torch.no_grad():
        model(tokens, tokens)
    root = type(model).__name__
    return {
        str(name).removeprefix(root).removeprefix("."): sum(counts.values()) / length
        for name, counts in counter.get_flop_counts().items()
        if str(name) == root or str(name).startswith(f"{root}.")
    }


def _flops(module: nn.Module, *inputs: Tensor | nn.Module) -> float:
    """Return the executed FLOPs on the meta device, or on the CPU if they depend on values."""
    try:
        return _counted(module, inputs)
    except CODE_ERRORS:
        module = copy.deepcopy(module).to_empty(device="cpu")
        fill_with_noise(module, seed=0)
        generator = torch.Generator().manual_seed(3)
        on_cpu: list[Tensor | nn.Module] = []
        for value in inputs:
            if isinstance(value, Tensor):
                is_float = value.is_floating_point()
                value = (
                    torch.randn(value.shape, generator=generator)
                    if is_float
                    else torch.arange(len(value))
                )
            on_cpu.append(value)
        return _counted(module, on_cpu)


def _counted(module: nn.Module, inputs: Sequence[Tensor | nn.Module]) -> float:
    with FlopCounterMode(display=False, custom_mapping=CPU_KERNELS) as counter:
        module(*inputs)
    return float(counter.get_total_flops())


class AttentionCounter:
    """Counts the required FLOPs of attentions; layers with equal counts are measured once."""

    def __init__(self, architecture: Architecture, shape: ModelShape) -> None:
        self._architecture = architecture
        self._shape = shape
        self._layers: dict[tuple[float, float], LayerFlops] = {}

    def count(self, path: str, attention: Attention, sequence: float) -> PartFlops:
        """Return stated and required FLOPs; `sequence` are executed per token of a sequence."""
        T = self._shape.seq_len
        stated = attention.flops_per_token(T)
        key = (stated, sequence)
        if key not in self._layers:
            self._layers[key] = self._measure(int(path.split(".")[1]), attention)
        layer = self._layers[key]
        scores = layer.scores_of_key * layer.visible_keys / attention.kernel_overhead
        required = layer.projections + scores
        all_pairs = layer.projections + layer.scores_of_key * T
        counted = required
        if abs(sequence - all_pairs) > 0.01 * all_pairs:  # some hidden pairs are skipped
            counted = min(max(stated, required), max(required, sequence))
        return PartFlops(path, stated, counted)

    def _measure(self, layer: int, attention: Attention) -> LayerFlops:
        one = _attention_flops(attention, self._shape, 1)
        two = _attention_flops(attention, self._shape, 2)
        scores_of_key = max(0.0, two - one)
        return LayerFlops(one - scores_of_key, scores_of_key, self._measure_visible(layer))

    def _measure_visible(self, layer: int) -> float:
        """Return the mean number of keys that a query sees in sequences of the study's length."""
        study_length = self._shape.seq_len
        numbers = [n for n in self._architecture.numbers() if 1 < n < study_length]
        length = min(study_length, max(LENGTH, max(numbers, default=0) * 9 // 8 + 2))
        shape = replace(deep_shape(self._architecture, self._shape), seq_len=length, dropout=0.0)
        with torch.device("meta"):
            attention = VariantLayers(shape, self._architecture.variants).attention(layer)
        attention = attention.to_empty(device="cpu")
        fill_with_noise(attention, seed=0)
        n_queries = max(4, min(length, MAX_PAIRS // (length**2 * shape.n_head)))
        queries = torch.linspace(0, length - 1, n_queries).round().long().unique()
        visible = visible_keys(attention, shape, queries)
        return _mean_over(queries, visible, study_length)


def _attention_flops(attention: Attention, shape: ModelShape, length: int) -> float:
    """Return the executed FLOPs per token of an attention on a sequence."""
    x_1TC = torch.empty(1, length, shape.n_embd, device="meta")
    positions = torch.arange(length, device="meta")
    return _flops(attention, x_1TC, positions, no_positions(shape)) / length


def no_positions(shape: ModelShape) -> Positional:
    """Return a positional encoding that does nothing."""
    return Positional(shape, NoOptions())


def visible_keys(attention: Attention, shape: ModelShape, queries: Tensor) -> Tensor:
    """Return how many keys each query sees, averaged over heads, by gradient.

    The gradient with respect to the output of the first linear layer shows the keys of each head:
    `head_dim` neighbouring channels. Without such a layer, the keys of all heads together count.
    """
    T = shape.seq_len
    D = shape.head_dim
    first: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        if not first:
            first.append(output)

    layers = [module for module in attention.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, T, shape.n_embd, generator=generator)
    x_QTC = x.repeat(len(queries), 1, 1).requires_grad_()
    try:
        y = attention.train()(x_QTC, torch.arange(T), no_positions(shape))
    finally:
        for hook in hooks:
            hook.remove()
    own = y[torch.arange(len(queries)), queries]
    weights = torch.randn(own.shape, generator=generator)
    source = first[0] if first and first[0].shape[:2] == x_QTC.shape[:2] else x_QTC
    (gradient,) = torch.autograd.grad((own * weights).sum(), source)
    n_channels = gradient.shape[-1]
    if source is x_QTC or n_channels % D:
        return (gradient != 0).any(dim=-1).sum(dim=-1).double()
    seen_QTN = (gradient.unflatten(-1, (-1, D)) != 0).any(dim=-1)
    # Channels of queries affect only their own position.
    earlier = torch.arange(T)[None, :] < queries[:, None]
    is_key_N = (seen_QTN & earlier[..., None]).any(dim=0).any(dim=0)
    if not is_key_N.any():
        return torch.ones(len(queries), dtype=torch.float64)
    n_keys_QN: Tensor = seen_QTN[..., is_key_N].sum(dim=1)
    return n_keys_QN.double().mean(dim=-1)


def _mean_over(queries: Tensor, visible: Tensor, length: int) -> float:
    """Return the mean over all positions; interpolate, and extrapolate from the last quarter."""
    positions = torch.arange(length, dtype=torch.float64)
    points = queries.double()
    right = torch.searchsorted(points, positions).clamp(1, len(points) - 1)
    left = right - 1
    slopes = (visible[right] - visible[left]) / (points[right] - points[left])
    values = visible[left] + slopes * (positions - points[left])
    last = points[-1]
    quarter = int((points < 0.75 * last).sum())
    slope = (visible[-1] - visible[quarter]) / (last - points[quarter]).clamp(min=1)
    beyond = positions > last
    values[beyond] = visible[-1] + slope * (positions[beyond] - last)
    return float(values.mean())
