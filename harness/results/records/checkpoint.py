"""checkpoint.json and state/checksums.json: the model and the training state of a checkpoint."""

from pydantic import Field

from harness.results.records.base import Count, StrictModel, Versioned
from harness.results.records.run_spec import ResolvedModel, VariantChoice


class CheckpointInfo(Versioned):
    """The model whose weights lie in model.safetensors."""

    shape: ResolvedModel = Field(description="model shape")
    axes: dict[str, VariantChoice] = Field(description="variant on each axis")
    origin: dict[str, str] = Field(description="origin of each tensor")
    variant_paths: list[str] = Field(description="folders of the user's own variants")
    tokenizer: str | None = Field(description="tiktoken encoding; null if unknown")
    data_steps: Count = Field(
        default=0,
        description="steps of the data order that the weights were trained on, those of the "
        "weights that training started from included; 0 for imported weights",
    )


class FileStart(StrictModel):
    """The first bytes of a file that grows."""

    n_bytes: Count = Field(description="number of bytes")
    crc32: Count = Field(description="their CRC-32")


class StateChecksums(StrictModel):
    """Checksums of a checkpoint's state and of the curves up to its step."""

    crc32: dict[str, Count] = Field(description="CRC-32 of each file of the state")
    curves: dict[str, FileStart] = Field(
        default={},
        description="files of steps and evaluations as they were when the state was saved; empty "
        "in older files",
    )
