"""What a run is: the typed sections that a study states, and the resolved spec that a worker reads from spec.json."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from harness.results.store import SCHEMA_VERSION

Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=1_000_000)]


class StrictModel(BaseModel):
    """A table of the study file: unknown keys and wrong types are refused, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelSettings(StrictModel):
    """The shape of the GPT-2 that all entries share."""

    n_layer: Positive
    n_head: Positive
    n_embd: Positive
    seq_len: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class DataSettings(StrictModel):
    """The text: `tinyshakespeare`, `synthetic`, or a path to a UTF-8 text file or to `.bin` token shards.

    `fallback_corpus` stands in where `corpus` cannot be had.
    """

    corpus: str
    tokenizer: str = "bytes"
    fallback_corpus: str | None = None


class TrainSettings(StrictModel):
    """How every entry is trained and evaluated. `tokens_per_step` is global; `micro_batch_size` caps a rank's sequences."""

    steps: Positive
    tokens_per_step: Positive
    micro_batch_size: Positive | None = None
    lr: Annotated[float, Field(gt=0)] = 1e-3
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    grad_clip: Annotated[float, Field(ge=0)] = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    eval_every: Positive = 100
    eval_tokens: Positive | Literal["all"] = "all"
    deterministic: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"


def _distinct(values: list[int]) -> list[int]:
    return list(dict.fromkeys(values))


class DecodeProbeSettings(StrictModel):
    """Decoding is measured for each number of sequences at once with each number of positions in the cache."""

    batch: Annotated[list[Positive], Field(min_length=1), AfterValidator(_distinct)]
    context: Annotated[
        list[Annotated[int, Field(ge=2)]], Field(min_length=1), AfterValidator(_distinct)
    ]


class ProbeSettings(StrictModel):
    """What is measured after training, beyond what every run measures: decoding, and the loss at other lengths."""

    decode: DecodeProbeSettings | None = None
    eval_lengths: (
        Annotated[list[Positive], Field(min_length=1), AfterValidator(_distinct)] | None
    ) = None


class InitSource(StrictModel):
    """The checkpoint that a run starts from: weights by their hash and where they lie, or the newest of a run."""

    sha256: str | None = None
    folder: str | None = None
    run_id: str | None = None


class EquivalenceMargin(StrictModel):
    """How much makes no difference: of validation loss in nats, of throughput and memory relative to the baseline's."""

    val_loss: Annotated[float, Field(gt=0)] | None = None
    tokens_per_s: Annotated[float, Field(gt=0)] | None = None
    peak_memory: Annotated[float, Field(gt=0)] | None = None


class VariantChoice(StrictModel):
    """The variant on one axis. `source_sha256` is that of a user's own file."""

    name: str
    label: str
    options: dict[str, Any]
    source_sha256: str | None = None


class ResolvedModel(ModelSettings):
    """The shape, with the vocabulary that the tokenizer gives."""

    vocab_size: Positive


class ResolvedData(StrictModel):
    """The text that was found, and, where the corpus knows it, the lowest loss reachable on its validation part."""

    corpus: str
    tokenizer: str
    sha256: str
    entropy_nats_per_byte: float | None = None


class TokenSlice(StrictModel):
    """Tokens `start` to `stop` of a file of uint16."""

    file: str
    start: int
    stop: int


class LaunchSpec(StrictModel):
    """Where and on how many processes the run takes place; no part of its hash.

    `token_bytes` is a .npy file with the number of bytes of each token of the vocabulary. With `trace`, each rank
    keeps a Chrome trace of one step.
    """

    world_size: Positive
    timeout_s: float | None
    stall_timeout_s: float | None = None
    checkpoint_every: int | None = None
    keep_checkpoints: Literal["none", "weights", "full"] = "none"
    trace: bool = False
    variant_paths: list[str]
    train_tokens: list[TokenSlice]
    val_tokens: list[TokenSlice]
    token_bytes: str


class PredictedCost(StrictModel):
    """What the model itself tells before it runs; memory is an estimate for one rank, in bytes, None if unknown."""

    parameters: int
    flops_per_token: float
    memory_bytes: float | None


class RunSpec(StrictModel):
    """All that a worker needs to know; the content of spec.json.

    `seed` decides the first values, and `data_seed` the order of the data and what dropout drops; None: `seed` as well.
    """

    schema_version: int = SCHEMA_VERSION
    study: str
    run_id: str
    entry_id: str
    seed: Seed
    data_seed: Seed | None = None
    settings_hash: str
    baseline: dict[str, str]
    axes: dict[str, VariantChoice]
    model: ResolvedModel
    data: ResolvedData
    train: TrainSettings
    init: InitSource | None = None
    probes: ProbeSettings = ProbeSettings()
    launch: LaunchSpec
    expected: PredictedCost

    @property
    def order_seed(self) -> int:
        """The seed of the data's order."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def seed_name(self) -> str:
        """The seeds as they stand in names: `0`, or `0d1` where the order of the data is that of another seed."""
        return f"{self.seed}" if self.data_seed is None else f"{self.seed}d{self.data_seed}"

    def traced(self) -> "RunSpec":
        """Return the same run, of which each rank keeps a trace."""
        return self.model_copy(update={"launch": self.launch.model_copy(update={"trace": True})})
