"""Expand a study file to its runs: axes x seeds, without `exclude`, with `include`, all checked."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config import validate, warm_start
from harness.config.axes import Axes
from harness.config.entries import EntryResolver, PlannedEntry
from harness.config.planned import PlannedStudy
from harness.config.run_spec import StudyContext
from harness.config.runs import Corpora, RunBuilder
from harness.config.trials import (
    MAX_TRIALS,
    TunedLevels,
    TuningPlan,
    check_options,
    check_windows,
    resolve_levels,
)
from harness.config.tuning import Tuning
from harness.config.tuning import read as read_tuning
from harness.config.warm_start import Checkpoint, Source, SourceRun
from harness.data.corpus import Corpus, prepare
from harness.errors import Problem, UserError
from harness.provenance.sources import Sources
from harness.results.files import absolute
from harness.results.records import (
    LookPlan,
    ModelSettings,
)
from harness.study import rules, study_file
from harness.study.axes import VariantSelection, entry_id
from harness.study.ladder import check_ladder
from harness.study.looks import UntilResolved, check_selection, plan_looks
from harness.study.matrix import expand
from harness.study.settings import Settings
from harness.study.study_file import StudyFile
from variants.base import ModelShape


@dataclass(frozen=True)
class Matrix:
    """The entries of a study file, before their models are checked."""

    path: Path
    file: StudyFile
    axes: Axes
    variant_paths: list[str]
    baseline: VariantSelection
    selections: list[VariantSelection]
    excluded: list[tuple[str, str]]
    resolver: EntryResolver
    tuning: Tuning | None
    tuning_problems: list[Problem]

    @property
    def location(self) -> str:
        """The study file, as messages name it."""
        return str(self.path)


def load(
    path: Path,
    settings: Iterable[str] = (),
    seeds: Sequence[int] | None = None,
    where: Sequence[str] = (),
    until: UntilResolved | None = None,
) -> PlannedStudy:
    """Read, expand and check a study; all other arguments are command-line overrides.

    Raises:
        UserError: the study is invalid; it names every problem with file, key path, value and what
            is allowed.
    """
    file, problems = study_file.read(path, settings, seeds)
    looks, look_problems = plan_looks(file, str(path), until, has_seeds=seeds is not None)
    problems += look_problems
    matrix = _expand(file, path)
    problems += _check_shapes(matrix)
    entries, source = _resolve(matrix)
    levels, tuning_problems = _tune(matrix, entries)
    problems += tuning_problems
    checked = [
        *entries,
        *_source_entries(source),
        *(entry for tuned in levels for entry in tuned.all),
    ]
    if not entries:  # an axis lacks valid choices: the settings are checked nevertheless
        baseline = matrix.resolver.resolve(matrix.baseline)
        checked += [baseline] if baseline is not None else []
    problems += _check_settings(matrix, entries, checked)
    corpora, corpus_problems = _prepare(matrix, checked)
    problems += corpus_problems
    if problems:
        raise UserError(dict.fromkeys(problems))
    problems += _check_models(matrix, entries, source, corpora)
    if problems:
        raise UserError(dict.fromkeys(problems))
    if not entries:
        raise UserError(f"{path}: all entries are excluded")
    is_selected = rules.select(matrix.axes, [entry.original for entry in entries], where)
    selected = list(itertools.compress(entries, is_selected))
    if looks is not None:
        originals = [entry.original for entry in selected]
        check_selection(originals, matrix.baseline, file.study.compare)
    return _plan(matrix, entries, selected, levels, source, corpora, looks)


def _expand(file: StudyFile, path: Path) -> Matrix:
    """Return the matrix of a study file; its `axes` collect the problems."""
    folders = [absolute(path.parent / folder) for folder in file.study.variant_paths]
    axes = Axes(str(path), folders)
    variant_paths = [str(folder) for folder in folders]
    resolver = EntryResolver(file, axes, variant_paths)
    if not any(key.startswith("model.") for key in file.varied):
        model = resolver.model({})
        axes.shape = None if model is None else ModelShape(**model.model_dump(), vocab_size=1)
    axes.problems += validate.check_variant_paths(str(path), folders)
    baseline, entries, excluded = expand(file, axes)
    tuning = None
    tuning_problems: list[Problem] = []
    if file.tune is not None:
        tuning, tuning_problems = read_tuning(file.tune, str(path), file.study.seeds, file.varied)
    return Matrix(
        path=path,
        file=file,
        axes=axes,
        variant_paths=variant_paths,
        baseline=baseline,
        selections=entries,
        excluded=excluded,
        resolver=resolver,
        tuning=tuning,
        tuning_problems=tuning_problems,
    )


def _check_shapes(matrix: Matrix) -> list[Problem]:
    """Return the problems of all models' shapes and options; without any, models can be built."""
    axes = matrix.axes
    resolver = matrix.resolver
    problems = list(validate.check_tasks(matrix.location, matrix.file.probes))
    checked: set[ModelSettings] = set()
    for entry in matrix.selections or [matrix.baseline]:
        changes = axes.changes(entry)
        resolver.data(changes)
        model = resolver.model(changes)
        if model is None:
            continue
        if model not in checked:
            checked.add(model)
            problems += validate.check_model(matrix.location, model, changes)
            probes = matrix.file.probes
            problems += validate.check_probes(matrix.location, probes, model)
        if axes.shape is None and model.n_embd % model.n_head == 0:
            shape = ModelShape(**model.model_dump(), vocab_size=1)
            problems += axes.option_problems(entry, shape)
    resolver.can_build = not (problems or axes.problems or resolver.problems)
    return problems


