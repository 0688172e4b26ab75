"""The contracts between the model and its variants: one base class for each axis.

A variant is one file `variants/<axis>/<name>.py` that defines exactly one subclass of the axis's
base class. If it has options, they are a frozen dataclass, its class attribute `Options`. Variants
are found by file name, not registered. Numbers of options are finite and at most 2^31 - 1;
`Annotated[int, pydantic.Field(le=64)]` states a closer bound.

Shapes: B batch, T sequence, C channels (`n_embd`), H query heads, G key-value heads, D `head_dim`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from variants.conversion import ConvertedTensor
from variants.linear import Linear, linear_flops
from variants.parameters import OptimizerDefaults, ParameterInfo, StateBytes, TrainedParameter
from variants.tensor_parallel import ShardSpec, TensorParallelPlan, VocabularyShard

Precision = Literal["fp32", "bf16", "fp8"]
Recompute = Literal["none", "attention", "block"]
OptionsT = TypeVar("OptionsT", default=Any)
GPT2_INIT_STD = 0.02  # of embeddings and linear layers (Radford et al. 2019, 2.3)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """The shape of a GPT-2 model (Radford et al. 2019). `dropout` applies to all dropout layers.

    `tie_embeddings` makes the output projection the token embedding (Press & Wolf 2017). Without
    `bias`, linear layers and norms have no biases; a variant that keeps its own still works.
    `init_std` is the standard deviation of initial weights, which `residual_std` scales down.
    """

    n_layer: int
    n_head: int
    n_embd: int
    seq_len: int
    vocab_size: int
    dropout: float = 0.0
    tie_embeddings: bool = True
    bias: bool = True
    init_std: float = GPT2_INIT_STD

    @property
    def head_dim(self) -> int:
        """Return the width of one head."""
        return self.n_embd // self.n_head


@dataclass(frozen=True)
class InitSpec:
    """Initial values of a parameter: normal with mean 0 and `std`, or constant if `std` is None.

    `blocks` lists the logical blocks of a matrix as (name, rows). Each block is sampled
    independently by its name, so that two variants with a block q start from the same q even if the
    rest of their matrices differs.
    """

    std: float | None = None
    value: float = 0.0
    blocks: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class NoOptions:
    """The options of a variant without options."""


class Variant(Generic[OptionsT]):
    """Base class of the variants of all axes. `OptionsT` is the type of the options, `Options`.

    `title` is the variant's name in reports, a format string over its options: `GQA-{n_kv_head}`.
    It is not inherited. A variant without one is shown by its file name.
    """

    Options: ClassVar[type] = NoOptions
    title: ClassVar[str] = ""

    @classmethod
    def check(cls, shape: ModelShape, options: OptionsT) -> Mapping[str, str]:
        """Return invalid options as {option: reason}; the key is "" if the shape is invalid."""
        return {}


class Part(nn.Module, Variant[OptionsT]):
    """A variant that is a module of the model."""

    # Set by tensor parallelism: shards of parameters, and full parameters whose gradients are
    # summed over processes.
    shards: Mapping[str, ShardSpec] = {}
    replicated: Sequence[str] = ()

    def init_specs(self) -> Mapping[str, InitSpec]:
        """Return initial values by parameter name; the others are initialized as in GPT-2."""
        return {}

    def tensor_parallel_plan(self, rank: int, world_size: int) -> TensorParallelPlan:
        """Reduce this module to the shard of one rank; return how its parameters are sharded.

        The linear layers that the plan names are replaced by the caller.

        Raises:
            ValueError: the module cannot be sharded like this; the message gives the reason.
        """
        raise ValueError("does not define how it is sharded (`tensor_parallel_plan`)")

    @staticmethod
    def rank_slice(count: int, name: str, rank: int, world_size: int) -> slice:
        """Return which of `count` heads or channels, called `name`, a rank computes.

        Raises:
            ValueError: they do not divide evenly.
        """
        if count % world_size:
            raise ValueError(f"{count} {name} do not divide over {world_size} processes")
        return slice(rank * count // world_size, (rank + 1) * count // world_size)

    def load_from(
        self, source_tensors: Mapping[str, Tensor], initial_tensors: Mapping[str, Tensor]
    ) -> dict[str, ConvertedTensor]:
        """Convert the tensors of another model's corresponding part to initial values of this one.

        Both arguments map parameter names within the part to full tensors. `initial_tensors` are
        this part's own initial values; a name missing from the result keeps them. Source tensors
        that are not used are dropped. By default, tensors of equal name and shape are loaded.

        Raises:
            ValueError: a tensor does not fit and no conversion is defined; the message gives both
                shapes.
        """
        loaded = {}
        for name, initial in initial_tensors.items():
            if name not in source_tensors:
                continue
            source = source_tensors[name]
            if source.shape != initial.shape:
                shapes = f"{tuple(source.shape)} there, {tuple(initial.shape)} here"
                raise ValueError(f"{name}: {shapes}, and no conversion is defined")
            loaded[name] = ConvertedTensor(source)
        return loaded


class Positional(Part[OptionsT]):
    """Positional encoding. Override `embed`, `rotate` or `bias`; each defaults to the identity.

    Each is a function of explicit positions, never of a length, so that blocks of a sequence, a KV
    cache and longer sequences share the same code.
    """

    has_bias: ClassVar[bool] = False  # whether `bias` returns a tensor
    extrapolates: ClassVar[bool] = True  # whether positions beyond the trained length are defined
    # By how much `rotate` multiplies the products of rotated queries and keys: an attention must
    # multiply those of other dimensions by the same.
    score_factor: float = 1.0

    def __init__(self, shape: ModelShape, options: OptionsT) -> None:
        super().__init__()

    def tensor_parallel_plan(self, rank: int, world_size: int) -> TensorParallelPlan:
        """Return an empty plan if only `embed` is overridden; embeddings are replicated."""
        cls = type(self)
        if cls.rotate is not Positional.rotate or cls.bias is not Positional.bias:
            return super().tensor_parallel_plan(rank, world_size)
        return TensorParallelPlan()

    def embed(self, x_BTC: Tensor, positions_T: Tensor) -> Tensor:
        """Encode the positions in the token embeddings."""
        return x_BTC

    @classmethod
    def check_rotary(cls, width: int, options: OptionsT) -> Mapping[str, str]:
        """Return the problems of `rotate` on heads of this width, in the form of `check`."""
        return {}

    def prepare(self, positions_T: Tensor, width: int, dtype: torch.dtype) -> None:
        """Compute what the layers share, once in each forward pass, before its first layer.

        `rotate` will most likely get these positions (the same object), and queries and keys of
        this width and type. It must return the same without it, and for others.
        """

    def rotate(self, q_BHTD: Tensor, k_BGTD: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Encode positions in queries and keys; D is the `rotary_dim` of the attention."""
        return q_BHTD, k_BGTD

    def bias(self, q_positions: Tensor, k_positions: Tensor) -> Tensor | None:
        """Return the bias of scores: (..., Tq) and (..., Tk) to (..., H or 1, Tq, Tk), or None."""
        return None

    def causal_bias(self, positions_T: Tensor, documents_BT: Tensor | None = None) -> Tensor | None:
        """Return the bias of all pairs of positions, minus infinity for hidden keys.

        Later keys are hidden, and keys of other documents if `documents_BT` is given; then the
        result is (B, H or 1, T, T). None if there is neither a bias nor documents.
        """
        bias = self.bias(positions_T, positions_T)
        if documents_BT is None and bias is None:
            return None
        hidden = positions_T[:, None] < positions_T
        if documents_BT is not None:
            hidden = hidden | (documents_BT[:, None, :, None] != documents_BT[:, None, None, :])
        if bias is None:
            bias = torch.zeros((), device=positions_T.device)
            bias = bias.expand(hidden.shape)
        return bias.masked_fill(hidden, -torch.inf)


