"""A step of decoding runs the same operations at every position, as a CUDA graph repeats them."""

import functools

import pytest
import torch
from contract.cases import (
    ATTENTIONS,
    POSITIONALS,
    B,
    T,
    cases,
    decode,
    every_kind,
    every_pair,
    make_gpt,
    named,
    pair,
    randomize,
    tokens_of,
)
from tape import Recorder, Tape

from harness.model.decoder import StepGraph
from variants import registry
from variants.attention import _kernels
from variants.attention._kernels import choose_kernel

STOP = 12  # tokens
LENGTH = 9  # of a cache whose ring wraps; global tokens and a window of 5 fit


def captured(model, tokens, prompt, length, dtype):
    """Return the logits after a prompt, and the step that follows with its tape."""
    caches = model.caches(len(tokens), length, dtype)
    logits = model.next_logits(tokens[:, :prompt], caches)
    tape = Tape()
    return logits, StepGraph(model, caches, len(tokens), tape), tape


def assert_replays(attention, positional, dtype, prompts, close):
    """Compare replays after the first prompt with plain decoding, and the steps after all."""
    model = randomize(make_gpt(attention, positional)).to(dtype).eval()
    length = LENGTH if model.positional.extrapolates else T
    tokens = tokens_of(STOP)
    logits, step, tape = captured(model, tokens, prompts[0], length, dtype)
    got = [logits, *(step(token).clone() for token in tokens[:, prompts[0] :].split(1, dim=1))]
    expected = decode(model, tokens, prompts[0], length, dtype)
    torch.testing.assert_close(torch.stack(got, 1), expected, atol=close, rtol=close)
    assert torch.equal(torch.stack(got, 1).argmax(-1), expected.argmax(-1))
    assert len(tape.outputs) == STOP - prompts[0]
    for prompt in prompts[1:]:
        other = captured(model, tokens, prompt, length, dtype)[-1]
        assert other.recorder.calls == tape.recorder.calls


@every_pair
@torch.no_grad()
def test_replayed_logits_equal_those_of_plain_decoding(attention, positional):
    """A graph repeats the slice of one position if an integer of the host reaches the step."""
    assert_replays(attention, positional, torch.float64, (1, STOP), 1e-10)


@every_kind
@torch.no_grad()
def test_replays_after_a_prompt_that_has_filled_the_ring(attention, positional):
    assert_replays(attention, positional, torch.float32, (10,), 1e-5)


@pytest.mark.parametrize(
    ("attention", "positional"),
    [
        *pair(named(ATTENTIONS, *registry.files("attention")), named(POSITIONALS, "rope")),
        *pair(named(ATTENTIONS, "mha"), cases("positional")),
    ],
    ids=str,
)
@torch.no_grad()
def test_a_step_never_waits_for_a_gpu(attention, positional, monkeypatch):
    """Tensors without values stand for those of a GPU, with its kernels."""
    on_gpu = functools.partial(choose_kernel, "cuda")
    monkeypatch.setattr(_kernels, "choose_kernel", lambda _, *args, **flags: on_gpu(*args, **flags))
    with torch.device("meta"):
        model = make_gpt(attention, positional).eval()
        tokens = torch.zeros(B, 2, dtype=torch.long)
        _, _, tape = captured(model, tokens, 2, LENGTH, torch.float32)
    assert len(tape.recorder.calls) > 40


class Baked(torch.nn.Module):
    """Steps at a position, each with a fault that a graph does not survive."""

    def __init__(self, fault):
        super().__init__()
        self.position_1 = torch.tensor([3])
        self.fault = fault

    def forward(self):
        return self.fault(torch.arange(9.0), self.position_1)


@pytest.mark.parametrize(
    "fault",
    [
        lambda x, position_1: x[: int(position_1)],
        lambda x, position_1: x[x > position_1],
        lambda x, position_1: x.cumsum(0) if bool(position_1 > 2) else x,
        lambda x, position_1: x * torch.ones(9, device="meta"),
        lambda x, position_1: x * torch.tensor([1.0] * 9, device=x.device),
    ],
    ids=["item", "mask", "branch", "devices", "copy"],
)
def test_the_recorder_rejects_what_a_capture_rejects(fault):
    """Else the tests above would pass with a step that fails on every GPU."""
    step = Baked(fault)
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"), Recorder():
        step()
