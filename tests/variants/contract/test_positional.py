"""Positional encodings are functions of positions and declare their properties."""

from contract.cases import SHAPE, every_positional, randomize

from harness.contract import parts


@every_positional
def test_positional_is_a_function_of_positions(positional):
    """Blocks, a KV cache and a sharded sequence pass their own positions."""
    assert parts.depends_on_more_than_positions(randomize(positional.make()), SHAPE) == []


@every_positional
def test_positional_keeps_shapes_and_precision(positional):
    """A positional that casts bf16 to fp32 makes attention leave its fast kernel."""
    assert parts.changes_precision(randomize(positional.make()), SHAPE) == []


@every_positional
def test_has_bias_is_declared_correctly(positional):
    """Studies reject pairs by `has_bias`; an undeclared bias would be dropped silently."""
    assert parts.declares_bias_wrongly(positional.make(), SHAPE) == []


@every_positional
def test_extrapolates_is_declared_correctly(positional):
    """Sampling slides the context only if positions beyond the trained length are defined."""
    assert parts.declares_extrapolation_wrongly(randomize(positional.make()), SHAPE) == []
