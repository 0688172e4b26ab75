"""A process group of this one process."""

import pytest
import torch
import torch.distributed as dist

from harness.distributed.process_group import DistributedContext


@pytest.fixture
def ranks(tmp_path):
    """This process as the only rank."""
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield DistributedContext(0, 1, torch.device("cpu"))
    dist.destroy_process_group()
