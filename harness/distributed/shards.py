"""Which part of each whole parameter a rank holds, however it is divided, and how the parts make a whole again."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from harness.distributed.process_group import DistributedContext
from variants.base import Part
from variants.tensor_parallel import ShardSpec

BATCH_BYTES = 64 << 20  # of parameters that are put together from their shards at once
Place = tuple[slice, ...]
Shard = list[tuple[Place, np.ndarray]]  # where in the whole, and the values there


def pieces(model: nn.Module) -> dict[str, ShardSpec]:
    """Return of each parameter that was divided as a part of the model which piece this rank holds, by name."""
    parts = [(path, module) for path, module in model.named_modules() if isinstance(module, Part)]
    return {
        f"{path}.{name}".lstrip("."): piece
        for path, part in parts
        for name, piece in part.shards.items()
    }


def size(value: Tensor, piece: ShardSpec | None) -> torch.Size:
    """Return the size of the whole that a parameter, or the optimizer's state of it, is a part of."""
    return value.shape if piece is None else piece.size


def is_divided(value: Tensor, piece: ShardSpec | None) -> bool:
    """Tell whether this rank holds a part alone."""
    return piece is not None or isinstance(value, DTensor)


def local(value: Tensor) -> Tensor:
    """Return what lies on this rank, sharing its memory."""
    return value.to_local() if isinstance(value, DTensor) else value


def places(value: Tensor, piece: ShardSpec | None) -> list[tuple[Place, Place]]:
    """Return for each stretch of what lies on this rank: where it lies there, and where in the whole.

    A sharded tensor (`DTensor`) is a range of rows, of the piece where there is one, and a piece is several ranges.
    """
    first, sizes = (0,) * value.ndim, tuple(value.shape)
    if isinstance(value, DTensor):
        (chunk,) = value.__create_chunk_list__()
        first, sizes = tuple(chunk.offsets), tuple(chunk.sizes)
    here = tuple(slice(0, n) for n in sizes)
    there = tuple(slice(start, start + n) for start, n in zip(first, sizes, strict=True))
    if piece is None:
        return [(here, there)]
    found, held, dim = [], 0, piece.dim
    for start, stop in piece.ranges:  # `held` to `held + stop - start` in the piece
        low, high = max(held, there[dim].start), min(held + stop - start, there[dim].stop)
        if low < high:
            inside = slice(low - there[dim].start, high - there[dim].start)
            outside = slice(low - held + start, high - held + start)
            found.append(
                (
                    (*here[:dim], inside, *here[dim + 1 :]),
                    (*there[:dim], outside, *there[dim + 1 :]),
                )
            )
        held += stop - start
    return found


def put(value: Tensor, whole: Tensor, piece: ShardSpec | None) -> None:
    """Copy into a parameter what it holds of the whole."""
    for here, there in places(value, piece):
        local(value)[here] = whole[there].to(value.device, value.dtype)


def gather(
    model: nn.Module, ranks: DistributedContext
) -> Iterator[tuple[str, Tensor, list[Shard]]]:
    """Yield of each parameter that not every rank holds whole: the name, itself, and the shards of all ranks.

    Many shards travel at once: with one parameter after the other, a small model's ranks mostly wait for each other.
    NumPy's arrays are pickled in a tenth of the time that tensors take.
    """
    of, batch, n_bytes = pieces(model), {}, 0
    parts = {name: value for name, value in named(model) if is_divided(value, of.get(name))}
    for i, (name, value) in enumerate(parts.items(), start=1):
        batch[name] = [
            (there, local(value)[here].cpu().numpy()) for here, there in places(value, of.get(name))
        ]
        n_bytes += value.nbytes
        if n_bytes >= BATCH_BYTES or i == len(parts):
            found = ranks.gather(batch)
            yield from ((name, parts[name], [rank[name] for rank in found]) for name in batch)
            batch, n_bytes = {}, 0


def joined(value: Tensor, piece: ShardSpec | None, shards: list[Shard]) -> Tensor:
    """Return the whole on the CPU."""
    whole = torch.empty(size(value, piece), dtype=value.dtype)
    for there, values in (stretch for shard in shards for stretch in shard):
        whole[there] = torch.from_numpy(values)
    return whole


def agree(whole: Tensor, shard: Shard) -> bool:
    """Tell whether a rank's shard is what it should be; several may hold the same place."""
    return all(torch.equal(whole[there], torch.from_numpy(values)) for there, values in shard)


def whole_weights(gpt: nn.Module, ranks: DistributedContext) -> dict[str, Tensor]:
    """Return all weights on rank 0, on the CPU, and none on the others, which hand over their shards."""
    of, found = pieces(gpt), {}
    for name, value, shards in gather(gpt, ranks):
        if ranks.is_first:
            found[name] = joined(value, of.get(name), shards)
    return {
        name: found[name] if name in found else value.cpu()
        for name, value in named(gpt)
        if ranks.is_first
    }


def named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield each parameter as this rank keeps it: an evaluation leaves some whole, in the precision that it took."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    return ((name, parameter.detach()) for name, parameter in model.named_parameters())


class Stretches(Tensor):
    """The whole of which this rank holds several stretches, as `torch.distributed.checkpoint` wants to see it.

    It has the whole's size and no memory; nothing can be computed with it.
    """

    value: Tensor
    chunks: dict[
        torch.Size, tuple[Place, torch.Size]
    ]  # by where a stretch begins: where it lies here, and its size

    @staticmethod
    def __new__(cls, value: Tensor, piece: ShardSpec) -> "Stretches":
        """Describe what this rank holds."""
        made: Stretches = Tensor._make_wrapper_subclass(
            cls, piece.size, dtype=value.dtype, device=value.device
        )
        made.value, made.chunks = value.detach(), {}
        for here, there in places(made.value, piece):
            sizes = torch.Size(part.stop - part.start for part in there)
            made.chunks[torch.Size(part.start for part in there)] = here, sizes
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        """Refuse."""
        raise NotImplementedError(f"{func}: not of a tensor that lies on several ranks")

    def __create_write_items__(self, fqn: str, _: Any) -> list[WriteItem]:
        """Return what to write: each stretch by itself."""
        properties = TensorProperties.create_from_tensor(self.value)
        return [
            WriteItem(
                index=MetadataIndex(fqn, chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk=chunk, properties=properties, size=self.size()),
            )
            for chunk in self.__create_chunk_list__()
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        """Return where each stretch lies in the whole."""
        return [
            ChunkStorageMetadata(offsets=at, sizes=sizes) for at, (_, sizes) in self.chunks.items()
        ]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        """Return the memory of a stretch."""
        assert index.offset is not None
        return local(self.value)[self.chunks[index.offset][0]]


def stored(state: Mapping[str, Any], of: Mapping[str, ShardSpec], name: str = "") -> dict[str, Any]:
    """Return a state with its divided tensors, which lie under parameters' names, as `Stretches`."""
    found: dict[str, Any] = {}
    for key, value in state.items():
        piece = of.get(key) or of.get(name)
        if isinstance(value, Mapping):
            found[key] = stored(value, of, key)
        elif piece is not None and isinstance(value, Tensor) and value.ndim == len(piece.size):
            found[key] = Stretches(value, piece)
        else:
            found[key] = value
    return found
