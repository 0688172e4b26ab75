"""The roles of a model's parameters, and the memory that training takes for them."""

from collections.abc import Mapping

from torch import nn

from harness.model.initialization import init_specs
from variants.base import Optimizer, Parallelism
from variants.parameters import FP32_BYTES, ParameterInfo, ParameterKind

BLOCKS = "h."  # prefix of the names of the parameters of blocks


def parameter_infos(whole: nn.Module) -> dict[str, ParameterInfo]:
    """Return the role of each parameter of an unsharded model, by name."""
    specs = init_specs(whole)
    infos = {}
    for name, parameter in whole.named_parameters():
        kind: ParameterKind = "vector"
        if parameter.dim() >= 2:
            kind = "matrix" if name.startswith(BLOCKS) else "embedding"
        blocks = tuple(rows for _, rows in specs[name].blocks)
        infos[name] = ParameterInfo(name, kind, parameter.shape, blocks if len(blocks) > 1 else ())
    return infos


def predicted_bytes(
    whole: nn.Module, optimizer: Optimizer, parallelism: Parallelism
) -> Mapping[str, float]:
    """Return one rank's bytes of parameters, gradients and optimizer state, in fp32."""
    n_bytes = FP32_BYTES * sum(parameter.numel() for parameter in whole.parameters())
    held = parallelism.memory_fractions(whole)
    state_held = parallelism.state_fractions(whole)
    state = 0.0
    for name, info in parameter_infos(whole).items():
        bytes_of_state = optimizer.state_bytes(info)
        state += bytes_of_state.sharded * state_held[name] + bytes_of_state.replicated
    return {
        "parameters": n_bytes * held["parameters"],
        "gradients": n_bytes * held["gradients"],
        "optimizer": state,
    }