def _resolve(matrix: Matrix) -> tuple[list[PlannedEntry], Source | None]:
    """Return the entries with their settings, and the source of their initial weights."""
    resolver = matrix.resolver
    planned = [resolver.resolve(entry, matrix.baseline) for entry in matrix.selections]
    entries = [entry for entry in planned if entry is not None]
    source = None
    if matrix.file.init is not None:
        source = warm_start.read(
            matrix.file.init, matrix.axes, matrix.baseline, resolver, matrix.path.parent
        )
    return entries, source


def _tune(
    matrix: Matrix, entries: Sequence[PlannedEntry]
) -> tuple[list[TunedLevels], list[Problem]]:
    """Return the levels of each entry on the axis `tuning`; none if the study does not tune."""
    if matrix.tuning is None:
        return [], matrix.tuning_problems
    n_trials = matrix.tuning.settings.n_runs * len(entries)
    if n_trials > MAX_TRIALS:
        problem = Problem(
            f"{matrix.location}: tune",
            f"{len(entries):,} entries have {n_trials:,} trials; allowed: at most {MAX_TRIALS:,}",
        )
        return [], [problem]
    problems = list(check_options(matrix.location, entries, matrix.tuning, matrix.axes.paths))
    resolver = matrix.resolver
    levels = [resolve_levels(entry, matrix.tuning, matrix.baseline, resolver) for entry in entries]
    return [tuned for tuned in levels if tuned is not None], problems


def _source_entries(source: Source | None) -> list[PlannedEntry]:
    """Return the entry that the others start from, if there is one."""
    return [source.entry] if isinstance(source, SourceRun) else []


def _check_settings(
    matrix: Matrix, entries: list[PlannedEntry], checked: list[PlannedEntry]
) -> list[Problem]:
    """Return the problems that show without the corpus and the models.

    `checked` are the entries and all others whose settings must be valid.
    """
    axes = matrix.axes
    location = matrix.location
    compare = matrix.file.study.compare
    launch = matrix.file.launch
    problems = [*axes.problems, *matrix.resolver.problems]
    problems += rules.check_compare(location, compare, matrix.selections, axes.names)
    problems += check_ladder(location, matrix.file.ladder, compare, matrix.selections)
    if entries:
        problems += validate.check_entries(location, checked, axes, launch)
    for entry in checked if not entries else ():
        parallelisms = axes.choices["parallelism"]
        problems += validate.check_settings(location, entry.settings, parallelisms, axes, launch)
    if matrix.file.init is None:
        problems += warm_start.unused_conversion_options(location, matrix.selections, axes.paths)
    return problems


