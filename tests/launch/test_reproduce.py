"""Without these, a result could not be obtained again once its variant has been edited."""

import subprocess
import sys

import pytest

from harness.results.store import Store


@pytest.mark.distributed
def test_a_reproduced_run_has_the_same_bits(new_harness):
    """After the variant, its helper and the study were edited, from another folder."""
    study = new_harness.study('["rope", "ours"]')
    helper = new_harness.folder / "mine/helper.py"
    helper.write_text("SHIFT = 0.5\n")
    new_harness.variant("ours", "x = x + __import__('helper').SHIFT")
    ours = new_harness.folder / "mine/positional/ours.py"
    load = "import importlib.util\nfrom pathlib import Path\n" + LOAD_HELPER
    ours.write_text(load + ours.read_text().replace("__import__('helper')", "helper"))
    where = ["positional=ours"]
    new_harness("run", study, settings=["train.steps=4"], where=where)
    (first,) = new_harness.runs()
    helper.write_text("SHIFT = 0.25\n")
    ours.write_text(ours.read_text() + "x = 1\n")
    study.write_text(study.read_text().replace("n_layer = 2", "n_layer = 1"))
    again = new_harness.folder / "elsewhere/again"
    printed = new_harness("reproduce", "results/s", again, "--run", first.run_id)
    assert printed.stdout == f"sh {again / 'run.sh'}\n"
    env = new_harness.env | {"PYTHON": sys.executable}
    subprocess.run(["sh", str(again / "run.sh")], env=env, check=True, capture_output=True)
    (second,) = Store(again / "results").runs("s")
    assert second.run_id == first.run_id and second.path != first.path
    assert second.spec.code_hash == first.spec.code_hash
    assert (second.steps().loss == first.steps().loss).all()
    assert [line.val_loss for line in second.evals()] == [line.val_loss for line in first.evals()]
    assert second.probes.final_hashes == first.probes.final_hashes


LOAD_HELPER = """
spec = importlib.util.spec_from_file_location("helper", Path(__file__).parents[1] / "helper.py")
helper = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helper)
"""
