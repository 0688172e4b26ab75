"""The decode probe times what it says: a prompt of the context's length, and one token with it in the cache."""

import pytest
import torch

from harness.model.builder import ModelBuilder
from harness.model.gpt import GPT
from harness.model.initialization import init_parameters
from harness.probes import decode as decoding
from harness.results.records import DecodeProbeSettings, ProbeSettings, VariantChoice
from variants.base import ModelShape

SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=24, vocab_size=17)


class Spec:
    """As much of a run's spec as the probe reads."""

    def __init__(self, batch, context, precision="fp32"):
        self.probes = ProbeSettings(
            decode=DecodeProbeSettings(batch=batch, context=context) if batch else None
        )
        self.train = type("Train", (), {"precision": precision})


def measure(ranks, spec, positional="learned", attention="mha", **options):
    axes = {
        "positional": VariantChoice(name=positional, label="", options={}),
        "attention": VariantChoice(name=attention, label="", options=options),
    }
    parts = ModelBuilder(SHAPE, axes, [])
    model = parts.model().to_empty(device="cpu")
    init_parameters(model, 0)
    return decoding.measure(spec, parts, model, ranks)


def test_each_batch_and_context_is_measured_with_raw_times_and_the_bytes_that_the_formula_gives(
    ranks,
):
    records = measure(ranks, Spec([1, 3], [8, 24]), attention="gqa", n_kv_head=2)
    assert [(r["batch"], r["context"]) for r in records] == [(1, 8), (1, 24), (3, 8), (3, 24)]
    for r in records:
        kv_width = 2 * SHAPE.head_dim
        assert r["cache_bytes"] == SHAPE.n_layer * 2 * kv_width * r["context"] * r["batch"] * 4
        assert len(r["prefill_s"]) == decoding.N_PREFILLS and len(r["decode_s"]) == decoding.N_STEPS
        assert all(seconds > 0 for seconds in r["prefill_s"] + r["decode_s"])
        assert r["reason"] is None


def test_a_windows_cache_does_not_grow_and_bf16_takes_half(ranks):
    window = measure(
        ranks, Spec([1], [8, 24]), positional="rope", attention="sliding_window", window=8
    )
    assert window[0]["cache_bytes"] == window[1]["cache_bytes"]
    half = measure(
        ranks, Spec([1], [8], "bf16"), positional="rope", attention="sliding_window", window=8
    )
    assert 2 * half[0]["cache_bytes"] == window[0]["cache_bytes"]


def test_beyond_the_trained_length_learned_positions_are_not_defined_and_relative_ones_are(ranks):
    (learned,) = measure(ranks, Spec([1], [25]))
    assert learned["reason"] == "no positions beyond seq_len = 24"
    assert learned["decode_s"] == learned["prefill_s"] == [] and learned["cache_bytes"] is None
    (rope,) = measure(ranks, Spec([1], [25]), positional="rope")
    assert rope["reason"] is None and rope["decode_s"]


def test_every_timed_step_sees_exactly_its_context(ranks, monkeypatch):
    """A step that is timed while the cache still grows, or on an empty one, flatters what it measures."""
    seen = []
    next_logits = GPT.next_logits

    def watched(self, tokens_BT, caches):
        before = caches[0].n_seen
        logits = next_logits(self, tokens_BT, caches)
        seen.append((before, tokens_BT.shape[1], caches[0].n_seen))
        return logits

    monkeypatch.setattr(GPT, "next_logits", watched)
    measure(ranks, Spec([2], [10]))
    assert set(seen) == {(0, 10, 10), (9, 1, 10)}


def test_an_attention_without_a_cache_says_so(ranks, monkeypatch):
    def no_cache(self, *_):
        raise NotImplementedError("Odd defines no cache for decoding")

    monkeypatch.setattr(GPT, "caches", no_cache)
    (record,) = measure(ranks, Spec([1], [8]))
    assert record["reason"] == "Odd defines no cache for decoding"


def test_nothing_is_measured_where_nothing_is_asked_for_and_threads_are_put_back(
    ranks, monkeypatch
):
    assert measure(ranks, Spec(None, None)) == []
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    threads = []
    monkeypatch.setattr(decoding, "_measure", lambda *_: threads.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    measure(ranks, Spec([1], [8]))
    assert threads == [2 * before] and torch.get_num_threads() == before


@pytest.mark.parametrize(
    "probe", [{"batch": []}, {"batch": [0]}, {"context": [1]}, {"contxt": [4]}]
)
def test_what_cannot_be_measured_is_refused(probe):
    with pytest.raises(ValueError):
        ProbeSettings.model_validate({"decode": {"batch": [1], "context": [4]} | probe})
