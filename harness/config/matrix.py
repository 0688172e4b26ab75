"""From a study file to its runs: axes x seeds, less `exclude`, plus `include`, each checked and given its id."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from harness.config import study_file as reader
from harness.config import warm_start as start
from harness.config.axes import Axes, Entry, same
from harness.config.cost import Costs
from harness.config.size_matching import Sizer
from harness.data.batches import micro_batch_size
from harness.data.corpus import Corpus, prepare
from harness.errors import Problem, UserError
from harness.model.builder import ModelBuilder
from harness.results.records import (
    EquivalenceMargin,
    InitSource,
    LaunchSpec,
    PredictedCost,
    ProbeSettings,
    ResolvedData,
    ResolvedModel,
    RunSpec,
    TrainSettings,
    VariantChoice,
)
from harness.results.store import SCHEMA_VERSION
from variants import registry
from variants.base import AXES, ModelShape

SOURCE = "start-"  # before the name of a run that others start from


@dataclass(frozen=True)
class PlannedStudy:
    """A checked study. `runs` are those selected, seed by seed; `all_run_ids` also the ones that were not.

    Where entries start from another run's checkpoint, that run comes first in its seed's block.
    """

    name: str
    settings_hash: str  # of the entries
    runs: list[RunSpec]
    all_run_ids: set[str]
    excluded: list[tuple[str, str]]  # entry id and reason
    note: str | None  # about the corpus
    equivalence_margin: EquivalenceMargin


def load(
    path: Path,
    settings: Iterable[str] = (),
    seeds: list[int] | None = None,
    where: Sequence[str] = (),
) -> PlannedStudy:
    """Read, expand and check a study; `settings`, `seeds` and `where` come from the command line.

    Raises:
        UserError: with everything that is wrong, each with file, key path, value and what is allowed.
    """
    file = reader.read(path, settings, seeds)
    variant_paths, problems = _variant_paths(file, path)
    model, data, train = file.model, file.data, file.train
    if model.n_embd % model.n_head:
        allowed = ", ".join(str(n) for n in range(1, model.n_embd + 1) if model.n_embd % n == 0)
        problems.append(
            Problem(
                f"{path}: model.n_head",
                f"{model.n_head} does not divide n_embd = {model.n_embd}; allowed: {allowed}",
            )
        )
    axes = Axes(
        str(path), ModelShape(**model.model_dump(), vocab_size=1), [Path(p) for p in variant_paths]
    )
    axes.read(file.axes)
    baseline = axes.baseline(file.study.baseline)
    entries, excluded = _entries(file, axes, baseline)
    source = start.read(file.init, axes, baseline, train, path.parent) if file.init else None
    problems += axes.problems
    problems += _token_problems(str(path), entries, train, model.seq_len, variant_paths)
    problems += _combination_problems(str(path), entries, axes)
    if isinstance(source, start.SourceRun):
        problems += _token_problems(
            f"{path}: {start.RUN_KEY}", [source.entry], source.train, model.seq_len, variant_paths
        )
        problems += _combination_problems(f"{path}: {start.RUN_KEY}", [source.entry], axes)
    if file.init is None:
        problems += start.idle_conversions(str(path), entries, axes.paths)

    corpus = None
    try:
        corpus = prepare(data, path.parent, str(path))
        problems += _length_problems(
            str(path), corpus, model.seq_len, file.probes.eval_lengths or ()
        )
    except UserError as error:
        problems += error.problems
    sized = entries
    if corpus is not None and not problems:
        shape = ModelShape(**model.model_dump(), vocab_size=corpus.vocab_size)
        if file.study.match_size:
            sizer = Sizer(str(path), file.study.match_size, baseline, shape, variant_paths)
            sized = [sizer.sized(entry) for entry in entries]
            problems += sizer.problems
        problems += _misfit_problems(str(path), sized, shape, variant_paths)
        if isinstance(source, start.SourceRun):
            problems += _misfit_problems(
                f"{path}: {start.RUN_KEY}", [source.entry], shape, variant_paths
            )
        if source is not None:
            problems += start.incompatible_tensors(str(path), source, sized, shape, variant_paths)
    if problems or corpus is None:
        raise UserError(dict.fromkeys(problems))
    if not entries:
        raise UserError(f"{path}: nothing is left to run, all entries are excluded")

    kept = axes.select(where)
    selected = [
        made
        for made, entry in zip(sized, entries, strict=True)
        if all(entry[axis] in allowed for axis, allowed in kept.items())
    ]
    if not selected:
        raise UserError(f"--where {' '.join(where)}: no entry of {path} is all of that at once")
    make = _Maker(file, corpus, variant_paths, baseline, train, source)
    seeds = list(dict.fromkeys(file.study.seeds))
    orders = {
        seed: [None, *(other for other in seeds if file.study.cross_seeds and other != seed)]
        for seed in seeds
    }
    return PlannedStudy(
        name=file.study.name,
        settings_hash=make.settings_hash,
        runs=[
            run
            for seed in seeds
            for run in (
                *make.sources(seed),
                *(make.run(entry, seed, order) for order in orders[seed] for entry in selected),
            )
        ],
        all_run_ids={
            run_id
            for seed in seeds
            for order in orders[seed]
            for run_id in make.run_ids(sized, seed, order)
        },
        excluded=excluded,
        note=corpus.note,
        equivalence_margin=file.study.equivalence_margin,
    )


def entry_id(entry: Entry, file: reader.StudyFile) -> str:
    """Return the labels of an entry, joined."""
    mentioned = {axis for table in (file.axes, *file.include) for axis in table}
    return "-".join(
        choice.label
        for axis, choice in entry.items()
        if AXES[axis].in_every_name or axis in mentioned
    )


def _variant_paths(file: reader.StudyFile, path: Path) -> tuple[list[str], list[Problem]]:
    """Return the user's folders of variants as absolute paths; in the study they are relative to it."""
    folders = [(path.parent / folder).resolve() for folder in file.study.variant_paths]
    problems = [
        Problem(
            f"{path}: study.variant_paths[{i}]",
            f"{folder}: must be a folder with one for each axis, e.g. attention/",
        )
        for i, folder in enumerate(folders)
        if not any((folder / axis).is_dir() for axis in AXES)
    ]
    return [str(folder) for folder in folders], problems


