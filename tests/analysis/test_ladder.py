"""If these failed, a reader would be promised a speedup at scale that the runs do not show."""

import json
import math

import numpy as np
import pytest
from synthetic_ladder import EXPONENT, IRREDUCIBLE, SyntheticLadder

from harness.analysis import dataset, ladder
from harness.results.records import LadderSettings


@pytest.fixture
def fake_ladder(tmp_path, monkeypatch):
    """Return a synthetic ladder of two entries, four sizes and three seeds, still to be written."""
    monkeypatch.setattr("os.fsync", lambda fd: None)
    monkeypatch.setattr("harness.analysis.ladder_estimates.RESAMPLES", 300)
    fake = SyntheticLadder(tmp_path / "results", name="ladder")
    fake.axes["attention"] = ["mha", "gqa2"]
    return fake


def read(fake):
    return ladder.ladder(dataset.read(fake.write().store, fake.name))


def without_noise(fake):
    fake.noise = 1e-9
    fake.seed_noise = 1e-9
    return fake


def test_a_planted_law_and_speedup_are_recovered(fake_ladder):
    fake_ladder.ladder = LadderSettings(axis="size", project_to=1e12)
    found = read(without_noise(fake_ladder))
    assert found.sizes == ["S0", "S1", "S2", "S3"]
    fits = {(fit.entry, fit.over): fit for fit in found.fits}
    assert len(fits) == 6
    for scale, exponent in (("flops", EXPONENT), ("parameters", 2 * EXPONENT)):
        assert fits["mha", scale].irreducible == pytest.approx(IRREDUCIBLE, abs=0.01)
        assert fits["mha", scale].exponent == pytest.approx(exponent, rel=0.02)
        assert fits["mha", scale].leave_out_error == pytest.approx(0, abs=1e-3)
    (trend,) = found.trends
    assert trend.compute_multiplier == pytest.approx(1.2, rel=1e-3)
    assert trend.change_per_decade == pytest.approx(1, abs=1e-3) and trend.verdict == "holds"
    assert [row.compute_multiplier for row in found.speedups] == pytest.approx([1.2] * 4, rel=1e-3)
    assert found.projections[1].compute_multiplier == pytest.approx(1.2, rel=0.01)
    law = IRREDUCIBLE + (1e12 / fake_ladder.compute(["", "mha", "", "S0"])) ** -EXPONENT
    assert found.projections[0].val_loss == pytest.approx(law, abs=1e-3)


@pytest.mark.parametrize(
    ("drift", "verdict"), [(1.0, "holds"), (1.3, "grows"), (0.8, "shrinks")], ids=str
)
def test_a_trend_over_sizes_is_named(fake_ladder, drift, verdict):
    fake_ladder.drift = {"gqa2": drift}
    (trend,) = read(without_noise(fake_ladder)).trends
    assert trend.verdict == verdict
    per_decade = drift ** (math.log(10) / math.log(fake_ladder.growth**2))
    assert trend.change_per_decade == pytest.approx(per_decade, rel=0.01)


def test_a_noisy_trend_is_unresolved(fake_ladder):
    fake_ladder.noise = 0.05
    (trend,) = read(fake_ladder).trends
    assert trend.verdict == "unresolved"


def test_costlier_flops_count_against_an_entry(fake_ladder):
    """Equal in loss per FLOP: an entry with twice the FLOPs per token has no speedup."""
    fake_ladder.gains = {}
    fake_ladder.flops = {"gqa2": 2.0}
    found = read(without_noise(fake_ladder))
    assert [row.compute_multiplier for row in found.speedups] == pytest.approx([1.0] * 4, rel=1e-3)
    assert all(row.val_loss_difference < -0.01 for row in found.speedups)


def test_time_is_saved_by_speed_and_by_learning(fake_ladder):
    fake_ladder.speed = {"gqa2": 1.5}
    fake_ladder.flops = {"gqa2": 2.0}
    found = read(without_noise(fake_ladder))
    for row in found.speedups:
        assert row.compute_multiplier == pytest.approx(1.2, rel=1e-3)
        assert row.time_multiplier == pytest.approx(1.2 * 1.5, rel=0.05)
        low, high = row.time_multiplier_ci95
        assert low < row.time_multiplier < high


