"""The contracts between the model and its variants: the shape, and one base class per axis.

A variant is one file `variants/<axis>/<name>.py` that defines one subclass of the axis's base class and, if it has
parameters, a frozen dataclass `Options` inside of it. Nothing is registered anywhere.

Legend of shapes: B batch, T sequence, C channels (`n_embd`), H query heads, G key-value heads, D `head_dim`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """The shape of a GPT-2 (Radford et al. 2019); `dropout` is the probability of all of its dropouts."""

    n_layer: int
    n_head: int
    n_embd: int
    seq_len: int
    vocab_size: int
    dropout: float = 0.0

    @property
    def head_dim(self) -> int:
        """Return the width of one head."""
        return self.n_embd // self.n_head


@dataclass(frozen=True)
class InitSpec:
    """The first values of one parameter: normal with mean 0 and `std`, or, where `std` is None, all `value`.

    `blocks` names the logical blocks, as (name, rows), of which a matrix is made. Each is drawn on its own, so that two
    variants that share the block q start from the same q, whatever else their matrices hold.
    """

    std: float | None = None
    value: float = 0.0
    blocks: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class NoOptions:
    """The options of a variant that has none."""


def conversion(default: Any) -> Any:
    """Return the default of an option that says how to start from a checkpoint, and without one says nothing."""
    return field(default=default, metadata={"conversion": True})


class Variant:
    """What the variants of all axes have in common."""

    Options: ClassVar[type] = NoOptions

    @classmethod
    def check(cls, shape: ModelShape, options: Any) -> Mapping[str, str]:
        """Return what cannot work, as {option: reason}; the key is empty where it is no option's fault."""
        return {}


@dataclass(frozen=True)
class ConvertedTensor:
    """A parameter's first values that were made from a checkpoint's, and how."""

    values: Tensor
    how: str = "loaded"


@dataclass(frozen=True)
class ShardSpec:
    """What one process holds of a parameter of `size`: `ranges` of its dimension `dim`, one after the other.

    `group` are the processes among which the parameter is divided.
    """

    size: torch.Size
    dim: int
    ranges: tuple[tuple[int, int], ...]
    group: Any = None


@dataclass(frozen=True)
class TensorParallelPlan:
    """How a part of the model is divided over processes that compute it together, each for some heads or channels.

    Of the linear layers `column_parallel` a process holds outputs, the same share of each logical block (`initial`), of
    those `row_parallel` inputs; what the latter give is added up over the processes. `shared` names parameters that all
    hold whole and use for their own share alone, so that their gradients are added up. Every parameter is one of these
    or has a piece.
    """

    column_parallel: Sequence[str] = ()
    row_parallel: Sequence[str] = ()
    shared: Sequence[str] = ()
    pieces: Mapping[str, ShardSpec] = field(default_factory=dict)


