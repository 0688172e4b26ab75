"""spec.json: the settings that determine a run, with every default filled in."""

from typing import Any, Literal

from pydantic import Field

from harness.results.records.base import (
    Count,
    Finite,
    Positive,
    Seed,
    StrictModel,
    Versioned,
    added,
)
from harness.results.records.settings import (
    CorpusPart,
    Documents,
    ModelSettings,
    ProbeSettings,
    TokenDtype,
    TrainSettings,
)
from harness.results.records.tuning import TuningTrial

# Windows of the validation text: `all`, or the half on which the study tunes or compares.
EvalWindows = Literal["all", "tuning", "final"]


class VariantChoice(StrictModel):
    """The variant on one axis."""

    name: str = Field(description="file stem of the variant, or the key of the varied setting")
    label: str = Field(description="short name in files")
    options: dict[str, Any] = Field(
        description="the variant's options with every default, or the varied settings by dotted key"
    )
    title: str = Field(
        default="", description="name in reports, not part of the run's id; empty: the label"
    )

    @property
    def is_setting(self) -> bool:
        """Whether the level varies settings (`train.lr`) and is not a variant."""
        return any("." in key for key in self.options)

    @property
    def content(self) -> dict[str, object]:
        """What determines results: the choice without its names in files and reports."""
        content = self.hashed()
        del content["label"], content["title"]
        return content


class ResolvedModel(ModelSettings):
    """Model shape with the tokenizer's vocabulary size."""

    vocab_size: Positive = Field(description="number of tokens of the vocabulary")


class ResolvedData(StrictModel):
    """The text that the run reads."""

    corpus: str = Field(description="name or path of the text")
    tokenizer: str = Field(description="tiktoken encoding")
    sha256: str = Field(description="SHA-256 of the text")
    entropy_nats_per_byte: Finite | None = Field(
        default=None, description="lowest reachable validation loss, nats per byte; null if unknown"
    )
    documents: Documents = added(
        "cross", "`cross`: attention crosses documents; `mask`: no attention to other documents"
    )
    separator: list[Count] | None = added(
        None, "tokens between two documents, if attention is masked; null: it crosses documents"
    )


class TokenSlice(StrictModel):
    """A slice of a file of little-endian tokens."""

    file: str = Field(description="path of the file")
    dtype: TokenDtype = Field(default="uint16", description="type of the tokens")
    part: Count = Field(default=0, description="index of its corpus in `mixture`")
    start: Count = Field(description="first token")
    stop: Count = Field(description="token after the last")
    sha256: str | None = Field(
        default=None, description="SHA-256 of the whole file; null: not checked"
    )


class SourceFile(StrictModel):
    """A file of the user that the corpus is made of."""

    file: str = Field(description="path of the file")
    sha256: str = Field(description="SHA-256 of the file when the run was planned")


class LaunchSpec(StrictModel):
    """Where and on how many processes the run is executed; not part of its hash."""

    world_size: Positive = Field(description="number of processes")
    n_devices: Positive | None = Field(
        default=None,
        description="GPUs of all processes, of a run on GPUs; null: one for each process",
    )
    timeout_s: Finite | None = Field(description="wall time limit, seconds; null: no limit")
    stall_timeout_s: Finite | None = Field(
        default=None, description="limit of the time without progress, seconds; null: no limit"
    )
    checkpoint_every: Positive | None = Field(
        default=None, description="steps between checkpoints; null: at each evaluation"
    )
    checkpoint_every_s: Finite | None = Field(
        default=None,
        description="seconds after the last checkpoint at which another one is due; null: none",
    )
    keep_checkpoints: Literal["none", "weights", "full"] = Field(
        default="none",
        description="kept of the newest and the best checkpoint: `none`, the `weights`, or `full`: "
        "also the optimizer state of the newest",
    )
    network_interface: str | None = Field(
        default=None,
        description="network interface between several nodes; null: the libraries choose it",
    )
    trace: bool = Field(
        default=False, description="whether each rank writes a Chrome trace of one step"
    )
    variant_paths: list[str] = Field(description="folders of the user's own variants")
    train_tokens: list[TokenSlice] = Field(description="training tokens")
    val_tokens: list[TokenSlice] = Field(description="validation tokens")
    mixture: list[CorpusPart] = Field(
        default=[], description="corpora of a mixture; empty for one corpus"
    )
    sources: list[SourceFile] = Field(default=[], description="the user's files of the corpus")
    token_bytes: str = Field(
        description="path of a .npy file with the number of bytes of each token of the vocabulary"
    )

    @property
    def weights(self) -> list[float]:
        """The share of each corpus in the training tokens; their sum is 1."""
        total = sum(part.weight for part in self.mixture)
        return [part.weight / total for part in self.mixture] or [1.0]


