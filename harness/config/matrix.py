"""Expand a study file to its runs: axes x seeds, without `exclude`, with `include`, all checked."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config import study_file, validate, warm_start
from harness.config.axes import Axes, VariantSelection, same_variant
from harness.config.ladder import check_ladder
from harness.config.run_spec import SOURCE_PREFIX, RunSpecBuilder, StudyContext, entry_id
from harness.config.size_matching import WidthMatcher
from harness.config.study_file import StudyFile
from harness.config.warm_start import RUN_KEY, Checkpoint, Source, SourceRun
from harness.data.corpus import Corpus, prepare
from harness.errors import Problem, UserError
from harness.provenance.sources import Code, Sources
from harness.results.records import (
    EquivalenceMargin,
    InitSource,
    LadderSettings,
    LaunchInputs,
    LaunchRecord,
    RunSpec,
    VariantChoice,
)
from variants.base import AXES, ModelShape


@dataclass(frozen=True)
class PlannedStudy:
    """A checked study. `runs` are the selected runs, ordered by seed; `all_run_ids` covers all.

    If entries start from another run's checkpoint, that run is the first of its seed. `allow` names
    the violations of the contract that the study permits.
    """

    name: str
    settings_hash: str  # of the entries
    runs: list[RunSpec]
    all_run_ids: set[str]
    excluded: list[tuple[str, str]]  # entry and reason
    note: str | None  # on the corpus
    equivalence_margin: EquivalenceMargin
    sources: Sources
    allow: Sequence[str] = ()
    compare: list[str] | None = None  # the asked axes; None: all
    ladder: LadderSettings | None = None

    def launch_record(
        self,
        command: str,
        order: Sequence[RunSpec],
        inputs: LaunchInputs,
        accepted_outdated: Sequence[str] = (),
    ) -> LaunchRecord:
        """Return the record of a launch of these runs, in this order."""
        return LaunchRecord(
            command=command,
            order=[spec.run_id for spec in order],
            settings_hash=self.settings_hash,
            note=self.note,
            equivalence_margin=self.equivalence_margin,
            compare=self.compare,
            ladder=self.ladder,
            accepted_outdated=list(accepted_outdated),
            inputs=inputs,
        )

    def only(self, run_id: str) -> "PlannedStudy":
        """Return the study with one run, and the run that it starts from.

        Raises:
            UserError: the study has no run of that id.
        """
        by_id = {spec.run_id: spec for spec in self.runs}
        if run_id not in by_id:
            raise UserError(
                f"--run {run_id}: not a run of this study; the id covers the settings, the seed "
                "and the content of the corpus. `run --dry-run` lists the runs"
            )
        spec = by_id[run_id]
        source_run = by_id.get(spec.init.run_id or "") if spec.init else None
        runs = [run for run in (source_run, spec) if run is not None]
        return dataclasses.replace(self, runs=runs)

    def codes(self) -> list[Code]:
        """Return the distinct codes of the selected runs."""
        specs = {spec.run_id: spec for spec in self.runs}
        codes = {}
        for spec in self.runs:
            source_run = specs.get(spec.init.run_id or "") if spec.init else None
            code = self.sources.code(spec, source_run)
            codes[code.hash] = code
        return list(codes.values())


@dataclass(frozen=True)
class Matrix:
    """The entries of a study file, before their models are checked."""

    location: str
    file: StudyFile
    axes: Axes
    variant_paths: list[str]
    baseline: VariantSelection
    entries: list[VariantSelection]
    excluded: list[tuple[str, str]]
    source: Source | None


def load(
    path: Path,
    settings: Iterable[str] = (),
    seeds: Sequence[int] | None = None,
    where: Sequence[str] = (),
) -> PlannedStudy:
    """Read, expand and check a study; `settings`, `seeds` and `where` are command-line overrides.

    Raises:
        UserError: the study is invalid; it names every problem with file, key path, value and what
            is allowed.
    """
    file, problems = study_file.read(path, settings, seeds)
    matrix = _expand(file, path)
    problems += _check_settings(matrix)
    corpus = None
    try:
        corpus = prepare(file.data, path.parent, str(path))
        problems += validate.check_corpus(str(path), corpus, file)
    except UserError as error:
        problems += error.problems
    if corpus is None or problems:
        raise UserError(dict.fromkeys(problems))
    entries, problems = _match_sizes(matrix, corpus)
    problems += _check_models(matrix, entries, corpus)
    if problems:
        raise UserError(dict.fromkeys(problems))
    if not entries:
        raise UserError(f"{path}: all entries are excluded")
    selected = _select(matrix, entries, where)
    return _plan(matrix, entries, selected, corpus)


def _expand(file: StudyFile, path: Path) -> Matrix:
    """Return the matrix of a study file; its `axes` collect the problems."""
    folders = [(path.parent / folder).resolve() for folder in file.study.variant_paths]
    axes = Axes(str(path), ModelShape(**file.model.model_dump(), vocab_size=1), folders)
    axes.problems += validate.check_variant_paths(str(path), folders)
    axes.problems += validate.check_model(str(path), file.model)
    axes.problems += validate.check_probes(str(path), file)
    axes.read(file.axes)
    baseline = axes.baseline(file.study.baseline)
    entries = [
        dict(zip(AXES, choices, strict=True))
        for choices in itertools.product(*axes.choices.values())
    ]
    entries, excluded = _exclude(file, axes, entries)
    entries += _include(file, axes, entries, baseline)
    source = None
    if file.init is not None:
        source = warm_start.read(file.init, axes, baseline, file.train, path.parent)
    return Matrix(
        location=str(path),
        file=file,
        axes=axes,
        variant_paths=[str(folder) for folder in folders],
        baseline=baseline,
        entries=entries,
        excluded=excluded,
        source=source,
    )


def _exclude(
    file: StudyFile, axes: Axes, entries: list[VariantSelection]
) -> tuple[list[VariantSelection], list[tuple[str, str]]]:
    """Return the entries that no `exclude` rule matches, and the excluded ones with the reason."""
    reasons: dict[str, str] = {}
    for i, rule in enumerate(file.exclude):
        conditions = dict(rule)
        reason = conditions.pop("reason", None)
        if not isinstance(reason, str) or not reason.strip():
            axes.add_problem(
                f"exclude[{i}].reason", f"{reason!r}: an exclusion needs a reason, as text"
            )
        n_problems = len(axes.problems)
        allowed = axes.resolve_rule(conditions, f"exclude[{i}]")
        matched = [entry for entry in entries if allowed and _matches(entry, allowed)]
        if not matched and len(axes.problems) == n_problems and not axes.has_invalid:
            axes.add_problem(f"exclude[{i}]", "matches no entry; remove the rule")
        for entry in matched:
            reasons[entry_id(entry, file)] = str(reason)
    kept = [entry for entry in entries if entry_id(entry, file) not in reasons]
    return kept, list(reasons.items())


def _include(
    file: StudyFile, axes: Axes, entries: list[VariantSelection], baseline: VariantSelection
) -> list[VariantSelection]:
    """Return the entries that `include` rules add; axes that a rule omits are the baseline's."""
    added: list[VariantSelection] = []
    for i, rule in enumerate(file.include):
        for axis in rule.keys() - AXES.keys():
            axes.add_problem(f"include[{i}].{axis}", f"no such axis; allowed: {', '.join(AXES)}")
        chosen = {
            axis: axes.choose(axis, rule[axis], f"include[{i}].{axis}")
            for axis in AXES
            if axis in rule
        }
        entry: VariantSelection = {}
        for axis in AXES:
            choice = chosen.get(axis, baseline.get(axis))
            if choice is not None:
                entry[axis] = choice
        present = [*entries, *added]
        if len(entry) < len(AXES) or any(_same_entry(entry, other) for other in present):
            continue
        name = entry_id(entry, file)
        if name.casefold() in (entry_id(other, file).casefold() for other in present):
            message = f"two different entries are labelled {name}; give one a `label`"
            axes.add_problem(f"include[{i}]", message)
        added.append(entry)
    return added


