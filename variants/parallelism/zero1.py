"""ZeRO stage 1: ddp, but each rank updates a part of the parameters, and holds its state (Rajbhandari et al. 2020)."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from variants.base import Parallelism, ParameterGroups, StepShape
from variants.communication import sent_bytes
from variants.parallelism.ddp import DDP

Make = Callable[[ParameterGroups], torch.optim.Optimizer]


class ShardedOptimizer(DDP):
    """`ddp` with an optimizer that sees of each parameter and gradient one range of rows, in place."""

    def optimizer(self, groups: ParameterGroups, make: Make) -> torch.optim.Optimizer:
        """Divide what `make` gives."""
        device = groups[0]["params"][0].device
        return _Divided(groups, make, init_device_mesh(device.type, (self.world_size,)))

    def memory_fractions(self, model: nn.Module) -> Mapping[str, float]:
        """The optimizer's state is divided."""
        return {**Parallelism.memory_fractions(self, model), "optimizer": 1 / self.world_size}

    def predicted_bytes_sent(self, model: nn.Module, step: StepShape) -> float:
        """As ddp, and every rank sends to all the parameters that it has updated."""
        parameters = sum(4 * parameter.numel() for parameter in model.parameters())
        return super().predicted_bytes_sent(model, step) + sent_bytes(
            "broadcast", parameters, self.world_size
        )


class _Divided(torch.optim.Optimizer):
    """An optimizer of whole parameters; the one within has this rank's rows of them, in the same memory."""

    def __init__(self, groups: ParameterGroups, make: Make, mesh: DeviceMesh) -> None:
        self._mesh, self._rows = mesh, dict[Tensor, DTensor]()
        for parameter in (parameter for group in groups for parameter in group["params"]):
            self._rows[parameter] = self._mine(parameter)
        self._inner = make(
            [{**group, "params": [self._rows[p] for p in group["params"]]} for group in groups]
        )
        super().__init__(groups, self._inner.defaults)

    def _mine(self, value: Tensor) -> DTensor:
        """Return this rank's rows as a part of the whole, which so finds its way into checkpoints."""
        placement: Placement = Shard(0) if value.ndim else Replicate()
        part, rank = value.detach(), self._mesh.get_local_rank()
        if value.ndim:
            part = self._parts(value)[rank]
        return DTensor.from_local(
            part, self._mesh, [placement], run_check=False, shape=value.shape, stride=value.stride()
        )

    def _parts(self, value: Tensor) -> list[Tensor]:
        """Return the rows of each rank; the last ranks may have none."""
        n = self._mesh.size()
        parts = list(value.detach().chunk(n))
        return parts + [value.detach()[:0]] * (n - len(parts))

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update this rank's rows, and take the others' from them."""
        for outer, inner in zip(self.param_groups, self._inner.param_groups, strict=True):
            inner.update({name: value for name, value in outer.items() if name != "params"})
        for parameter, rows in self._rows.items():
            rows.grad = None if parameter.grad is None else self._mine(parameter.grad)
        self._inner.step()
        for parameter, rows in self._rows.items():
            rows.grad = None
            self.state[parameter] = self._inner.state[rows]
        group = self._mesh.get_group()
        sent = [
            dist.broadcast(part, group_src=rank, group=group, async_op=True)
            for parameter in self._rows
            if parameter.ndim
            for rank, part in enumerate(self._parts(parameter))
            if part.numel()
        ]
        for work in sent:
            work.wait()

    def load_state_dict(self, state_dict: Any) -> None:
        """Take over a state that was saved, divided alike."""
        super().load_state_dict(state_dict)
        for parameter, rows in self._rows.items():
            self._inner.state[rows] = self.state[parameter]
