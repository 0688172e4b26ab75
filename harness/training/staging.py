"""Copy a state to host memory, so that a thread can write it while the training changes it."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from variants.dtensor import local


def copy_to_host(value: Any, earlier: Any = None) -> Any:
    """Return a copy of a nested state whose tensors are on the CPU, sharded as they are.

    `earlier` is the result of an earlier call, whose memory is used again where shapes and types
    are the same: it then holds the new values.
    """
    if isinstance(value, Tensor):
        if not _has_form(earlier, value):
            return value.detach().to("cpu", copy=True)
        with torch.no_grad():
            local(earlier).copy_(local(value))
        return earlier
    if isinstance(value, Mapping):
        known = earlier if isinstance(earlier, Mapping) else {}
        return {key: copy_to_host(item, known.get(key)) for key, item in value.items()}
    return copy.deepcopy(value)


def _has_form(earlier: Any, value: Tensor) -> bool:
    """Return whether an earlier copy has the type and the shape of a tensor, and of its shard."""
    if type(earlier) is not type(value.detach()) or earlier.dtype != value.dtype:
        return False
    return earlier.shape == value.shape and local(earlier).shape == local(value).shape