def test_one_seed_gives_a_speedup_in_time_without_an_interval(fake_ladder):
    """The noise between runs is unknown, but not the ratio of the speeds."""
    fake_ladder.seeds = (0,)
    fake_ladder.speed = {"gqa2": 1.5}
    found = read(without_noise(fake_ladder))
    for row in (*found.speedups, *found.trends):
        assert row.time_multiplier == pytest.approx(1.5 * row.compute_multiplier, rel=0.05)
        assert row.time_multiplier_ci95 is None


def test_the_smaller_steps_of_a_ramp_do_not_count_in_the_speed(fake_ladder):
    """Step times are those of full steps: the first step of a ramp has other tokens."""
    fake_ladder.speed = {"gqa2": 1.5}
    without_noise(fake_ladder).write()
    for path in fake_ladder.root.glob("ladder/*gqa2*/steps.rank0.jsonl"):
        first, *others = path.read_text().splitlines()
        step = json.loads(first)
        step["tokens"] //= 2
        path.write_text("\n".join([json.dumps(step), *others]) + "\n")
    found = ladder.ladder(dataset.read(fake_ladder.store, fake_ladder.name))
    for row in found.speedups:
        assert row.time_multiplier / row.compute_multiplier == pytest.approx(1.5, rel=0.05)


def test_a_loss_that_the_baseline_never_reaches_is_no_number(fake_ladder):
    class Lower(SyntheticLadder):
        def true_loss(self, labels):
            return super().true_loss(labels) - 0.9 * (labels[1] == "gqa2")

    fake_ladder.ladder = LadderSettings(axis="size", irreducible="per entry")
    found = read(Lower(**vars(without_noise(fake_ladder))))
    reached = [row.compute_multiplier is not None for row in found.speedups]
    assert reached == [True, False, False, False]  # S0 starts at 2.4
    assert found.trends[0].compute_multiplier is None and found.trends[0].verdict is None
    assert "inf" not in found.model_dump_json().lower()


def test_the_largest_size_is_predicted_from_the_others(fake_ladder):
    """A law that breaks at the largest size: the error is that break."""

    class Broken(SyntheticLadder):
        def true_loss(self, labels):
            return super().true_loss(labels) + 0.05 * (labels[-1] == "S3")

    broken = Broken(**vars(without_noise(fake_ladder)))
    for fit in read(broken).fits:
        assert fit.leave_out_error == pytest.approx(-0.05, abs=0.005)
        assert fit.largest_measured == pytest.approx(fit.largest_predicted + 0.05, abs=0.005)


def test_three_sizes_give_a_law_but_no_left_out_error(fake_ladder):
    fake_ladder.n_sizes = 3
    found = read(fake_ladder)
    assert all(fit.leave_out_error is None for fit in found.fits)
    assert all(fit.irreducible_ci95 for fit in found.fits)


def test_an_entry_of_two_sizes_is_named_without_a_law(fake_ladder):
    for size in ("S2", "S3"):
        for seed in fake_ladder.seeds:
            fake_ladder.outcome[f"learned-gqa2-single-{size}-s{seed}"] = ("failed", "oom", "OOM")
    found = read(fake_ladder)
    (excluded,) = found.unfitted
    assert (excluded.entry, excluded.reason) == ("gqa2", "fewer than three sizes are done")
    assert {fit.entry for fit in found.fits} == {"mha"}
    assert found.speedups == []


@pytest.mark.parametrize("entry", ["gqa2", "mha"])
def test_a_curve_that_lost_a_seed_has_no_speedup(fake_ladder, entry):
    """Its other seeds are a selection, whichever of the two curves lost it."""
    label = f"learned-{entry}-single-S1"
    fake_ladder.outcome = {f"{label}-s0": ("failed", "nan", "not finite")}
    found = read(fake_ladder)
    assert found.speedups == found.trends == []
    (excluded,) = found.uncompared
    assert excluded.reason == f"{label} lost seeds, so that its other seeds are a selection"
    lost = [(point.entry, point.size) for point in found.points if point.lost_seeds == [0]]
    assert lost == [(entry, "S1")]


