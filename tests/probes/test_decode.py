"""The decode probe times a whole prompt, and tokens with exactly the stated context."""

from types import SimpleNamespace

import pytest
import torch
from tape import Tape

from harness.model import decoder
from harness.model.builder import ModelBuilder
from harness.model.gpt import GPT
from harness.model.initialization import init_parameters
from harness.probes import decode
from harness.results.records import DecodeProbeSettings, ProbeSettings, VariantChoice
from variants.base import ModelShape

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=24, vocab_size=17)


def spec(batch, context, precision="fp32"):
    """The part of a run's spec that the probe reads."""
    settings = ProbeSettings(decode=DecodeProbeSettings(batch=batch, context=context))
    return SimpleNamespace(probes=settings, train=SimpleNamespace(precision=precision))


def measure(ranks, spec, positional="learned", attention="mha", **options):
    axes = {
        "positional": VariantChoice(name=positional, label="", options={}),
        "attention": VariantChoice(name=attention, label="", options=options),
    }
    builder = ModelBuilder(SHAPE, axes, [])
    model = builder.model().to_empty(device="cpu")
    init_parameters(model, 0)
    return decode.measure(spec, builder, model, ranks)


def test_each_batch_and_context_has_raw_times_and_cache_bytes(ranks):
    records = measure(ranks, spec([1, 3], [8, 24]), attention="gqa", n_kv_head=2)
    settings = [(record.batch, record.context) for record in records]
    assert settings == [(1, 8), (1, 24), (3, 8), (3, 24)]
    kv_width = 2 * SHAPE.head_dim
    for record in records:
        n_positions = record.context * record.batch
        assert record.cache_bytes == SHAPE.n_layer * 2 * kv_width * n_positions * 4
        assert len(record.prefill_s) == decode.N_PREFILLS
        assert len(record.decode_s) == decode.N_STEPS
        assert min(record.prefill_s + record.decode_s) > 0
        assert record.reason is None


def test_sliding_window_cache_is_constant_and_bf16_halves_it(ranks):
    variants = {"positional": "rope", "attention": "sliding_window", "window": 8}
    short, long = measure(ranks, spec([1], [8, 24]), **variants)
    assert short.cache_bytes == long.cache_bytes
    (bf16,) = measure(ranks, spec([1], [8], "bf16"), **variants)
    assert 2 * bf16.cache_bytes == short.cache_bytes


def test_only_extrapolating_positions_decode_beyond_seq_len(ranks):
    (learned,) = measure(ranks, spec([1], [25]))
    assert learned.reason == "no positions beyond seq_len = 24"
    assert learned.decode_s == []
    assert learned.prefill_s == []
    assert learned.cache_bytes is None
    (rope,) = measure(ranks, spec([1], [25]), positional="rope")
    assert rope.reason is None
    assert rope.decode_s


def test_every_timed_step_attends_to_exactly_its_context(ranks, monkeypatch):
    """A step that is timed while the cache grows, or with an empty cache, would be too fast."""
    passes = set()
    next_logits = GPT.next_logits

    def observed(self, tokens_BT, caches):
        before = caches[0].n_seen
        logits = next_logits(self, tokens_BT, caches)
        passes.add((before, tokens_BT.shape[1], caches[0].n_seen))
        return logits

    monkeypatch.setattr(GPT, "next_logits", observed)
    measure(ranks, spec([2], [10]))
    assert passes == {(0, 10, 10), (9, 1, 10)}


def test_a_graph_is_timed_where_long_texts_are_decoded_with_one(ranks, monkeypatch):
    """Without it, each step on a GPU would time the launches of the host, equal for all variants.

    The graph must find the same number of positions each time, as an eager step does.
    """
    positions = []

    class PositionTape(Tape):
        def capture(self, step):
            replay = super().capture(step)

            def observed():
                positions.append(int(self.recorder.statics[0]))
                return replay()

            return observed

    (eager,) = measure(ranks, spec([2], [10]), positional="rope")
    monkeypatch.setattr(decoder, "uses_graph", lambda *_, **__: True)
    monkeypatch.setattr(decoder, "CudaGraph", PositionTape)
    (record,) = measure(ranks, spec([2], [10]), positional="rope")
    assert (eager.cuda_graph, record.cuda_graph) == (False, True)
    assert positions == [9] * (decode.N_WARMUP + decode.N_STEPS)
    assert len(record.decode_s) == decode.N_STEPS and min(record.decode_s) > 0


def test_attention_without_a_cache_gives_a_reason(ranks, monkeypatch):
    def no_cache(self, *_):
        raise NotImplementedError("Odd defines no cache for decoding")

    monkeypatch.setattr(GPT, "caches", no_cache)
    (record,) = measure(ranks, spec([1], [8]))
    assert record.reason == "Odd defines no cache for decoding"


def test_probe_is_optional_and_restores_the_thread_count(ranks, monkeypatch):
    assert measure(ranks, SimpleNamespace(probes=ProbeSettings())) == []
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    threads = []
    monkeypatch.setattr(decode, "_measure", lambda *_: threads.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    measure(ranks, spec([1], [8]))
    assert threads == [2 * before]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    "changes", [{"batch": []}, {"batch": [0]}, {"context": [1]}, {"contxt": [4]}]
)
def test_invalid_decode_settings_are_rejected(changes):
    settings = {"batch": [1], "context": [4]}
    ProbeSettings.model_validate({"decode": settings})
    with pytest.raises(ValueError, match=next(iter(changes))):
        ProbeSettings.model_validate({"decode": settings | changes})
