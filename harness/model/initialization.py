"""Initial values as a function of (seed, parameter name, shape), however the model is sharded or what else it has."""

import hashlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from harness.distributed import shards
from harness.distributed.process_group import DistributedContext
from variants.base import InitSpec, Part
from variants.conversion import ConvertedTensor


class UndeclaredError(Exception):
    """A parameter of a variant has no declared initial values; the message names it."""


class IncompatibleWeightsError(Exception):
    """A checkpoint's weights do not fit the model; `problems` names each tensor that does not, with both shapes."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


def declared(model: nn.Module) -> dict[str, InitSpec]:
    """Return how each parameter starts: as the nearest module above it declares (`init_specs()`), else as GPT-2 does.

    GPT-2: linear and embedding weights normal with 0.02, biases 0, LayerNorm's weights 1 (Radford et al. 2019, 2.3).

    Raises:
        UndeclaredError: a parameter of a module of another kind that nobody declares.
    """
    own: dict[str, InitSpec] = {}
    for (
        prefix,
        module,
    ) in model.named_modules():  # outer before inner, so that the nearest has the last word
        for name, initial in (module.init_specs() if isinstance(module, Part) else {}).items():
            own[f"{prefix}.{name}".lstrip(".")] = initial
    return {name: own.get(name) or _gpt2(model, name) for name, _ in model.named_parameters()}


def _gpt2(model: nn.Module, name: str) -> InitSpec:
    owner, _, kind = name.rpartition(".")
    module = model.get_submodule(owner)
    if isinstance(module, nn.Linear | nn.Embedding):
        return InitSpec(std=0.02) if kind == "weight" else InitSpec(value=0.0)
    if isinstance(module, nn.LayerNorm):
        return InitSpec(value=1.0 if kind == "weight" else 0.0)
    raise UndeclaredError(
        f"parameter {name} of {type(module).__name__}: its variant must declare `init_specs()`, e.g. "
        f"{{'{kind}': InitSpec(std=0.02)}}"
    )


def draw(initial: InitSpec, seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
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
def fill(
    model: nn.Module,
    seed: int,
    theirs: Mapping[str, Tensor] | None = None,
    whole: nn.Module | None = None,
) -> dict[str, str]:
    """Give every parameter its initial values; one that is divided takes its part of them. No communication.

    `theirs` are the whole weights of a checkpoint, by name; `whole` is the model as it was before its parts were
    divided, also on the meta device. Returns where each parameter's values came from: "fresh", "loaded", or how they
    were converted.

    Raises:
        IncompatibleWeightsError: the checkpoint's weights do not fit the model.
    """
    whole = whole or model
    initials, origin, of = declared(whole), {}, shards.shard_specs(model)

    def fresh(name: str, shape: torch.Size) -> Tensor:
        return torch.from_numpy(draw(initials[name], seed, name, tuple(shape)))

    parameters = dict(model.named_parameters())
    for name, adopted in initial_tensors(whole, fresh, theirs):
        shards.copy_local_shard(parameters[name], adopted.values, of.get(name))
        origin[name] = adopted.origin
    return origin


def initial_tensors(
    model: nn.Module,
    fresh: Callable[[str, torch.Size], Tensor],
    theirs: Mapping[str, Tensor] | None,
) -> Iterator[tuple[str, ConvertedTensor]]:
    """Yield each parameter's whole first values, one part of the model after the other.

    A variant decides for itself what it makes of a checkpoint's tensors; all else must be there as it is.

    Raises:
        IncompatibleWeightsError: the checkpoint's weights do not fit the model; the message names each tensor that does not.
    """
    problems = []
    for prefix, part, names in _parts(model):
        own = {name: fresh(prefix + name, shape) for name, shape in names.items()}
        found = {name: ConvertedTensor(values, "fresh") for name, values in own.items()}
        if theirs is not None:
            given = {
                name.removeprefix(prefix): value
                for name, value in theirs.items()
                if name.startswith(prefix)
            }
            try:
                found |= part.load_from(given, own) if part is not None else _loaded(given, own)
            except ValueError as error:
                problems.append(f"{prefix}{error}")
        yield from ((prefix + name, adopted) for name, adopted in found.items())
    if problems:
        raise IncompatibleWeightsError(problems)


def _parts(model: nn.Module) -> Iterator[tuple[str, Part | None, dict[str, torch.Size]]]:
    """Yield prefix, variant and parameters' shapes of each variant, and each remaining parameter by itself."""
    left = {name: parameter.shape for name, parameter in model.named_parameters()}
    for path, module in model.named_modules():
        if isinstance(module, Part):
            names = [name for name, _ in module.named_parameters()]
            yield f"{path}.", module, {name: left.pop(f"{path}.{name}") for name in names}
    for name, shape in left.items():
        yield "", None, {name: shape}


def _loaded(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, ConvertedTensor]:
    for name, values in own.items():
        if name not in theirs:
            raise ValueError(f"{name}: missing there")
        if theirs[name].shape != values.shape:
            raise ValueError(
                f"{name}: {tuple(theirs[name].shape)} there, {tuple(values.shape)} here"
            )
    return {name: ConvertedTensor(theirs[name]) for name in own}


def parameter_hashes(model: nn.Module, ranks: DistributedContext) -> list[str]:
    """Return for each rank the SHA-256 of all parameters, put together from their shards where they are divided.

    A few are whole at a time. Ranks that hold the same place of a parameter with different values have other hashes.
    """
    of, found, sha = shards.shard_specs(model), shards.gather_shards(model, ranks), hashlib.sha256()
    for name, value in shards.named_local_parameters(model):
        piece = of.get(name)
        sha.update(name.encode())
        if shards.is_sharded(value, piece):
            parts = next(found)[-1]
            value = shards.assemble(value, piece, parts)
            if not shards.shard_matches(value, parts[ranks.rank]):
                sha.update(f"other values on rank {ranks.rank}".encode())
        # A copy: NumPy pins the memory that it sees, and FSDP frees what an evaluation has left whole.
        sha.update(value.to("cpu", copy=True).numpy().tobytes())
    return ranks.gather(sha.hexdigest())


def check_same_parameters(model: nn.Module, ranks: DistributedContext) -> str:
    """Return the SHA-256 of all parameters, which is the same on all ranks.

    Raises:
        RuntimeError: the ranks do not hold the same values.
    """
    found = parameter_hashes(model, ranks)
    if len(set(found)) != 1:
        raise RuntimeError(f"ranks start from different parameters: hashes {found}")
    return found[0]
