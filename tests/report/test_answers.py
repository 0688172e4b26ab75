"""If these failed, the report would not answer the question of the study at its top."""

import json
import re

import numpy as np
import pytest
from reported import plant, written

from harness import report
from harness.results.files import read_json, write_json
from harness.results.records import EquivalenceMargin, LaunchRecord

pytestmark = pytest.mark.usefixtures("no_figures")


GQA = "rope-gqa2-single"


def summary_of(fake):
    return json.loads((fake.root.parent / "reports" / fake.name / "summary.json").read_text())


def page(fake):
    folder = report.write(fake.store, fake.name, fake.root.parent / "reports")
    return (folder / "report.md").read_text()


def test_the_answer_comes_first_then_effects_and_budgets(fake):
    text = page(fake.write())
    opening = text.split("## Results")[0]
    assert "reach a lower loss than learned · mha, and at what cost?" in opening
    assert "figures/answer.png" in opening and "**Better**" in opening
    assert "## Effects" in text
    assert "positional rope with attention gqa2" in text
    assert "## Equal budgets" in text
    assert "equal training time" in text


def test_the_answer_says_by_how_much_and_at_what_cost(fake, read_study):
    fake.seeds = tuple(range(8))
    study = read_study(fake)
    losses = {
        entry.label: [run.evals.val_loss[-1] for run in entry.done] for entry in study.entries
    }
    gain = np.mean(np.subtract(losses["learned-mha-single"], losses["rope-mha-single"]))
    answer = page(fake).split("## Results")[0]
    sentence = r"rope lowers validation loss by ([0-9.]+) nats \[[0-9.]+, [0-9.]+\]( at|\.)"
    shown = re.search(sentence, answer)[1]
    assert float(shown) == pytest.approx(gain, abs=0.5 * 10 ** -len(shown.partition(".")[2]))
    item = next(line for line in answer.splitlines() if line.startswith("- rope · mha: "))
    assert re.search(r"nats \[[0-9.]+, [0-9.]+\] lower, ", item)
    assert "x the tokens for its own loss" in item


def test_the_margin_of_the_newest_launch_is_stated(fake):
    fake.write()
    margin = EquivalenceMargin(val_loss=2.0)
    launch = LaunchRecord(order=[], settings_hash="c0ffee", equivalence_margin=margin)
    fake.store.record_launch("tiny", launch)
    assert "(margin: 2 nats)" in page(fake)


def test_a_single_seed_is_no_verdict_with_its_reason(fake):
    fake.seeds = (0,)
    assert "No verdict: every difference comes from a single seed" in page(fake.write())


def test_partly_compiled_entries_have_no_speed(one_axis):
    """A run whose compiler gave up trains uncompiled: its speed says nothing of the variant."""
    one_axis.write()
    report = {"n_graphs": 8, "n_graph_breaks": 0, "limit_reached": True}
    entry = "learned-gqa2-single"
    for seed in one_axis.seeds:
        plant(one_axis, entry, seed, compilation=report)
        plant(one_axis, "learned-mha-single", seed, compilation=report | {"limit_reached": False})
    page, summary, _ = written(one_axis)
    gqa = next(row for row in summary["entries"] if row["entry"] == entry)
    assert gqa["tokens_per_s"] is gqa["step_s"] is gqa["mfu"] is None
    assert summary["verdicts"]["tokens_per_s"]["entries"] == {}
    assert summary["comparisons"][0]["tokens_per_s_ratio"] is None
    assert [(item["kind"], item["entry"]) for item in summary["caveats"]] == [
        ("not-compiled", entry)
    ]
    assert [ranking["budget_kind"] for ranking in summary["rankings"]].count("train_s") == 0
    assert [row["train_time_ratio"] for row in summary["savings"]] == [None]
    assert "gqa2 [not-compiled]" in page
    assert "Highest throughput: mha, " in page


def test_the_data_order_after_a_checkpoint_is_stated(one_axis):
    """A run that trained on its source's batches again would look better than it is."""
    one_axis.write()
    init_report = {
        "source": "start-learned-mha-single",
        "sha256": "0" * 64,
        "tensors": {"wte.weight": "loaded"},
        "dropped": [],
    }
    for run in one_axis.store.runs(one_axis.name):
        file = run.path / "spec.json"
        write_json(file, read_json(file) | {"data_offset_steps": 23})
        entry, _, seed = run.run_id.rpartition("-")[0].rpartition("-s")
        plant(one_axis, entry, int(seed), init_report=init_report)
    page, _, _ = written(one_axis)
    assert "They continue the data order after its first 23 steps" in page


def test_the_answer_names_entries_without_a_verdict(fake):
    """An entry that is left out of the answer seems not to be part of the study."""
    fake.write()
    rng = np.random.default_rng(0)
    seeds = {seed: rng.normal() for seed in fake.seeds}
    for run in fake.store.runs(fake.name):
        shift = 0.5 if run.spec.entry.startswith("rope-gqa2") else 0.01 * rng.normal()
        lines = [json.loads(line) for line in (run.path / "eval.jsonl").read_text().splitlines()]
        is_base = run.spec.entry == "learned-mha-single"
        lines[-1]["val_loss"] = 2.0 + seeds[run.spec.seed] + (0.0 if is_base else shift)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run.path / "eval.jsonl").write_text(text)
    answer = page(fake).split("## Results")[0]
    (row,) = (row for row in summary_of(fake)["answer"]["rows"] if row["entry"] == GQA)
    assert (row["verdict"], row["reason"]) == (None, "equal in every seed")
    assert "rope" in answer


def test_the_answer_names_entries_of_a_single_seed(fake):
    fake.outcome = {f"rope-gqa2-single-s{seed}": ("pending", None, None) for seed in (1, 2)}
    answer = page(fake.write()).split("## Results")[0]
    assert "- rope · gqa2: single seed" in answer


def test_an_unfinished_study_is_not_asked_for_more_seeds(fake):
    """Its seeds are stated, and not done yet."""
    labels = ("learned", "rope")
    fake.axes = {"positional": list(labels), "attention": ["mha"], "parallelism": ["single"]}
    fake.outcome = {
        f"{name}-mha-single-s{seed}": ("pending", None, None)
        for name in labels
        for seed in fake.seeds[1:]
    }
    answer = page(fake.write()).split("## Results")[0]
    assert "Not all runs are done." in answer
    assert "more `seeds`" not in answer


def test_leaders_state_that_unfinished_entries_are_left_out(fake):
    fake.gain = {"rope-gqa2-single": -1.0}
    fake.outcome = {"rope-gqa2-single-s2": ("pending", None, None)}
    text = page(fake.write())
    assert "Without 1 other entry whose runs are not all done: Lowest" in text
