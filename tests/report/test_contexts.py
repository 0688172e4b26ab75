"""If these failed, the answer would hide that an effect depends on the size, or what it is not."""

import pytest
from reported import written
from synthetic_results import SIZES

import harness
from harness.analysis import dataset
from harness.analysis.summary import summarize
from harness.export import latex
from harness.export.runs import TrackedRun
from harness.report import charts

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture
def sizes(asked_in_sizes):
    return asked_in_sizes


def test_the_answer_names_all_sizes(sizes):
    page, summary, _ = written(sizes.write())
    answer = page.split("## Results")[0]
    for name in ("rope", "alibi"):
        assert f"{name} lowers the validation loss in all 3 sizes by 0.0" in answer
    assert "a lower loss than learned at equal size" in answer
    assert summary["asked"] == ["positional"] and summary["contexts"] == ["size"]
    assert summary["varied"] == {
        "model.n_embd": {"S": 64, "M": 128, "L": 256},
        "train.lr": {"S": 1e-3, "M": 5e-4, "L": 2.5e-4},
    }
    assert "| model.n_embd | 64 (S), 128 (M), 256 (L) " in page
    model = page.split("### Model")[1].split("### Data")[0]
    assert "n_layer" in model and "n_embd" not in model


def test_an_interaction_replaces_the_pooled_verdict(sizes):
    sizes.gain = {"alibi-L": 0.3}
    page, _, folder = written(sizes.write())
    answer = page.split("## Results")[0]
    assert (
        "effect of alibi on the validation loss depends on size: better in S, M; worse in L"
        in answer
    )
    assert "alibi raises" not in answer
    rows = page.split("## Pooled over contexts")[1].split("### Throughput")[0].splitlines()
    by_name = {row.split("|")[1].strip(): row for row in rows if row.startswith("|")}
    assert "| depends on context |" in by_name["alibi"]
    assert "| S better, M better, L better |" in by_name["rope"]
    assert "alibi,3,5," in (folder / "tables" / "pooled.csv").read_text()


@pytest.mark.parametrize(
    ("gain", "advice"),
    [
        (0.3, "**Unresolved**\n\n- alibi: depends on size"),
        (-0.3, "- alibi: lower loss in 3 sizes, by an amount that depends on size"),
    ],
)
def test_the_first_screen_shows_each_size_of_a_dependent_effect(sizes, gain, advice):
    sizes.gain = {"alibi-L": gain}
    study = sizes.write()
    [chart] = charts.answer.build(summarize(dataset.read(study.store, study.name), "now"))
    last = "worse" if gain > 0 else "better"
    verdicts = {row.name: row.verdict for row in chart.plot.rows}
    by_size = {"alibi · S": "better", "alibi · M": "better", "alibi · L": last}
    assert verdicts == {"learned": "baseline", "rope": "better"} | by_size
    assert all(row.interval for row in chart.plot.rows if row.name in by_size)
    page, summary, _ = written(study)
    assert advice in page.split("## Results")[0]
    rows = [
        row for row in summary["answer"]["by_context"] if row["levels"]["positional"] == "alibi"
    ]
    assert [row["verdict"] for row in rows] == list(by_size.values())


def test_mixed_verdicts_are_an_average_with_each_context(sizes):
    sizes.gain = {"rope-M": 0.095, "rope-L": -0.02, "rope-S": 0.02}
    sizes.axes["positional"] = ["learned", "rope"]
    sizes.seeds = (0, 1, 2)
    answer = written(sizes.write())[0].split("## Results")[0]
    assert "rope" in answer and "M" in answer
    assert "in all 3 sizes" not in answer


def test_a_context_without_results_is_named(sizes):
    sizes.outcome = {f"rope-L-s{seed}": ("pending", None, None) for seed in sizes.seeds}
    sizes.outcome["alibi-S-s1"] = ("pending", None, None)
    page, summary, folder = written(sizes.write())
    answer = page.split("## Results")[0]
    assert "rope lowers the validation loss in 2 of 3 sizes (no comparison in L) by" in answer
    assert "alibi lowers the validation loss in all 3 sizes by" in answer
    assert ", on the 4 seeds that all contexts have." in answer
    pooled = {row["asked"]: row for row in summary["verdicts"]["val_loss"]["pooled"]}
    assert pooled["rope"]["contexts_missing"] == ["L"]
    assert pooled["alibi"]["seeds_incomplete"] == [1]
    rows = page.split("## Pooled over contexts")[1].split("### Throughput")[0]
    assert "| 2 of 3 (not L) |" in rows and "| 4 (+1 incomplete) |" in rows
    assert "L," in (folder / "tables" / "pooled.csv").read_text()


def test_an_effect_of_one_direction_differs_in_amount_only(sizes):
    sizes.gain = {"alibi-L": -0.3}
    answer = written(sizes.write())[0].split("## Results")[0]
    changes = "alibi lowers the validation loss in all 3 sizes, by an amount that depends on size"
    assert changes in answer and "remaining comparisons" not in answer


