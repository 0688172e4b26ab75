"""What a collective sends: the one rule by which predictions and counts are turned into bytes on the wire.

No backend tells what it really sends. Stated is what a bandwidth-optimal algorithm does (a ring; Patarasuk & Yuan
2009), which gloo and NCCL come close to with large buffers; headers and what small buffers need more are left out.
"""

from collections.abc import Callable, Mapping

# The mean bytes that a rank of n sends, over those of the whole buffer: of what is reduced, scattered or broadcast, and
# in an all-gather of what is put together.
BANDWIDTH_FACTORS: Mapping[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "all_to_all": lambda n: (n - 1) / n,
    "broadcast": lambda n: (n - 1) / n,
    "reduce": lambda n: (n - 1) / n,
    "gather": lambda n: (n - 1) / n,
    "scatter": lambda n: (n - 1) / n,
    "send": lambda n: 1.0,
}


def sent_bytes(collective: str, payload_bytes: float, world_size: int) -> float:
    """Return the mean bytes that each of `world_size` sends in one collective; `payload_bytes` are of the whole buffer."""
    return payload_bytes * BANDWIDTH_FACTORS[collective](world_size)
