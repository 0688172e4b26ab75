"""Convert the content of files of older schema versions to the present version."""

import re
import shlex
from collections.abc import Callable
from typing import Any

from harness.results.records import (
    SCHEMA_VERSION,
    CheckpointInfo,
    Environment,
    LaunchRecord,
    LaunchSpec,
    ProbeResults,
    RunSpec,
    Versioned,
)

Json = dict[str, Any]

OPTION_NAMES = {  # variant -> old name of an option -> its present name
    "gqa": {"kv": "kv_pooling"},
    "mqa": {"kv": "kv_pooling"},
    "sliding_window": {"pattern": "layer_pattern"},
}
# Axes that were added within a version, with their default variant and its default options.
ADDED_AXES: dict[str, Json] = {
    "optimizer": {
        "name": "adamw",
        "label": "adamw",
        "options": {"lr": None, "beta1": None, "beta2": None, "weight_decay": None},
    }
}
TRAINED = re.compile(r"trained by .+, (\d+) steps")


def upgrade(content: Json, record: type[Versioned]) -> Json:
    """Return the content of a file in the form of the present version of `record`.

    Raises:
        ValueError: the version is unknown.
        AttributeError, KeyError, TypeError: the content has not the form of its version.
    """
    version = content.get("schema_version", 1)
    if version == SCHEMA_VERSION:
        return _with_added_axes(content) if record is RunSpec else content
    if version not in range(1, SCHEMA_VERSION):
        raise ValueError(
            f"schema_version {version}, this version reads 1 to {SCHEMA_VERSION}; "
            "use the version that wrote it, or another --results folder"
        )
    for upgrades in (FROM_VERSION_1, FROM_VERSION_2)[version - 1 :]:
        content = upgrades.get(record, dict)(content)
    if record is RunSpec:
        content = _with_added_axes(content)
    return content | {"schema_version": SCHEMA_VERSION}


def _with_added_axes(spec: Json) -> Json:
    """Return a spec in which axes that its version lacks have the variant that it trained."""
    axes = spec["axes"]
    if ADDED_AXES.keys() <= axes.keys():
        return spec
    missing = {axis: choice for axis, choice in ADDED_AXES.items() if axis not in axes}
    labels = {axis: choice["label"] for axis, choice in missing.items()}
    return spec | {
        "axes": _before_parallelism(axes, missing),
        "baseline": _before_parallelism(spec["baseline"], labels),
    }


def _before_parallelism(values: Json, added: Json) -> Json:
    """Return values by axis with further ones in their place in the order of axes."""
    if "parallelism" not in values:
        return values | added
    before: Json = {}
    after: Json = {}
    for axis, value in values.items():
        (after if after or axis == "parallelism" else before)[axis] = value
    return before | added | after


def _rename(content: Json, names: dict[str, str]) -> Json:
    return {names.get(key, key): value for key, value in content.items()}


def _known(content: Json, record: type[Versioned] | type[LaunchSpec]) -> Json:
    return {key: value for key, value in content.items() if key in record.model_fields}


def _axes(axes: Json) -> Json:
    converted = {}
    for axis, old_choice in axes.items():
        choice = _rename(old_choice, {"use": "name"})
        options = _rename(choice["options"], OPTION_NAMES.get(choice["name"], {}))
        converted[axis] = choice | {"options": options}
    return converted


def _spec(content: Json) -> Json:
    spec = _rename(content, {"entry_id": "entry", "comparable": "settings_hash"})
    launch: Json = {"train_tokens": [], "val_tokens": [], "token_bytes": ""}
    launch_names = {"nproc": "world_size", "keep": "keep_checkpoints"}
    launch |= _known(_rename(spec["launch"], launch_names), LaunchSpec)
    kept = launch.get("keep_checkpoints", "nothing")
    launch["keep_checkpoints"] = {"nothing": "none", "state": "full"}.get(kept, kept)
    return spec | {
        "axes": _axes(spec["axes"]),
        "train": _rename(spec["train"], {"micro_batch": "micro_batch_size"}),
        "probes": _rename(spec.get("probes", {}), {"lengths": "eval_lengths"}),
        "launch": launch,
    }


def _environment(content: Json) -> Json:
    return _known(_rename(content, {"nproc": "world_size"}), Environment)


def _probes(content: Json) -> Json:
    probes = _rename(
        content,
        {
            "memory_predicted": "predicted_memory",
            "traffic_predicted_bytes": "predicted_bytes_sent",
            "rounds_to": "communication_dtype",
            "start": "init_report",
        },
    )
    if probes.get("init_report"):
        probes["init_report"] = _rename(probes["init_report"], {"from": "source"})
    return probes


def _launch(content: Json) -> Json:
    launch = _rename(content, {"comparable": "settings_hash", "margin": "equivalence_margin"})
    if isinstance(launch.get("command"), list):
        launch["command"] = shlex.join(launch["command"])
    return launch


def _checkpoint(content: Json) -> Json:
    return content | {"axes": _axes(content["axes"])}


def _without_source_hashes(content: Json) -> Json:
    axes = {}
    for axis, choice in content["axes"].items():
        axes[axis] = {key: value for key, value in choice.items() if key != "source_sha256"}
    return content | {"axes": axes}


def _with_data_steps(content: Json) -> Json:
    """Add the steps that the weights were trained on, which version 2 states as their origin."""
    trained = [TRAINED.fullmatch(text) for text in content["origin"].values()]
    steps = [int(match[1]) for match in trained if match]
    return _without_source_hashes(content) | {"data_steps": max(steps, default=0)}


FROM_VERSION_1: dict[type[Versioned], Callable[[Json], Json]] = {
    CheckpointInfo: _checkpoint,
    Environment: _environment,
    LaunchRecord: _launch,
    ProbeResults: _probes,
    RunSpec: _spec,
}
FROM_VERSION_2: dict[type[Versioned], Callable[[Json], Json]] = {
    CheckpointInfo: _with_data_steps,
    RunSpec: _without_source_hashes,
}
