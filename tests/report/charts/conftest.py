"""The charts of a synthetic study, by name."""

import pytest

from harness.analysis import dataset
from harness.analysis.summary import summarize
from harness.report import charts


@pytest.fixture
def build():
    """Return a function from a synthetic study to its charts by name."""

    def build_by_name(study):
        summary = summarize(dataset.read(study.write().store, study.name), "now")
        return {spec.name: spec for spec in charts.build(summary)}

    return build_by_name