class Part(Variant, nn.Module):
    """A variant that is a part of the model."""

    pieces: Mapping[str, ShardSpec] = {}  # of the parameters that are not whole here
    shared: Sequence[
        str
    ] = ()  # parameters that are, and whose gradients are added up over the same processes

    def divide(self, rank: int, n: int) -> TensorParallelPlan:
        """Become what the process `rank` of `n` computes of this part, all but its linear layers.

        Raises:
            ValueError: it cannot be divided so; the message says why.
        """
        raise ValueError("does not say how it could be divided over processes (`divide`)")

    @staticmethod
    def share(n_of: int, what: str, rank: int, n: int) -> slice:
        """Return which of `n_of` things, say heads, a process computes.

        Raises:
            ValueError: they do not divide.
        """
        if n_of % n:
            raise ValueError(f"{n_of} {what} do not divide over {n} processes")
        return slice(rank * n_of // n, (rank + 1) * n_of // n)

    def load_from(
        self, theirs: Mapping[str, Tensor], fresh: Mapping[str, Tensor]
    ) -> dict[str, ConvertedTensor]:
        """Make this part's first values from those of another model's part at the same place.

        Both map the parameters' names within the part to whole tensors; `fresh` holds what this part would start from
        by itself. A name that is left out stays fresh, one of theirs that is not used is dropped. Here, what has the
        same name and shape is loaded.

        Raises:
            ValueError: a tensor does not fit, and no conversion is defined; the message gives both shapes.
        """
        for name in fresh:
            if name in theirs and theirs[name].shape != fresh[name].shape:
                shapes = f"{tuple(theirs[name].shape)} there, {tuple(fresh[name].shape)} here"
                raise ValueError(f"{name}: {shapes}, and no conversion is defined")
        return {name: ConvertedTensor(theirs[name]) for name in fresh if name in theirs}


class Positional(Part):
    """How the model knows of order: in three places, each an identity unless a variant overrides it.

    Each is a function of explicit positions, never of a length, so that blocks of a sequence, a key-value cache and
    longer sequences all use the same code.
    """

    has_bias: ClassVar[bool] = False  # True where `bias` returns a tensor
    extrapolates: ClassVar[bool] = True  # defined at positions beyond the trained length

    def __init__(self, shape: ModelShape, options: Any) -> None:
        super().__init__()

    def divide(self, rank: int, n: int) -> TensorParallelPlan:
        """Stay as it is, where it acts before the heads alone; else a variant must say what becomes of them."""
        cls = type(self)
        if cls.rotate is not Positional.rotate or cls.bias is not Positional.bias:
            return super().divide(rank, n)
        return TensorParallelPlan()

    def embed(self, x_BTC: Tensor, positions_T: Tensor) -> Tensor:
        """Act on the token embeddings."""
        return x_BTC

    @classmethod
    def check_rotary(cls, width: int, options: Any) -> Mapping[str, str]:
        """Return what cannot work where `rotate` is given heads of this width, as `check` does."""
        return {}

    def rotate(self, q_BHTD: Tensor, k_BGTD: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Act on the queries and keys of one layer, both at `positions_T`; D is their attention's `rotary_dim`."""
        return q_BHTD, k_BGTD

    def bias(self, q_positions: Tensor, k_positions: Tensor) -> Tensor | None:
        """Return what is added to the scores: (..., Tq) and (..., Tk) to (..., H or 1, Tq, Tk), or None."""
        return None

    def causal_bias(self, positions_T: Tensor) -> Tensor | None:
        """Return the bias of positions among themselves, minus infinity where the key is later, or None."""
        bias = self.bias(positions_T, positions_T)
        return (
            None
            if bias is None
            else bias.masked_fill(positions_T[:, None] < positions_T, -torch.inf)
        )


class Cache(Protocol):
    """What one attention keeps of the positions that it has seen, so that a new one costs no second look at them."""

    n_seen: int  # positions; set it back by k to forget the last k, as long as none of them has overwritten another

    @property
    def nbytes(self) -> int:
        """Return the bytes that are allocated, however many positions were seen."""
        ...


class Attention(Part):
    """Causal self-attention with its projections: `forward` maps (B, T, C) to (B, T, C)."""

    supports_bias: ClassVar[bool] = (
        True  # False where the kernel has no place for a positional's bias
    )

    def __init__(self, shape: ModelShape, options: Any, layer: int) -> None:
        super().__init__()

    def load_from(
        self, theirs: Mapping[str, Tensor], fresh: Mapping[str, Tensor]
    ) -> dict[str, ConvertedTensor]:
        """Load what has the same name and shape; attention that has learned more than has a place here is refused."""
        if dropped := theirs.keys() - fresh.keys():
            raise ValueError(f"{min(dropped)}: has no place here, and no conversion is defined")
        return super().load_from(theirs, fresh)

    @classmethod
    def rotary_dim(cls, shape: ModelShape, options: Any) -> int:
        """Return the width of the queries and keys that a positional's `rotate` is given."""
        return shape.head_dim

    def forward(
        self, x_BTC: Tensor, positions_T: Tensor, positional: Positional, cache: Any = None
    ) -> Tensor:
        """Attend from each position to itself and to what lies before, also to what lies in the cache.

        A cache takes a prompt of any length T at positions 0 to T - 1, and from then on one position at a time.
        """
        raise NotImplementedError

    def cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> Cache:
        """Return an empty cache, with memory for all that a query sees of the last `length` positions."""
        raise NotImplementedError(f"{type(self).__name__} defines no cache for decoding")

    def flops_per_token(self, seq_len: int) -> float:
        """Return the FLOPs of one token's forward pass, as needed: 2 per multiply-add, only keys that are visible."""
        raise NotImplementedError


class Norm(Part):
    """Normalises the residual stream before each part of a block and after the last: (..., C) to (..., C)."""

    def __init__(self, shape: ModelShape, options: Any) -> None:
        super().__init__()

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Normalise each position by itself."""
        raise NotImplementedError


class FeedForward(Part):
    """What follows attention in a block, the same for every position: (..., C) to (..., C)."""

    def __init__(self, shape: ModelShape, options: Any) -> None:
        super().__init__()

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Act on each position by itself."""
        raise NotImplementedError

    def flops_per_token(self) -> float:
        """Return the FLOPs of one token's forward pass: 2 per multiply-add of its linear layers."""
        return 2.0 * sum(
            layer.weight.numel() for layer in self.modules() if isinstance(layer, nn.Linear)
        )


@dataclass(frozen=True)
class StepShape:
    """What a rank does in one step: micro-batches one after the other, each of so many sequences, in a precision."""

    precision: Precision
    n_micro_batches: int
    micro_batch: int


Groups = list[dict[str, Any]]  # of an optimizer's parameters, with what it does to each


class Parallelism(Variant):
    """How a run is spread over processes; wraps a model that was written for one device and knows nothing of it."""

    devices: ClassVar[Sequence[str]] = ("cpu", "cuda")  # on which it runs
    counters_unreliable: ClassVar[bool] = (
        False  # True where threads compute that counters of this one's operations do not see
    )

    def __init__(self, options: Any) -> None:
        self.options = options

    @property
    def world_size(self) -> int:
        """Return the number of processes."""
        return int(self.options.nproc)

    @property
    def n_devices(self) -> int:
        """Return the number of devices that all of them need together where these are GPUs."""
        return self.world_size

    @property
    def data_parallel_size(self) -> int:
        """Return over how many of them the sequences of a step are divided; where fewer, neighbours see the same."""
        return self.world_size

    def why_unsupported(self, make: Callable[[], nn.Module]) -> str:
        """Return why a model cannot be spread so, or nothing; `make` gives a new one on the meta device."""
        return ""

    def wrap(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Take a model on the meta device; return it spread over the processes, with memory but no values yet."""
        raise NotImplementedError

    def optimizer(
        self, groups: Groups, make: Callable[[Groups], torch.optim.Optimizer]
    ) -> torch.optim.Optimizer:
        """Return the optimizer of the wrapped model's parameters; its `state` is by parameter."""
        return make(groups)

    def accumulate(self, model: nn.Module, last: bool) -> AbstractContextManager[object]:
        """Enclose forward and backward of one micro-batch; gradients need to agree only after the last."""
        return nullcontext()

    def shares(self, model: nn.Module) -> Mapping[str, float]:
        """Return the part of the whole that the fullest process holds of parameters, gradients and optimizer.

        `model` is whole, on the meta device. `gathered` is what is made whole for a while, in parts of all parameters.
        """
        return {"parameters": 1.0, "gradients": 1.0, "optimizer": 1.0, "gathered": 0.0}

    def communication_dtype(self, precision: Precision) -> Precision:
        """Return the coarsest type to which anything is rounded, also on its way between processes.

        It sets how far the training may deviate from that of one process.
        """
        return precision

    def traffic(self, model: nn.Module, step: StepShape) -> float | None:
        """Return the bytes that each rank sends in a step, as theory tells; None where it makes no prediction.

        `model` is the one that was wrapped, with its parameters of whole shape; `variants.communication` says what
        "sends" means. What is smaller by orders of magnitude, such as a norm, is left out.
        """
        return None


@dataclass(frozen=True)
class Axis:
    """An axis: the base class of its variants, and GPT-2's own choice for a study that leaves the axis out.

    One that is not `in_every_name` is part of a run's name only where the study mentions it.
    """

    base: type[Variant]
    default: str
    in_every_name: bool = True


AXES: Mapping[str, Axis] = {
    "positional": Axis(Positional, "learned"),
    "attention": Axis(Attention, "mha"),
    "norm": Axis(Norm, "layernorm", in_every_name=False),
    "mlp": Axis(FeedForward, "gelu", in_every_name=False),
    "parallelism": Axis(Parallelism, "single"),
}


def residual_std(shape: ModelShape) -> float:
    """Return the standard deviation of projections back to the residual stream (Radford et al. 2019, 2.3)."""
    return 0.02 / (2 * shape.n_layer) ** 0.5


def at_least_one(name: str, value: int) -> dict[str, str]:
    """Check a count that must be positive."""
    return {} if value >= 1 else {name: f"{value}: must be at least 1"}


def divides(name: str, value: int, into: str, n: int) -> dict[str, str]:
    """Check a count of processes of which `n` must be a multiple."""
    if value < 1 or n % value == 0:
        return at_least_one(name, value)
    allowed = ", ".join(str(i) for i in range(1, n + 1) if n % i == 0)
    return {name: f"{value} does not divide {into} = {n}; allowed: {allowed}"}
