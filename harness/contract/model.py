"""All checks of a whole model, on small shapes with the options of a study, in under a second."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from harness.contract import causality, decoding, documents, model_checks, parts
from harness.contract.architecture import (
    Architecture,
    deep_shape,
    initialized,
    long_shape,
    one_thread,
    randomized,
    short_shape,
)
from harness.contract.causality import Setting
from harness.contract.checks import Check, CheckResult, SkipCheck, run_checks
from harness.contract.flops import wrong_flops
from harness.contract.violation import Violation, line_of
from harness.model.gpt import GPT
from variants.base import ModelShape
from variants.errors import CODE_ERRORS, text_of

# Work of a call with long sequences, in pairs of positions, for each head and layer.
MAX_PAIRS = 1 << 24
MAX_DROPOUT = 0.5  # more would leave parameters without a gradient by chance
MAX_SPLITS = 128
N_OTHER_VALUES = 3  # seeds with which parameters without a gradient are tried again


@dataclass(frozen=True)
class Conditions:
    """The settings of a study that a check depends on."""

    precision: str = "fp32"
    deterministic: bool = True
    masked_documents: bool = False


def check_model(
    architecture: Architecture, shape: ModelShape, conditions: Conditions | None = None
) -> list[Violation]:
    """Return all violations of the contract by a model with these variants; empty if none.

    `shape` is the study's. Exceptions are violations too.
    """
    results = model_results(architecture, shape, conditions)
    return [violation for result in results for violation in result.violations]


def model_results(
    architecture: Architecture, shape: ModelShape, conditions: Conditions | None = None
) -> list[CheckResult]:
    """Return the outcome of each check of a whole model; `shape` is the study's."""
    shape = replace(shape, dropout=min(shape.dropout, MAX_DROPOUT))
    with one_thread():
        return run_checks(ModelChecks(architecture, shape, conditions or Conditions()).checks())


