"""Without this, the speed of a partly compiled run would count on some versions of PyTorch."""

import pytest

from harness.training import compilation


@pytest.mark.parametrize("reason", ["recompile", "cache"])
def test_the_limit_is_recognized_by_either_name(reason, monkeypatch):
    counts = {"unimplemented": {f"Dynamo {reason} limit exceeded": 1}}
    counters = {"stats": {"unique_graphs": 9}, "graph_break": {}, **counts}
    monkeypatch.setattr(compilation, "counters", counters)
    assert compilation.compile_report().limit_reached
