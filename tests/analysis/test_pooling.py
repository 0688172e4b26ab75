"""If these failed, a verdict over sizes would come from other runs, or hide that sizes differ."""

import numpy as np
import pandas as pd
import pytest
from synthetic_results import SIZES

from harness.analysis import dataset, families, summary
from harness.analysis.hypotheses import test_hypotheses
from harness.results.files import read_json, write_json

test_hypotheses.__test__ = False  # it is the function under test


@pytest.fixture
def sizes(asked_in_sizes):
    """Three positional variants in three sizes, whose losses differ by size."""
    asked_in_sizes.gain = {f"{name}-L": -0.3 for name in ("learned", "rope", "alibi")}
    return asked_in_sizes


def losses_of(study, label):
    entry = next(entry for entry in study.entries if entry.label == label)
    return np.array([run.final_loss for run in sorted(entry.done, key=lambda run: run.seed)])


def test_each_context_is_a_family_against_its_own_baseline(sizes, read_study):
    study = read_study(sizes)
    tests = test_hypotheses(study)["val_loss"]
    for size in SIZES:
        labels = [f"{name}-{size}" for name in ("learned", "rope", "alibi")]
        values = pd.DataFrame({label: losses_of(study, label) for label in labels})
        expected = families.test_family(values, labels[0], None).results
        assert {label: tests.entries[label] for label in expected} == expected
    assert len(tests.entries) == 6


def test_the_pooled_difference_is_the_mean_over_contexts_by_seed(sizes, read_study):
    study = read_study(sizes)
    pooled = {result.asked: result for result in test_hypotheses(study)["val_loss"].pooled}
    means = {
        name: np.mean([losses_of(study, f"{name}-{size}") for size in SIZES], axis=0)
        for name in ("learned", "rope", "alibi")
    }
    expected = families.test_family(pd.DataFrame(means), "learned", None).results
    assert pooled.keys() == expected.keys()
    for name, result in pooled.items():
        assert result.verdict == expected[name].verdict == "better"
        assert result.difference.mean == pytest.approx(expected[name].difference.mean)
        assert result.p_adjusted == pytest.approx(expected[name].p_adjusted)
        assert (result.contexts, result.seeds) == (["S", "M", "L"], [0, 1, 2, 3, 4])
        assert result.verdicts == dict.fromkeys(SIZES, "better")
        assert result.depends_on_context is False


def test_an_effect_that_depends_on_size_is_named(sizes, read_study):
    sizes.gain["alibi-L"] = 0.1
    pooled = {r.asked: r for r in test_hypotheses(read_study(sizes))["val_loss"].pooled}
    assert pooled["alibi"].depends_on_context
    assert pooled["alibi"].verdicts == {"S": "better", "M": "better", "L": "worse"}
    assert not pooled["rope"].depends_on_context


def test_only_seeds_of_all_contexts_are_pooled(sizes, read_study):
    sizes.outcome = {"rope-L-s1": ("failed", "oom", "no memory")}
    pooled = {r.asked: r for r in test_hypotheses(read_study(sizes))["val_loss"].pooled}
    assert pooled["rope"].seeds == [0, 2, 3, 4]
    assert pooled["alibi"].seeds == [0, 1, 2, 3, 4]


def test_one_context_is_not_pooled(sizes, read_study):
    for seed in sizes.seeds:
        for size in ("M", "L"):
            sizes.outcome[f"alibi-{size}-s{seed}"] = ("failed", "oom", "no memory")
    tests = test_hypotheses(read_study(sizes))["val_loss"]
    assert [result.asked for result in tests.pooled] == ["rope"]
    assert tests.entries["alibi-S"].verdict == "better"


def test_parallelisms_that_repeat_a_loss_are_not_pooled(fake, read_study):
    """They would count the same training twice, and test rounding errors as an interaction."""
    fake.axes = {"positional": ["learned", "rope"], "parallelism": ["single", "ddp2"]}
    fake.baseline = {"positional": "learned", "parallelism": "single"}
    fake.compare = ["positional"]
    tests = test_hypotheses(read_study(fake))
    assert tests["val_loss"].pooled == []
    assert [result.contexts for result in tests["tokens_per_s"].pooled] == [["single", "ddp2"]]


def test_without_contexts_nothing_is_pooled(fake, read_study):
    tests = test_hypotheses(read_study(fake))
    assert all(metric.pooled == metric.context_effects == [] for metric in tests.values())


def test_rankings_and_savings_stay_within_a_context(sizes, read_study):
    made = summary.summarize(read_study(sizes), "now")
    assert {ranking.context for ranking in made.rankings} == set(SIZES)
    for ranking in made.rankings:
        assert all(label.endswith(f"-{ranking.context}") for label in ranking.val_loss)
    assert {(row.entry[-1], row.against) for row in made.savings} == {
        (size, f"learned-{size}") for size in SIZES
    }
    effects = made.metric_tests["val_loss"]
    assert {axis for effect in effects.main_effects for axis in effect.levels} == {"positional"}
    of_context = {tuple(effect.levels.values()): effect for effect in effects.context_effects}
    assert of_context["L",].estimate == pytest.approx(-0.3, abs=0.02)
    assert len(made.tables["pooled"]) == 6


def test_contexts_of_other_tokenizers_are_pooled_in_bits_per_byte(fake, read_study):
    """A mean of nats per byte and nats per word piece has no unit."""
    fake.axes = {"positional": ["learned", "rope"], "data.tokenizer": ["bytes", "gpt2"]}
    fake.settings = {"data.tokenizer": {n: {"data.tokenizer": n} for n in ("bytes", "gpt2")}}
    fake.baseline = {"positional": "learned", "data.tokenizer": "bytes"}
    fake.compare = ["positional"]
    study = read_study(fake)
    tests = test_hypotheses(study)["val_loss"]
    assert {test.unit for test in tests.entries.values()} == {None}
    (rope,) = tests.pooled
    in_nats = np.mean(
        [
            losses_of(study, f"rope-{n}") - losses_of(study, f"learned-{n}")
            for n in fake.axes["data.tokenizer"]
        ]
    )
    assert rope.unit == "bits per byte"
    assert rope.difference.mean == pytest.approx(in_nats / np.log(2))
    assert tests.context_effects == []


def test_pooled_memory_is_exact_as_within_a_context(sizes, read_study):
    """Equal in every seed: the means over contexts are as certain as the contexts are."""
    sizes.write()
    for run in sizes.store.runs(sizes.name):
        probes = read_json(run.path / "probes.json")
        factor = 2 if run.spec.entry.startswith("alibi") else 1
        for rank in probes["memory"]:
            rank["peak"] = factor * probes["memory"][0]["peak"]
        write_json(run.path / "probes.json", probes)
    tests = test_hypotheses(dataset.read(sizes.store, sizes.name))["peak_memory"]
    pooled = {result.asked: result for result in tests.pooled}
    assert {name: (r.method, r.verdict) for name, r in pooled.items()} == {
        "rope": ("exact", "equivalent"),
        "alibi": ("exact", "worse"),
    }
