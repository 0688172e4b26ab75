"""Bytes that a collective sends, the one rule that predictions and measurements share.

No backend reports the bytes that it sends. This is the count of a bandwidth-optimal algorithm (a
ring; Patarasuk & Yuan 2009), which gloo and NCCL approach with large buffers. Headers and the
overhead of small buffers are not counted.
"""

from collections.abc import Callable, Mapping

# Mean bytes sent by one of n ranks, as a fraction of the full buffer: the buffer that is reduced,
# scattered or broadcast, or the gathered result.
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
    """Return the mean bytes a rank sends in a collective with a full buffer of `payload_bytes`."""
    return payload_bytes * BANDWIDTH_FACTORS[collective](world_size)
