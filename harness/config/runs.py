"""Build the runs of entries: the runs that they start from first, in the order of the seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.config.entries import PlannedEntry
from harness.config.run_spec import RunSpecBuilder, StudyContext
from harness.config.trials import EntryTrial
from harness.config.warm_start import Checkpoint, Source, SourceRun
from harness.data.corpus import Corpus
from harness.results.records import InitSource, RunSpec
from harness.study.names import SOURCE_PREFIX
from variants.base import ModelShape


@dataclass(frozen=True)
class Corpora:
    """The corpora of a study, by the [data] that names them."""

    by_data: dict[str, Corpus]

    def of(self, entry: PlannedEntry) -> Corpus:
        """Return the corpus of an entry."""
        return self.by_data[entry.settings.data.model_dump_json()]

    def shape(self, entry: PlannedEntry) -> ModelShape:
        """Return the shape of an entry's model."""
        model = entry.settings.model.model_dump()
        return ModelShape(**model, vocab_size=self.of(entry).vocab_size)

    @property
    def note(self) -> str | None:
        """The notes on all corpora."""
        notes = dict.fromkeys(corpus.note for corpus in self.by_data.values() if corpus.note)
        return "; ".join(notes) or None


class RunBuilder:
    """Builds runs, with one builder of specs for each of the study's settings.

    `source` gives the initial weights of all runs, if the study has one.
    """

    def __init__(self, context: StudyContext, corpora: Corpora, source: Source | None) -> None:
        self._context = context
        self._corpora = corpora
        self._source = source
        self._builders: dict[str, RunSpecBuilder] = {}
        self._source_runs: dict[int, RunSpec] = {}
        self._source_builder: RunSpecBuilder | None = None
        self._checkpoint: InitSource | None = None
        self._init_content: str | None = None
        self._n_seen_steps = 0
        if isinstance(source, SourceRun):
            self._source_builder = RunSpecBuilder(
                context.for_source_runs(),
                source.entry.settings,
                corpora.of(source.entry),
                prefix=SOURCE_PREFIX,
            )
            self._init_content = self._source_builder.content_hash(source.entry.choices)
            self._n_seen_steps = source.entry.settings.train.steps
        elif isinstance(source, Checkpoint):
            self._init_content = source.weights.sha256
            self._n_seen_steps = source.weights.data_steps
            self._checkpoint = InitSource(sha256=source.weights.sha256, folder=str(source.folder))

    def settings_hash(self, entry: PlannedEntry) -> str:
        """Return the hash of the settings that all entries share."""
        return self._builder(entry).settings_hash

    def build(self, entries: Sequence[EntryTrial], seeds: Iterable[int]) -> list[RunSpec]:
        """Return the runs of entries for each seed, and for crossed seeds unless it is a trial."""
        runs: list[RunSpec] = []
        for seed in seeds:
            source_run = self._source_run(seed)
            if source_run is not None and entries:
                runs.append(source_run)
            for data_seed in (None, *self._crossed(seed)):
                for entry, trial in entries:
                    if trial is not None and data_seed is not None:
                        continue
                    builder = self._builder(entry)
                    spec = builder.build(
                        entry.choices, seed, data_seed, source_run, self._checkpoint, trial
                    )
                    runs.append(spec)
        return runs

    def ids(self, entries: Sequence[PlannedEntry], seeds: Iterable[int]) -> set[str]:
        """Return the ids of the final runs of entries, and of the runs that they start from."""
        run_ids = set()
        for seed in seeds:
            source_run = self._source_run(seed)
            if source_run is not None:
                run_ids.add(source_run.run_id)
            for data_seed in (None, *self._crossed(seed)):
                for entry in entries:
                    builder = self._builder(entry)
                    run_ids.add(builder.run_id(entry.choices, seed, data_seed))
        return run_ids

    def _crossed(self, seed: int) -> list[int]:
        study = self._context.file.study
        if not study.cross_seeds:
            return []
        return [other for other in dict.fromkeys(study.seeds) if other != seed]

    def _source_run(self, seed: int) -> RunSpec | None:
        if self._source_builder is None or not isinstance(self._source, SourceRun):
            return None
        if seed not in self._source_runs:
            spec = self._source_builder.build(self._source.entry.choices, seed)
            self._source_runs[seed] = spec
        return self._source_runs[seed]

    def _builder(self, entry: PlannedEntry) -> RunSpecBuilder:
        """Return the builder for an entry's settings."""
        key = entry.settings.key
        if key not in self._builders:
            self._builders[key] = RunSpecBuilder(
                self._context,
                entry.settings,
                self._corpora.of(entry),
                self._init_content,
                data_offset_steps=self._n_seen_steps,
            )
        return self._builders[key]
