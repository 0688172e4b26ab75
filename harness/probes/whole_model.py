"""The trained model in one piece, for probes that one rank takes."""

import torch

from harness.distributed.process_group import DistributedContext
from harness.distributed.shards import gather_weights, named_local_parameters, shard_specs
from harness.model.builder import ModelBuilder
from harness.model.gpt import GPT


def whole_model(
    builder: ModelBuilder, gpt: GPT, context: DistributedContext, dtype: torch.dtype
) -> GPT | None:
    """Return a copy of `gpt` with all its weights, on rank 0 in evaluation mode, else None.

    All ranks call this. The copy is on the device of rank 0.
    """
    weights = gather_weights(dict(named_local_parameters(gpt)), shard_specs(gpt), context)
    if not context.is_first:
        return None
    model = builder.model()
    state = {name: tensor.to(context.device, dtype) for name, tensor in weights.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()
