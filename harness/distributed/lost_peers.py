"""Recognize errors of a rank that another rank, its host or the network between them caused."""

import torch.distributed as dist

from variants.errors import full_text

# In messages of gloo, which raises a plain RuntimeError that names a file of its transport. Other
# messages of the transport are errors of this program, for example tensors of unequal sizes.
TRANSPORT = ("gloo/transport/", "gloo/rendezvous/")
BROKEN_CONNECTION = (
    "broken pipe",
    "connect timeout",
    "connection aborted",
    "connection closed",
    "connection refused",
    "connection reset",
    "connection timed out",
    "network is unreachable",
    "no route to host",
    "software caused connection abort",
    "timed out",
)
# Of NCCL, in a DistBackendError. ncclUnhandledCudaError, ncclInvalidArgument, ncclInvalidUsage and
# ncclInternalError are errors of this program or of its GPU.
NCCL = ("ncclremoteerror", "ncclsystemerror", "communicator was aborted", "watchdog", "timeout")


def is_lost_peer(error: BaseException) -> bool:
    """Return whether an error of `torch.distributed` says that a connection broke or timed out.

    The messages are those of torch 2.11 to 2.13; a peer that was killed, stopped and cut off was
    tried with gloo.
    """
    text = full_text(error).lower()
    if isinstance(error, dist.DistNetworkError | dist.DistStoreError):
        return True
    if isinstance(error, dist.DistBackendError) and any(part in text for part in NCCL):
        return True
    is_transport = any(part in text for part in TRANSPORT)
    return is_transport and any(part in text for part in BROKEN_CONNECTION)