def test_missing_runs_leave_their_pairs_out(fake_ladder):
    fake_ladder.outcome = {
        "learned-gqa2-single-S1-s0": ("pending", None, None),
        "learned-mha-single-S3-s1": ("pending", None, None),
    }
    found = read(fake_ladder)
    assert len(found.speedups) == 4
    assert all(0.9 < row.compute_multiplier < 1.5 for row in found.speedups)
    assert all(row.compute_multiplier_ci95 for row in found.speedups)


def test_one_seed_takes_the_noise_from_the_residuals(fake_ladder):
    fake_ladder.seeds = (0,)
    found = read(fake_ladder)
    assert all(row.compute_multiplier_ci95 is not None for row in found.speedups)
    low, high = found.trends[0].compute_multiplier_ci95
    assert low < found.trends[0].compute_multiplier < high


def test_a_context_axis_of_sizes_is_a_ladder_without_a_key(fake_ladder):
    fake_ladder.ladder = None
    assert read(fake_ladder).axis == "size"
    fake_ladder.n_sizes = 2
    fake_ladder.root = fake_ladder.root.parent / "two"
    assert read(fake_ladder) is None


@pytest.mark.parametrize("growth", [1.5, 3.0])
def test_a_projection_is_marked_beyond_ten_times_the_largest(fake_ladder, growth):
    largest = None
    for times in (9.9, 10.1):
        fake_ladder.growth = growth
        largest = fake_ladder.compute(["", "mha", "", "S3"])
        fake_ladder.ladder = LadderSettings(axis="size", project_to=times * largest)
        fake_ladder.root = fake_ladder.root.parent / f"results{times}"
        found = read(fake_ladder).projections
        assert [row.is_far for row in found] == [times > 10] * 2
        low, high = found[0].val_loss_ci95
        assert low < found[0].val_loss < high


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ((0.92, 1.09), "holds"),
        ((1.01, 1.09), "holds"),
        ((1.01, 1.3), "grows"),
        ((0.8, 0.99), "shrinks"),
        ((0.8, 1.3), "unresolved"),
        ((1.2, math.nan), "unresolved"),
        (None, None),
    ],
    ids=str,
)
def test_the_verdict_follows_from_the_interval(bounds, verdict):
    assert ladder.trend_verdict(bounds) == verdict


def test_curves_cover_all_sizes_and_the_budget(fake_ladder):
    fake_ladder.ladder = LadderSettings(axis="size", project_to=1e13)
    found = read(fake_ladder)
    x = np.array([p.x for p in found.curves if (p.entry, p.over) == ("mha", "flops")])
    assert x.max() == pytest.approx(1e13) and x.min() <= min(p.flops for p in found.points) * 1.001


def test_entries_that_see_later_tokens_have_no_law(fake_ladder):
    study = dataset.read(fake_ladder.write().store, fake_ladder.name)
    found = ladder.ladder(study, leaking={"learned-gqa2-single-S2"})
    assert found.unfitted[0].reason == "it sees later tokens"
    assert {fit.entry for fit in found.fits} == {"mha"} and found.speedups == []


@pytest.mark.parametrize("asked", [True, False])
def test_losses_of_other_tokens_share_no_law(fake_ladder, asked):
    """Entries of another tokenizer have their own E, and no speedup in nats per token."""

    class Tokenized(SyntheticLadder):
        def spec(self, entry, labels, *args):
            spec = super().spec(entry, labels, *args)
            if labels[1] == "mha" or (not asked and labels[-1] != "S3"):
                return spec
            return spec.model_copy(
                update={"data": spec.data.model_copy(update={"tokenizer": "gpt2"})}
            )

    found = read(Tokenized(**vars(fake_ladder)))
    assert found.speedups == []
    if asked:
        assert {fit.entry for fit in found.fits} == {"mha", "gqa2"}
        assert found.uncompared[0].entry == "gqa2"
    else:
        assert "the losses of its sizes are not comparable" in found.unfitted[0].reason
