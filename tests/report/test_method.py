"""If these failed, a report would name another test than the one that its verdicts rest on."""

from dataclasses import replace

import pytest

from harness.analysis import dataset
from harness.analysis.summary import summarize
from harness.report import study_report
from harness.report.document import EntryTable, Table
from harness.report.render import markdown
from harness.report.sections import comparison, method
from harness.results.records.comparisons import TestFamily

TestFamily.__test__ = False
ATTENTION = {"attention": ["mha", "gqa2", "local64"], "parallelism": ["single", "ddp2"]}


@pytest.fixture
def summarized(fake):
    """Return a function that writes a study of seeds and returns its results."""

    def of_seeds(*seeds):
        fake.axes = {"positional": ["learned"], **ATTENTION}
        fake.seeds = seeds
        return summarize(dataset.read(fake.write().store, fake.name), "now")

    return of_seeds


def sentences(summary):
    blocks = method.paragraphs(summary, "val_loss", "tokens_per_s", "peak_memory")
    return "".join(str(part) for block in blocks for part in block.text)


def with_family(summary, **changes):
    """Return the results with other facts on how the losses were tested."""
    tests = summary.metric_tests["val_loss"]
    families = [family.model_copy(update=changes) for family in tests.families]
    losses = tests.model_copy(update={"families": families})
    return replace(summary, metric_tests={**summary.metric_tests, "val_loss": losses})


def test_two_keys_are_named_with_their_noise(summarized):
    text = sentences(summarized(0, 1, 2))
    assert "Validation loss: two keys (2 comparisons, 3 seeds, standard deviation of" in text
    assert "exact, because the differences are equal in every seed" in text  # the baseline's copy
    assert "Peak memory: exact, because the differences are equal in every seed." in text
    assert "Holm" not in text


def test_two_seeds_are_tested_by_holm_and_say_why(summarized):
    text = sentences(summarized(0, 1))
    assert "two keys" not in text
    assert "adjusted by Holm (1979), because there are fewer than 3 seeds (2 comp" in text


def test_a_noisy_baseline_is_named_with_its_test(summarized):
    reason = "the baseline is noisier than the other entries (F test, p = 0.004)"
    summary = with_family(summarized(0, 1, 2), method="Holm", reason=reason, noise=None)
    assert f"adjusted by Holm (1979), because {reason} (2 comparisons, 3" in sentences(summary)


def test_an_entry_that_another_rule_settled_at_an_earlier_look_is_named(summarized):
    """A first look at two seeds is tested by Holm, and later ones by two keys."""
    summary = summarized(0, 1, 2)
    tests = summary.metric_tests["val_loss"]
    entry = "learned-gqa2-single"
    settled = tests.entries[entry].model_copy(update={"method": "Holm", "look": 1})
    losses = tests.model_copy(update={"entries": {**tests.entries, entry: settled}})
    summary = replace(summary, metric_tests={**summary.metric_tests, "val_loss": losses})
    text = sentences(summary)
    assert "two keys (2 comparisons, 3 seeds" in text
    assert "at an earlier look t tests of each entry's own differences, adjusted by Holm" in text
    assert text.count(entry) == 1


def test_copies_name_the_entry_that_is_tested(summarized):
    """A verdict of their own would count the same losses twice."""
    summary = summarized(0, 1, 2)
    words = comparison.verdict_words(summary, "val_loss")
    assert words["learned-gqa2-ddp2"] == "as learned-gqa2-single"
    assert words["learned-mha-ddp2"] == "equivalent"
    assert all(
        not word.startswith("as ")
        for word in comparison.verdict_words(summary, "tokens_per_s").values()
    )


def test_copies_carry_no_mark_of_a_verdict(summarized):
    """A mark would make them look unresolved; they sort as the entry that is tested for them."""
    document = study_report.build(summarized(0, 1, 2), [])
    table = next(
        block
        for section in document.sections
        for block in section.blocks
        if isinstance(block, EntryTable)
    )
    column = [title.title for title in table.columns].index("verdict")
    row = next(row for row in table.rows if row.cells[0].text == "gqa2")
    single, copy = (context.cells[column] for context in row.contexts)
    assert (copy.text, copy.mark) == ("as single", "")
    assert copy.rank == single.rank == row.cells[column].rank


def test_a_difference_without_noise_is_no_certainty(summarized):
    summary = summarized(0, 1, 2)
    tests = summary.metric_tests["val_loss"]
    entry = "learned-gqa2-single"
    constant = tests.entries[entry].model_copy(update={"verdict": None, "seed_has_no_effect": True})
    losses = tests.model_copy(update={"entries": {**tests.entries, entry: constant}})
    summary = replace(summary, metric_tests={**summary.metric_tests, "val_loss": losses})
    assert comparison.verdict_words(summary, "val_loss")[entry] == "seed has no effect"
    assert "the seed has no effect on the difference" in sentences(summary)


def test_a_lost_seed_is_shown_and_asks_for_no_seeds(fake):
    fake.axes = {"positional": ["learned", "rope"], "attention": ["mha", "gqa2"]}
    fake.baseline = {"positional": "learned", "attention": "mha"}
    fake.outcome = {"rope-mha-s1": ("failed", "nan", "NotFiniteError: step 6")}
    summary = summarize(dataset.read(fake.write().store, fake.name), "now")
    document = study_report.build(summary, [])
    (row,) = (row for row in summary.answer.rows if row.entry == "rope-mha")
    assert (row.verdict, row.reason, row.difference) == (None, "lost seeds", None)
    answer = " ".join("".join(map(str, sentence)) for sentence in document.first.sentences)
    assert "rope [lost-seeds]: no verdict, as seeds were lost." in answer
    text = markdown.render(document)
    assert "Lost seed 1, of the entry or its baseline: `rope-mha" in text
    (section,) = (section for section in document.sections if section.id == "comparison")
    table = next(block for block in section.blocks if isinstance(block, Table))
    row = table.frame[table.frame["entry"] == "rope-mha"].iloc[0]
    assert (row["verdict"], row["seeds"], row["seeds needed"]) == ("unresolved", "2 (1 lost)", "–")
    assert "[" not in row["difference in val loss"]
