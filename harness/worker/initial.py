"""Initial values as a function of (seed, parameter name, shape), however the model is sharded or what else it has."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from variants.api import Initial


class UndeclaredError(Exception):
    """A parameter of a variant has no declared initial values; the message names it."""


def declared(model: nn.Module) -> dict[str, Initial]:
    """Return how each parameter starts: as the nearest module above it declares (`initial()`), else as GPT-2 does.

    GPT-2: linear and embedding weights normal with 0.02, biases 0, LayerNorm's weights 1 (Radford et al. 2019, 2.3).

    Raises:
        UndeclaredError: a parameter of a module of another kind that nobody declares.
    """
    own: dict[str, Initial] = {}
    for prefix, module in model.named_modules():  # outer before inner, so that the nearest has the last word
        for name, initial in (module.initial() if hasattr(module, "initial") else {}).items():
            own[f"{prefix}.{name}".lstrip(".")] = initial
    return {name: own.get(name) or _gpt2(model, name) for name, _ in model.named_parameters()}


def _gpt2(model: nn.Module, name: str) -> Initial:
    owner, _, kind = name.rpartition(".")
    module = model.get_submodule(owner)
    if isinstance(module, nn.Linear | nn.Embedding):
        return Initial(std=0.02) if kind == "weight" else Initial(value=0.0)
    if isinstance(module, nn.LayerNorm):
        return Initial(value=1.0 if kind == "weight" else 0.0)
    raise UndeclaredError(
        f"parameter {name} of {type(module).__name__}: its variant must declare `initial()`, e.g. "
        f"{{'{kind}': Initial(std=0.02)}}"
    )


def draw(initial: Initial, seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the values of one parameter, float32, from a counter-based generator keyed by what identifies it."""
    if initial.std is None:
        return np.full(shape, initial.value, dtype=np.float32)
    rows = initial.blocks or (("", shape[0]),)
    parts = [_normal(seed, f"{name}/{block}", (n, *shape[1:])) for block, n in rows]
    return initial.std * np.concatenate(parts)


def _normal(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    key = hashlib.sha256(f"{seed}|{name}|{shape}".encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=np.frombuffer(key[:16], dtype=np.uint64)))
    return generator.standard_normal(shape, dtype=np.float32)


@torch.no_grad()
def fill(model: nn.Module, seed: int) -> None:
    """Give every parameter its initial values; a sharded one takes its shard of them. No communication."""
    initials = declared(model)
    for name, parameter in model.named_parameters():
        value = torch.from_numpy(draw(initials[name], seed, name, tuple(parameter.shape)))
        if isinstance(parameter, DTensor):
            local = distribute_tensor(
                value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
            )
            parameter.copy_(local)
        else:
            parameter.copy_(value)


def _whole(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        value = parameter.detach()
        yield name, value.full_tensor() if isinstance(value, DTensor) else value


def agreed_hash(model: nn.Module) -> str:
    """Return the SHA-256 of all parameters, put together from their shards where they are sharded.

    Raises:
        RuntimeError: the ranks do not hold the same values.
    """
    sha = hashlib.sha256()
    for name, value in _whole(model):
        sha.update(name.encode())
        sha.update(value.cpu().numpy().tobytes())
    hashes: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(hashes, sha.hexdigest())
    if len(set(hashes)) != 1:
        raise RuntimeError(f"ranks start from different parameters: hashes {hashes}")
    return sha.hexdigest()