class InitSource(StrictModel):
    """The checkpoint that a run starts from: a folder, or the newest of another run."""

    sha256: str | None = Field(default=None, description="SHA-256 of the folder's weights")
    folder: str | None = Field(default=None, description="folder of the weights")
    run_id: str | None = Field(default=None, description="run whose newest checkpoint is loaded")


class MemoryNeed(StrictModel):
    """The memory that one rank will need, by category, and the settings that it follows from."""

    parameters: Finite = Field(description="bytes of parameters")
    gradients: Finite = Field(description="bytes of gradients")
    optimizer: Finite = Field(
        description="bytes of optimizer state, with the moving average of the parameters"
    )
    gathered: Finite = Field(description="most bytes of parameters gathered at once from shards")
    activations: Finite | None = Field(
        description="bytes that a micro-batch stores for the backward pass; null: unknown"
    )
    state_on_host: bool = Field(
        default=False,
        description="whether parameters, gradients and optimizer state of a run on GPUs are in "
        "CPU memory",
    )
    n_sequences: Positive = Field(description="sequences of a step on one rank")
    micro_batch_size: Positive = Field(description="sequences of a forward pass")

    @property
    def state(self) -> float:
        """The bytes that exist at the end of each step, whatever the micro-batch size."""
        return self.parameters + self.gradients + self.optimizer

    @property
    def total(self) -> float:
        """The bytes of all categories, of those that are known."""
        return self.state + self.gathered + (self.activations or 0)


class PredictedCost(StrictModel):
    """Costs that follow from the model before it runs."""

    parameters: Count = Field(description="number of parameters")
    flops_per_token: Finite = Field(
        description="FLOPs per training token, forward and backward, by the variants' formulas"
    )
    flops_per_token_counted: Finite | None = Field(
        default=None,
        description="FLOPs per training token as PyTorch counts them, which replace those of the "
        "formulas; null if they are within 5 %",
    )
    memory_bytes: Finite | None = Field(
        description="estimated peak memory of one rank, bytes; null if unknown"
    )
    memory: MemoryNeed | None = Field(
        default=None, description="the memory by category; null: not recorded"
    )


class AllowedViolation(StrictModel):
    """A violation of the variants' contract that the study permits."""

    kind: Literal["non-causal"] = Field(
        description="`non-causal`: outputs depend on later tokens (`[study] allow`)"
    )
    message: str = Field(description="the evidence, and where in the model it enters")


