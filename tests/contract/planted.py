"""GPT-2's architecture with a variant that a test defines."""

from harness.contract.architecture import Architecture
from variants.base import AXES


def architecture(cls=None, options=None):
    """Return GPT-2's architecture with one class in the place of its axis's variant."""
    gpt2 = Architecture.of_entry({}, [])
    if cls is None:
        return gpt2
    axis = next(axis for axis, about in AXES.items() if issubclass(cls, about.base))
    return gpt2.replaced(axis, cls, cls.Options(**(options or {})))
