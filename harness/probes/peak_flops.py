"""The most that the hardware could do, FLOP/s: the vendor's dense figure by name, or a measured matrix product."""

import time
from collections import Counter
from typing import Any

import torch

from harness.distributed.process_group import DistributedContext
from harness.model.precision import dtype_of

# Dense tensor-core (bf16) and plain (fp32, no TF32) TFLOP/s from the vendors' data sheets, by the device's whole name
# after "NVIDIA" and "GeForce": a laptop's part, a Ti and a MIG slice are other devices under names that begin the same.
# An unknown device gives no figure rather than a guess.
DENSE_TFLOPS: dict[str, dict[str, float]] = {
    "B200": {"bf16": 2250, "fp32": 75},
    "H200": {"bf16": 989, "fp32": 67},
    "H100 80GB HBM3": {"bf16": 989, "fp32": 67},
    "H100 PCIe": {"bf16": 756, "fp32": 51},
    "H100 NVL": {"bf16": 835, "fp32": 60},
    "A100-SXM4-40GB": {"bf16": 312, "fp32": 19.5},
    "A100-SXM4-80GB": {"bf16": 312, "fp32": 19.5},
    "A100-PCIE-40GB": {"bf16": 312, "fp32": 19.5},
    "A100 80GB PCIe": {"bf16": 312, "fp32": 19.5},
    "L40S": {"bf16": 362, "fp32": 91.6},
    "RTX 4090": {"bf16": 165, "fp32": 82.6},
    "RTX 3090": {"bf16": 71, "fp32": 35.6},
    "A10G": {"bf16": 70, "fp32": 31.5},
}


SIZE, REPEATS = 768, 8  # of the matrix product that is timed on a CPU


def peak_flops(ranks: DistributedContext, precision: str, n_devices: int = 1) -> dict[str, Any]:
    """Return {value, source} for all the run's devices together; value is None where nothing is known.

    A rank has `n_devices` GPUs, of one kind.
    """
    if ranks.device.type == "cpu":
        value = sum(ranks.gather(measured(precision)))
        return {
            "value": value,
            "source": f"measured: the best of {REPEATS} products of {SIZE}x{SIZE}, {precision}",
        }
    names = n_devices * ranks.gather(torch.cuda.get_device_name(ranks.device))
    known = [
        DENSE_TFLOPS.get(name.removeprefix("NVIDIA ").removeprefix("GeForce ")) for name in names
    ]
    if None in known:
        return {"value": None, "source": f"unknown device among {sorted(set(names))}"}
    devices = " + ".join(f"{n} x {name}" for name, n in Counter(names).items())
    value = sum(figures[precision] * 1e12 for figures in known if figures)
    return {"value": value, "source": f"vendor, dense {precision}: {devices}"}


def measured(precision: str) -> float:
    """Return the FLOP/s of the best of a few matrix products with the threads that this rank has; takes some 50 ms."""
    dtype = dtype_of(precision)
    a = torch.ones(SIZE, SIZE, dtype=dtype)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * SIZE**3 / min(seconds)
