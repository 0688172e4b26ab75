"""Linear layers that compute in fp8, by `torchao`.

Inputs and weights are rounded to e4m3 and gradients of outputs to e5m2 (Micikevicius et al. 2022),
each tensor with one scale from its largest magnitude. Parameters, their gradients and optimizer
state stay in fp32, and all else is as with bf16. Embeddings, output projection and norms are not
changed.
"""

import importlib.util

from torch import nn

from harness.model.gpt import GPT


def has_torchao() -> bool:
    """Return whether `torchao` is installed."""
    return importlib.util.find_spec("torchao") is not None


def block_layers(model: GPT) -> dict[str, tuple[int, int]]:
    """Return the (out, in) of the linear layers of all blocks, by name."""
    return {
        f"h.{name}": (module.out_features, module.in_features)
        for name, module in model.h.named_modules()
        if isinstance(module, nn.Linear)
    }


def compute_in_fp8(model: GPT, emulate: bool = False) -> None:
    """Make the linear layers of the blocks compute in fp8; parameters keep names and identity.

    With `emulate`, products of values rounded to fp8 are computed in the input's type, which needs
    no GPU and is for tests only.

    Raises:
        ImportError: `torchao` is not installed.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    convert_to_float8_training(model.h, config=Float8LinearConfig(emulate=emulate))
