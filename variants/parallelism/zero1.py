"""ZeRO stage 1: ddp with sharded optimizer state (Rajbhandari et al. 2020, 5.1)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from variants.base import OptimizerFactory, Parallelism, StepShape
from variants.communication import sent_bytes
from variants.parallelism.ddp import DDP
from variants.parameters import TrainedParameter


class ShardedOptimizer(DDP):
    """`ddp` with an optimizer that updates one range of rows of each parameter, in place."""

    title = "ZeRO-1 ×{nproc}"

    def optimizer(
        self, parameters: Sequence[TrainedParameter], make: OptimizerFactory
    ) -> torch.optim.Optimizer:
        """Shard the optimizer that `make` returns."""
        device = parameters[0].value.device
        return _Sharded(parameters, make, init_device_mesh(device.type, (self.world_size,)))

    def memory_fractions(self, model: nn.Module) -> Mapping[str, float]:
        """Only the optimizer state is sharded."""
        return {**Parallelism.memory_fractions(self, model), "optimizer": 1 / self.world_size}

    def predicted_bytes_sent(self, model: nn.Module, step: StepShape) -> float:
        """As ddp, and each rank broadcasts the rows that it has updated."""
        parameters = sum(4 * parameter.numel() for parameter in model.parameters())
        broadcast = sent_bytes("broadcast", parameters, self.world_size)
        return super().predicted_bytes_sent(model, step) + broadcast


class _Sharded(torch.optim.Optimizer):
    """An optimizer whose inner optimizer updates this rank's rows, which share the memory."""

    def __init__(
        self, parameters: Sequence[TrainedParameter], make: OptimizerFactory, mesh: DeviceMesh
    ) -> None:
        self._mesh = mesh
        self._rows: dict[Tensor, DTensor] = {}
        for parameter in parameters:
            self._rows[parameter.value] = self._local_rows(parameter.value)
        self._inner = make([replace(p, value=self._rows[p.value]) for p in parameters])
        whole = {rows: value for value, rows in self._rows.items()}
        groups = []
        for group in self._inner.param_groups:
            groups.append({**group, "params": [whole[rows] for rows in group["params"]]})
        super().__init__(groups, self._inner.defaults)

    def _local_rows(self, value: Tensor) -> DTensor:
        """Return this rank's rows as a shard of the full tensor, as checkpoints store them."""
        local = value.detach()
        placement: Placement = Replicate()
        if value.ndim:
            local = self._chunks(value)[self._mesh.get_local_rank()]
            placement = Shard(0)
        return DTensor.from_local(
            local,
            self._mesh,
            [placement],
            run_check=False,
            shape=value.shape,
            stride=value.stride(),
        )

    def _chunks(self, value: Tensor) -> list[Tensor]:
        """Return the rows of each rank; the last ranks may have none."""
        n = self._mesh.size()
        chunks = list(value.detach().chunk(n))
        return chunks + [value.detach()[:0]] * (n - len(chunks))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update this rank's rows and broadcast them."""
        for outer, inner in zip(self.param_groups, self._inner.param_groups, strict=True):
            inner.update({name: value for name, value in outer.items() if name != "params"})
        for parameter, rows in self._rows.items():
            rows.grad = None if parameter.grad is None else self._local_rows(parameter.grad)
        self._inner.step()
        for parameter, rows in self._rows.items():
            rows.grad = None
            self.state[parameter] = self._inner.state[rows]
        self._broadcast_rows()

    def _broadcast_rows(self) -> None:
        group = self._mesh.get_group()
        pending = []
        for parameter in self._rows:
            if not parameter.ndim:
                continue
            for rank, chunk in enumerate(self._chunks(parameter)):
                if chunk.numel():
                    work = dist.broadcast(chunk, group_src=rank, group=group, async_op=True)
                    pending.append(work)
        for work in pending:
            work.wait()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state that was sharded in the same way."""
        super().load_state_dict(state_dict)
        for parameter, rows in self._rows.items():
            self._inner.state[rows] = self.state[parameter]