def _entries(
    file: reader.StudyFile, axes: Axes, baseline: Entry
) -> tuple[list[Entry], list[tuple[str, str]]]:
    """Return the entries that are left, and those excluded with the reason."""
    entries = [
        dict(zip(AXES, combination, strict=True))
        for combination in itertools.product(*axes.on.values())
    ]
    excluded: dict[str, str] = {}
    for i, rule in enumerate(file.exclude):
        reason = rule.get("reason")
        if not isinstance(reason, str) or not reason.strip():
            axes.complain(
                f"exclude[{i}].reason", f"{reason!r}: an exclusion needs a reason, as text"
            )
        n_before = len(axes.problems)
        named = axes.rule(
            {key: value for key, value in rule.items() if key != "reason"}, f"exclude[{i}]"
        )
        hit = [
            entry
            for entry in entries
            if named and all(entry[axis] in named[axis] for axis in named)
        ]
        if not hit and len(axes.problems) == n_before:
            axes.complain(f"exclude[{i}]", "matches no entry; remove the rule")
        excluded |= {entry_id(entry, file): str(reason) for entry in hit}
    entries = [entry for entry in entries if entry_id(entry, file) not in excluded]
    for i, rule in enumerate(file.include):
        for axis in rule.keys() - AXES.keys():
            axes.complain(f"include[{i}].{axis}", f"no such axis; allowed: {', '.join(AXES)}")
        chosen = {
            axis: axes.choose(axis, rule[axis], f"include[{i}].{axis}")
            for axis in AXES
            if axis in rule
        }
        entry = {axis: chosen.get(axis, baseline.get(axis)) for axis in AXES}
        complete = {axis: choice for axis, choice in entry.items() if choice is not None}
        if len(complete) == len(AXES) and not any(
            _same_entry(complete, other) for other in entries
        ):
            name = entry_id(complete, file)
            if name in (entry_id(entry, file) for entry in entries):
                axes.complain(
                    f"include[{i}]", f"two different entries are labelled {name}; give a `label`"
                )
            entries.append(complete)
    return entries, list(excluded.items())


def _same_entry(one: Entry, other: Entry) -> bool:
    return all(same(one[axis], other[axis]) for axis in AXES)


