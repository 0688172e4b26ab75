"""Check that a variant can be built and initialized, on the meta device, before anything starts."""

import inspect
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.model.initialization import UndeclaredError, init_specs
from variants.base import Attention, FeedForward, ModelShape, Parallelism, Part, Variant
from variants.errors import class_line, describe


def build_problems(cls: type[Any], options: object, shape: ModelShape) -> Iterator[str]:
    """Yield the faults of a variant that is built with these options: line, fault, remedy."""
    if issubclass(cls, Parallelism):
        yield from _parallelism_problems(cls, options)
        return
    layers = (0, shape.n_layer - 1) if issubclass(cls, Attention) else (None,)
    problems: dict[str, None] = {}
    for layer in layers:
        arguments = () if layer is None else (layer,)
        try:
            with torch.device("meta"):
                part = cls(shape, options, *arguments)
        except Exception as error:
            problems[describe_failure(error, "__init__", cls)] = None
            break
        assert isinstance(part, Part)
        problems.update(dict.fromkeys(_part_problems(part, shape)))
    yield from problems


def describe_failure(error: Exception, method: str, cls: type[Variant]) -> str:
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
    except Exception as error:
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
    except Exception as error:
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
    except Exception as error:
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
