"""Run ids of the shipped studies, as recorded before settings could be axes.

If one changes, users of such a study train all of its runs again. They were computed by that
version, on a CPU and on the synthetic corpus.
"""

from pathlib import Path

import pytest

from harness.config import load
from harness.results.records import TrainSettings
from harness.results.records.base import added
from variants.base import AXES

ROOT = Path(__file__).parents[2]
SETTINGS = ["data.corpus=synthetic", "train.device=cpu"]
IDS = {
    "ablations.toml": (
        "eb640a43",
        [
            "learned-mha-single-s0-7bd3268c",
            "rope-mha-single-s1-c480f83a",
            "rope-sliding_window32-fsdp2-s2-beb23562",
        ],
    ),
    "studies/parallelism.toml": (
        "76e16daa",
        [
            "learned-mha-single-s0-57528076",
            "learned-gqa2-single-s0-f24579be",
            "learned-gqa2-fsdp2.tp2-s0-adecbebe",
        ],
    ),
    "studies/shakespeare_cpu.toml": (
        "1499c11c",
        [
            "learned-mha-single-s0-80c12406",
            "learned-mha-single-s1-752e2a9e",
            "learned-mha-single-s2-62aff26a",
        ],
    ),
    "studies/uptraining.toml": (
        "73a45d4a",
        [
            "start-learned-mha-single-s0-59507452",
            "learned-gqa2.mean-single-s1-aedc85cf",
            "learned-gqa2.random-single-s2-4fae7c06",
        ],
    ),
    "studies/variance.toml": (
        "5b500424",
        [
            "learned-mha-single-s0-86731935",
            "learned-mha-single-s2-7f690f61",
            "rope-mha-single-s3d2-bdc5e8f1",
        ],
    ),
}


@pytest.mark.parametrize("study", IDS)
def test_the_runs_of_a_shipped_study_keep_their_ids(study):
    settings_hash, run_ids = IDS[study]
    planned = load(ROOT / study, SETTINGS)
    assert set(run_ids) <= planned.all_run_ids
    assert planned.settings_hash == settings_hash


def test_a_setting_at_its_default_is_not_in_the_id():
    class Later(TrainSettings):
        momentum: float = added(0.0, "a setting of a later version")

    values = {"steps": 4, "tokens_per_step": 128}
    assert Later(**values).hashed() == TrainSettings(**values).hashed()
    assert Later(**values, momentum=0.5).hashed() != TrainSettings(**values).hashed()


def test_the_default_of_a_later_axis_is_not_in_the_id():
    (later,) = (axis for axis, about in AXES.items() if not about.in_hash_by_default)
    study = ROOT / "ablations.toml"
    where = ["positional=learned", "attention=mha", "parallelism=single"]
    plain = load(study, SETTINGS, [0], where).runs[0]
    varied = load(study, [*SETTINGS, f'axes.{later}=["adamw", "sgd"]'], [0], where)
    hashes = {run.axes[later].label: run.run_id.rsplit("-", 1)[1] for run in varied.runs}
    assert hashes["adamw"] == plain.run_id.rsplit("-", 1)[1] != hashes["sgd"]
