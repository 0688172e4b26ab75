"""Import and export checkpoints in the layouts of `transformers`."""

from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Literal

from pydantic import ValidationError

from harness.errors import Problem, UserError, choices
from harness.model.weights import (
    SAFETENSORS_FILE,
    Trust,
    Weights,
    atomic_folder,
    check_absent,
    load_weights,
    not_finite_tensors,
    save_weights,
    write_files,
)
from harness.published import gpt2, llama
from harness.published.files import CONFIG_FILE, read_config, read_tensors
from harness.results.records import ResolvedModel
from variants.base import ModelShape

Format = Literal["gpt2", "llama", "mistral"]
HUB = {
    name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
}
GPT2_VOCAB_SIZE = 50_257  # of its tokenizer


def import_weights(source: str, dest: Path) -> Weights:
    """Read and check a published checkpoint: a folder, a file or a name on the hub; save it.

    Its config.json states the layout, GPT-2's if it does not.

    Raises:
        UserError: it is not a checkpoint, is incomplete, does not fit its layout, or holds values
            that are not finite. `dest` is not created then.
    """
    check_absent(dest)
    path = Path(source)
    if not path.exists():
        if source not in HUB:
            message = "no such file or folder, and not a name on the hub"
            raise UserError(f"{source}: {message}; {choices(source, HUB)}")
        path = _download(source)
    published = read_tensors(path)
    if problems := not_finite_tensors(published, path):
        raise UserError(problems)
    config = read_config(path)
    is_llama = str(config.get("model_type")) in llama.FORMATS
    layout: ModuleType = llama if is_llama else gpt2
    weights: Weights = layout.read(published, config, path)
    _check_limits(weights.shape, path)
    weights = replace(
        weights,
        origin=dict.fromkeys(weights.tensors, f"loaded from {source}"),
        tokenizer="gpt2" if weights.shape.vocab_size == GPT2_VOCAB_SIZE else None,
    )
    save_weights(weights, dest)
    return weights


def _check_limits(shape: ModelShape, source: Path) -> None:
    """Check that a study could train the model.

    Raises:
        UserError: a size exceeds the limit of its setting.
    """
    try:
        ResolvedModel(**asdict(shape))
    except ValidationError as error:
        raise UserError(
            Problem(f"{source}: {problem['loc'][0]}", f"{problem['input']}: {problem['msg']}")
            for problem in error.errors()
        ) from None


def export_weights(
    source: Path, dest: Path, format: Format = "gpt2", trust_code: bool = False
) -> None:
    """Write a checkpoint as a folder that `from_pretrained` of `transformers` loads.

    Raises:
        UserError: `source` is not a checkpoint folder, has variants or options that the layout
            does not express, or would run other code than this program's without `trust_code`.
    """
    weights = load_weights(source, Trust(any=trust_code))
    if format == "gpt2":
        reasons = gpt2.unsupported(weights)
    else:
        reasons = llama.unsupported(weights, format)
    if reasons:
        location = f"{source}: cannot be exported as {format}"
        raise UserError(Problem(location, reason) for reason in reasons)
    if format == "gpt2":
        tensors, config = gpt2.write(weights)
    else:
        tensors, config = llama.write(weights, format)
    with atomic_folder(dest) as folder:
        write_files(folder, tensors, CONFIG_FILE, config)


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        message = "downloading from the hub needs: pip install 'ablations[hub]'"
        raise UserError(f"{name}: {message}") from error
    try:
        return Path(snapshot_download(HUB[name], allow_patterns=[CONFIG_FILE, SAFETENSORS_FILE]))
    except Exception as error:  # the hub's client raises errors of many types
        message = f"cannot be fetched from {HUB[name]}: {type(error).__name__}: {error}"
        raise UserError(f"{name}: {message}") from error
