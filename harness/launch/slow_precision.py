"""Warn before runs in bf16 start on a CPU that computes products in bf16 by way of fp32."""

from collections.abc import Collection, Sequence
from pathlib import Path

from harness.results.records import RunSpec

BF16_FEATURES = frozenset({"amx_bf16", "avx512_bf16", "bf16"})  # of x86, and of ARM
CPUINFO = Path("/proc/cpuinfo")


def slow_precision(runs: Sequence[RunSpec], features: Collection[str]) -> str | None:
    """Return a warning if a run computes in bf16 on a CPU without products in bf16.

    `features` are those of the CPU. If there are none, they are unknown, and there is no warning.
    """
    on_cpu = any(run.train.precision == "bf16" and run.train.device == "cpu" for run in runs)
    if not on_cpu or not features or not BF16_FEATURES.isdisjoint(features):
        return None
    return (
        "warning: train.precision: bf16 is slower than fp32 on this CPU, which has neither AMX nor "
        'AVX512-BF16 and converts to fp32 for each product; precision = "fp32" trains faster'
    )


def cpu_features(cpuinfo: Path = CPUINFO) -> set[str]:
    """Return the features of the CPU as Linux lists them; none if they are unknown."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    for line in lines:
        name, _, features = line.partition(":")
        if name.strip() in ("flags", "Features"):  # of x86, and of ARM
            return set(features.split())
    return set()
