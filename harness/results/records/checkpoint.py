"""checkpoint.json: which model a checkpoint's weights belong to."""

from pydantic import Field

from harness.results.records.base import Count, Versioned
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