class Cache(Protocol):
    """KV cache of one attention layer."""

    # Positions seen. Subtract k to forget the last k, provided that they have not overwritten older
    # ones.
    n_seen: int

    @property
    def nbytes(self) -> int:
        """Return the allocated bytes, which do not depend on `n_seen`."""
        ...


class Attention(Part[OptionsT]):
    """Causal self-attention with its projections. `forward` maps (B, T, C) to (B, T, C)."""

    supports_bias: ClassVar[bool] = True  # whether the kernel can add the bias of a positional
    # Whether `forward` accepts `documents_BT`. A class does not inherit the support if its own
    # `forward` or `attend` lacks the argument.
    supports_documents: ClassVar[bool] = False
    # Whether `forward` decodes with a cache whose `static` is set: a step then runs the same
    # operations at each position, without integers of the host, as a CUDA graph needs
    # (`variants.static_cache`). A class that overrides `forward`, `cache` or `attend_cache` does
    # not inherit the support.
    supports_static_cache: ClassVar[bool] = False
    # Score FLOPs that the kernels execute for each required one: above 1 if they multiply padding.
    kernel_overhead: float = 1.0

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = [vars(cls)[name] for name in ("forward", "attend") if name in vars(cls)]
        lacks = any("documents_BT" not in inspect.signature(method).parameters for method in own)
        if lacks and "supports_documents" not in vars(cls):
            cls.supports_documents = False
        overrides = any(name in vars(cls) for name in ("forward", "cache", "attend_cache"))
        if overrides and "supports_static_cache" not in vars(cls):
            cls.supports_static_cache = False

    def __init__(self, shape: ModelShape, options: OptionsT, layer: int) -> None:
        super().__init__()
        self.rotated_width = self.rotary_dim(shape, options)

    def load_from(
        self, source_tensors: Mapping[str, Tensor], initial_tensors: Mapping[str, Tensor]
    ) -> dict[str, ConvertedTensor]:
        """Load tensors of equal name and shape; reject source tensors without a counterpart."""
        if dropped := source_tensors.keys() - initial_tensors.keys():
            raise ValueError(
                f"{min(dropped)}: has no counterpart here, and no conversion is defined"
            )
        return super().load_from(source_tensors, initial_tensors)

    @classmethod
    def rotary_dim(cls, shape: ModelShape, options: OptionsT) -> int:
        """Return the width of the queries and keys that are passed to `Positional.rotate`."""
        return shape.head_dim

    def forward(
        self,
        x_BTC: Tensor,
        positions_T: Tensor,
        positional: Positional,
        cache: Any = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Attend from each position to itself and all earlier ones, including those in the cache.

        An empty cache accepts a prompt of any length T at positions 0 to T - 1, then one position
        at a time. `documents_BT` is given only without a cache and to variants that declare
        `supports_documents`: positions with another number are in another document and hidden.
        """
        raise NotImplementedError

    def cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> Cache:
        """Return an empty cache for up to `length` positions that a query attends to."""
        raise NotImplementedError(f"{type(self).__name__} defines no cache for decoding")

    def flops_per_token(self, seq_len: int) -> float:
        """Return the required forward FLOPs per token: 2 per multiply-add, visible keys only."""
        raise NotImplementedError


class Norm(Part[OptionsT]):
    """Normalization before attention, before the MLP and after all blocks: (..., C) to (..., C)."""

    def __init__(self, shape: ModelShape, options: OptionsT) -> None:
        super().__init__()

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Normalize each position independently."""
        raise NotImplementedError


class FeedForward(Part[OptionsT]):
    """The MLP that follows attention in a block: (..., C) to (..., C)."""

    def __init__(self, shape: ModelShape, options: OptionsT) -> None:
        super().__init__()

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Transform each position independently."""
        raise NotImplementedError

    def flops_per_token(self) -> float:
        """Return the forward FLOPs per token of the linear layers: 2 per multiply-add."""
        return linear_flops(self)


class LanguageModel(nn.Module):
    """The model, as far as a parallelism knows it.

    `wte` is the token embedding, `lm_head` the output projection, None if it is the embedding.
    """

    shape: ModelShape
    wte: nn.Embedding
    lm_head: Linear | None

    # Set by tensor parallelism: this rank's tokens, and the shards of both matrices.
    vocabulary: VocabularyShard | None = None
    shards: Mapping[str, ShardSpec] = {}


@dataclass(frozen=True)
class StepShape:
    """One training step of a rank: precision, number of micro-batches, and sequences in each.

    The backward pass computes again what `recompute` names: every attention or every block.
    """

    precision: Precision
    n_micro_batches: int
    micro_batch_size: int
    recompute: Recompute = "none"


class ProcessOptions(Protocol):
    """The options of every parallelism: the number of processes."""

    @property
    def nproc(self) -> int:
        """Return the number of processes."""
        ...


ProcessOptionsT = TypeVar("ProcessOptionsT", bound=ProcessOptions, default=Any)
OptimizerFactory = Callable[[Sequence[TrainedParameter]], torch.optim.Optimizer]


class Parallelism(Variant[ProcessOptionsT]):
    """How a run is distributed over processes. It wraps a model that is written for one device."""

    devices: ClassVar[Sequence[str]] = ("cpu", "cuda")  # supported device types
    precisions: ClassVar[Sequence[str]] = ("fp32", "bf16")  # supported precisions
    counters_unreliable: ClassVar[bool] = False  # True if FLOP counters miss work of other threads
    cpu_offload: bool = False  # whether parameters, gradients and optimizer state are in CPU memory

    def __init__(self, options: ProcessOptionsT) -> None:
        self.options = options

    @property
    def world_size(self) -> int:
        """Return the number of processes."""
        return self.options.nproc

    @property
    def n_devices(self) -> int:
        """Return the number of GPUs that all processes need together."""
        return self.world_size

    @property
    def data_parallel_size(self) -> int:
        """Return over how many groups of neighbouring ranks the sequences of a step are sharded."""
        return self.world_size

    def why_unsupported(self, make_model: Callable[[], nn.Module]) -> str:
        """Return why the model cannot be parallelized like this, or "".

        `make_model` builds it on the meta device.
        """
        return ""

    def wrap(self, model: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
        """Parallelize a model on the meta device; return it with uninitialized parameters."""
        raise NotImplementedError

    def optimizer(
        self, parameters: Sequence[TrainedParameter], make: OptimizerFactory
    ) -> torch.optim.Optimizer:
        """Return the optimizer of the wrapped model; its `state` is keyed by parameter."""
        return make(parameters)

    def gradient_sync(self, model: nn.Module, enabled: bool) -> AbstractContextManager[object]:
        """Enclose a micro-batch; reduce gradients only if `enabled`, in the last one."""
        return nullcontext()

    def memory_fractions(self, model: nn.Module) -> Mapping[str, float]:
        """Return the fractions of parameters, gradients and optimizer state on the fullest rank.

        `model` is the full model on the meta device. `gathered` is the largest fraction of all
        parameters that is all-gathered at once.
        """
        return {"parameters": 1.0, "gradients": 1.0, "optimizer": 1.0, "gathered": 0.0}

    def state_fractions(self, model: nn.Module) -> Mapping[str, float]:
        """Return the fraction of each parameter's optimizer state on the fullest rank, by name."""
        fraction = self.memory_fractions(model)["optimizer"]
        return {name: fraction for name, _ in model.named_parameters()}

    def communication_dtype(self, precision: Precision) -> Precision:
        """Return the coarsest type to which values are rounded, communication included.

        It determines how far the training may deviate from that of a single process.
        """
        return precision

    def predicted_bytes_sent(self, model: nn.Module, step: StepShape) -> float | None:
        """Return the bytes that each rank sends in a step in theory, or None without a prediction.

        `model` is the wrapped model with parameters of full shape. `variants.communication` defines
        "sent". Transfers that are smaller by orders of magnitude, such as that of the gradient
        norm, are left out.
        """
        return None


class Optimizer(Variant[OptionsT]):
    """Maps parameters to a torch optimizer.

    Options replace the values of `defaults`. An update is a function of whole parameters: if it is
    not elementwise, the optimizer gathers shards (`variants.optimizer._shards`).
    """

    reads_betas: ClassVar[bool] = True  # whether it reads beta1 and beta2 of `defaults`

    def __init__(self, options: OptionsT, defaults: OptimizerDefaults) -> None:
        self.options = options
        self.defaults = defaults

    def make(self, parameters: Sequence[TrainedParameter]) -> torch.optim.Optimizer:
        """Return the optimizer of these parameters, as this rank holds them.

        The `lr` of each group is its peak, which the schedule multiplies; `StepRecord.lr` is that
        of the first group. State of a parameter's shape has the parameter's sharding
        (`zeros_like`); all other state is equal on all ranks, and its tensors have fewer dimensions
        than the parameter. A step at lr 0 must change no parameter.
        """
        raise NotImplementedError

    def state_bytes(self, parameter: ParameterInfo) -> StateBytes:
        """Return the bytes of a parameter's state, without scalars."""
        raise NotImplementedError

    def why_unsupported(self, parallelism: Parallelism) -> str:
        """Return why the optimizer cannot run under this parallelism, or ""."""
        return ""

    def predicted_bytes_sent(self, parameters: Sequence[TrainedParameter]) -> float:
        """Return the bytes that each rank sends in a step to gather what the update needs."""
        return 0.0

    def update_dtype(self, device: torch.device) -> Precision:
        """Return the coarsest type to which updates are rounded on this device."""
        return "fp32"


@dataclass(frozen=True)
class Axis:
    """An axis: the base class of its variants, and GPT-2's own variant, the default of a study.

    Each variant defines the `required` methods. Run names include the axis always, or, if not
    `in_every_name`, only in studies that mention it. An axis that older versions lack is not
    `in_hash_by_default`: its default variant with default options does not change a run's id.
    """

    base: type[Variant]
    default: str
    required: Sequence[str] = ()
    in_every_name: bool = True
    in_hash_by_default: bool = True


AXES: Mapping[str, Axis] = {
    "positional": Axis(Positional, "learned"),
    "attention": Axis(Attention, "mha", ("forward", "flops_per_token")),
    "norm": Axis(Norm, "layernorm", ("forward",), in_every_name=False),
    "mlp": Axis(FeedForward, "gelu", ("forward",), in_every_name=False),
    "optimizer": Axis(
        Optimizer,
        "adamw",
        ("make", "state_bytes"),
        in_every_name=False,
        in_hash_by_default=False,
    ),
    "parallelism": Axis(Parallelism, "single", ("wrap",)),
}


def is_part(axis: str) -> bool:
    """Return whether the variants of an axis are parts of the model; those of settings are not."""
    return axis in AXES and issubclass(AXES[axis].base, Part)


def residual_std(shape: ModelShape) -> float:
    """Return the initial standard deviation of residual projections (Radford et al. 2019, 2.3)."""
    std: float = shape.init_std / (2 * shape.n_layer) ** 0.5
    return std
