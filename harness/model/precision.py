"""The meaning of a precision's name: storage type, autocast, and which devices have it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

Capability = tuple[int, int]  # of a GPU by NVIDIA, major and minor

MIN_CAPABILITY: Mapping[str, Capability] = {"bf16": (8, 0), "fp8": (8, 9)}
FIRST_GPUS = {"bf16": "A100, RTX 30", "fp8": "H100, L40S, RTX 40"}  # that have it
INSTALL_TORCHAO = "needs torchao, which is not installed: pip install 'ablations[fp8]'"
FP8_MULTIPLE = 16  # of which the matrix products in fp8 need each dimension


def dtype_of(precision: str) -> torch.dtype:
    """Return the torch type of stored activations: with `fp8`, only products are in fp8."""
    return torch.float32 if precision == "fp32" else torch.bfloat16


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Compute matrix products in bf16 unless `precision` is `fp32`; losses and norms stay in fp32.

    With `fp8`, the linear layers of the blocks compute in fp8 by themselves
    (`harness.model.float8`).
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision != "fp32")


def product_dtype(operand: Tensor) -> torch.dtype:
    """Return the type in which products with this tensor are computed."""
    device = operand.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return operand.dtype


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What decides whether a precision is possible; None: unknown, it is not checked.

    `capability` is that of the GPU, `layers` the (out, in) of the linear layers of the blocks by
    name, `n_tokens` those of each forward pass in training, `supported` the precisions of the
    parallelism, and `has_torchao` whether that package is installed.
    """

    device: str
    capability: Capability | None = None
    layers: Mapping[str, tuple[int, int]] | None = None
    n_tokens: Sequence[int] | None = None
    supported: Sequence[str] | None = None
    has_torchao: bool | None = None


def why_unsupported(precision: str, conditions: Conditions) -> list[str]:
    """Return each reason why a precision is impossible, with its remedy; empty if it is not."""
    if precision == "fp32" or (precision == "bf16" and conditions.device != "cuda"):
        return []
    if conditions.device != "cuda":
        return [f'{precision}: needs a GPU, and the device is {conditions.device}; use "bf16"']
    reasons = []
    minimum = MIN_CAPABILITY[precision]
    if conditions.capability is not None and conditions.capability < minimum:
        found, needed = (".".join(map(str, pair)) for pair in (conditions.capability, minimum))
        lower = "bf16" if conditions.capability >= MIN_CAPABILITY["bf16"] else "fp32"
        reasons.append(
            f"{precision}: this GPU has compute capability {found}, and {precision} needs {needed} "
            f'({FIRST_GPUS[precision]} and newer); use "{lower}"'
        )
    if precision != "fp8":
        return reasons
    if conditions.has_torchao is False:
        reasons.append(f"fp8: {INSTALL_TORCHAO}")
    if conditions.supported is not None and precision not in conditions.supported:
        allowed = ", ".join(conditions.supported)
        reasons.append(
            f'fp8: not tested with this parallelism, which has {allowed}; exclude it, or use "bf16"'
        )
    return [*reasons, *_wrong_sizes(conditions)]


def _wrong_sizes(conditions: Conditions) -> list[str]:
    """Return the sizes that products in fp8 cannot have."""
    reasons = []
    for name, shape in (conditions.layers or {}).items():
        if any(size % FP8_MULTIPLE for size in shape):
            reasons.append(
                f"fp8: the linear layer {name} is {shape[1]} x {shape[0]}, and fp8 needs multiples "
                f'of {FP8_MULTIPLE}; change n_embd or the options of its variant, or use "bf16"'
            )
    for n_tokens in dict.fromkeys(conditions.n_tokens or ()):
        if n_tokens % FP8_MULTIPLE:
            reasons.append(
                f"fp8: a forward pass has {n_tokens} tokens, and fp8 needs a multiple of "
                f"{FP8_MULTIPLE}; change seq_len or micro_batch_size"
            )
    return reasons


def gpu_capability() -> Capability | None:
    """Return the lowest compute capability of the visible GPUs; None without GPUs by NVIDIA."""
    if torch.version.hip is not None or not torch.cuda.is_available():
        return None
    count = torch.cuda.device_count()
    return min(torch.cuda.get_device_capability(i) for i in range(count))
