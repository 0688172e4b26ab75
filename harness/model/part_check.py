"""Check that a variant can be built and initialized, on the meta device, before anything starts."""

import inspect
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.model.initialization import UndeclaredError, init_specs
from variants.base import (
    Attention,
    FeedForward,
    ModelShape,
    Optimizer,
    Parallelism,
    Part,
    Variant,
)
from variants.errors import CODE_ERRORS, class_line, describe
from variants.parameters import OptimizerDefaults, ParameterInfo, TrainedParameter


def build_problems(cls: type[Any], options: object, shape: ModelShape) -> Iterator[str]:
    """Yield the faults of a variant that is built with these options: line, fault, remedy."""
    if issubclass(cls, Parallelism):
        yield from _parallelism_problems(cls, options)
        return
    if issubclass(cls, Optimizer):
        yield from _optimizer_problems(cls, options)
        return
    layers = (0, shape.n_layer - 1) if issubclass(cls, Attention) else (None,)
    problems: dict[str, None] = {}
    for layer in layers:
        arguments = () if layer is None else (layer,)
        try:
            with torch.device("meta"):
                part = cls(shape, options, *arguments)
        except CODE_ERRORS as error:
            problems[describe_failure(error, "__init__", cls)] = None
            break
        assert isinstance(part, Part)
        problems.update(dict.fromkeys(_part_problems(part, shape)))
    yield from problems


def describe_failure(error: BaseException, method: str, cls: type[Variant]) -> str:
    """Return the line where a method of a variant failed, and the exception."""
    action = f"`{method}` of {cls.__name__}"
    return describe(error, action, [Path(inspect.getfile(cls))], cls)


def _part_problems(part: Part, shape: ModelShape) -> Iterator[str]:
    yield from _initial_value_problems(part)
    yield from _state_problems(part)
    try:
        if isinstance(part, Attention):
            flops: object = part.flops_per_token(shape.seq_len)
        elif isinstance(part, FeedForward):
            flops = part.flops_per_token()
        else:
            return
    except CODE_ERRORS as error:
        yield describe_failure(error, "flops_per_token", type(part))
        return
    if not (isinstance(flops, int | float) and math.isfinite(flops) and flops >= 0):
        form = f"`flops_per_token` returns {flops!r}; it must be a number of FLOPs, at least 0"
        yield f"{class_line(type(part))}: {form}"


def _initial_value_problems(part: Part) -> Iterator[str]:
    """Yield parameters without initial values, and blocks that do not fit their parameter."""
    place = class_line(type(part))
    try:
        specs = init_specs(part)
    except UndeclaredError as error:
        yield f"{place}: {error}"
        return
    except CODE_ERRORS as error:
        yield describe_failure(error, "init_specs", type(part))
        return
    shapes = {name: parameter.shape for name, parameter in part.named_parameters()}
    for name, spec in specs.items():
        n_rows = sum(rows for _, rows in spec.blocks)
        if spec.blocks and n_rows != shapes[name][0]:
            yield (
                f"{place}: the blocks that `init_specs` declares for {name} have {n_rows} rows, "
                f"the parameter has {shapes[name][0]}"
            )


def _state_problems(part: nn.Module) -> Iterator[str]:
    """Yield tensors other than parameters: models are built without memory, so they have no values.

    A parallelism materializes the parameters only.
    """
    remedy = (
        "has no values, since models are built on the meta device; compute it in `forward`, or "
        "make it a parameter and declare its initial values in `init_specs`"
    )
    place = class_line(type(part))
    for name, _ in part.named_buffers():
        yield f"{place}: the buffer {name} {remedy}"
    for prefix, module in part.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, Tensor):
                name = f"{prefix}.{attribute}".lstrip(".")
                yield f"{place}: the tensor `{name}` {remedy}"


def _parallelism_problems(cls: type[Parallelism], options: object) -> Iterator[str]:
    try:
        parallelism = cls(options)
        n_processes = parallelism.world_size
        n_groups = parallelism.data_parallel_size
        n_devices = parallelism.n_devices
    except CODE_ERRORS as error:
        yield describe_failure(error, "__init__", cls)
        return
    place = class_line(cls)
    counts = {"world_size": n_processes, "data_parallel_size": n_groups, "n_devices": n_devices}
    for name, count in counts.items():
        if not (isinstance(count, int) and count >= 1):
            yield f"{place}: `{name}` is {count!r}; it must be an integer of at least 1"
            return
    if n_processes % n_groups:
        yield f"{place}: `data_parallel_size` {n_groups} does not divide world_size {n_processes}"


def sample_parameters() -> list[TrainedParameter]:
    """Return a parameter of each kind, on the CPU, with small random values."""
    generator = torch.Generator().manual_seed(0)
    infos = (
        ParameterInfo("h.0.attn.c_attn.weight", "matrix", torch.Size((12, 4)), (4, 4, 4)),
        ParameterInfo("h.0.mlp.c_proj.weight", "matrix", torch.Size((4, 16))),
        ParameterInfo("wte.weight", "embedding", torch.Size((7, 4))),
        ParameterInfo("ln_f.weight", "vector", torch.Size((4,))),
    )
    parameters = []
    for info in infos:
        values = 0.1 * torch.randn(info.size, generator=generator)
        parameters.append(TrainedParameter(info, nn.Parameter(values)))
    return parameters


def _optimizer_problems(cls: type[Optimizer], options: object) -> Iterator[str]:
    """Yield the faults of an optimizer that is made for a parameter of each kind."""
    method = "__init__"
    place = class_line(cls)
    parameters = sample_parameters()
    try:
        optimizer = cls(options, OptimizerDefaults())
        method = "make"
        made: object = optimizer.make(parameters)
        method = "state_bytes"
        sizes = [optimizer.state_bytes(parameter.info) for parameter in parameters]
        n_bytes: object = sum(size.sharded + size.replicated for size in sizes)
    except CODE_ERRORS as error:
        yield describe_failure(error, method, cls)
        return
    if not (isinstance(n_bytes, int | float) and math.isfinite(n_bytes) and n_bytes >= 0):
        yield f"{place}: `state_bytes` returns {sizes}; it must return numbers of bytes, at least 0"
    if not isinstance(made, torch.optim.Optimizer):
        yield f"{place}: `make` returns {made!r}; it must return a torch.optim.Optimizer"
        return
    trained = [id(value) for group in made.param_groups for value in group["params"]]
    for parameter in parameters:
        n = trained.count(id(parameter.value))
        if n != 1:
            name = parameter.info.name
            yield f"{place}: {name} is in {n} of the groups that `make` returns; it must be in one"
    for group in made.param_groups:
        lr = group.get("lr")
        if not (isinstance(lr, float) and math.isfinite(lr) and lr > 0):
            yield f"{place}: the lr of a group that `make` returns is {lr!r}; it must be above 0"
