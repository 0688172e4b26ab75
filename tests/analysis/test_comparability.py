"""If these failed, a difference of two texts would be reported as one of two models."""

import numpy as np
import pytest

from harness.analysis import comparability, dataset, summary
from harness.analysis.comparability import compare_losses
from harness.analysis.hypotheses import test_hypotheses
from harness.results.records import EquivalenceMargin, LaunchRecord

test_hypotheses.__test__ = False  # it is the function under test

# Each setting with another value, by what that does to a comparison of validation losses.
NOT_COMPARABLE = {
    "data.sha256": "cd" * 32,
    "data.documents": "mask",
    "model.seq_len": 64,
    "train.eval_tokens": 512,
}
IN_BITS = {"data.tokenizer": "gpt2", "model.vocab_size": 512}
IN_NATS = {
    "model": "n_layer n_head n_embd dropout tie_embeddings bias init_std",
    "data": "corpus entropy_nats_per_byte separator",
    "train": "steps tokens_per_step batch_ramp micro_batch_size lr min_lr warmup_steps schedule "
    "decay_fraction beta1 beta2 weight_decay grad_clip ema_decay label_smoothing z_loss "
    "loss_chunk recompute precision compile eval_every deterministic device",
}


@pytest.fixture
def spec(one_axis):
    return one_axis.write().store.runs("tiny")[0].spec


def changed(spec, key, value):
    section, name = key.split(".")
    values = getattr(spec, section).model_copy(update={name: value})
    return spec.model_copy(update={section: values})


@pytest.mark.parametrize("key", NOT_COMPARABLE)
def test_another_text_or_context_is_not_compared(spec, key):
    comparison = compare_losses(changed(spec, key, NOT_COMPARABLE[key]), spec)
    assert comparison.unit is None
    assert comparison.reason.startswith("other ")


@pytest.mark.parametrize("key", IN_BITS)
def test_another_tokenizer_is_compared_in_bits_per_byte(spec, key):
    assert compare_losses(changed(spec, key, IN_BITS[key]), spec).unit == "bits per byte"
    part = changed(spec, "train.eval_tokens", 512)
    comparison = compare_losses(changed(part, key, IN_BITS[key]), part)
    assert comparison.unit is None
    assert "another text" in comparison.reason


def test_every_setting_is_known(spec):
    """A new setting that changes the validation windows needs a line in `comparability`."""
    known = {*NOT_COMPARABLE, *IN_BITS}
    for section, names in IN_NATS.items():
        known |= {f"{section}.{name}" for name in names.split()}
    settings = {
        f"{section}.{name}"
        for section in ("model", "data", "train")
        for name in type(getattr(spec, section)).model_fields
    }
    assert settings == known, "state how these change a comparison of losses"


@pytest.mark.parametrize("section", IN_NATS)
def test_all_other_settings_leave_losses_comparable(spec, section):
    for name in IN_NATS[section].split():
        other = changed(spec, f"{section}.{name}", "another value")
        assert compare_losses(other, spec).unit == "nats per token", name


def test_the_same_validation_tokens_of_another_corpus_are_compared(spec):
    """Else no study could ask whether more training text helps."""
    part = {"file": "a.bin", "start": 10, "stop": 90, "sha256": "ef" * 32}
    launch = type(spec.launch).model_validate(
        spec.launch.model_dump() | {"val_tokens": [part], "train_tokens": []}
    )
    spec = spec.model_copy(update={"launch": launch})
    other = changed(spec, "data.sha256", "cd" * 32)
    assert compare_losses(other, spec).unit == "nats per token"
    moved = launch.model_copy(
        update={"val_tokens": [launch.val_tokens[0].model_copy(update={"start": 20})]}
    )
    assert compare_losses(other.model_copy(update={"launch": moved}), spec).unit is None


def test_other_shares_of_a_mixture_are_not_compared(spec):
    """The validation loss of a mixture is the mean of its corpora by their shares."""
    parts = [
        {"file": f"{name}.bin", "part": i, "start": 0, "stop": 90, "sha256": name * 64}
        for i, name in enumerate("ab")
    ]

    def mixed(weights, sha256):
        mixture = [
            {"path": name, "weight": weight} for name, weight in zip("ab", weights, strict=True)
        ]
        launch = type(spec.launch).model_validate(
            spec.launch.model_dump() | {"val_tokens": parts, "mixture": mixture}
        )
        return changed(spec, "data.sha256", sha256).model_copy(update={"launch": launch})

    even = mixed((1.0, 1.0), "ab" * 32)
    assert compare_losses(mixed((2.0, 2.0), "cd" * 32), even).unit == "nats per token"
    assert compare_losses(mixed((1.0, 2.0), "cd" * 32), even).unit is None


