"""The keys of a study file, from its schema, and a small study as texts of TOML by dotted key."""

from typing import get_args

from pydantic import BaseModel

from harness.results.records import TrainSettings
from harness.study.settings import SECTIONS
from harness.study.study_file import StudyFile
from variants.base import AXES

STUDY = {
    "study.name": '"s"',
    "study.seeds": "[0]",
    "model.n_layer": "2",
    "model.n_head": "4",
    "model.n_embd": "32",
    "model.seq_len": "16",
    "data.corpus": '"text.txt"',
    "train.steps": "4",
    "train.tokens_per_step": "128",
    "train.device": '"cpu"',
    "axes.attention": '["mha"]',
}
# Sections that are valid only with a value for each of these keys.
COMPANIONS = {
    "probes.decode.batch": {"probes.decode.context": "[8]"},
    "probes.decode.context": {"probes.decode.batch": "[1]"},
    "probes.lm_eval.limit": {"probes.lm_eval.tasks": '["hellaswag"]'},
    "probes.lm_eval.num_fewshot": {"probes.lm_eval.tasks": '["hellaswag"]'},
}
TUNE = {
    "tune.axes": '{ "train.lr" = [1e-3, 1e-2] }',
    "tune.seeds": "[100]",
    "tune.rungs": "[1, 2]",
}
LADDER = {
    "ladder.axis": '"size"',
    "axes.attention": '["mha", { variant = "gqa", n_kv_head = 2 }]',
    "axes.size": '[{ label = "S", "model.n_layer" = 1 }, { label = "M", "model.n_layer" = 2 }, '
    '{ label = "L", "model.n_layer" = 3 }]',
    "study.compare": '["attention"]',
}
for key in ("ladder.project_to", "ladder.irreducible"):
    COMPANIONS[key] = LADDER
for tuned in (*TUNE, "tune.budget", "tune.method"):
    COMPANIONS[tuned] = {key: text for key, text in TUNE.items() if key != tuned}
for ramp in ("train.batch_ramp", "init.from_run.train.batch_ramp"):
    COMPANIONS[f"{ramp}.start_tokens"] = {f"{ramp}.steps": "2"}
    COMPANIONS[f"{ramp}.steps"] = {f"{ramp}.start_tokens": "32"}
    COMPANIONS[f"{ramp}.growth"] = {f"{ramp}.start_tokens": "32", f"{ramp}.steps": "2"}


def fields(model, prefix=""):
    """Yield the key path of each field of a record, and of the fields of records within it."""
    for name, field in model.model_fields.items():
        types = [field.annotation, *get_args(field.annotation)]
        records = [t for t in types if isinstance(t, type) and issubclass(t, BaseModel)]
        yield prefix + name
        if records:
            yield from fields(records[0], f"{prefix}{name}.")


SOURCE_FIELDS = [f"init.from_run.train.{name}" for name in fields(TrainSettings)]
SECTION_FIELDS = [
    f"{section}.{name}" for section, model in SECTIONS.items() for name in fields(model)
]
COMPANIONS |= {f"tune.axes.{key}": {"tune.seeds": "[100]"} for key in SECTION_FIELDS}
FIELDS = [
    *fields(StudyFile),
    *SECTION_FIELDS,
    *(f"axes.{axis}" for axis in AXES),
    *(f"axes.{key}" for key in SECTION_FIELDS),
    *(f"tune.axes.{key}" for key in SECTION_FIELDS if key.count(".") == 1),
    *SOURCE_FIELDS,
]


def with_companions(key):
    """Return the keys of a study that is valid without `key`, with those that `key` needs."""
    keys = STUDY | COMPANIONS.get(key, {})
    return {other: text for other, text in keys.items() if not other.startswith(f"{key}.")}
