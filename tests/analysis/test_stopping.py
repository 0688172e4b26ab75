"""If these failed, entries would stop too early, or get seeds that change no verdict."""

from types import SimpleNamespace

from harness.analysis.hypotheses import test_hypotheses
from harness.analysis.stopping import decide, questions
from harness.results.records import Look, Looks

test_hypotheses.__test__ = False  # not a test

LOOKS = Looks(planned=True, looks=[Look(seeds=list(range(n)), level=0.0125) for n in (3, 5, 8, 12)])


def entry(**axes):
    return SimpleNamespace(axes=axes)


def test_another_parallelism_is_asked_for_its_throughput_only():
    base = entry(attention="mha", parallelism="single")
    assert questions(entry(attention="mqa", parallelism="single"), base, LOOKS) == LOOKS.questions
    assert questions(entry(attention="mqa", parallelism="ddp2"), base, LOOKS) == LOOKS.questions
    assert questions(entry(attention="mha", parallelism="ddp2"), base, LOOKS) == ["tokens_per_s"]
    only_loss = LOOKS.model_copy(update={"questions": ["val_loss"]})
    assert questions(entry(attention="mha", parallelism="ddp2"), base, only_loss) == []


FAILED = ("failed", "nan", "as planted")


def decisions(synthetic, read_study):
    study = read_study(synthetic)
    return decide(study, test_hypotheses(study), LOOKS)


def test_only_an_entry_that_lost_a_seed_itself_stops(one_axis, read_study):
    one_axis.gain = {"learned-gqa2-single": -0.2}
    one_axis.outcome = {"learned-gqa2-single-s1": FAILED}
    assert decisions(one_axis, read_study) == {"learned-gqa2-single": "lost seeds"}


def test_an_entry_that_lost_all_seeds_is_not_settled(one_axis, read_study):
    one_axis.outcome = {f"learned-gqa2-single-s{seed}": FAILED for seed in one_axis.seeds}
    assert decisions(one_axis, read_study) == {"learned-gqa2-single": "lost seeds"}


def test_entries_continue_if_the_baseline_lost_a_seed(one_axis, read_study):
    one_axis.gain = {"learned-gqa2-single": 0.2}
    one_axis.outcome = {"learned-mha-single-s1": FAILED}
    assert decisions(one_axis, read_study) == {"learned-gqa2-single": "continues"}


def test_an_entry_with_all_seeds_is_unresolved(one_axis, read_study):
    one_axis.gain = {"learned-gqa2-single": -0.02}  # to the baseline's loss
    one_axis.seeds = tuple(range(12))
    assert decisions(one_axis, read_study) == {"learned-gqa2-single": "unresolved"}
