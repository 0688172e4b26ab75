"""Starting from a checkpoint loads, converts or rejects every tensor."""

import pytest
import torch
from contract.cases import PARTS
from torch import nn

from harness.model.initialization import init_parameters
from variants.base import AXES, Part

every_part = pytest.mark.parametrize(
    ("axis", "case"), [(axis, case) for axis, given in PARTS.items() for case in given], ids=str
)


def part_of(axis, case, seed):
    part = case.make(**({"layer": 0} if axis == "attention" else {}))
    init_parameters(nn.ModuleDict({"it": part}), seed)
    return part, {name: value.detach().clone() for name, value in part.named_parameters()}


@every_part
def test_same_variant_is_loaded_completely(axis, case):
    """Tensors that are not loaded would be reported as the cost of resuming from a checkpoint."""
    part, fresh = part_of(axis, case, 0)
    theirs = part_of(axis, case, 1)[1]
    adopted = part.load_from(theirs, fresh)
    assert {name: a.origin for name, a in adopted.items()} == dict.fromkeys(fresh, "loaded")
    assert all(torch.equal(a.values, theirs[name]) for name, a in adopted.items())


@every_part
def test_other_variant_is_converted_or_rejected(axis, case):
    """A silently re-initialized matrix turns uptraining into training from scratch.

    Positionals have no common tensors: a table keeps its initial values if the other has none,
    which is reported.
    """
    part, fresh = part_of(axis, case, 0)
    for other in PARTS[axis]:
        theirs = part_of(axis, other, 1)[1]
        try:
            adopted = part.load_from(theirs, fresh)
        except ValueError:
            continue
        for name, a in adopted.items():
            assert a.values.shape == fresh[name].shape, f"{name}, from {other}"
        left = {name for name, value in fresh.items() if value.ndim > 1} - adopted.keys()
        assert not left or axis == "positional", f"silently fresh, from {other}: {sorted(left)}"


def test_conversion_covers_every_axis():
    assert {axis for axis, about in AXES.items() if issubclass(about.base, Part)} == PARTS.keys()
