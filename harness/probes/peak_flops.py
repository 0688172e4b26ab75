"""Peak FLOP/s of the hardware: the vendor's dense figure, or a matrix product timed on a CPU."""

import time
from collections import Counter

import torch

from harness.distributed.process_group import DistributedContext
from harness.model.precision import dtype_of
from harness.results.records import PeakFlops

# Dense tensor-core (fp8 and bf16, sums in fp32) and plain (fp32, no TF32) TFLOP/s from the vendors'
# data sheets, by the whole device name after "NVIDIA" and "GeForce": laptop GPUs, Ti models and MIG
# slices are other devices whose names begin the same. An unknown device gets no figure instead of a
# guess, and so does a precision that a device lacks.
DENSE_TFLOPS: dict[str, dict[str, float]] = {
    "B200": {"fp8": 4500, "bf16": 2250, "fp32": 75},
    "H200": {"fp8": 1979, "bf16": 989, "fp32": 67},
    "H100 80GB HBM3": {"fp8": 1979, "bf16": 989, "fp32": 67},
    "H100 PCIe": {"fp8": 1513, "bf16": 756, "fp32": 51},
    "H100 NVL": {"fp8": 1671, "bf16": 835, "fp32": 60},
    "A100-SXM4-40GB": {"bf16": 312, "fp32": 19.5},
    "A100-SXM4-80GB": {"bf16": 312, "fp32": 19.5},
    "A100-PCIE-40GB": {"bf16": 312, "fp32": 19.5},
    "A100 80GB PCIe": {"bf16": 312, "fp32": 19.5},
    "L40S": {"fp8": 733, "bf16": 362, "fp32": 91.6},
    "RTX 4090": {"fp8": 330, "bf16": 165, "fp32": 82.6},
    "RTX 3090": {"bf16": 71, "fp32": 35.6},
    "A10G": {"bf16": 70, "fp32": 31.5},
}


SIZE = 768  # of the matrices that are multiplied on a CPU
REPEATS = 8
LIMIT_S = 0.5  # after which no product begins: a CPU without bf16 takes seconds for all of them


def peak_flops(context: DistributedContext, precision: str, n_devices: int = 1) -> PeakFlops:
    """Return the peak of all devices of the run together; its value is None if a device is unknown.

    Each rank uses `n_devices` GPUs of one model.
    """
    if context.device.type == "cpu":
        value = sum(context.gather(measure_cpu_flops(precision)))
        source = f"measured: the best of up to {REPEATS} products of {SIZE}x{SIZE}, {precision}"
        return PeakFlops(value=value, source=source)
    names = n_devices * context.gather(torch.cuda.get_device_name(context.device))
    figures = [vendor_flops(name, precision) for name in names]
    known = [figure for figure in figures if figure is not None]
    if len(known) < len(figures):
        return PeakFlops(value=None, source=f"unknown device among {sorted(set(names))}")
    devices = " + ".join(f"{n} x {name}" for name, n in Counter(names).items())
    return PeakFlops(value=sum(known), source=f"vendor, dense {precision}: {devices}")


def vendor_flops(name: str, precision: str) -> float | None:
    """Return the vendor's dense FLOP/s of a device by its name; None if it is unknown."""
    figures = DENSE_TFLOPS.get(name.removeprefix("NVIDIA ").removeprefix("GeForce "))
    if figures is None or precision not in figures:
        return None
    return figures[precision] * 1e12


def measure_cpu_flops(precision: str) -> float:
    """Return the FLOP/s of the fastest of up to `REPEATS` matrix products.

    Takes about 50 ms, and at most one product longer than `LIMIT_S`.
    """
    dtype = dtype_of(precision)
    a = torch.ones(SIZE, SIZE, dtype=dtype)
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < LIMIT_S:
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * SIZE**3 / min(seconds)
