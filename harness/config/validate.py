"""Check the entries of a study before anything starts; each check yields its problems."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from harness.config.axes import Axes, architecture_key
from harness.config.batch_ramp import check_ramp, check_ramp_division
from harness.config.devices import check_device, check_sizes
from harness.config.entries import PlannedEntry
from harness.config.unread import check_read
from harness.data.batches import micro_batch_size
from harness.data.corpus import Corpus
from harness.errors import Problem, UserError
from harness.model.builder import ModelBuilder
from harness.model.part_check import describe_failure
from harness.probes import lm_eval
from harness.results.records import (
    LaunchSettings,
    ModelSettings,
    ProbeSettings,
    TrainSettings,
    VariantChoice,
)
from harness.study.axes import VariantSelection
from harness.study.settings import Changes, Settings, place_of
from harness.training.optimizer import decay_steps
from variants import activity, registry
from variants.base import AXES, ModelShape, Optimizer, Parallelism, Variant
from variants.errors import CODE_ERRORS, class_line
from variants.parameters import FP32_BYTES, OptimizerDefaults
from variants.validation import divisors

DECAY_FRACTION = "train.decay_fraction"
MAX_PARAMETERS = 10**12
MAX_ACTIVATION_BYTES = 2**44


def check_variant_paths(location: str, folders: Sequence[Path]) -> Iterator[Problem]:
    """Each folder of the user's variants contains a folder for an axis."""
    for i, folder in enumerate(folders):
        if not any((folder / axis).is_dir() for axis in AXES):
            yield Problem(
                f"{location}: study.variant_paths[{i}]",
                f"{folder}: must be a folder with one for each axis, e.g. attention/",
            )


def check_model(location: str, model: ModelSettings, changes: Changes) -> Iterator[Problem]:
    """The heads divide the width of the model, and its size can be computed."""
    if model.n_embd % model.n_head:
        place = place_of(changes, "model.n_head", "model.n_embd")
        shown = _named("model.n_head", model.n_head, place)
        yield Problem(
            f"{location}: {place}",
            f"{shown} does not divide n_embd = {model.n_embd}; "
            f"allowed: {', '.join(map(str, divisors(model.n_embd)))}",
        )
    n_parameters = 12 * model.n_layer * model.n_embd**2  # of GPT-2, without embeddings
    if n_parameters > MAX_PARAMETERS:
        place = place_of(changes, "model.n_embd", "model.n_layer")
        shown = _named("model.n_embd", model.n_embd, place)
        yield Problem(
            f"{location}: {place}",
            f"{shown} with n_layer = {model.n_layer} gives {n_parameters:.3g} parameters; "
            f"allowed: at most {MAX_PARAMETERS:.3g}",
        )


def _named(key: str, value: object, place: str) -> str:
    """Return a value as a message at a place shows it: with its key, if the place has another."""
    is_own = place.endswith(key) or f'"{key}"' in place
    return str(value) if is_own else f"{key.partition('.')[2]} = {value}"


