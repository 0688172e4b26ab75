"""Verdicts compare the right runs in the right families, and the report states them."""

import re

import numpy as np
import pytest

from harness import report
from harness.analysis import budgets, hypotheses
from harness.analysis import dataset as accounting
from harness.analysis import power as planning
from harness.analysis import significance as verdicts
from harness.cli import app as cli
from harness.results.records import EquivalenceMargin, LaunchRecord


@pytest.fixture
def read(fake):
    def read_(**changes):
        for name, value in changes.items():
            setattr(fake, name, value)
        fake.write()
        return accounting.read(fake.store, fake.name)

    return read_


def page(fake):
    return (
        report.write(fake.store, fake.name, fake.root.parent / "reports") / "report.md"
    ).read_text()


def test_parallelisms_that_repeat_a_loss_are_one_comparison(read):
    """Else bitwise equal runs would make every p-value larger, or the noise of effects smaller."""
    study = read()
    found = hypotheses.test_hypotheses(study)["val_loss"]
    paired = {
        e.label: hypotheses._differences(study, e, hypotheses.METRICS["val_loss"])
        for e in study.entries
    }
    single = {
        label: values for label, values in paired.items() if label.endswith("single") and values
    }
    assert len(single) == 5
    expected = verdicts.test_family(single, None)
    assert all(found.entries[label] == verdict for label, verdict in expected.items())
    words = {label: verdict.verdict for label, verdict in found.entries.items()}
    for label in single:
        ddp2 = label.replace("single", "ddp2")
        assert paired[ddp2] == paired[label] and words[ddp2] == words[label]
    assert (
        found.design.runs == 6 * 3
        and hypotheses.test_hypotheses(study)["tokens_per_s"].design.runs == 18 * 3
    )


def test_planted_effects_are_found_with_their_sign(read):
    study = read(seeds=tuple(range(8)))
    found = hypotheses.test_hypotheses(study)
    assert found["val_loss"].entries["rope-mha-single"].verdict == "better"
    main = {tuple(level.levels.values()): level for level in found["val_loss"].main_effects}
    assert main["rope",].verdict == "better" and main["rope",].estimate < 0
    speed = {tuple(level.levels.values()): level for level in found["tokens_per_s"].main_effects}
    assert speed["ddp2",].verdict == "worse" and np.exp(speed["ddp2",].estimate) == pytest.approx(
        0.62, rel=0.1
    )


def test_a_diverging_entry_is_not_tested(read):
    study = read()
    found = hypotheses.test_hypotheses(study, diverging={"rope-mha-ddp2"})
    assert all("rope-mha-ddp2" not in judged.entries for judged in found.values())


def record(fake, settings_hash, val_loss):
    """Record a launch with an equivalence margin."""
    margin = EquivalenceMargin(val_loss=val_loss)
    launch = LaunchRecord(order=[], settings_hash=settings_hash, equivalence_margin=margin)
    fake.store.record_launch("tiny", launch)


def test_the_margin_is_that_of_the_newest_launch(fake, read):
    read()
    for value in (0.5, 2.0):
        record(fake, "c0ffee", value)
    record(fake, "other", 9.0)
    study = accounting.read(fake.store, "tiny")
    assert study.margins == {"val_loss": 2.0}
    assert {v.verdict for v in hypotheses.test_hypotheses(study)["val_loss"].entries.values()} == {
        "equivalent"
    }
    assert "the study's margin (2 nats)" in page(fake)


def test_one_seed_gets_no_verdict_and_a_reason(fake, read):
    study = read(seeds=(0,))
    assert all(
        v.verdict is None for v in hypotheses.test_hypotheses(study)["val_loss"].entries.values()
    )
    assert "No verdict: every difference comes from a single seed" in page(fake)


def test_the_answer_says_by_how_much_and_at_what_cost(fake, read):
    read(seeds=tuple(range(8)))
    study = accounting.read(fake.store, fake.name)
    loss = {entry.label: [run.evals.val_loss[-1] for run in entry.done] for entry in study.entries}
    gain = np.mean(np.subtract(loss["learned-mha-single"], loss["rope-mha-single"]))
    answer = page(fake).split("## Results")[0]
    assert f"Largest improvement: `rope-mha-single`, {gain:.4f} [" in answer
    assert re.search(
        r"x throughput \[[0-9.]+, [0-9.]+\] and (0\.9|1\.0)[0-9]+x peak memory", answer
    )
    assert "x fewer tokens" in answer


def test_an_entry_of_a_unique_size_has_no_size_ranking(fake, read):
    study = read(axes={"positional": ["learned", "rope"]}, baseline={"positional": "learned"})
    same = budgets.rankings(study)
    assert [ranking.budget_kind for ranking in same] == ["tokens", "flops", "train_s", "parameters"]
    for run in study.find({"positional": "rope"}).done:
        run.probes.__dict__["parameters"] *= 2  # records are frozen
    assert [ranking.budget_kind for ranking in budgets.rankings(study)] == [
        "tokens",
        "flops",
        "train_s",
    ]


