"""Write a run's state as a checkpoint does, in the thread of the caller."""

from harness.distributed.shards import shard_specs
from harness.training.checkpointing import stage_state, write_state


def save_state(folder, step, gpt, optimizer, average=None):
    """Write the state after `step` steps below a folder; every rank calls this."""
    state = stage_state(step, gpt, optimizer, average)
    write_state(folder, state, shard_specs(gpt))
