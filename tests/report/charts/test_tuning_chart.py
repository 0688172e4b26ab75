"""The chart of tuned settings: each entry's losses, its choice, and readable ticks."""

import numpy as np
import pytest
from tuned_results import TunedStudy

from harness.analysis import dataset
from harness.analysis.summary import summarize
from harness.report.charts import tuning
from harness.report.charts.style import choose_style


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda fd: None)
    found = TunedStudy(tmp_path / "results", seeds=(0, 1))
    optima = {"learned": 1e-3, "rope": 3e-3}
    found.loss = lambda entry, lr: 1.5 + 0.1 * np.log10(lr / optima[entry.split("-")[0]]) ** 2
    return found


def panel_of(study: TunedStudy):
    results = dataset.read(study.write().store, study.name)
    (chart,) = tuning.build(summarize(results, "2026-01-01T00:00:00+00:00"))
    (panel,) = chart.plot.panels
    return results, chart, panel


def test_each_entry_has_a_line_with_its_choice_ringed(study):
    results, chart, panel = panel_of(study)
    assert [line.name for line in panel.lines] == ["learned-single", "rope-single"]
    chosen = {line.name: [line.x[i] for i in line.ringed] for line in panel.lines}
    assert chosen == {"learned-single": [1e-3], "rope-single": [3e-3]}
    assert list(panel.x.ticks) == study.lrs
    style = choose_style(results)
    colours = [style.mark(entry).colour for entry in results.entries]
    assert {line.style.colour for line in panel.lines} == set(colours)
    assert "lowest: " in chart.alt


def test_a_setting_with_a_failed_trial_has_no_point(study):
    study.diverges = lambda entry, lr: lr == 1e-2
    _, chart, panel = panel_of(study)
    assert all(list(line.x) == study.lrs[:-1] for line in panel.lines)
    assert "has a trial that failed" in chart.caption


def test_many_values_have_few_round_ticks(study):
    study.lrs = np.geomspace(1.2e-4, 0.8e-2, 12).round(7).tolist()
    _, _, panel = panel_of(study)
    assert list(panel.x.ticks) == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]


def test_one_bad_setting_does_not_hide_the_others(study):
    study.loss = lambda entry, lr: 50.0 if lr == 1e-2 else 1.5 + 0.01 * lr
    _, _, panel = panel_of(study)
    assert panel.y.limits[1] < 5
