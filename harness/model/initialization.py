"""Initial values as a function of (seed, parameter name, shape), independent of sharding."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from harness.distributed import shards
from harness.distributed.process_group import DistributedContext
from variants.base import GPT2_INIT_STD, InitSpec, ModelShape, Part
from variants.conversion import ConvertedTensor


class UndeclaredError(Exception):
    """Parameters of a variant have no declared initial values; the message names them."""


class IncompatibleWeightsError(Exception):
    """The weights of a checkpoint do not fit the model; `problems` names each tensor and shape."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


def init_specs(model: nn.Module) -> dict[str, InitSpec]:
    """Return how each parameter is initialized: as its variant declares, else as in GPT-2.

    If several modules that contain a parameter declare it (`init_specs()`), the innermost counts.
    GPT-2: linear and embedding weights are normal with standard deviation 0.02 (`init_std` of the
    model's shape), biases 0, LayerNorm weights 1 (Radford et al. 2019, 2.3).

    Raises:
        UndeclaredError: no module declares a parameter, and GPT-2 has no module of that type.
    """
    declared: dict[str, InitSpec] = {}
    for prefix, module in model.named_modules():  # outer modules come before inner ones
        own_specs = module.init_specs() if isinstance(module, Part) else {}
        for name, spec in own_specs.items():
            declared[f"{prefix}.{name}".lstrip(".")] = spec
    shape = getattr(model, "shape", None)
    std = shape.init_std if isinstance(shape, ModelShape) else GPT2_INIT_STD
    specs: dict[str, InitSpec] = {}
    undeclared: list[str] = []
    for name, _ in model.named_parameters():
        parameter_spec = declared.get(name) or _gpt2_spec(model, name, std)
        if parameter_spec is None:
            undeclared.append(name)
        else:
            specs[name] = parameter_spec
    if undeclared:
        raise UndeclaredError(_undeclared_message(model, undeclared))
    return specs


def _gpt2_spec(model: nn.Module, name: str, std: float) -> InitSpec | None:
    path, _, kind = name.rpartition(".")
    module = model.get_submodule(path)
    if isinstance(module, nn.Linear | nn.Embedding):
        return InitSpec(std=std) if kind == "weight" else InitSpec(value=0.0)
    if isinstance(module, nn.LayerNorm):
        return InitSpec(value=1.0 if kind == "weight" else 0.0)
    return None


def _undeclared_message(model: nn.Module, names: Sequence[str]) -> str:
    path, _, kind = names[0].rpartition(".")
    module = type(model.get_submodule(path)).__name__
    listed = f"parameter {names[0]} of {module}"
    if len(names) > 1:
        listed = f"parameters {', '.join(names)}"
    example = f"{{'{kind}': InitSpec(std=0.02)}}"
    return f"{listed}: no initial values; declare them in `init_specs()`, e.g. {example}"


