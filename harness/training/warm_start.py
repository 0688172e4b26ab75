"""Initial parameters of a run: random, from a folder of weights, or from another run."""

from pathlib import Path

from harness.model.gpt import GPT
from harness.model.initialization import init_parameters
from harness.model.weights import read_weights
from harness.results.records import InitReport, InitSource, RunSpec
from harness.results.run import Run


def initialize_parameters(gpt: GPT, whole: GPT, run: Run, spec: RunSpec) -> InitReport | None:
    """Initialize every parameter; return the origin of each, None for a random start.

    `whole` is the same model on the meta device, unsharded; `gpt` may hold a shard of it.

    Raises:
        UserError: the checkpoint is missing or damaged.
        ValueError: the weights have changed since the study was checked.
        IncompatibleWeightsError: they do not fit the model.
    """
    if spec.init is None:
        init_parameters(gpt, spec.seed, full_model=whole)
        return None
    folder = _checkpoint_folder(run, spec.init)
    weights = read_weights(folder)
    if spec.init.sha256 not in (None, weights.sha256):
        raise ValueError(
            f"{folder}: weights have SHA-256 {weights.sha256}, but the study was checked with "
            f"{spec.init.sha256}"
        )
    origins = init_parameters(gpt, spec.seed, weights.tensors, whole)
    return InitReport(
        source=spec.init.run_id or str(folder),
        sha256=weights.sha256,
        tensors=origins,
        dropped=sorted(weights.tensors.keys() - origins.keys()),
    )


def _checkpoint_folder(run: Run, source: InitSource) -> Path:
    if source.run_id is not None:
        return run.sibling(source.run_id).newest_weights
    assert source.folder is not None
    return Path(source.folder)
