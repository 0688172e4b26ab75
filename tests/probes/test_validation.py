"""Trials and final runs are evaluated on different windows; other studies on all of them."""

import numpy as np
import pytest
from tiny_run import SEQ_LEN, tiny_spec

from harness.probes.validation import ValidationWindows


def starts(spec, context) -> list[int]:
    """Return the starts of the windows, from their first tokens: the text counts up by 3."""
    windows = ValidationWindows(spec, context, SEQ_LEN)
    found = [offsets[weights > 0] for offsets, weights in windows._batches]
    assert windows.n_windows == len(np.concatenate(found))
    return np.concatenate(found).tolist()


@pytest.mark.parametrize("eval_tokens", ["all", 5 * SEQ_LEN])
def test_trials_and_final_runs_share_no_window(tmp_path, ranks, eval_tokens):
    spec = tiny_spec(tmp_path, eval_tokens=eval_tokens)
    by_use = {
        use: starts(spec.model_copy(update={"eval_windows": use}), ranks)
        for use in ("all", "tuning", "final")
    }
    assert not set(by_use["tuning"]) & set(by_use["final"])
    assert sorted(by_use["tuning"] + by_use["final"]) == by_use["all"]
    assert len(by_use["final"]) - len(by_use["tuning"]) in (0, 1)