def test_no_context_resolves_the_effect(sizes):
    sizes.axes["positional"] = ["learned", "rope"]
    sizes.gain = {f"rope-{size}": 0.09 for size in SIZES}
    answer = written(sizes.write())[0].split("## Results")[0]
    assert "rope has no resolved effect on the validation loss in any of 3 sizes" in answer


def test_entries_without_a_baseline_are_named(sizes):
    sizes.outcome = {
        f"learned-{size}-s{seed}": ("failed", "nan", "NotFiniteError")
        for size in ("S", "M")
        for seed in sizes.seeds
    }
    answer = written(sizes.write())[0].split("## Results")[0]
    assert "alibi: no common seed" in answer or "alibi and rope: no common seed" in answer


def test_a_failed_baseline_is_not_a_lack_of_seeds(fake):
    fake.axes = {"positional": ["learned", "rope"]}
    fake.baseline = {"positional": "learned"}
    fake.outcome = {f"learned-s{seed}": ("failed", "nan", "NotFiniteError") for seed in fake.seeds}
    answer = written(fake.write())[0].split("## Results")[0]
    assert "single seed" not in answer
    assert "rope: no common seed." in answer


def test_frames_and_exports_carry_the_setting_axes(sizes, tmp_path):
    sizes.write()
    study = harness.load(sizes.root, study="tiny")
    assert (study.asked, study.contexts) == (["positional"], ["size"])
    assert study.axes["size"] == ["S", "M", "L"]
    assert set(study.runs["size"]) == set(study.entries["size"]) == {"S", "M", "L"}
    pooled = study.pooled.query("quantity == 'val_loss'").set_index("asked")
    assert pooled.loc["rope", "n_contexts"] == 3
    assert list(pooled.columns) == [c for c in study.columns("pooled").index if c != "asked"]
    assert "n_embd" not in study.settings["model"]
    assert study.settings["varied"]["model.n_embd"] == {"S": 64, "M": 128, "L": 256}
    data = next(run for run in study.recorded if run.spec.entry == "rope-L")
    run = TrackedRun.of(data.spec, data.started_at)
    assert (run.axes["size"], run.settings["model.n_embd"]) == ("L", 256)
    latex.write(study, tmp_path, tmp_path)
    assert "rope & 3 & 5 & better" in (tmp_path / "pooled.tex").read_text()


def test_without_contexts_there_is_no_pooled_table(fake):
    page, _, folder = written(fake.write())
    assert "Pooled over contexts" not in page
    assert not (folder / "tables" / "pooled.csv").exists()
    assert len(harness.load(fake.root, study="tiny").pooled) == 0


def test_losses_on_another_corpus_are_named_in_the_answer(fake):
    other = {"data.corpus": "b.txt", "data.sha256": "cd" * 32}
    fake.axes = {"positional": ["learned", "rope"], "text": ["a", "b"]}
    fake.settings = {"text": {"a": {"data.corpus": "a.txt"}, "b": other}}
    fake.baseline = {"positional": "learned", "text": "a"}
    page, _, _ = written(fake.write())
    answer = page.split("## Results")[0]
    assert "b: not comparable: other corpus (b.txt, a.txt)." in answer
    assert "Lowest final validation loss" not in answer
    assert "Corpus: `a.txt`" in answer and "Corpus: `b.txt`" in answer
    rows = [row for row in page.splitlines() if row.startswith("| rope · b ")]
    assert any("| not comparable |" in row for row in rows)


def test_losses_in_other_tokens_share_no_estimate_and_no_axis(fake):
    fake.axes = {"attention": ["mha", "gqa2"], "tokens": ["bytes", "gpt2"]}
    gpt2 = {"data.tokenizer": "gpt2", "model.vocab_size": 50257}
    fake.settings = {"tokens": {"bytes": {}, "gpt2": gpt2}}
    fake.baseline = {"attention": "mha", "tokens": "bytes"}
    fake.compare = ["attention"]
    page = written(fake.write())[0]
    effects = page.split("## Effects")[1].split("### Throughput")[0]
    assert "Estimated from 6 runs" in effects and "with tokens gpt2" not in effects
    assert "in nats per token of `bytes`" in effects
    study = dataset.read(fake.store, fake.name)
    specs = {spec.name: spec for spec in charts.build(summarize(study, "now"))}
    plot = specs["throughput_loss"].plot  # of the entries with the baseline's tokens
    assert plot.y.label == "final validation loss, nats per token"
    assert [point.name for point in plot.points] == ["mha-bytes", "gqa2-bytes"]
    losses = specs["val_loss"].plot.panels[0]
    assert [line.entry for line in losses.lines] == ["gqa2-bytes", "mha-bytes"]


def test_losses_on_other_texts_are_in_no_scatter(fake):
    other = {"data.corpus": "b.txt", "data.sha256": "cd" * 32}
    fake.axes = {"positional": ["learned", "rope"], "text": ["a", "b"]}
    fake.settings = {"text": {"a": {"data.corpus": "a.txt"}, "b": other}}
    fake.baseline = {"positional": "learned", "text": "a"}
    page = written(fake.write())[0]
    assert "Throughput against final validation loss" not in page
