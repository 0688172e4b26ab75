"""Dropout, stated FLOPs and kernels of every attention."""

import dataclasses
import functools

import pytest
from contract.cases import (
    POSITIONALS,
    POSITIONS,
    SHAPE,
    B,
    C,
    H,
    T,
    compatible,
    every_attention,
    head_seen_by,
    inputs,
    make_pair,
    named,
)
from torch.utils.flop_counter import FlopCounterMode

from harness.contract import parts
from harness.contract.architecture import Architecture
from harness.contract.flops import wrong_flops
from harness.probes.first_step import CPU_KERNELS
from variants.attention.mha import MultiHead


@every_attention
def test_attention_dropout_acts_only_in_training(attention):
    """An evaluation with dropout would report a loss that the model does not have."""
    assert parts.drops_out_wrongly(functools.partial(attention.make, layer=0), SHAPE) == []


@every_attention
def test_stated_flops_count_layers_and_visible_keys(attention):
    """A formula that counts hidden keys would overstate the MFU."""
    layer, positional = make_pair(attention, POSITIONALS[0])
    with FlopCounterMode(display=False) as counter:
        layer(inputs(), POSITIONS, positional)
    counts = counter.get_flop_counts()["Global"]
    linear = sum(n for op, n in counts.items() if "mm" in str(op) and "bmm" not in str(op)) / (
        B * T
    )
    stated = layer.flops_per_token(T)
    assert stated > linear > 0
    if isinstance(layer, MultiHead):
        visible = head_seen_by(layer, positional).sum().item() / (T * H)
        assert layer.visible_keys(T) == pytest.approx(visible)
        assert stated == pytest.approx(linear + 4 * C * visible)


@every_attention
def test_bias_keeps_the_fused_kernel(attention):
    """The math kernel stores all scores; alibi would seem slow because of its mask's shape."""
    rope, alibi = named(POSITIONALS, "rope", "alibi")
    if not compatible(attention, alibi):
        pytest.skip("takes no bias")
    ran = []
    for positional in (rope, alibi):
        layer, positional = make_pair(attention, positional)
        with FlopCounterMode(display=False, custom_mapping=CPU_KERNELS) as counter:
            layer(inputs(), POSITIONS, positional)
        ran.append(
            {str(op).removeprefix("aten.") for op in counter.get_flop_counts()["Global"]}
            - {"mm", "addmm"}
        )
    assert ran[0] == ran[1]
    if str(attention) == "mha()":
        assert ran[0] == {"_scaled_dot_product_flash_attention_for_cpu"}


@pytest.mark.parametrize("seq_len", [37, 200])
@every_attention
def test_comparison_of_flops_has_no_false_alarm(attention, seq_len):
    """Windows in blocks, dilations and padding execute other products than the required ones."""
    shape = dataclasses.replace(SHAPE, seq_len=seq_len)
    gpt2 = Architecture.of_entry({}, [])
    assert wrong_flops(gpt2.replaced("attention", attention.cls, attention.options), shape) == []