def _prepare(matrix: Matrix, entries: list[PlannedEntry]) -> tuple[Corpora, list[Problem]]:
    """Prepare each corpus once; return them, and the problems of those that are invalid."""
    corpora: dict[str, Corpus] = {}
    problems: list[Problem] = []
    failed: set[str] = set()
    for entry in entries:
        settings = entry.settings
        key = settings.data.model_dump_json()
        if key in failed:
            continue
        try:
            if key not in corpora:
                corpora[key] = prepare(settings.data, matrix.path.parent, matrix.location)
        except UserError as error:
            failed.add(key)
            problems += [_at_level(problem, matrix, settings) for problem in error.problems]
            continue
        problems += validate.check_corpus(
            matrix.location, corpora[key], settings, matrix.file.probes
        )
        if matrix.file.tune is not None:
            problems += check_windows(matrix.location, corpora[key], settings)
    return Corpora(corpora), problems


def _at_level(problem: Problem, matrix: Matrix, settings: Settings) -> Problem:
    """Return a problem of [data] at the level that sets the key."""
    location, _, key = problem.location.rpartition(": ")
    if location != matrix.location:
        return problem
    return Problem(f"{location}: {settings.place(key)}", problem.message)


def _check_models(
    matrix: Matrix, entries: list[PlannedEntry], source: Source | None, corpora: Corpora
) -> list[Problem]:
    """Return models that do not support their parallelism or cannot load the initial weights."""
    paths = matrix.variant_paths
    planned = [*entries, *_source_entries(source)]
    models = [(entry.choices, corpora.shape(entry)) for entry in planned]
    problems = list(validate.check_parallelism(matrix.location, models, paths))
    problems += validate.check_precision(matrix.location, planned, corpora.shape, paths)
    if source is not None:
        shape = None if isinstance(source, Checkpoint) else corpora.shape(source.entry)
        targets = models[: len(entries)]
        problems += warm_start.incompatible_tensors(matrix.location, source, shape, targets, paths)
    return problems


def _plan(
    matrix: Matrix,
    entries: list[PlannedEntry],
    selected: list[PlannedEntry],
    levels: Sequence[TunedLevels],
    source: Source | None,
    corpora: Corpora,
    looks: LookPlan | None,
) -> PlannedStudy:
    """Build the runs of the selected entries for all seeds, and the ids of all entries' runs."""
    study = matrix.file.study
    sources = Sources()
    context = StudyContext(matrix.file, matrix.variant_paths, matrix.baseline, sources)
    builder = RunBuilder(context, corpora, source)
    seeds = list(dict.fromkeys(study.seeds)) if looks is None else looks.seeds
    planned = PlannedStudy(
        name=study.name,
        settings_hash=builder.settings_hash(entries[0]),
        runs=[],
        all_run_ids=set(),
        excluded=matrix.excluded,
        note=corpora.note,
        equivalence_margin=study.equivalence_margin,
        superiority=study.superiority,
        sources=sources,
        allow=study.allow,
        compare=study.compare,
        ladder=matrix.file.ladder,
        looks=looks,
        trackers=matrix.file.log.to,
        launch=matrix.file.launch,
    )
    if matrix.tuning is None:
        runs = builder.build([(entry, None) for entry in selected], seeds)
        return dataclasses.replace(planned, runs=runs, all_run_ids=builder.ids(entries, seeds))
    names = {entry_id(entry.choices, matrix.file) for entry in selected}
    plan = TuningPlan(matrix.tuning, levels, names, seeds, builder.build, planned.settings_hash)
    possible_ids = {spec.run_id for spec in plan.possible_runs()}
    planned = dataclasses.replace(planned, tuning=plan, all_run_ids=possible_ids)
    first = plan.trials(0, dict.fromkeys(names, range(len(plan.points))))
    return planned.stage([*first, *plan.finals({})])
