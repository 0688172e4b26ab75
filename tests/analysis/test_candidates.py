"""Entries that differ only in their context are one candidate; no entry is lost or doubled."""

import pytest

from harness.analysis import dataset
from harness.analysis.candidates import collapsed_axes, find_candidates

AXES = {"positional": ["learned", "rope"], "attention": ["mha", "gqa2"]}
PARALLEL = {"parallelism": ["single", "ddp2"]}
KINDS = {
    "no context": (AXES, None, [], 4),
    "parallelism": (AXES | PARALLEL, None, ["parallelism"], 4),
    "only parallelism": (PARALLEL, None, [], 2),
    "compare": (AXES, ["positional"], ["attention"], 2),
    "compare and parallelism": (AXES | PARALLEL, ["attention"], ["positional", "parallelism"], 2),
    "only parallelism is asked": (AXES | PARALLEL, ["parallelism"], list(AXES), 2),
    "one entry": ({"positional": ["learned"]}, None, [], 1),
}


def read(fake):
    fake.baseline = {axis: labels[0] for axis, labels in fake.axes.items()}
    return dataset.read(fake.write().store, fake.name)


@pytest.mark.parametrize("kind", KINDS)
def test_each_entry_is_in_one_candidate(fake, kind):
    fake.axes, fake.compare, collapsed, n_candidates = KINDS[kind]
    study = read(fake)
    candidates = find_candidates(study)
    assert sorted(collapsed_axes(study)) == sorted(collapsed)
    assert len(candidates) == n_candidates
    labels = [entry.label for candidate in candidates for entry in candidate.entries]
    assert sorted(labels) == sorted(entry.label for entry in study.entries)
    for candidate in candidates:
        for axis in collapsed:
            assert candidate.main.axes[axis] == study.baseline[axis]
        for entry in candidate.entries:
            assert {axis: entry.axes[axis] for axis in candidate.levels} == candidate.levels


def test_all_candidates_have_the_parallelism_of_the_baseline(fake):
    """Otherwise the speed of two processes would be compared with that of one."""
    fake.axes = AXES | PARALLEL
    fake.outcome = {f"rope-mha-single-s{seed}": ("pending", None, None) for seed in fake.seeds}
    mains = [candidate.main for candidate in find_candidates(read(fake))]
    assert {entry.axes["parallelism"] for entry in mains} == {"single"}
    assert [bool(entry.done) for entry in mains] == [True, True, False, True]


def test_if_the_baseline_has_another_parallelism_all_have_it(fake):
    fake.axes = AXES | PARALLEL
    fake.outcome = {f"learned-mha-single-s{seed}": ("pending", None, None) for seed in fake.seeds}
    mains = [candidate.main for candidate in find_candidates(read(fake))]
    assert {entry.axes["parallelism"] for entry in mains} == {"ddp2"}
