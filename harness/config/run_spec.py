"""Build the resolved spec of each run, and its id from all that determines the result."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.config.cost import CostEstimator, ModelCosts
from harness.config.devices import resolved_device
from harness.config.validate import load_parallelism
from harness.data.batches import micro_batch_size
from harness.data.corpus import Corpus
from harness.provenance.sources import Sources
from harness.results.records import (
    SCHEMA_VERSION,
    EvalWindows,
    InitSource,
    LaunchSettings,
    LaunchSpec,
    PredictedCost,
    ProbeSettings,
    ResolvedData,
    ResolvedModel,
    RunSpec,
    TuningTrial,
    VariantChoice,
)
from harness.results.records.base import short_hash
from harness.results.records.run_spec import settings_content
from harness.results.records.tuning import TUNING, UNTUNED
from harness.study.axes import VariantSelection, entry_id
from harness.study.names import MAX_ENTRY, shorten
from harness.study.settings import Settings
from harness.study.study_file import StudyFile
from variants import registry
from variants.base import AXES, Parallelism

TRIAL_PREFIX = "tune-"  # of the names of trials


@dataclass(frozen=True)
class StudyContext:
    """What all runs of a study share."""

    file: StudyFile
    variant_paths: list[str]
    baseline: VariantSelection
    sources: Sources
    costs: ModelCosts = dataclasses.field(default_factory=dict)

    def for_source_runs(self) -> "StudyContext":
        """Return the context of the runs that others start from: weights are kept, no probes."""
        kept = self.file.launch.keep_checkpoints
        launch = self.file.launch.model_copy(
            update={"keep_checkpoints": "weights" if kept == "none" else kept}
        )
        update = {"probes": ProbeSettings(), "launch": launch, "tune": None}
        file = self.file.model_copy(update=update)
        return dataclasses.replace(self, file=file)


class RunSpecBuilder:
    """Build the specs of runs of the same settings, which differ in their variants and seeds.

    `init_content` is the hash of the weights that the runs start from, None for new parameters,
    and `data_offset_steps` the number of steps of the data order that these have seen.
    `prefix` precedes the names of entries and runs. `settings_hash` is the hash of the settings
    that all entries of the study share: those that no axis varies.
    """

    def __init__(
        self,
        context: StudyContext,
        settings: Settings,
        corpus: Corpus,
        init_content: str | None = None,
        prefix: str = "",
        data_offset_steps: int = 0,
    ) -> None:
        file = context.file
        train = settings.train
        self._context = context
        self._corpus = corpus
        self._prefix = prefix
        self._data_offset_steps = data_offset_steps
        self._train = train.model_copy(update={"device": resolved_device(train)})
        self._model = ResolvedModel(**settings.model.model_dump(), vocab_size=corpus.vocab_size)
        self._data = ResolvedData(
            corpus=corpus.name,
            tokenizer=settings.data.tokenizer,
            sha256=corpus.sha256,
            entropy_nats_per_byte=corpus.entropy,
            documents=settings.data.documents,
            separator=corpus.separator,
        )
        self._baseline = {axis: choice.label for axis, choice in context.baseline.items()}
        if file.tune is not None:
            self._baseline[TUNING] = UNTUNED
        self._estimator = CostEstimator(
            self._model, self._train, context.variant_paths, corpus.separator, context.costs
        )
        self._costs: dict[str, tuple[PredictedCost, Parallelism]] = {}
        varied = list(file.varied)
        if file.tune is not None:
            varied += file.tune.axes
        content_of = partial(
            settings_content,
            model=self._model,
            train=self._train,
            data=self._data,
            probes=file.probes,
            init=init_content,
            data_offset_steps=data_offset_steps,
        )
        content = content_of(eval_windows="all" if file.tune is None else "final")
        self._content = short_hash(content)
        self._trial_content = short_hash(content_of(eval_windows="tuning"))
        # An axis may vary `steps`: the shared settings have `eval_every` as it is stated.
        stated = {"train": self._train.hashed() | {"eval_every": self._train.eval_every}}
        self.settings_hash = short_hash(_shared(content | stated, varied, file.expressions))

    def content_hash(self, entry: VariantSelection, is_trial: bool = False) -> str:
        """Return the hash of all that determines the results of an entry, except for the seeds."""
        axes = {}
        for axis, choice in entry.items():
            if axis not in AXES:
                continue  # the settings have its values
            if AXES[axis].in_hash_by_default or not self._is_default(axis, choice):
                axes[axis] = choice.content
        shared = self._trial_content if is_trial else self._content
        return short_hash({"shared": shared, "axes": axes})

    def _is_default(self, axis: str, choice: VariantChoice) -> bool:
        """Return whether a choice is the default variant of its axis, with default options."""
        if choice.name != AXES[axis].default:
            return False
        paths = [Path(path) for path in self._context.variant_paths]
        options = registry.load(axis, choice.name, paths).Options()
        return choice.options == dataclasses.asdict(options)

    def run_id(
        self,
        entry: VariantSelection,
        seed: int,
        data_seed: int | None = None,
        is_trial: bool = False,
    ) -> str:
        """Return a readable name with the hash of all that determines the result of the run."""
        content_hash = self.content_hash(entry, is_trial)
        content: dict[str, str | int] = {"content": content_hash, "seed": seed}
        seeds = f"{seed}"
        if data_seed is not None:
            content["data_seed"] = data_seed
            seeds = f"{seed}d{data_seed}"
        prefix = TRIAL_PREFIX if is_trial else ""
        name = shorten(prefix + self._entry_name(entry), MAX_ENTRY)
        return f"{name}-s{seeds}-{short_hash(content)}"

    def build(
        self,
        entry: VariantSelection,
        seed: int,
        data_seed: int | None = None,
        source_run: RunSpec | None = None,
        checkpoint: InitSource | None = None,
        trial: TuningTrial | None = None,
    ) -> RunSpec:
        """Return the spec of one run, which starts from a `source_run`, a `checkpoint` or neither.

        A `trial` has no probes.

        Raises:
            UserError: the model of the entry cannot be built.
        """
        file = self._context.file
        corpus = self._corpus
        expected, parallelism = self._cost(entry)
        init = InitSource(run_id=source_run.run_id) if source_run else checkpoint
        spec = RunSpec.model_construct(  # without validation: every part has been validated
            schema_version=SCHEMA_VERSION,
            study=file.study.name,
            run_id=self.run_id(entry, seed, data_seed, trial is not None),
            entry=self._entry_name(entry),
            seed=seed,
            data_seed=data_seed,
            settings_hash=self.settings_hash,
            baseline=self._baseline,
            axes=entry,
            model=self._model,
            data=self._data,
            train=self._train,
            init=init,
            data_offset_steps=self._data_offset_steps,
            probes=file.probes if trial is None else ProbeSettings(),
            eval_windows=self._eval_windows(trial),
            tuning=trial,
            launch=LaunchSpec(
                world_size=parallelism.world_size,
                n_devices=parallelism.n_devices,
                **_execution(file.launch),
                variant_paths=self._context.variant_paths,
                train_tokens=corpus.train,
                val_tokens=corpus.val,
                mixture=corpus.mixture,
                sources=corpus.sources,
                token_bytes=corpus.token_bytes,
            ),
            expected=expected,
        )
        code = self._context.sources.code(spec, source_run)
        return spec.model_copy(update={"code_hash": code.hash})

    def _eval_windows(self, trial: TuningTrial | None) -> EvalWindows:
        if self._context.file.tune is None:
            return "all"
        return "final" if trial is None else "tuning"

    def _entry_name(self, entry: VariantSelection) -> str:
        return self._prefix + entry_id(entry, self._context.file)

    def _cost(self, entry: VariantSelection) -> tuple[PredictedCost, Parallelism]:
        """Return the predicted cost and the parallelism of an entry."""
        name = self._entry_name(entry)
        if name not in self._costs:
            paths = [Path(path) for path in self._context.variant_paths]
            parallelism = load_parallelism(entry["parallelism"], paths)
            n_sequences = self._train.tokens_per_step // self._model.seq_len
            n_local = n_sequences // parallelism.data_parallel_size
            size = micro_batch_size(n_local, self._train.micro_batch_size)
            cost = self._estimator.estimate(entry, size, n_local)
            self._costs[name] = (cost, parallelism)
        return self._costs[name]


def _execution(settings: LaunchSettings) -> dict[str, Any]:
    """Return the settings of [launch] that the processes of a run need."""
    content = settings.model_dump()
    return {name: content[name] for name in LaunchSpec.model_fields if name in content}


def _shared(
    content: Mapping[str, object], varied: Iterable[str], expressions: Mapping[str, str]
) -> dict[str, object]:
    """Return the content of a run's settings without those that an axis varies.

    What is known of a corpus and of a vocabulary varies with the settings that choose them. A
    setting that follows from others counts by its expression.
    """
    dropped = set(varied)
    for key in varied:
        section, _, name = key.partition(".")
        if key == "data.tokenizer":
            dropped |= {"model.vocab_size", "data.entropy_nats_per_byte"}
        elif section == "data" and (name == "corpus" or name not in ResolvedData.model_fields):
            dropped |= {"data.sha256", "data.entropy_nats_per_byte"}
    shared = dict(content)
    for section in ("model", "data", "train"):
        table = content[section]
        assert isinstance(table, Mapping)
        shared[section] = {
            name: expressions.get(f"{section}.{name}", value)
            for name, value in table.items()
            if f"{section}.{name}" not in dropped
        }
    return shared
