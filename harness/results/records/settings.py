"""Settings that a study file states and that spec.json repeats."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from harness.results.records.base import Finite, Positive, StrictModel, added

# Limits of settings, far above any use and far below what overflows or exhausts a machine.
MAX_LAYERS = 1_000
MAX_WIDTH = 2**20
MAX_LENGTH = 2**20
MAX_SECONDS = 1e8  # three years
MAX_CORPORA = 100  # of a mixture
MAX_POINTS = 100  # of the grid of a probe, on each axis

TokenDtype = Literal["uint16", "uint32"]
Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Length = Annotated[int, Field(ge=1, le=MAX_LENGTH)]
Steps = Annotated[int, Field(ge=1, lt=2**31)]
RampSteps = Annotated[int, Field(ge=1, le=10**6)]
Tokens = Annotated[int, Field(ge=1, lt=2**31)]
Sequences = Annotated[int, Field(ge=1, le=2**20)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Rate = Annotated[float, Field(le=1e3, allow_inf_nan=False)]
RunLimit = Annotated[float, Field(ge=1, le=MAX_SECONDS, allow_inf_nan=False)]
TimeLimit = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)]
Margin = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]

Documents = Literal["cross", "mask"]
Recompute = Literal["none", "block", "attention"]


class ModelSettings(StrictModel):
    """Shape of the GPT-2 that all entries share."""

    n_layer: Annotated[int, Field(ge=1, le=MAX_LAYERS)] = Field(
        description="number of transformer blocks"
    )
    n_head: Width = Field(description="number of query heads")
    n_embd: Width = Field(description="width of the residual stream")
    seq_len: Length = Field(description="training sequence length, tokens")
    dropout: Fraction = Field(default=0.0, description="dropout probability")
    tie_embeddings: bool = added(
        True, "whether the output projection is the token embedding; false: a matrix of its own"
    )
    bias: bool = added(True, "whether linear layers and norms have biases")
    init_std: Annotated[Rate, Field(gt=0)] = added(
        0.02,
        "standard deviation of initial weights, of residual projections init_std / sqrt(2 n_layer)",
    )


class CorpusPart(StrictModel):
    """A corpus of a mixture. Settings that are null are those of `[data]`."""

    path: str = Field(description="name, path or glob of the text")
    weight: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] = Field(
        description="share of the training tokens, relative to the other weights"
    )
    train: str | None = Field(default=None, description="pattern of the names of training files")
    val: str | None = Field(default=None, description="pattern of the names of validation files")
    text_column: str | None = Field(default=None, description="column that holds the text")
    token_dtype: TokenDtype | None = Field(
        default=None, description="type of the tokens in token files without a header"
    )


class DataSettings(StrictModel):
    """The text: `tinyshakespeare`, `synthetic`, or a path or glob of texts or token files.

    Of several files, the patterns `train` and `val` select those of each part. A list of corpora is
    a mixture: each training sequence is of one of them, drawn by weight, and the validation loss is
    the mean of theirs by weight.
    """

    corpus: str | Annotated[list[CorpusPart], Field(min_length=1, max_length=MAX_CORPORA)] = Field(
        description="name or path of the text, or corpora with weights"
    )
    tokenizer: str = Field(default="bytes", description="tiktoken encoding: `bytes` or `gpt2`")
    fallback_corpus: str | None = Field(
        default=None, description="corpus that replaces `corpus` if it cannot be downloaded"
    )
    train: str | None = Field(
        default=None,
        description="pattern of the names of training files; null: `train` is part of their names",
    )
    val: str | None = Field(
        default=None,
        description="pattern of the names of validation files; null: `val` is part of their names",
    )
    text_column: str = Field(
        default="text", description="column of JSON lines and Parquet tables that holds the text"
    )
    token_dtype: TokenDtype = Field(
        default="uint16", description="type of the tokens in token files without a header"
    )
    documents: Documents = added(
        "cross", "`cross`: attention crosses documents; `mask`: no attention to other documents"
    )


class BatchRamp(StrictModel):
    """Steps that grow from few tokens to `tokens_per_step`, in multiples of `start_tokens`."""

    start_tokens: Tokens = Field(description="tokens of the first step over all processes")
    steps: RampSteps = Field(description="number of steps before the first one with all tokens")
    growth: Literal["linear", "doubling"] = Field(
        default="linear", description="`linear`: by start_tokens at a time; `doubling`: by factors"
    )


class TrainSettings(StrictModel):
    """Training and evaluation, equal for every entry unless an axis varies them."""

    steps: Steps = Field(description="number of optimizer steps")
    tokens_per_step: Tokens = Field(description="tokens per step over all processes")
    batch_ramp: BatchRamp | None = added(
        None, "growth of the tokens per step; null: all steps have tokens_per_step"
    )
    micro_batch_size: Sequences | None = Field(
        default=None, description="maximum sequences per forward pass on each rank; null: no limit"
    )
    lr: Annotated[Rate, Field(gt=0, description="peak learning rate")] = 1e-3
    min_lr: Annotated[Rate, Field(ge=0, description="learning rate at the last step")] = 0.0
    warmup_steps: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=0, description="steps of linear lr warm-up"
    )
    schedule: Literal["cosine", "linear", "wsd", "constant"] = added(
        "cosine", "shape of the decay from `lr` to `min_lr` after the warm-up"
    )
    decay_fraction: Annotated[Fraction, Field(gt=0)] = added(
        0.2, "fraction of the steps in which the schedule `wsd` decays, at the end of the run"
    )
    beta1: Fraction = Field(default=0.9, description="Adam's beta1")
    beta2: Fraction = Field(default=0.95, description="Adam's beta2")
    weight_decay: Annotated[Rate, Field(ge=0, description="decoupled weight decay")] = 0.1
    grad_clip: Annotated[
        Finite, Field(ge=0, le=1e9, description="maximum global gradient norm; 0: no clipping")
    ] = 1.0
    ema_decay: Annotated[Fraction, Field(gt=0)] | None = added(
        None,
        "decay per step of a moving average of the parameters, which is evaluated as well; "
        "null: no average",
    )
    label_smoothing: Fraction = added(
        0.0, "probability that training shares equally among all tokens; not in recorded losses"
    )
    z_loss: Annotated[Rate, Field(ge=0)] = added(
        0.0, "coefficient of the squared log of the softmax's normalizer; not in recorded losses"
    )
    loss_chunk: Tokens | None = added(
        None, "most tokens whose logits exist at once in training; null: those of a micro-batch"
    )
    recompute: Recompute = added(
        "none",
        "modules whose activations the backward pass computes again: `block`, `attention`, or "
        "`none`",
    )
    precision: Literal["fp32", "bf16", "fp8"] = Field(
        default="fp32",
        description="type of the computation; `fp8`: of the linear layers of the blocks, on GPUs, "
        "and bf16 of the rest",
    )
    compile: bool = Field(
        default=False, description="whether blocks are compiled by `torch.compile`"
    )
    eval_every: Steps = Field(default=100, description="steps between evaluations")
    eval_tokens: Positive | Literal["all"] = Field(
        default="all", description="validation tokens of an evaluation"
    )
    deterministic: bool = Field(
        default=True, description="whether only deterministic kernels are used"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="device of each rank"
    )

    def hashed(self) -> dict[str, object]:
        """See `StrictModel`. Every `eval_every` beyond `steps` evaluates at the end only."""
        return super().hashed() | {"eval_every": min(self.eval_every, self.steps)}

    def tokens_at(self, step: int) -> int:
        """Return the tokens of a step (from 0) over all processes."""
        ramp = self.batch_ramp
        if ramp is None or step >= ramp.steps:
            return self.tokens_per_step
        growth = self.tokens_per_step // ramp.start_tokens
        if ramp.growth == "linear":
            return ramp.start_tokens * (1 + (growth - 1) * step // ramp.steps)
        n_doublings = growth.bit_length() - 1
        return ramp.start_tokens << (n_doublings * step // ramp.steps)

    @property
    def first_full_step(self) -> int:
        """The first step with all tokens: 0 without a ramp."""
        return 0 if self.batch_ramp is None else self.batch_ramp.steps

    @property
    def ramp_tokens(self) -> list[int]:
        """The tokens of each step before the first full one."""
        return [self.tokens_at(step) for step in range(self.first_full_step)]

    @property
    def total_tokens(self) -> int:
        """The tokens of all steps."""
        ramp_tokens = self.ramp_tokens
        return sum(ramp_tokens) + (self.steps - len(ramp_tokens)) * self.tokens_per_step


def _distinct(values: list[int]) -> list[int]:
    return list(dict.fromkeys(values))


class DecodeProbeSettings(StrictModel):
    """Grid of the decode probe: each batch size with each context length."""

    batch: Annotated[
        list[Sequences],
        Field(min_length=1, max_length=MAX_POINTS),
        AfterValidator(_distinct),
    ] = Field(description="numbers of sequences decoded at once")
    context: Annotated[
        list[Annotated[Length, Field(ge=2)]],
        Field(min_length=1, max_length=MAX_POINTS),
        AfterValidator(_distinct),
    ] = Field(description="numbers of positions in the KV cache")


class LmEvalSettings(StrictModel):
    """Tasks of EleutherAI's `lm-eval`, on which the trained model is evaluated."""

    tasks: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(min_length=1, max_length=MAX_POINTS),
        AfterValidator(lambda tasks: list(dict.fromkeys(tasks))),
    ] = Field(description="names of tasks or groups, or paths of YAML files that define a task")
    limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="number of examples of each task; null: all"
    )
    num_fewshot: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="examples in each prompt; null: as the task states"
    )