def _matches(entry: VariantSelection, allowed: dict[str, list[VariantChoice]]) -> bool:
    return all(entry[axis] in choices for axis, choices in allowed.items())


def _same_entry(a: VariantSelection, b: VariantSelection) -> bool:
    return all(same_variant(a[axis], b[axis]) for axis in AXES)


def _check_settings(matrix: Matrix) -> list[Problem]:
    """Return the problems that show without the corpus and the models."""
    problems = list(matrix.axes.problems)
    problems += validate.check_compare(matrix.location, matrix.file.study.compare, matrix.entries)
    problems += check_ladder(
        matrix.location, matrix.file.ladder, matrix.file.study.compare, matrix.entries
    )
    problems += validate.check_entries(
        matrix.location, matrix.entries, matrix.file.train, matrix.axes
    )
    problems += validate.check_documents(
        matrix.location, matrix.entries, matrix.file.data, matrix.axes
    )
    if isinstance(matrix.source, SourceRun):
        problems += validate.check_documents(
            f"{matrix.location}: {RUN_KEY}",
            [matrix.source.entry],
            matrix.file.data,
            matrix.axes,
        )
        problems += validate.check_entries(
            f"{matrix.location}: {RUN_KEY}",
            [matrix.source.entry],
            matrix.source.train,
            matrix.axes,
        )
    if matrix.file.init is None:
        problems += warm_start.unused_conversion_options(
            matrix.location, matrix.entries, matrix.axes.paths
        )
    return problems


