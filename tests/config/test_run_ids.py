"""Without these, two runs that compute something else could share an id, and one result."""

import dataclasses
from typing import Literal, get_args, get_origin

import pytest

from harness.config import study_file
from harness.config.run_spec import RunSpecBuilder, StudyContext
from harness.data.corpus import Corpus
from harness.provenance.sources import Sources
from harness.results.records import (
    BatchRamp,
    DecodeProbeSettings,
    ModelSettings,
    ProbeSettings,
    TrainSettings,
    VariantChoice,
)
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
}
ENTRY = {axis: VariantChoice(name="x", label="x", options={"a": 1}) for axis in AXES}
CORPUS = Corpus("text.txt", "ab", 256, [], [], "")


@pytest.fixture
def context(write_study):
    file, _ = study_file.read(write_study())
    return StudyContext(file, CORPUS, [], ENTRY, Sources())


def run_id(context, entry=ENTRY, seed=0, data_seed=None, **arguments):
    builder = RunSpecBuilder(context, context.file.train, **arguments)
    return builder.run_id(entry, seed, data_seed)


def with_section(context, section, **update):
    changed = getattr(context.file, section).model_copy(update=update)
    file = context.file.model_copy(update={section: changed})
    return dataclasses.replace(context, file=file)


def other_value(record, name, value):
    if name in OTHER:
        return OTHER[name]
    annotation = record.model_fields[name].annotation
    if get_origin(annotation) is Literal:
        return next(choice for choice in get_args(annotation) if choice != value)
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value / 2 + 0.1


@pytest.mark.parametrize(("section", "name"), FIELDS)
def test_every_setting_that_computes_is_in_the_id(section, name, context):
    value = getattr(getattr(context.file, section), name)
    other = other_value(SECTIONS[section], name, value)
    assert other != value
    assert run_id(with_section(context, section, **{name: other})) != run_id(context)


def test_how_a_run_is_started_is_not_in_the_id(context):
    launch = {"timeout_s": 5.0, "keep_checkpoints": "none", "checkpoint_every": 3}
    changed = with_section(context, "launch", stall_timeout_s=7.0, **launch)
    assert run_id(changed) == run_id(context)


@pytest.mark.parametrize("change", [{"sha256": "cd"}, {"entropy": 1.0}, {"vocab_size": 300}])
def test_the_content_of_the_corpus_is_in_the_id(change, context):
    corpus = dataclasses.replace(CORPUS, **change)
    assert run_id(dataclasses.replace(context, corpus=corpus)) != run_id(context)


def test_the_path_of_the_corpus_is_not_in_the_id(context):
    corpus = dataclasses.replace(CORPUS, name="elsewhere.txt")
    assert run_id(dataclasses.replace(context, corpus=corpus)) == run_id(context)


def test_the_tokenizer_is_in_the_id(context):
    assert run_id(with_section(context, "data", tokenizer="gpt2")) != run_id(context)


@pytest.mark.parametrize("axis", AXES)
def test_variant_and_options_of_every_axis_are_in_the_id(axis, context):
    for change in ({"name": "y"}, {"options": {"a": 2}}, {"options": {}}):
        entry = ENTRY | {axis: ENTRY[axis].model_copy(update=change)}
        assert run_id(context, entry).split("-")[-1] != run_id(context).split("-")[-1]
    entry = ENTRY | {axis: ENTRY[axis].model_copy(update={"label": "y"})}
    assert run_id(context, entry).split("-")[-1] == run_id(context).split("-")[-1]


def test_seeds_and_initial_weights_are_in_the_id(context):
    ids = [
        run_id(context),
        run_id(context, seed=1),
        run_id(context, data_seed=1),
        run_id(context, seed=1, data_seed=0),
        run_id(context, init_content="ab"),
        run_id(context, init_content="ab", data_offset_steps=4),
    ]
    assert len(set(ids)) == len(ids)
