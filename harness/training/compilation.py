"""Compile the blocks of a model, and count the compiled graphs.

Blocks that differ only in their parameters share one graph. Blocks that differ otherwise, for
example in their window, need a graph each, and the compiler gives up beyond a limit that is lower
than the number of layers of many models. Shapes are static, and only training steps are compiled:
evaluations have other shapes, which would need more graphs.

This is the only module that uses `torch._dynamo`, which is private: no public function raises the
limit for all calls, counts graphs or measures the time of compilations.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch._dynamo import config
from torch._dynamo.convert_frame import FRAME_COMPILE_COUNTER
from torch._dynamo.utils import calculate_time_spent, counters

from harness.results.records import CompileReport

LIMITS = ("recompile limit", "cache limit")  # in the reason that newer and older versions count
SPARE_GRAPHS = 8  # beyond one for each block, for parts of a block after a graph break


def compile_blocks(
    blocks: Sequence[nn.Module], backend: str | Callable[..., object], n_shapes: int = 1
) -> None:
    """Compile each block in place at its first call in training; forget all earlier graphs.

    Each of `n_shapes` shapes of micro-batches needs graphs of its own.
    """
    torch.compiler.reset()
    counters.clear()
    config.recompile_limit = max(config.recompile_limit, n_shapes * (len(blocks) + SPARE_GRAPHS))
    config.accumulated_recompile_limit = max(
        config.accumulated_recompile_limit, config.recompile_limit
    )
    for block in blocks:
        block.compile(backend=backend, dynamic=False)


def compile_report() -> CompileReport:
    """Return the counts of this process since `compile_blocks`."""
    reasons = [reason.lower() for reason in counters["unimplemented"]]
    return CompileReport(
        n_graphs=counters["stats"]["unique_graphs"],
        n_graph_breaks=sum(counters["graph_break"].values()),
        limit_reached=any(limit in reason for reason in reasons for limit in LIMITS),
        n_recompiles=sum(FRAME_COMPILE_COUNTER.values()) - len(FRAME_COMPILE_COUNTER),
        compile_s=calculate_time_spent().get("total_wall_time", 0.0),
    )
