"""If these failed, records of a study would show a verdict and an interval that disagree."""

from dataclasses import replace

import numpy as np
import pytest

from harness.analysis import summary
from harness.analysis.looks import levels
from harness.analysis.pairs import METRICS
from harness.analysis.significance import ALPHA
from harness.analysis.verdicts import excludes_zero
from harness.results.records import EquivalenceMargin, Look, Looks
from tests.analysis.simulated_families import contradiction

N_STUDIES = 8  # of each design


def with_new_values(study, rng):
    """Return the study with other final losses and step times, and some runs failed."""
    noise = float(rng.choice([0.001, 0.01]))
    effects = {entry.label: float(rng.choice([0.0, 0.002, -0.03, 0.03])) for entry in study.entries}
    speeds = {entry.label: float(rng.choice([1.0, 1.001, 0.9, 1.2])) for entry in study.entries}
    seeds = {run.seed: rng.normal(0, 0.05) for run in study.runs}
    fails = rng.random() < 0.5
    entries = []
    for entry in study.entries:
        runs = []
        for run in entry.runs:
            if fails and rng.random() < 0.1:
                runs.append(replace(run, status="failed", reason="nan", probes=None))
                continue
            loss = 2 + seeds[run.seed] + effects[entry.label] + noise * rng.standard_normal()
            scale = speeds[entry.label] * np.exp(seeds[run.seed] + noise * rng.standard_normal())
            ratio = loss / run.evals.val_loss[-1]
            evals = replace(
                run.evals,
                val_loss=ratio * run.evals.val_loss,
                bits_per_byte=ratio * run.evals.bits_per_byte,
            )
            steps = replace(run.steps, step_s=run.steps.step_s / scale)
            runs.append(replace(run, evals=evals, steps=steps))
        entries.append(replace(entry, runs=tuple(runs)))
    launches = list(study.launches)
    margins = {"val_loss": 0.005, "tokens_per_s": 0.02} if rng.random() < 0.6 else {}
    stated = EquivalenceMargin(**margins) if margins else None
    launches[-1] = launches[-1].model_copy(
        update={"equivalence_margin": stated, "settings_hash": study.settings_hash}
    )
    return replace(study, entries=tuple(entries), launches=tuple(launches))


def with_looks(study, rng):
    """Return the study after looks, in which some entries stopped, or have seeds of their own."""
    entries = list(study.entries[:1])
    for entry in study.entries[1:]:
        runs = entry.runs
        fate = rng.choice(["all", "stopped", "unpaired"])
        if fate == "stopped":
            runs = runs[:2]
        if fate == "unpaired":
            specs = [run.spec.model_copy(update={"seed": run.seed + 100}) for run in runs]
            runs = [replace(run, spec=spec) for run, spec in zip(runs, specs, strict=True)]
        entries.append(replace(entry, runs=tuple(runs)))
    looked = replace(study, entries=tuple(entries))
    seeds = sorted({run.seed for run in looked.runs})
    counts = [2, 3, len(seeds)]
    is_planned = bool(rng.random() < 0.5)
    pairs = zip(counts, levels(len(counts), is_planned), strict=True)
    looks = [Look(seeds=seeds[:n], level=level) for n, level in pairs]
    vars(looked)["looks"] = Looks(planned=is_planned, looks=looks)  # a cached property
    return looked


def disagreements(tests):
    """Yield where a p-value is on the other side of 0.05 than the verdict, or has no family."""
    tested = {entry for family in tests.families for entry in family.entries}
    for name, result in tests.entries.items():
        if result.method in (None, "exact"):
            continue
        if name not in tested:
            yield f"{name} is in no family: {result}"
        differs = result.verdict in ("better", "worse")
        is_open = result.verdict == "unresolved" and not result.lost_seeds
        if (differs and result.p_adjusted >= ALPHA) or (is_open and result.p_adjusted < ALPHA):
            yield f"{name} is {result.verdict}, p {result.p_adjusted}"
        p_equivalent = result.p_equivalent
        if is_open and p_equivalent is not None and p_equivalent < ALPHA:
            yield f"{name} is {result.verdict}, p of equivalence {p_equivalent}"


def contradictions(results):
    """Yield where the records of a study contradict themselves."""
    for quantity, tests in results.metric_tests.items():
        lower_is_better = METRICS[quantity].lower_is_better
        for name, result in [*tests.entries.items(), *((p.asked, p) for p in tests.pooled)]:
            if result.method == "exact":
                continue
            bounds = result.difference.ci95
            found = contradiction(result.verdict, bounds, tests.margin, lower_is_better)
            if found:
                yield f"{quantity} of {name}: {found}: {result}"
        for effect in [*tests.main_effects, *tests.interactions]:
            found = contradiction(effect.verdict, effect.ci95, tests.margin, lower_is_better)
            if found:
                yield f"effect on {quantity}: {found}: {effect}"
        for found in disagreements(tests):
            yield f"{quantity}: {found}"
    losses = results.metric_tests["val_loss"].entries
    speeds = results.metric_tests["tokens_per_s"].entries
    for row in results.comparisons:
        loss = losses.get(row.entry)
        if loss is not None and loss.verdict is not None:
            shown = row.val_loss_difference or row.bits_per_byte_difference
            if shown.ci95 != loss.difference.ci95:
                yield f"loss of {row.entry}: {shown.ci95}, tested {loss.difference.ci95}"
            if row.excludes_zero != excludes_zero(loss.difference.ci95):
                yield f"loss of {row.entry}: excludes_zero is {row.excludes_zero}"
        speed = speeds.get(row.entry)
        if speed is not None and speed.verdict is not None and row.tokens_per_s_ratio is not None:
            bounds = row.tokens_per_s_ratio.ci95
            logs = None if bounds is None else tuple(np.log(bounds))
            tested = speed.difference.ci95
            if (logs is None) != (tested is None) or (tested and not np.allclose(logs, tested)):
                yield f"throughput of {row.entry}: {logs}, tested {tested}"


@pytest.fixture
def one_family(fake):
    fake.axes = {"positional": ["learned", "rope", "alibi"], "attention": ["mha", "gqa2"]}
    fake.baseline = {"positional": "learned", "attention": "mha"}
    fake.seeds = (0, 1, 2, 3)
    return fake


@pytest.mark.parametrize("design", ["one_family", "parallelisms", "asked_in_sizes"])
def test_no_record_contradicts_another(design, request, read_study):
    """Tests, comparisons, pooled tests and effects, with and without failed runs and margins."""
    study = read_study(request.getfixturevalue(design))
    rng = np.random.default_rng(len(design))
    wrong = []
    for _ in range(N_STUDIES):
        results = summary.summarize(with_new_values(study, rng), "2026-01-01")
        assert results.metric_tests["val_loss"].entries
        wrong += contradictions(results)
    assert not wrong, "\n".join(wrong[:5])


@pytest.mark.parametrize("design", ["one_family", "asked_in_sizes"])
def test_no_record_contradicts_another_after_looks(design, request, read_study):
    """Nor after entries stopped, began late or have no seeds in common with the baseline."""
    study = read_study(request.getfixturevalue(design))
    rng = np.random.default_rng(len(design))
    wrong = []
    methods = set()
    for _ in range(N_STUDIES):
        looked = with_looks(with_new_values(study, rng), rng)
        results = summary.summarize(looked, "2026-01-01")
        wrong += contradictions(results)
        methods |= {test.method for test in results.metric_tests["val_loss"].entries.values()}
    assert not wrong, "\n".join(wrong[:5])
    assert {"two keys", "Holm", "Welch"} <= methods