def test_the_page_answers_first_and_shows_effects_and_budgets(fake, read):
    read()
    text = page(fake)
    assert text.index("Validation loss against `learned-mha-single`: ") < text.index("## Results")
    for part in (
        "## Effects",
        "positional rope with attention gqa2",
        "## Equal budgets",
        "equal training time",
    ):
        assert part in text


# -- budgets --


def test_slow_entries_rank_lower_at_equal_time(read):
    study = read()
    found = {ranking.budget_kind: ranking for ranking in budgets.rankings(study)}
    by_tokens, by_time = found["tokens"].val_loss, found["train_s"].val_loss
    assert set(by_tokens) == {label for label in by_time if label.endswith("single")}, (
        "the others repeat them"
    )
    assert by_time["rope-mha-ddp2"].mean > by_time["rope-mha-single"].mean
    assert list(by_time) == sorted(by_time, key=lambda label: by_time[label].mean)
    assert found["train_s"].budget == min(run.evals.train_s[-1] for run in study.runs)


def test_the_step_that_reaches_a_loss_is_interpolated(read):
    study = read()
    entry, base = (
        study.find({"positional": "rope", "attention": "mha", "parallelism": "single"}),
        study.find({"positional": "learned", "attention": "mha", "parallelism": "single"}),
    )
    run, other = entry.done[0], base.done[0]
    step = budgets.step_reaching_baseline(run, other)
    assert np.interp(step, run.evals.step, run.evals.val_loss) == pytest.approx(
        other.evals.val_loss[-1]
    )
    one = next(s for s in budgets.savings(study) if s.entry == "rope-mha-single")
    factors = [
        b.evals.step[-1] / budgets.step_reaching_baseline(r, b)
        for r, b in zip(entry.done, base.done, strict=True)
    ]
    assert (
        one.tokens_ratio == pytest.approx(np.exp(np.mean(np.log(factors)))) and one.tokens_ratio > 1
    )
    assert one.tokens_ratio_ci95[0] < one.tokens_ratio < one.tokens_ratio_ci95[1]


def test_an_entry_that_never_reaches_the_loss_has_no_saving(read):
    study = read()
    one = next(s for s in budgets.savings(study) if s.entry == "learned-local64-single")
    assert one.seeds == [] and one.not_reached == [0, 1, 2] and one.tokens_ratio is None


# -- planning --


def test_a_plan_uses_the_measured_noise(read):
    study = read()
    found = planning.plan_seeds(study, 0.01)
    groups = [
        hypotheses._differences(study, e, hypotheses.METRICS["val_loss"]) for e in study.entries
    ]
    groups = [values for values in groups if values and np.ptp(values) > 0]
    assert found.noise == pytest.approx(
        np.sqrt(np.mean([np.var(values, ddof=1) for values in groups]))
    )
    assert found.seeds_low <= found.seeds <= found.seeds_high and found.seeds_done == 3
    alpha = 0.05 / found.n_compared
    assert verdicts.paired_t_power(found.seeds, 0.01, found.noise, alpha) >= 0.8
    assert verdicts.paired_t_power(
        3, found.minimum_detectable_effect, found.noise, alpha
    ) == pytest.approx(0.8)
    assert found.hours == pytest.approx(found.hours_per_seed * (found.seeds - 3))


def test_plan_prints_seeds_and_refuses_a_single_seed(fake, read, capsys):
    read(seeds=(0,))
    with pytest.raises(SystemExit) as left:
        cli.main(["plan", "tiny", "--effect-size", "0.01", "--results", str(fake.root)])
    assert left.value.code == 2 and "run a pilot" in capsys.readouterr().err
    read(seeds=(0, 1, 2))
    for arguments, expected in (
        ([], "seeds detect 0.01 nats with 80 % power"),
        (["--fractional-design", "7"], "7 entries that identify"),
    ):
        with pytest.raises(SystemExit) as left:
            cli.main(
                ["plan", "tiny", "--effect-size", "0.01", "--results", str(fake.root), *arguments]
            )
        assert left.value.code == 0 and expected in capsys.readouterr().out


@pytest.mark.parametrize("size", [5, 6, 9, 12])
def test_a_fractional_design_identifies_all_main_effects(size):
    levels = {"p": ["a", "b"], "q": ["a", "b", "c"], "r": ["a", "b"]}
    chosen = planning.fractional_design(levels, {"p": "a", "q": "a"}, size)
    assert len(chosen) == size == len({tuple(cell.values()) for cell in chosen})
    assert any(cell["p"] == cell["q"] == "a" for cell in chosen)
    rows = [
        [1.0, *(float(c[x] == n) for x, names in levels.items() for n in names[1:])] for c in chosen
    ]
    assert np.linalg.matrix_rank(rows) == 5
    if size in (6, 12):
        assert all([c["q"] for c in chosen].count(name) == size // 3 for name in levels["q"])


def test_a_fractional_design_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="4: must be at least 5"):
        planning.fractional_design({"p": ["a", "b"], "q": ["a", "b", "c"], "r": ["a", "b"]}, {}, 4)
