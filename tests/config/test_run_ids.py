"""Without these, two runs that compute something else could share an id, and one result."""

import dataclasses
from typing import Literal, get_args, get_origin

import pytest

from harness.config.run_spec import RunSpecBuilder, StudyContext
from harness.data.corpus import Corpus
from harness.provenance.sources import Sources
from harness.results.records import (
    BatchRamp,
    DataSettings,
    DecodeProbeSettings,
    LmEvalSettings,
    ModelSettings,
    ProbeSettings,
    SlurmSettings,
    TrainSettings,
    VariantChoice,
)
from harness.study import study_file
from harness.study.settings import Settings
from variants.base import AXES

SECTIONS = {"model": ModelSettings, "train": TrainSettings, "probes": ProbeSettings}
FIELDS = [(section, name) for section, record in SECTIONS.items() for name in record.model_fields]
OTHER = {
    "batch_ramp": BatchRamp(start_tokens=64, steps=2),
    "ema_decay": 0.9,
    "micro_batch_size": 2,
    "eval_tokens": 64,
    "device": "cuda",
    "decode": DecodeProbeSettings(batch=[1], context=[2]),
    "eval_lengths": [4],
    "lm_eval": LmEvalSettings(tasks=["x"]),
    "loss_chunk": 64,
    "eval_every": 1,
}
ENTRY = {axis: VariantChoice(name="x", label="x", options={"a": 1}) for axis in AXES}
CORPUS = Corpus("text.txt", "ab", 256, [], [], "")


@dataclasses.dataclass(frozen=True)
class Study:
    """What the id of a run follows from."""

    context: StudyContext
    settings: Settings
    corpus: Corpus = CORPUS


@pytest.fixture
def study(write_study):
    file, _ = study_file.read(write_study())
    settings = Settings(
        ModelSettings(**file.model), DataSettings(**file.data), TrainSettings(**file.train), {}
    )
    return Study(StudyContext(file, [], ENTRY, Sources()), settings)


def builder(study, **arguments):
    return RunSpecBuilder(study.context, study.settings, study.corpus, **arguments)


def run_id(study, entry=ENTRY, seed=0, data_seed=None, **arguments):
    return builder(study, **arguments).run_id(entry, seed, data_seed)


def sections(study):
    settings = study.settings
    file = study.context.file
    return {
        "model": settings.model,
        "data": settings.data,
        "train": settings.train,
        "probes": file.probes,
        "launch": file.launch,
    }


def with_section(study, section, **update):
    changed = sections(study)[section].model_copy(update=update)
    if section in ("model", "data", "train"):
        return dataclasses.replace(
            study, settings=dataclasses.replace(study.settings, **{section: changed})
        )
    file = study.context.file.model_copy(update={section: changed})
    return dataclasses.replace(study, context=dataclasses.replace(study.context, file=file))


def other_value(record, name, value):
    if name in OTHER:
        return OTHER[name]
    annotation = record.model_fields[name].annotation
    if get_origin(annotation) is Literal:
        return next(choice for choice in get_args(annotation) if choice != value)
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value / 2 + 0.11


@pytest.mark.parametrize(("section", "name"), FIELDS)
def test_every_setting_that_computes_is_in_the_id(section, name, study):
    value = getattr(sections(study)[section], name)
    other = other_value(SECTIONS[section], name, value)
    assert other != value
    assert run_id(with_section(study, section, **{name: other})) != run_id(study)


def test_how_a_run_is_started_is_not_in_the_id(study):
    launch = {"timeout_s": 5.0, "keep_checkpoints": "none", "checkpoint_every": 3}
    launch |= {
        "checkpoint_every_s": 9.0,
        "on": "slurm",
        "parallel": 2,
        "slurm": SlurmSettings(gpus_per_node=4),
    }
    changed = with_section(study, "launch", stall_timeout_s=7.0, **launch)
    assert run_id(changed) == run_id(study)


@pytest.mark.parametrize("change", [{"sha256": "cd"}, {"entropy": 1.0}, {"vocab_size": 300}])
def test_the_content_of_the_corpus_is_in_the_id(change, study):
    corpus = dataclasses.replace(CORPUS, **change)
    assert run_id(dataclasses.replace(study, corpus=corpus)) != run_id(study)


def test_the_path_of_the_corpus_is_not_in_the_id(study):
    corpus = dataclasses.replace(CORPUS, name="elsewhere.txt")
    assert run_id(dataclasses.replace(study, corpus=corpus)) == run_id(study)


def test_the_tokenizer_is_in_the_id(study):
    assert run_id(with_section(study, "data", tokenizer="gpt2")) != run_id(study)


@pytest.mark.parametrize("axis", AXES)
def test_variant_and_options_of_every_axis_are_in_the_id(axis, study):
    for change in ({"name": "y"}, {"options": {"a": 2}}, {"options": {}}):
        entry = ENTRY | {axis: ENTRY[axis].model_copy(update=change)}
        assert run_id(study, entry).split("-")[-1] != run_id(study).split("-")[-1]
    entry = ENTRY | {axis: ENTRY[axis].model_copy(update={"label": "y"})}
    assert run_id(study, entry).split("-")[-1] == run_id(study).split("-")[-1]


def test_seeds_and_initial_weights_are_in_the_id(study):
    ids = [
        run_id(study),
        run_id(study, seed=1),
        run_id(study, data_seed=1),
        run_id(study, seed=1, data_seed=0),
        run_id(study, init_content="ab"),
        run_id(study, init_content="ab", data_offset_steps=4),
    ]
    assert len(set(ids)) == len(ids)
