"""`run` on a results folder that someone or something has changed.

A damaged run costs its own result only and is named. No file of value is lost, and nothing outside
of the results folder changes, also if links lead there. A sample is tried; `FUZZ=5000` tries all.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import sample
from tampered_results import STATES, STEPS, Tampered, tampered_results, value_of
from tampering import CASES, snapshot

from harness.results.run import Run
from harness.results.run_data import RunData, read_run


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Iterator[Tampered]:
    with tampered_results(tmp_path_factory.mktemp("tampered")) as results:
        yield results


def is_exact(run: Run) -> bool:
    """Return whether a run is done with the result of a run that was left alone."""
    data = read_run(run)
    if not isinstance(data, RunData) or data.status != "done" or data.run_id != data.spec.run_id:
        return False
    spec = run.spec
    losses = [value_of(spec, 100 + step) for step in range(STEPS)]
    evals = [value_of(spec, step) for step in (0, 2, 4)]
    is_of_steps = data.steps.loss.tolist() == losses and data.evals.step.tolist() == [0, 2, 4]
    return is_of_steps and data.evals.val_loss.tolist() == evals


# Losses that are no numbers are a result: readers count the run as failed.
NOT_SEEN = {f"{state} | no losses" for state in STATES}


# Links by which a removal or a write could leave the results, and results whose status is lost.
ALWAYS = (
    "done | added step-3",
    "done | s/.claims | link to the whole",
    "done | s/RUN/status.json | missing",
    "done | says pending",
    "done | rate edited",
    "interrupted | s/RUN/checkpoint | link elsewhere",
    "interrupted | s/RUN/steps.rank0.jsonl | folder",
    "interrupted | claim: folder",
    "elsewhere | claim: heartbeat in the future",
)


@pytest.mark.parametrize("case", [*ALWAYS, *sample({*CASES} - {*ALWAYS}, 6)])
def test_run_bears_tampered_results(results, case):
    state, is_of_study, apply = CASES[case]
    results.restore(state)
    outside = snapshot(results.outside)
    values = set(kept_files(results)) if state == "done" else set()
    apply(results)
    values -= {content for content in values if content not in kept_files(results)}
    around = sorted(path.name for path in results.folder.iterdir())
    said = ""
    if state == "failed":
        _, said = results.call("run", "study.toml", "--retry-failed")
    code, printed = results.call("run", "study.toml")
    said += printed
    assert snapshot(results.outside) == outside, said
    assert sorted(path.name for path in results.folder.iterdir()) == around, said
    if is_of_study and code != 0:
        assert f"/s/{case.split('/')[1].split(' ')[0]}" in said, said
        return
    others = [run for run in results.store.runs("s") if "-mha-single-s" in run.run_id]
    others = [run for run in others if run.run_id != results.victim_id]
    assert len(others) == 3 and all(map(is_exact, others)), said
    if code == 0:
        assert is_exact(results.victim) or case in NOT_SEEN, said
    else:
        assert code == 1 and (results.victim_id in said or "failed earlier" in said), said
    assert not values - set(kept_files(results)), "lost: it was trained over"


def kept_files(results: Tampered) -> Iterator[bytes]:
    """Yield the contents of the victim's files, wherever they are in the results."""
    names = ("probes.json", "eval.jsonl", "steps.rank0.jsonl", "model.safetensors")
    for parent, _, files in os.walk(results.store.root):
        if results.victim_id in parent and ".timing" not in parent:
            for name in files:
                path = Path(parent, name)
                if name in names and path.is_file() and not path.is_symlink():
                    yield path.read_bytes()


def test_what_crashes_left_is_removed_and_no_whole_run_is_claimed(results):
    results.restore("done")
    claims = snapshot(results.victim.claims)
    state = results.victim.checkpoints / "step-2/state"
    folders = ("s", "s/archive/files", "s/archive/code", "s/submissions")
    left = [results.store.root / name / ".x.0123456789abcdef.tmp" for name in folders]
    left.append(results.run("learned", 0).path / left[0].name)
    for path in left:
        path.touch()
        os.utime(path, (0, 0))
    assert results.call("run", "study.toml")[0] == 0
    assert not any(path.exists() for path in left)
    assert snapshot(results.victim.claims) == claims, "it keeps its full state"
    state.mkdir(parents=True)
    assert results.call("run", "study.toml")[0] == 0 and not state.exists()