def asked(fake, axis, levels, margin=None):
    """Return a study that asks about one setting axis, beside an axis of variants."""
    fake.axes = {"positional": ["learned", "rope"], axis: list(levels)}
    fake.settings = {axis: levels}
    fake.baseline = {"positional": "learned", axis: next(iter(levels))}
    fake.write()
    if margin is not None:
        launch = LaunchRecord(
            order=[], settings_hash="c0ffee", equivalence_margin=EquivalenceMargin(val_loss=margin)
        )
        fake.store.record_launch(fake.name, launch)
    return summary.summarize(dataset.read(fake.store, fake.name), "now")


def test_no_verdict_on_another_corpus_and_the_reason(fake):
    levels = {
        "a": {"data.corpus": "a.txt"},
        "b": {"data.corpus": "b.txt", "data.sha256": "cd" * 32},
    }
    made = asked(fake, "text", levels)
    assert made.metric_tests["val_loss"].entries.keys() == {"rope-a"}
    reasons = {row.entry: row.not_comparable for row in made.comparisons}
    assert reasons["rope-a"] is None
    assert reasons["rope-b"] == reasons["learned-b"] == "other corpus (b.txt, a.txt)"
    rows = made.tables["verdicts"].query("quantity == 'val_loss'").set_index("entry")
    assert rows.loc["learned-b", "not_comparable"] == "other corpus (b.txt, a.txt)"
    assert {row.entry for row in made.savings} == {"rope-a"}
    assert {label for row in made.rankings for label in row.val_loss} == {"learned-a", "rope-a"}
    assert made.metric_tests["tokens_per_s"].entries.keys() == {"rope-a", "learned-b", "rope-b"}


def test_another_tokenizer_is_tested_in_bits_per_byte(fake):
    levels = {"bytes": {"data.tokenizer": "bytes"}, "bpe": {"data.tokenizer": "gpt2"}}
    made = asked(fake, "data.tokenizer", levels, margin=0.2)
    tests = made.metric_tests["val_loss"]
    assert {label: test.unit for label, test in tests.entries.items()} == {
        "rope-bytes": None,
        "learned-bpe": "bits per byte",
        "rope-bpe": "bits per byte",
    }
    by_label = {entry.label: entry for entry in made.study.entries}

    def bits(label):
        return np.array([run.evals.bits_per_byte[-1] for run in by_label[label].done])

    difference = bits("rope-bpe") - bits("learned-bytes")
    assert tests.entries["rope-bpe"].difference.mean == pytest.approx(difference.mean())
    row = next(row for row in made.comparisons if row.entry == "rope-bpe")
    assert (row.loss_unit, row.val_loss_difference) == ("bits per byte", None)
    assert row.bits_per_byte_difference.mean == pytest.approx(difference.mean())
    # the margin of 0.2 nats is 0.29 bits here; the difference of 0.13 bits is within it
    assert {test.verdict for test in tests.entries.values()} == {"equivalent"}


def test_other_training_budgets_are_a_caveat_with_both(fake):
    levels = {"short": {"train.steps": 12}, "long": {"train.steps": 24}}
    made = asked(fake, "length", levels)
    caveats = {row.entry: row.message for row in made.caveats if row.kind == "other-budget"}
    assert caveats.keys() == {"learned-long", "rope-long"}
    assert "24,576 tokens" in caveats["rope-long"] and "12,288" in caveats["rope-long"]
    assert made.metric_tests["val_loss"].entries["rope-long"].verdict


def test_more_text_at_equal_tokens_is_a_caveat(fake):
    levels = {"bytes": {"data.tokenizer": "bytes"}, "bpe": {"data.tokenizer": "gpt2"}}
    study = asked(fake, "data.tokenizer", levels).study
    assert not list(comparability.caveats(study))
    for entry in study.entries:
        for run in entry.done if entry.axes["data.tokenizer"] == "bpe" else ():
            run.evals.bits_per_byte[:] /= 4  # a token of four bytes
    messages = {caveat.entry: caveat.message for caveat in comparability.caveats(study)}
    assert messages.keys() == {"learned-bpe", "rope-bpe"}
    assert "about 49,200 bytes of text, learned-bytes on 12,300" in messages["rope-bpe"]


def test_throughput_counts_tokens_not_steps(fake):
    levels = {"1k": {"train.tokens_per_step": 1024}, "4k": {"train.tokens_per_step": 4096}}
    fake.seeds = tuple(range(5))
    made = asked(fake, "batch", levels)
    row = next(row for row in made.comparisons if row.entry == "learned-4k")
    assert row.tokens_per_s_ratio.ratio == pytest.approx(4, rel=0.1)
    tests = made.metric_tests["tokens_per_s"]
    assert np.exp(tests.entries["learned-4k"].difference.mean) == pytest.approx(4, rel=0.1)
    effects = {tuple(effect.levels.values()): effect for effect in tests.main_effects}
    assert np.exp(effects["4k",].estimate) == pytest.approx(4, rel=0.1)
    budget = next(row.budget for row in made.rankings if row.budget_kind == "tokens")
    assert budget == 12 * 1024
