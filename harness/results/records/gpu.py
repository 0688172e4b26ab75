"""Figures of a GPU, which `make gpu-bench` measures."""

from typing import Annotated

from pydantic import Field

from harness.results.records.base import Finite, StrictModel, Versioned


class GpuFigure(StrictModel):
    """A measured figure; larger is better."""

    figure: str = Field(description="what is measured, and at which shape")
    value: Finite = Field(description="median over the rounds")
    unit: str = Field(description="unit of the value; `x` for a ratio")
    interval: Annotated[list[Finite], Field(min_length=2, max_length=2)] = Field(
        description="95 % interval of the median over the rounds of this run"
    )
    compared_with: str | None = Field(
        default=None, description="the other side of a ratio; null if the figure is not one"
    )
    target: Finite | None = Field(default=None, description="target on one H100; null without one")


class GpuFigures(Versioned):
    """The figures of one GPU in one session."""

    device: str = Field(description="name of the GPU, as CUDA states it")
    torch_version: str = Field(description="version of PyTorch")
    cuda_version: str | None = Field(description="version of CUDA that PyTorch uses")
    commit: str | None = Field(description="commit of the code; null outside a repository")
    measured_at: str = Field(description="time of the measurement, UTC")
    figures: list[GpuFigure] = Field(description="the figures")
