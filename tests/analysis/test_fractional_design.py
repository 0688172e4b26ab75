"""If these failed, a fraction of a matrix would leave out a main effect."""

import numpy as np
import pytest

from harness.analysis.fractional_design import fractional_design

LEVELS = {"p": ["a", "b"], "q": ["a", "b", "c"], "r": ["a", "b"]}


@pytest.mark.parametrize("size", [5, 6, 9, 12])
def test_a_fractional_design_identifies_all_main_effects(size):
    chosen = fractional_design(LEVELS, {"p": "a", "q": "a"}, size)
    assert len(chosen) == size == len({tuple(cell.values()) for cell in chosen})
    assert any(cell["p"] == cell["q"] == "a" for cell in chosen)
    rows = []
    for cell in chosen:
        row = [1.0]
        for axis, labels in LEVELS.items():
            row += [float(cell[axis] == label) for label in labels[1:]]
        rows.append(row)
    assert np.linalg.matrix_rank(rows) == 5
    if size in (6, 12):
        labels = [cell["q"] for cell in chosen]
        assert all(labels.count(label) == size // 3 for label in LEVELS["q"])


def test_a_fractional_design_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="4: must be at least 5"):
        fractional_design(LEVELS, {}, 4)