class ProbeSettings(StrictModel):
    """Optional measurements after training."""

    decode: DecodeProbeSettings | None = Field(default=None, description="grid of the decode probe")
    eval_lengths: (
        Annotated[
            list[Length], Field(min_length=1, max_length=MAX_POINTS), AfterValidator(_distinct)
        ]
        | None
    ) = Field(default=None, description="sequence lengths at which the validation loss is measured")
    lm_eval: LmEvalSettings | None = Field(default=None, description="tasks of lm-eval")


class EquivalenceMargin(StrictModel):
    """Differences from the baseline below these count as equivalent."""

    val_loss: Margin | None = Field(
        default=None, description="margin of the validation loss, nats per token"
    )
    tokens_per_s: Margin | None = Field(
        default=None,
        description="margin of the throughput, relative to the baseline's (0.05 = 5 %)",
    )
    peak_memory: Margin | None = Field(
        default=None, description="margin of the peak memory, relative to the baseline's"
    )


class Superiority(StrictModel):
    """Thresholds of improvement: is an entry better than the baseline by more than these."""

    val_loss: Margin | None = Field(
        default=None, description="threshold of the validation loss, nats per token"
    )
    tokens_per_s: Margin | None = Field(
        default=None,
        description="threshold of the throughput, relative to the baseline's (0.05 = 5 %)",
    )
    peak_memory: Margin | None = Field(
        default=None,
        description="threshold of the peak memory, relative to the entry's (0.05: the baseline "
        "needs 5 % more)",
    )


class LadderSettings(StrictModel):
    """Scaling laws of the loss over the levels of an axis that varies the size of the runs."""

    axis: str = Field(description="axis of the sizes, at least three")
    project_to: Annotated[Finite, Field(gt=0)] | None = Field(
        default=None, description="training FLOPs to which the laws are extrapolated"
    )
    irreducible: Literal["shared", "per entry"] = Field(
        default="shared",
        description="whether the irreducible loss E is the same for all entries, or fitted to each",
    )