def sample_init(spec: InitSpec, seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the initial values of one parameter, float32.

    The generator is counter-based; its key is a hash of seed, name, block and shape.
    """
    if spec.std is None:
        return np.full(shape, spec.value, dtype=np.float32)
    if not shape:
        return spec.std * _normal(seed, f"{name}/", shape)
    blocks = spec.blocks or (("", shape[0]),)
    values = [_normal(seed, f"{name}/{block}", (n, *shape[1:])) for block, n in blocks]
    return spec.std * np.concatenate(values)


def _normal(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    key = hashlib.sha256(f"{seed}|{name}|{shape}".encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=np.frombuffer(key[:16], dtype=np.uint64)))
    return generator.standard_normal(shape, dtype=np.float32)


@torch.no_grad()
def init_parameters(
    model: nn.Module,
    seed: int,
    source_tensors: Mapping[str, Tensor] | None = None,
    full_model: nn.Module | None = None,
) -> dict[str, str]:
    """Set every parameter to its initial values; a sharded one to its shard of them.

    `source_tensors` are the whole weights of a checkpoint, by name. `full_model` is the model
    before it was sharded, also on the meta device. Does not communicate.

    Returns the origin of each parameter: "fresh", "loaded", or how it was converted.

    Raises:
        IncompatibleWeightsError: the weights of the checkpoint do not fit the model.
    """
    full_model = full_model or model
    specs = init_specs(full_model)
    shard_specs = shards.shard_specs(model)
    parameters = dict(model.named_parameters())
    origin = {}

    def fresh(name: str, shape: torch.Size) -> Tensor:
        return torch.from_numpy(sample_init(specs[name], seed, name, tuple(shape)))

    for name, tensor in initial_tensors(full_model, fresh, source_tensors):
        shards.copy_local_shard(parameters[name], tensor.values, shard_specs.get(name))
        origin[name] = tensor.origin
    return origin


def initial_tensors(
    model: nn.Module,
    fresh: Callable[[str, torch.Size], Tensor],
    source_tensors: Mapping[str, Tensor] | None,
) -> Iterator[tuple[str, ConvertedTensor]]:
    """Yield the whole initial values of each parameter, one part of the model after the other.

    `fresh` maps a parameter's name and shape to its values without a checkpoint. A variant
    converts the tensors of a checkpoint itself (`load_from`); every other parameter needs a tensor
    of its name and shape.

    Raises:
        IncompatibleWeightsError: the weights of the checkpoint do not fit the model.
    """
    problems = []
    for prefix, part, shapes in _parts(model):
        initial = {name: fresh(prefix + name, shape) for name, shape in shapes.items()}
        tensors = {name: ConvertedTensor(values, "fresh") for name, values in initial.items()}
        if source_tensors is not None:
            source = {
                name.removeprefix(prefix): value
                for name, value in source_tensors.items()
                if name.startswith(prefix)
            }
            try:
                tensors |= part.load_from(source, initial) if part else _loaded(source, initial)
            except ValueError as error:
                problems.append(f"{prefix}{error}")
        for name, tensor in tensors.items():
            yield prefix + name, tensor
    if problems:
        raise IncompatibleWeightsError(problems)


def _parts(model: nn.Module) -> Iterator[tuple[str, Part | None, dict[str, torch.Size]]]:
    """Yield prefix, variant and parameter shapes of each variant, then each other parameter."""
    remaining = {name: parameter.shape for name, parameter in model.named_parameters()}
    for path, module in model.named_modules():
        if isinstance(module, Part):
            names = [name for name, _ in module.named_parameters()]
            yield f"{path}.", module, {name: remaining.pop(f"{path}.{name}") for name in names}
    for name, shape in remaining.items():
        yield "", None, {name: shape}


def _loaded(
    source: Mapping[str, Tensor], initial: Mapping[str, Tensor]
) -> dict[str, ConvertedTensor]:
    for name, values in initial.items():
        if name not in source:
            raise ValueError(f"{name}: missing in the checkpoint")
        if source[name].shape != values.shape:
            shapes = f"{tuple(source[name].shape)} in the checkpoint, {tuple(values.shape)} here"
            raise ValueError(f"{name}: {shapes}")
    return {name: ConvertedTensor(source[name]) for name in initial}


def parameter_hashes(model: nn.Module, context: DistributedContext) -> list[str]:
    """Return for each rank the SHA-256 of all parameters, assembled from their shards.

    Parameters are gathered in batches to bound memory. The hashes differ if ranks disagree on a
    replicated value.
    """
    shard_specs = shards.shard_specs(model)
    values = dict(shards.named_local_parameters(model))
    gathered = shards.gather_shards(values, shard_specs, context)
    sha = hashlib.sha256()
    for name, value in values.items():
        shard_spec = shard_specs.get(name)
        sha.update(name.encode())
        if shards.is_sharded(value, shard_spec):
            rank_shards = next(gathered)[-1]
            value = shards.assemble(value, shard_spec, rank_shards)
            if not shards.shard_matches(value, rank_shards[context.rank]):
                sha.update(f"other values on rank {context.rank}".encode())
        # A copy: NumPy pins the memory that it sees, and FSDP frees parameters that an evaluation
        # has left gathered.
        sha.update(value.to("cpu", copy=True).numpy().tobytes())
    return context.gather(sha.hexdigest())


def check_same_parameters(model: nn.Module, context: DistributedContext) -> str:
    """Return the SHA-256 of all parameters.

    Raises:
        RuntimeError: it differs between ranks.
    """
    hashes = parameter_hashes(model, context)
    if len(set(hashes)) != 1:
        raise RuntimeError(f"ranks start from different parameters: hashes {hashes}")
    return hashes[0]
