"""What a run starts from: nothing, a folder of weights, or the newest checkpoint of another run of its study."""

from pathlib import Path
from typing import Any

from harness.model.gpt import GPT
from harness.model.initialization import init_parameters
from harness.model.weights import load_weights
from harness.results.records import RunSpec
from harness.results.store import Run


def begin(gpt: GPT, whole: GPT, run: Run, spec: RunSpec) -> dict[str, Any] | None:
    """Give every parameter its first values; return where those of a checkpoint came from, for probes.json.

    `whole` is the same model on the meta device, of which `gpt` may hold a part.

    Raises:
        UserError: there is no checkpoint, or it is damaged.
        ValueError: the weights are no longer those that the study was checked with.
        IncompatibleWeightsError: they do not fit the model.
    """
    if spec.init is None:
        init_parameters(gpt, spec.seed, full_model=whole)
        return None
    place = _folder(run, spec)
    weights = load_weights(place)
    sha256 = weights.sha256
    if spec.init.sha256 not in (None, sha256):
        raise ValueError(
            f"{place}: has SHA-256 {sha256}, the study was checked with {spec.init.sha256}"
        )
    tensors = init_parameters(gpt, spec.seed, weights.tensors, whole)
    return {
        "from": spec.init.run_id or str(place),
        "sha256": sha256,
        "tensors": tensors,
        "dropped": sorted(weights.tensors.keys() - tensors.keys()),
    }


def _folder(run: Run, spec: RunSpec) -> Path:
    assert spec.init is not None
    if spec.init.run_id is not None:
        return Run(run.path.parent / spec.init.run_id).newest_checkpoint
    assert spec.init.folder is not None
    return Path(spec.init.folder)