class RunKeys(Versioned):
    """The names, seeds and labels by which a run is grouped and paired with others."""

    study: str = Field(description="name of the study")
    run_id: str = Field(description="labels of the axes, seed, and hash of this specification")
    entry: str = Field(description="labels of the axes")
    seed: Seed = Field(description="seed of the initial parameters")
    data_seed: Seed | None = Field(
        default=None, description="seed of the data order and of dropout; null: `seed`"
    )
    settings_hash: str = Field(
        description="hash of the settings that all entries of one table share: model, data, train, "
        "init, probes, without those that an axis varies"
    )
    baseline: dict[str, str] = Field(description="label of the baseline on each axis")
    axes: dict[str, VariantChoice] = Field(
        description="variant on each axis, then the level of each axis of settings"
    )

    @property
    def order_seed(self) -> int:
        """The seed of the data order."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def seed_name(self) -> str:
        """The seeds as run ids state them: `0`, or `0d1` if the data seed differs."""
        return f"{self.seed}" if self.data_seed is None else f"{self.seed}d{self.data_seed}"

    @property
    def variants(self) -> dict[str, VariantChoice]:
        """The variant on each axis, without the axes that vary settings."""
        return {axis: choice for axis, choice in self.axes.items() if not choice.is_setting}

    @property
    def labels(self) -> dict[str, str]:
        """The label of the variant on each axis."""
        return {axis: choice.label for axis, choice in self.axes.items()}


class RunSpec(RunKeys):
    """The resolved specification of one run."""

    model: ResolvedModel = Field(description="model shape")
    data: ResolvedData = Field(description="text")
    train: TrainSettings = Field(description="training and evaluation")
    init: InitSource | None = Field(
        default=None, description="checkpoint that the run starts from; null: random initialization"
    )
    data_offset_steps: Count = Field(
        default=0,
        description="steps of the data order that the initial weights were trained on; the run "
        "continues after them",
    )
    probes: ProbeSettings = Field(default=ProbeSettings(), description="optional measurements")
    eval_windows: EvalWindows = Field(
        default="all",
        description="validation windows: `all`; of a study that tunes, every second one, for the "
        "trials (`tuning`) or for the runs that are compared (`final`)",
    )
    tuning: TuningTrial | None = Field(
        default=None, description="the trial that the run is; null: the run is compared"
    )
    launch: LaunchSpec = Field(description="execution; not part of the hash")
    expected: PredictedCost = Field(description="predicted costs")
    allowed: list[AllowedViolation] = Field(
        default=[], description="violations of the contract that the study permits; not in the hash"
    )
    code_hash: str | None = Field(
        default=None,
        description="hash of the code that computes the run, archived under this name; null: "
        "unknown; not part of the run's id",
    )

    @property
    def source_id(self) -> str | None:
        """The id of the run whose checkpoint this one starts from, if there is one."""
        return None if self.init is None else self.init.run_id

    @property
    def n_devices(self) -> int:
        """The devices of the run: one for each process unless its parallelism says otherwise."""
        return self.launch.n_devices or self.launch.world_size

    @property
    def total_flops(self) -> float:
        """The training FLOPs of the run, which predict its time."""
        per_token = self.expected.flops_per_token_counted or self.expected.flops_per_token
        return self.train.total_tokens * per_token

    def traced(self) -> "RunSpec":
        """Return the same run with a trace of one step per rank."""
        return self.model_copy(update={"launch": self.launch.model_copy(update={"trace": True})})


def settings_content(
    *,
    model: ResolvedModel,
    train: TrainSettings,
    data: ResolvedData,
    probes: ProbeSettings,
    init: object,
    data_offset_steps: int,
    eval_windows: EvalWindows,
) -> dict[str, object]:
    """Return all that determines the result of a run besides its variants, seeds and code.

    Ids of runs have its hash. `init` identifies the weights that the run starts from, None for new
    parameters. The content of the corpus counts, not its name; the separator follows from the
    tokenizer. Trials have no probes.
    """
    data_content = data.hashed()
    for name in ("corpus", "separator"):
        data_content.pop(name, None)
    is_trial = eval_windows == "tuning"
    content: dict[str, object] = {
        "model": model.hashed(),
        "train": train.hashed(),
        "probes": None if is_trial else probes.model_dump(exclude_none=True),
        "data": data_content,
        "init": init,
        "data_offset_steps": data_offset_steps,
    }
    if eval_windows != "all":
        content["eval_windows"] = eval_windows
    return content