@dataclass
class ModelChecks:
    """The checks of one architecture; its models are built when a check first needs them."""

    architecture: Architecture
    shape: ModelShape
    conditions: Conditions = field(default_factory=Conditions)

    @cached_property
    def short(self) -> ModelShape:
        """Return the shape that is tested at every position."""
        return short_shape(self.architecture, self.shape)

    @cached_property
    def model(self) -> GPT:
        """Return a shallow model with short sequences and large values."""
        return randomized(self.architecture, self.short)

    @cached_property
    def long_model(self) -> GPT | None:
        """Return a shallow model with sequences longer than a window, None if all are short."""
        shape = long_shape(self.architecture, self.shape)
        return None if shape is None else randomized(self.architecture, shape)

    def checks(self) -> list[Check]:
        """Return all checks in their order."""
        checks = self._checks()
        if self.conditions.masked_documents:
            needed = ("build", "initial values", "output", "finite", "state", "batch", "causality")
            checks.append(Check(documents.CHECK, self.documents, needed))
        return checks

    def _checks(self) -> list[Check]:
        runs = ("build", "initial values", "output")
        equal = (*runs, "finite", "reproducible", "random numbers")  # equal calls, equal outputs
        return [
            Check("build", self.build),
            Check("initial values", self.initial_values, ("build",)),
            Check("output", self.output, ("build", "initial values")),
            Check("memory", self.memory, runs),
            Check("input", self.input, runs),
            Check("finite", self.finite, (*runs, "input")),
            Check("gradients", self.gradients, (*runs, "finite")),
            Check("random numbers", self.random_numbers, runs),
            Check("reproducible", self.reproducible, (*runs, "finite")),
            Check("state", self.state, equal),
            Check("batch", self.batch, (*equal, "state")),
            Check("causality", self.causality_by_gradient, (*runs, "finite", "batch")),
            Check("causality", self.causality_by_change, (*equal, "state", "batch", "causality")),
            Check("has_bias", self.has_bias, runs),
            Check("extrapolates", self.extrapolates, runs),
            Check("cache", self.cache, (*equal, "state", "causality", "has_bias")),
            Check("flops", self.flops, (*runs, "causality")),
        ]

    def build(self) -> list[Violation]:
        """Build the model on the meta device; report tensors that this loses."""
        return model_checks.has_lost_tensors(self.architecture.model(self.short))

    def initial_values(self) -> list[Violation]:
        """Initialize the parameters."""
        return model_checks.lacks_initial_values(self.architecture, self.short)

    def output(self) -> list[Violation]:
        """Run a forward pass; report parts that return another shape or type."""
        for precision in dict.fromkeys(("fp32", self.conditions.precision)):
            found = model_checks.has_wrong_outputs(self.model, self.short.seq_len, precision)
            if found:
                return found
        return []

    def memory(self) -> list[Violation]:
        """Predict the memory on the meta device."""
        model = self.architecture.model(self.short)
        return model_checks.memory_is_unknown(model, self.short.seq_len)

    def finite(self) -> list[Violation]:
        """Compute the loss and the gradients."""
        return model_checks.is_not_finite(self.model, self.short.seq_len)

    def gradients(self) -> list[Violation]:
        """Compute the gradient of every parameter."""
        return model_checks.has_dead_parameters(
            self.model, self.short.seq_len, self._other_values()
        )

    def random_numbers(self) -> list[Violation]:
        """Compare the states of the global random number generators."""
        return model_checks.uses_global_random_numbers(self.model, self.short.seq_len)

    def input(self) -> list[Violation]:
        """Compare the inputs of all parts before and after."""
        return model_checks.changes_its_input(self.model, self.short.seq_len)

    def reproducible(self) -> list[Violation]:
        """Train two models of the same seed on the same tokens."""
        return model_checks.is_not_reproducible(
            self.architecture, self.short, self.conditions.deterministic
        )

    def state(self) -> list[Violation]:
        """Call the model with other tokens in between."""
        return model_checks.keeps_state(self.architecture, self.short)

    def batch(self) -> list[Violation]:
        """Change one sequence of a batch, and the size of the batch."""
        T = self.short.seq_len
        for setting in (Setting(T, False), Setting(T, True), Setting(T // 2 + 1, False)):
            if found := causality.between_sequences(self.model, setting):
                return found
        return causality.alone_as_in_batch(self.model, T)

    def causality_by_gradient(self) -> list[Violation]:
        """Compute the gradients of the outputs before each split."""
        T = self.short.seq_len
        for setting in (Setting(T, False), Setting(T, True), Setting(T - 1, False)):
            splits = causality.splits_of(setting.length, setting.length)
            if found := causality.by_gradient(self.model, setting, splits):
                return found
        if self.long_model is None:
            return []
        setting, long_splits = self._long_setting(1 / 4)
        return causality.by_gradient(self.long_model, setting, long_splits)

    def causality_by_change(self) -> list[Violation]:
        """Change the tokens after each split, at every length of short sequences."""
        T = self.short.seq_len
        settings = [*(Setting(length, False) for length in range(T, 1, -1)), Setting(T, True)]
        for setting in settings:
            splits = causality.splits_of(setting.length, setting.length)
            if found := causality.by_change(self.model, setting, splits):
                return found
        if self.shape.n_layer > self.short.n_layer:
            deep = deep_shape(self.architecture, self.shape)
            setting = Setting(deep.seq_len, training=False)
            splits = causality.splits_of(deep.seq_len, deep.seq_len)
            model = randomized(self.architecture, deep)
            if found := causality.by_change(model, setting, splits):
                return found
        if self.long_model is None:
            return []
        setting, long_splits = self._long_setting(1)
        return causality.by_change(self.long_model, setting, long_splits)

    def documents(self) -> list[Violation]:
        """Change the words of each document, and those at its beginning."""
        if not documents.supports_documents(self.model):
            raise SkipCheck("masked documents are not supported")
        T = self.short.seq_len
        for setting in (Setting(T, False), Setting(T, True), Setting(T - 1, False)):
            if found := documents.crosses_documents(self.model, setting):
                return found
        if found := documents.hides_own_document(self.model, Setting(T, False)):
            return found
        if self.long_model is None:
            return []
        setting = Setting(self.long_model.shape.seq_len, False)
        return documents.crosses_documents(self.long_model, setting)

    def has_bias(self) -> list[Violation]:
        """Compare what the positional encoding declares about its bias with its bias."""
        return parts.declares_bias_wrongly(self.model.positional, self.short)

    def extrapolates(self) -> list[Violation]:
        """Encode positions beyond the trained length."""
        return parts.declares_extrapolation_wrongly(self.model.positional, self.short)

    def cache(self) -> list[Violation]:
        """Decode after prompts of several lengths."""
        if not decoding.decodes(self.model):
            raise SkipCheck("no KV cache is defined")
        if found := decoding.cache_disagrees(
            self.model, decoding.prompts_of(self.short.seq_len, self._windows(self.short.seq_len))
        ):
            return found
        if self.long_model is None:
            return []
        length = self.long_model.shape.seq_len
        return decoding.cache_disagrees(
            self.long_model, decoding.prompts_of(length, self._windows(length))[1:]
        )

    def flops(self) -> list[Violation]:
        """Compare the stated FLOPs with the counted ones, at the study's shape."""
        try:
            return wrong_flops(self.architecture, self.shape)
        except CODE_ERRORS as error:  # the model trains: only these figures are not checked
            message = f"the FLOPs cannot be counted: {type(error).__name__}: {text_of(error)}"
            return [Violation("flops", message, line_of(error), fatal=False)]

    def _other_values(self) -> Iterator[GPT]:
        """Yield short models with other values: initial ones, which spread tokens, and large."""
        for seed in range(1, 1 + N_OTHER_VALUES):
            yield initialized(self.architecture, self.short, seed)
            yield randomized(self.architecture, self.short, seed)

    def _windows(self, length: int) -> list[int]:
        """Return the integers among the options that may be a distance between positions."""
        numbers = sorted(set(self.architecture.numbers()), reverse=True)
        return [n for n in numbers if 1 < n < length][:2]

    def _long_setting(self, fraction: float) -> tuple[Setting, Sequence[int]]:
        """Return long sequences, and as many splits as `fraction` of the work allows."""
        assert self.long_model is not None
        shape = self.long_model.shape
        pairs = shape.seq_len**2 * shape.n_head * shape.n_layer
        most = max(2, min(MAX_SPLITS, int(MAX_PAIRS * fraction / pairs)))
        splits = causality.splits_of(shape.seq_len, most, self._windows(shape.seq_len))
        return Setting(shape.seq_len, fraction < 1), splits