def _token_problems(
    place: str,
    entries: Sequence[Entry],
    train: TrainSettings,
    seq_len: int,
    variant_paths: Sequence[str],
) -> Iterable[Problem]:
    """Tokens per step fill whole sequences, which divide over each entry's ranks and into micro-batches."""
    total, unit = train.tokens_per_step, seq_len
    if total % unit:
        yield Problem(
            f"{place}: train.tokens_per_step",
            f"{total} is no multiple of seq_len = {unit}; {_nearest(total, unit)}",
        )
        return
    for choice in {entry["parallelism"].label: entry["parallelism"] for entry in entries}.values():
        parallelism, device = _parallelism(choice, variant_paths), resolved_device(train)
        if device not in parallelism.devices:
            message = f"{choice.label} runs on {' or '.join(parallelism.devices)}, and train.device is {device}"
            yield Problem(f"{place}: axes.parallelism", f"{message}; exclude it")
        elif device == "cuda" and torch.cuda.device_count() < parallelism.n_devices:
            message = f"{choice.label} needs {parallelism.n_devices} GPUs, and this machine has"
            told = f'{message} {torch.cuda.device_count()}; exclude it, or set device = "cpu"'
            yield Problem(f"{place}: train.device", told)
        data_parallel_size = parallelism.data_parallel_size
        if (total // seq_len) % data_parallel_size:
            message = f"{total} gives {total // seq_len} sequences of {seq_len}, which do not divide over {data_parallel_size} ranks of"
            yield Problem(
                f"{place}: train.tokens_per_step",
                f"{message} {choice.label}; {_nearest(total, seq_len * data_parallel_size)}",
            )
            continue
        try:
            micro_batch_size(total // seq_len // data_parallel_size, train.micro_batch_size)
        except ValueError as error:
            yield Problem(f"{place}: train.micro_batch_size", f"{error} ({choice.label})")


def resolved_device(train: TrainSettings) -> Literal["cpu", "cuda"]:
    """Return where the runs take place: `auto` is a GPU where there is one."""
    if train.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return train.device


def _nearest(value: int, unit: int) -> str:
    near = [n for n in (value // unit * unit, (value // unit + 1) * unit) if n > 0]
    return f"the nearest that do: {', '.join(map(str, near))}"


def _parallelism(choice: VariantChoice, variant_paths: Sequence[str]) -> Any:
    cls = registry.load("parallelism", choice.name, [Path(path) for path in variant_paths])
    return cls(cls.Options(**choice.options))


def _combination_problems(place: str, entries: Sequence[Entry], axes: Axes) -> Iterable[Problem]:
    """A positional that adds a bias to scores needs an attention with a place for it; one that turns, a width."""
    for entry in entries:
        choices = entry["positional"], entry["attention"]
        positional, attention = (
            registry.load(a, entry[a].name, axes.paths) for a in ("positional", "attention")
        )
        names = choices[0].label, choices[1].label
        if positional.has_bias and not attention.supports_bias:
            message = f"{names[0]} adds a bias to the scores, and {names[1]}'s kernel has no place for one; add"
            rule = f'[[exclude]] with positional = "{names[0]}", attention = "{names[1]}"'
            yield Problem(f"{place}: axes", f"{message} {rule}")
        options = positional.Options(**choices[0].options), attention.Options(**choices[1].options)
        if (width := attention.rotary_dim(axes.shape, options[1])) != axes.shape.head_dim:
            for reason in positional.check_rotary(width, options[0]).values():
                yield Problem(
                    f"{place}: axes", f"{names[0]} turns a width of {width} in {names[1]}: {reason}"
                )


def _misfit_problems(
    place: str, entries: Sequence[Entry], shape: ModelShape, paths: Sequence[str]
) -> Iterable[Problem]:
    """What a parallelism divides must divide; told by the model itself, on the meta device."""
    for entry in entries:
        if reason := _parallelism(entry["parallelism"], paths).why_unsupported(
            ModelBuilder(shape, entry, paths).model
        ):
            labels = ", ".join(
                choice.label for axis, choice in entry.items() if AXES[axis].in_every_name
            )
            yield Problem(f"{place}: axes", f"{labels}: {reason}; add [[exclude]] with these")


def _length_problems(
    place: str, corpus: Corpus, seq_len: int, probed: Sequence[int]
) -> Iterable[Problem]:
    for split, part in (("training", corpus.train), ("validation", corpus.val)):
        if (n_tokens := Corpus.n_tokens(part)) <= seq_len:
            message = f"'{corpus.name}': its {split} part has {n_tokens} tokens, a sequence needs {seq_len + 1}"
            yield Problem(
                f"{place}: data.corpus", f"{message}; use a longer text or a smaller model.seq_len"
            )
    n_tokens = Corpus.n_tokens(corpus.val)
    for length in probed:
        if seq_len < n_tokens <= length:  # else it is told above
            message = f"{length}: such a sequence needs {length + 1} tokens, the validation part of '{corpus.name}'"
            yield Problem(
                f"{place}: probes.eval_lengths",
                f"{message} has {n_tokens}; allowed: at most {n_tokens - 1}",
            )


class _Maker:
    """Makes resolved specs of entries, and of the run that they start from where there is one."""

    def __init__(
        self,
        file: reader.StudyFile,
        corpus: Corpus,
        variant_paths: list[str],
        baseline: Entry,
        train: TrainSettings,
        source: start.Source | None = None,
        name: str = "",
    ) -> None:
        self._file, self._corpus, self._paths, self._name = file, corpus, variant_paths, name
        self._train = train.model_copy(update={"device": resolved_device(train)})
        self._model = ResolvedModel(**file.model.model_dump(), vocab_size=corpus.vocab_size)
        self._data = ResolvedData(
            corpus=corpus.name,
            tokenizer=file.data.tokenizer,
            sha256=corpus.sha256,
            entropy_nats_per_byte=corpus.entropy,
        )
        self._baseline = {axis: choice.label for axis, choice in baseline.items()}
        self._costs = Costs(self._model, self._train, variant_paths)
        self._checkpoint, self._source, begins = None, None, None
        if isinstance(source, start.Checkpoint):
            begins = source.weights.sha256
            self._checkpoint = InitSource(sha256=begins, folder=str(source.folder))
        elif source is not None:
            self._source = _Maker(
                _for_others(file), corpus, variant_paths, baseline, source.train, name=SOURCE
            )
            self._source_entry, begins = source.entry, self._source.content(source.entry)
        self.settings_hash = _hash(
            {
                "schema_version": SCHEMA_VERSION,
                "model": self._model.model_dump(),
                "train": self._train.model_dump(),
                "probes": file.probes.model_dump(
                    exclude_none=True
                ),  # one that is not asked for changes nothing
                "data": self._data.model_dump(),
                "init": begins,
            }
        )
        self._known: dict[str, tuple[PredictedCost, int]] = {}

    def content(self, entry: Entry) -> str:
        """Return the hash of all that decides what the runs of an entry compute, but for the seed."""
        axes = {axis: choice.model_dump(exclude={"label"}) for axis, choice in entry.items()}
        return _hash({"shared": self.settings_hash, "axes": axes})

    def run_id(self, entry: Entry, seed: int, data_seed: int | None = None) -> str:
        """Return the readable name with the hash of all that decides what the run computes."""
        decides = {"content": self.content(entry), "seed": seed}
        if data_seed is not None:
            decides["data_seed"] = data_seed
        name = f"{seed}" if data_seed is None else f"{seed}d{data_seed}"
        return f"{self._name}{entry_id(entry, self._file)}-s{name}-{_hash(decides)}"

    def run_ids(
        self, entries: Sequence[Entry], seed: int, data_seed: int | None = None
    ) -> list[str]:
        """Return the ids of all runs of a seed, under the order of the data of another if one is given."""
        source = [self._source.run_id(self._source_entry, seed)] if self._source else []
        return source + [self.run_id(entry, seed, data_seed) for entry in entries]

    def sources(self, seed: int) -> list[RunSpec]:
        """Return the run of a seed that the others start from, if they do."""
        return [self._source.run(self._source_entry, seed)] if self._source else []

    def _start(self, seed: int) -> InitSource | None:
        return (
            InitSource(run_id=self._source.run_id(self._source_entry, seed))
            if self._source
            else self._checkpoint
        )

    def run(self, entry: Entry, seed: int, data_seed: int | None = None) -> RunSpec:
        """Return the spec of one run."""
        name, file, corpus = entry_id(entry, self._file), self._file, self._corpus
        if name not in self._known:
            parallelism = _parallelism(entry["parallelism"], self._paths)
            share = (
                self._train.tokens_per_step // file.model.seq_len // parallelism.data_parallel_size
            )
            expected = self._costs.of(entry, micro_batch_size(share, self._train.micro_batch_size))
            self._known[name] = expected, parallelism.world_size
        expected, nproc = self._known[name]
        return RunSpec.model_construct(  # all of its parts are checked
            schema_version=SCHEMA_VERSION,
            study=file.study.name,
            run_id=self.run_id(entry, seed, data_seed),
            entry_id=self._name + name,
            seed=seed,
            data_seed=data_seed,
            settings_hash=self.settings_hash,
            baseline=self._baseline,
            axes=entry,
            model=self._model,
            data=self._data,
            train=self._train,
            init=self._start(seed),
            probes=file.probes,
            launch=LaunchSpec(
                world_size=nproc,
                **file.launch.model_dump(),
                variant_paths=self._paths,
                train_tokens=corpus.train,
                val_tokens=corpus.val,
                token_bytes=corpus.token_bytes,
            ),
            expected=expected,
        )


def _for_others(file: reader.StudyFile) -> reader.StudyFile:
    """Return the study as the run takes it that others start from: it keeps its weights, and measures nothing more."""
    kept = file.launch.keep_checkpoints
    launch = file.launch.model_copy(
        update={"keep_checkpoints": "weights" if kept == "none" else kept}
    )
    return file.model_copy(update={"probes": ProbeSettings(), "launch": launch})


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