def _match_sizes(matrix: Matrix, corpus: Corpus) -> tuple[list[VariantSelection], list[Problem]]:
    """Return the entries with the MLP widths that `match_size` asks for, and its problems."""
    measure = matrix.file.study.match_size
    if measure is None:
        return matrix.entries, []
    matcher = WidthMatcher(
        matrix.location, measure, matrix.baseline, _shape(matrix, corpus), matrix.variant_paths
    )
    return [matcher.match(entry) for entry in matrix.entries], matcher.problems


def _check_models(matrix: Matrix, entries: list[VariantSelection], corpus: Corpus) -> list[Problem]:
    """Return models that do not support their parallelism or cannot load the initial weights."""
    shape = _shape(matrix, corpus)
    paths = matrix.variant_paths
    source = matrix.source
    problems = list(validate.check_parallelism(matrix.location, entries, shape, paths))
    if isinstance(source, SourceRun):
        location = f"{matrix.location}: {RUN_KEY}"
        problems += validate.check_parallelism(location, [source.entry], shape, paths)
    if source is not None:
        problems += warm_start.incompatible_tensors(matrix.location, source, entries, shape, paths)
    return problems


def _shape(matrix: Matrix, corpus: Corpus) -> ModelShape:
    return ModelShape(**matrix.file.model.model_dump(), vocab_size=corpus.vocab_size)


def _select(
    matrix: Matrix, entries: list[VariantSelection], where: Sequence[str]
) -> list[VariantSelection]:
    """Return the entries that match all conditions, of which `matrix` has the original choices."""
    allowed = matrix.axes.select(where)
    selected = [
        entry
        for entry, original in zip(entries, matrix.entries, strict=True)
        if _matches(original, allowed)
    ]
    if not selected:
        conditions = " ".join(where)
        raise UserError(
            f"--where {conditions}: no entry in {matrix.location} matches all of these conditions"
        )
    return selected


def _plan(
    matrix: Matrix,
    entries: list[VariantSelection],
    selected: list[VariantSelection],
    corpus: Corpus,
) -> PlannedStudy:
    """Build the specs of the selected entries for all seeds, and the ids of all entries' runs."""
    study = matrix.file.study
    source = matrix.source
    sources = Sources()
    context = StudyContext(matrix.file, corpus, matrix.variant_paths, matrix.baseline, sources)
    source_builder = None
    init_content = None
    n_seen_steps = 0
    if isinstance(source, SourceRun):
        source_builder = RunSpecBuilder(
            context.for_source_runs(), source.train, prefix=SOURCE_PREFIX
        )
        init_content = source_builder.content_hash(source.entry)
        n_seen_steps = source.train.steps
    elif isinstance(source, Checkpoint):
        init_content = source.weights.sha256
        n_seen_steps = source.weights.data_steps
    builder = RunSpecBuilder(
        context, matrix.file.train, init_content, data_offset_steps=n_seen_steps
    )

    runs: list[RunSpec] = []
    all_run_ids: set[str] = set()
    seeds = list(dict.fromkeys(study.seeds))
    checkpoint = None
    if isinstance(source, Checkpoint):
        checkpoint = InitSource(sha256=source.weights.sha256, folder=str(source.folder))
    for seed in seeds:
        source_run = None
        if isinstance(source, SourceRun) and source_builder is not None:
            source_run = source_builder.build(source.entry, seed)
            runs.append(source_run)
            all_run_ids.add(source_run.run_id)
        data_seeds = [other for other in seeds if study.cross_seeds and other != seed]
        for data_seed in (None, *data_seeds):
            runs += [
                builder.build(entry, seed, data_seed, source_run, checkpoint) for entry in selected
            ]
            all_run_ids.update(builder.run_id(entry, seed, data_seed) for entry in entries)
    return PlannedStudy(
        name=study.name,
        settings_hash=builder.settings_hash,
        runs=runs,
        all_run_ids=all_run_ids,
        excluded=matrix.excluded,
        note=corpus.note,
        equivalence_margin=study.equivalence_margin,
        sources=sources,
        allow=study.allow,
        compare=study.compare,
        ladder=matrix.file.ladder,
    )