def check_entries(
    location: str, entries: Sequence[PlannedEntry], axes: Axes, launch: LaunchSettings
) -> Iterator[Problem]:
    """Run all checks that need neither the corpus nor the models."""
    groups: dict[str, list[PlannedEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.settings.key, []).append(entry)
    yield from _check_decay_fraction(location, [group[0].settings for group in groups.values()])
    for group in groups.values():
        parallelisms = [entry.choices["parallelism"] for entry in group]
        yield from check_settings(location, group[0].settings, parallelisms, axes, launch)
        yield from _check_positionals(location, group, axes)
        yield from _check_documents(location, group, axes)
    yield from check_read(location, entries, axes.paths)


def check_settings(
    location: str,
    settings: Settings,
    parallelisms: Sequence[VariantChoice],
    axes: Axes,
    launch: LaunchSettings,
) -> Iterator[Problem]:
    """The settings of some entries fit to each other and to the entries' parallelisms."""
    yield from _check_schedule(location, settings)
    yield from _check_tokens(location, settings, parallelisms, axes, launch)


def _check_documents(
    location: str, entries: Sequence[PlannedEntry], axes: Axes
) -> Iterator[Problem]:
    """If documents are masked, each attention supports it. All entries have the same settings."""
    settings = entries[0].settings
    if settings.data.documents == "cross":
        return
    choices = {entry.choices["attention"].label: entry.choices["attention"] for entry in entries}
    for label, choice in choices.items():
        attention = registry.load("attention", choice.name, axes.paths)
        if not attention.supports_documents:
            yield Problem(
                f"{location}: {settings.place('data.documents')}",
                f"mask: the attention {label} does not support masked documents "
                f"({class_line(attention)}); exclude it, or let its `forward` accept "
                "`documents_BT` and declare `supports_documents = True`",
            )


def _check_schedule(location: str, settings: Settings) -> Iterator[Problem]:
    """The learning rate rises during warm-up only, which ends within the run."""
    train = settings.train
    if train.min_lr > train.lr:
        place = settings.place("train.min_lr", "train.lr")
        shown = _named("train.min_lr", f"{train.min_lr:g}", place)
        yield Problem(
            f"{location}: {place}",
            f"{shown} is above lr = {train.lr:g}, so that the rate would rise after the "
            f"warm-up; allowed: at most lr",
        )
    if train.warmup_steps > train.steps:
        place = settings.place("train.warmup_steps", "train.steps")
        shown = _named("train.warmup_steps", train.warmup_steps, place)
        yield Problem(
            f"{location}: {place}",
            f"{shown}: the warm-up would not end within the run; "
            f"allowed: at most steps = {train.steps}",
        )
    elif train.schedule == "wsd" and train.warmup_steps + decay_steps(train) > train.steps:
        place = settings.place(DECAY_FRACTION, "train.warmup_steps", "train.steps")
        shown = _named(DECAY_FRACTION, f"{train.decay_fraction:g}", place)
        yield Problem(
            f"{location}: {place}",
            f"{shown}: the decay over {decay_steps(train)} of {train.steps} steps "
            f"would begin within the warm-up; allowed: at most "
            f"{1 - train.warmup_steps / train.steps:.4g}",
        )


def _check_decay_fraction(location: str, distinct: Sequence[Settings]) -> Iterator[Problem]:
    """A schedule of the study has the `decay_fraction` that it states."""
    if any(settings.train.schedule == "wsd" for settings in distinct):
        return
    for settings in distinct:
        fraction = settings.train.decay_fraction
        if fraction != TrainSettings.model_fields["decay_fraction"].default:
            yield Problem(
                f"{location}: {settings.place('train.decay_fraction')}",
                f"{fraction:g}: only the schedule 'wsd' has it, and the schedule is "
                f"'{settings.train.schedule}'; remove it, or use schedule = \"wsd\"",
            )


def _check_tokens(
    location: str,
    settings: Settings,
    parallelisms: Sequence[VariantChoice],
    axes: Axes,
    launch: LaunchSettings,
) -> Iterator[Problem]:
    """The tokens of a step are whole sequences that divide over the ranks into micro-batches."""
    seq_len = settings.model.seq_len
    tokens_per_step = settings.train.tokens_per_step
    if tokens_per_step % seq_len:
        nearest = _nearest_multiples(tokens_per_step, seq_len)
        place = settings.place("train.tokens_per_step", "model.seq_len")
        shown = _named("train.tokens_per_step", tokens_per_step, place)
        yield Problem(
            f"{location}: {place}",
            f"{shown} is not a multiple of seq_len = {seq_len}; {nearest}",
        )
        return
    yield from check_ramp(location, settings)
    for choice in {choice.label: choice for choice in parallelisms}.values():
        parallelism = load_parallelism(choice, axes.paths)
        yield from check_device(location, choice.label, parallelism, settings, launch)
        yield from _check_division(location, choice.label, parallelism, settings)
        yield from check_ramp_division(location, choice.label, parallelism, settings)


def _check_division(
    location: str, label: str, parallelism: Parallelism, settings: Settings
) -> Iterator[Problem]:
    train = settings.train
    model = settings.model
    seq_len = model.seq_len
    n_sequences = train.tokens_per_step // seq_len
    n_groups = parallelism.data_parallel_size
    if n_sequences % n_groups:
        nearest = _nearest_multiples(train.tokens_per_step, seq_len * n_groups)
        place = settings.place("train.tokens_per_step", "model.seq_len")
        shown = _named("train.tokens_per_step", train.tokens_per_step, place)
        yield Problem(
            f"{location}: {place}",
            f"{shown} gives {n_sequences} sequences of {seq_len}, which do not "
            f"divide over {n_groups} ranks of {label}; {nearest}",
        )
        return
    n_local = n_sequences // n_groups
    try:
        size = micro_batch_size(n_local, train.micro_batch_size)
    except ValueError as error:
        nearest = _nearest_divisors(n_local, train.micro_batch_size or 1)
        place = settings.place("train.micro_batch_size", "train.tokens_per_step", "model.seq_len")
        yield Problem(f"{location}: {place}", f"{error}; {nearest} ({label})")
        return
    n_bytes = FP32_BYTES * size * seq_len * model.n_embd * model.n_layer
    if n_bytes > MAX_ACTIVATION_BYTES:
        yield Problem(
            f"{location}: {settings.place('train.micro_batch_size', 'train.tokens_per_step')}",
            f"a forward pass over {size} sequences of {seq_len} tokens stores more than "
            f"{n_bytes:.3g} bytes ({label}); allowed: at most {MAX_ACTIVATION_BYTES:.3g}",
        )


def _nearest_divisors(value: int, divisor: int) -> str:
    allowed = divisors(value)
    below = max(n for n in allowed if n < divisor)
    above = min(n for n in allowed if n > divisor)
    return f"the nearest that do: {below}, {above}"


def _nearest_multiples(value: int, unit: int) -> str:
    below = value // unit * unit
    multiples = [n for n in (below, below + unit) if n > 0]
    return f"the nearest that do: {', '.join(map(str, multiples))}"


def load_parallelism(choice: VariantChoice, paths: Sequence[Path]) -> Parallelism:
    """Return the parallelism that a choice names."""
    cls = registry.load("parallelism", choice.name, paths)
    parallelism: Parallelism = cls(cls.Options(**choice.options))
    return parallelism


def load_optimizer(choice: VariantChoice, paths: Sequence[Path]) -> Optimizer:
    """Return the optimizer that a choice names, with the defaults of `[train]`."""
    cls = registry.load("optimizer", choice.name, paths)
    optimizer: Optimizer = cls(cls.Options(**choice.options), OptimizerDefaults())
    return optimizer


def _check_positionals(
    location: str, entries: Sequence[PlannedEntry], axes: Axes
) -> Iterator[Problem]:
    """The attention supports the bias of its positional, which supports the attention's width.

    All entries have the same settings.
    """
    shape = ModelShape(**entries[0].settings.model.model_dump(), vocab_size=1)
    for entry in (planned.choices for planned in entries):
        positional = registry.load("positional", entry["positional"].name, axes.paths)
        attention = registry.load("attention", entry["attention"].name, axes.paths)
        positional_label = entry["positional"].label
        attention_label = entry["attention"].label
        if positional.has_bias and not attention.supports_bias:
            yield Problem(
                f"{location}: axes",
                f"{positional_label} adds a bias to the scores, which {attention_label} does not "
                f'support; add [[exclude]] with positional = "{positional_label}", '
                f'attention = "{attention_label}"',
            )
        width = attention.rotary_dim(shape, attention.Options(**entry["attention"].options))
        if width == shape.head_dim:
            continue  # the options are checked for this width already
        options = positional.Options(**entry["positional"].options)
        try:
            reasons = [*positional.check_rotary(width, options).values()]
        except CODE_ERRORS as error:
            reasons = [describe_failure(error, "check_rotary", positional)]
        for reason in reasons:
            yield Problem(
                f"{location}: axes",
                f"{positional_label} rotates a width of {width} in {attention_label}: {reason}",
            )


def check_probes(location: str, probes: ProbeSettings, model: ModelSettings) -> Iterator[Problem]:
    """The KV caches of the decode probe have a possible size."""
    decode = probes.decode
    if decode is None:
        return
    batch = max(decode.batch)
    context = max(decode.context)
    n_bytes = 2 * FP32_BYTES * batch * context * model.n_embd * model.n_layer
    if n_bytes > MAX_ACTIVATION_BYTES:
        yield Problem(
            f"{location}: probes.decode",
            f"{batch} sequences of {context} positions need a KV cache of {n_bytes:.3g} bytes; "
            f"allowed: at most {MAX_ACTIVATION_BYTES:.3g}",
        )


def check_tasks(location: str, probes: ProbeSettings) -> Iterator[Problem]:
    """The tasks of `lm-eval` exist, and it is installed."""
    if probes.lm_eval is None:
        return
    place = f"{location}: probes.lm_eval"
    try:
        for message in lm_eval.unknown_tasks(probes.lm_eval.tasks):
            yield Problem(f"{place}.tasks", message)
    except ImportError:
        yield Problem(place, lm_eval.INSTALL)


def check_corpus(
    location: str, corpus: Corpus, settings: Settings, probes: ProbeSettings
) -> Iterator[Problem]:
    """Both parts of each corpus hold a sequence, and the validation part each evaluated length.

    The parts of a corpus of a mixture hold two, so that each half of the validation windows, with
    which a study may tune, has one.
    """
    n_windows = 2 if corpus.mixture else 1
    sequence = "two sequences need" if corpus.mixture else "a sequence needs"
    seq_len = settings.model.seq_len
    for part in corpus.parts():
        n_val = Corpus.n_tokens(part.val)
        for name, n_tokens in (("training", Corpus.n_tokens(part.train)), ("validation", n_val)):
            if n_tokens <= n_windows * seq_len:
                yield Problem(
                    f"{location}: {settings.place('data.corpus', 'model.seq_len')}",
                    f"'{part.name}': its {name} part has {n_tokens} tokens, {sequence} "
                    f"{n_windows * seq_len + 1}; use a longer text or a smaller model.seq_len",
                )
        longest = (n_val - 1) // n_windows
        for length in probes.eval_lengths or ():
            if n_val > n_windows * seq_len and length > longest:
                yield Problem(
                    f"{location}: probes.eval_lengths",
                    f"{length}: such a sequence needs {length + 1} tokens, the validation part of "
                    f"'{part.name}' has {n_val}; allowed: at most {longest}",
                )


def check_parallelism(
    location: str, entries: Iterable[tuple[VariantSelection, ModelShape]], paths: Sequence[str]
) -> Iterator[Problem]:
    """Each entry's parallelism supports its optimizer, and its model.

    The model is built on the meta device.
    """
    checked: set[tuple[str, str, str, ModelShape]] = set()
    for entry, shape in entries:
        optimizer = load_optimizer(entry["optimizer"], [Path(path) for path in paths])
        labels = (entry["optimizer"].label, entry["parallelism"].label)
        key = (architecture_key(entry), *labels, shape)
        if key in checked:
            continue
        checked.add(key)
        builder = ModelBuilder(shape, entry, paths)
        parallelism = builder.parallelism()
        at_fault: type[Variant] = type(parallelism)
        optimizer_name = class_line(type(optimizer))
        parallelism_name = class_line(at_fault)
        try:
            with activity.doing(f"`why_unsupported` of {optimizer_name} or of {parallelism_name}"):
                reason = parallelism.why_unsupported(builder.model)
                at_fault = type(optimizer)
                reason = reason or optimizer.why_unsupported(parallelism)
        except UserError as error:
            yield from error.problems
            continue
        except CODE_ERRORS as error:
            failure = describe_failure(error, "why_unsupported", at_fault)
            yield Problem(f"{location}: axes", failure)
            continue
        if reason:
            named = [
                choice.label
                for axis, choice in entry.items()
                if _is_named(axis) or choice.name != AXES[axis].default
            ]
            yield Problem(
                f"{location}: axes", f"{', '.join(named)}: {reason}; add [[exclude]] with these"
            )


def check_precision(
    location: str,
    entries: Iterable[PlannedEntry],
    shape_of: Callable[[PlannedEntry], ModelShape],
    paths: Sequence[str],
) -> Iterator[Problem]:
    """The precision of each entry can compute the sizes of its model, which is built if it must."""
    checked = set()
    for entry in entries:
        shape = shape_of(entry)
        settings = entry.settings
        key = (architecture_key(entry.choices), entry.choices["parallelism"].label, settings.key)
        if settings.train.precision != "fp8" or key in checked:
            continue
        checked.add(key)
        builder = ModelBuilder(shape, entry.choices, paths)
        try:
            yield from check_sizes(location, builder.model(), builder.parallelism(), settings)
        except UserError as error:
            yield from error.problems


def _is_named(axis: str) -> bool:
    """Return whether messages name an entry's choice on an axis."""
    return axis not in AXES or AXES[axis].in_every_name
