"""If these failed, noise would be attributed wrongly, or runs of one seed be counted twice."""

import json
from itertools import product

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf

from harness import report
from harness.analysis import dataset, hypotheses, variance_components


def drawn(rng, n, init, data, rest):
    """Draw a table of losses with these standard deviations of rows, columns, and the rest."""
    rows, columns = init * rng.standard_normal(n), data * rng.standard_normal(n)
    return 2.0 + rows[:, None] + columns + rest * rng.standard_normal((n, n))


def test_mean_squares_are_those_of_an_analysis_of_variance():
    table = drawn(np.random.default_rng(0), 4, 0.3, 0.2, 0.1)
    rows = pd.DataFrame(
        [{"i": f"{i}", "j": f"{j}", "y": table[i, j]} for i, j in product(range(4), range(4))]
    )
    expected = sm.stats.anova_lm(smf.ols("y ~ C(i) + C(j)", rows).fit())["mean_sq"].tolist()
    assert variance_components._mean_squares(table) == pytest.approx(expected, rel=1e-9)
    init, data, rest = variance_components.estimate_components([table])
    squares = dict(zip(("i", "j", "rest"), expected, strict=True))
    assert init.sd**2 == pytest.approx((squares["i"] - squares["rest"]) / 4, rel=1e-9)
    assert data.sd**2 == pytest.approx((squares["j"] - squares["rest"]) / 4, rel=1e-9)
    assert rest.sd**2 == pytest.approx(squares["rest"], rel=1e-9)
    assert init.fraction + data.fraction + rest.fraction == pytest.approx(1)


@pytest.mark.parametrize(
    ("init", "data", "rest"), [(0.03, 0.01, 0.01), (0.0, 0.03, 0.02), (0.02, 0.02, 0.02)]
)
def test_components_are_unbiased_with_95_percent_coverage(init, data, rest):
    rng, n = np.random.default_rng(1), 1000
    truth, found, held = (init, data, rest), [], []
    for _ in range(n):
        parts = variance_components.estimate_components([drawn(rng, 5, *truth)])
        found.append([part.sd**2 for part in parts])
        held.append(
            [part.ci95[0] <= sd <= part.ci95[1] for part, sd in zip(parts, truth, strict=True)]
        )
    assert np.mean(found, axis=0)[2] == pytest.approx(rest**2, rel=0.05)
    for i, sd in enumerate(truth[:2]):
        slack = (
            0.12 * sd**2 if sd else 0.5 * rest**2 / 5
        )  # cut off at 0, an absent source shows a little
        assert np.mean(found, axis=0)[i] == pytest.approx(sd**2, abs=slack + 0.12 * rest**2 / 5)
    assert (
        np.mean(held, axis=0).min() >= 0.93
    )  # Williams's are at least 95 %, the chi-squared one is exact


@pytest.fixture
def crossed(fake):
    """A study with every pair of four seeds, in which first values make most of the noise."""
    fake.axes = {"positional": ["learned", "rope"], "attention": ["mha"], "parallelism": ["single"]}
    fake.seeds, fake.vary, fake.name = (0, 1, 2, 3), True, "crossed"
    fake.write()
    rng = np.random.default_rng(2)
    tables = {
        name: drawn(rng, 4, 0.1, 0.01, 0.001) - 0.5 * (name == "rope")
        for name in ("learned", "rope")
    }
    for run in fake.store.runs(fake.name):
        data_seed = run.spec.order_seed
        loss = tables[run.spec.axes["positional"].label][run.spec.seed, data_seed]
        lines = [line.model_dump() for line in run.evals()]
        lines[-1]["val_loss"] = loss
        (run.path / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return fake, tables


def written(fake):
    folder = report.write(fake.store, fake.name, fake.root.parent / "reports")
    return (
        json.loads((folder / "summary.json").read_text()),
        (folder / "report.md").read_text(),
        folder,
    )


def test_crossed_runs_count_for_variance_components_only(crossed, no_figures):
    fake, tables = crossed
    summary, page, folder = written(fake)
    loss, difference = summary["variance"]
    assert loss["entries"] == ["learned-mha-single", "rope-mha-single"] and loss["seeds"] == [
        0,
        1,
        2,
        3,
    ]
    assert loss["init"]["fraction"] > 0.8 > loss["data"]["fraction"]
    assert difference["entries"] == ["rope-mha-single"]
    assert (
        "## Sources of noise" in page
        and "24 runs (24 done) combine the initialization of one seed" in page
    )
    assert "2 entries in 32 runs: 32 done" in page
    assert (folder / "tables" / "variance.csv").exists()
    assert "Sources of noise" in (folder / "index.html").read_text()

    entry = summary["entries"][0]
    assert entry["seeds"] == [0, 1, 2, 3] and len(entry["runs"]) == 16
    assert entry["val_loss"]["mean"] == pytest.approx(np.diag(tables["learned"]).mean(), rel=1e-12)
    verdict = hypotheses.test_hypotheses(dataset.read(fake.store, fake.name))["val_loss"].entries[
        "rope-mha-single"
    ]
    assert verdict.difference.n == 4  # and not 16, which share seeds
    assert verdict.difference.mean == pytest.approx(
        np.diag(tables["rope"] - tables["learned"]).mean(), rel=1e-12
    )


def test_entry_with_a_missing_pair_is_omitted(crossed, no_figures):
    fake, _ = crossed
    next(
        run for run in fake.store.runs(fake.name) if run.run_id.startswith("rope-mha-single-s1d2")
    ).finish("failed", "oom", "x")
    summary, page, _ = written(fake)
    assert [found["entries"] for found in summary["variance"]] == [["learned-mha-single"]]
    assert "rope-mha-single-s1d2" in page.split("## Unfinished runs")[1]


def test_a_study_that_crosses_nothing_says_nothing_of_it(one_axis, no_figures):
    summary, page, _ = written(one_axis.write())
    assert summary["variance"] == [] and "Sources of noise" not in page
