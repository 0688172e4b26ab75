"""Rotary position parameters of config.json, as the variant `rope` states them and back.

Version 5 of `transformers` reads `rope_parameters`, earlier ones `rope_theta` and `rope_scaling`.
"""

import math
from collections.abc import Mapping

from harness.model.builder import load_variants
from harness.model.weights import Weights
from harness.published.files import Json
from harness.results.records import VariantChoice
from variants.positional.rope import RopeOptions

THETA = 10_000.0  # of a config that does not state it
# Parameters of yarn that are constants here.
YARN: Mapping[str, tuple[object, ...]] = {
    "beta_fast": (32, None),
    "beta_slow": (1, None),
    "truncate": (True, None),
    "mscale": (None,),
    "mscale_all_dim": (None,),
}


def rope_reasons(weights: Weights) -> list[str]:
    """Return why a layout with rotary positions does not express the options of `rope`."""
    _, options = load_variants(weights.axes, weights.variant_paths)["positional"]
    if not isinstance(options, RopeOptions) or options.scaling != "yarn":
        return []
    trained_len = weights.shape.seq_len / options.factor
    if trained_len != int(trained_len):
        message = f"positional = rope with factor = {options.factor}: yarn needs a whole number"
        return [f"{message} of trained positions, not seq_len / factor = {trained_len:g}"]
    return []


def rope_fields(weights: Weights) -> Json:
    """Return the rotary fields of config.json.

    `ntk` raises theta, which every version computes; `linear` and `yarn` are those of this name.
    """
    options = _options(weights)
    theta = float(options.theta)
    width = weights.shape.head_dim
    scaling: Json = {"rope_type": "default"}
    if options.scaling == "ntk":
        theta *= options.factor ** (width / (width - 2))
    elif options.scaling == "linear":
        scaling = {"rope_type": "linear", "factor": float(options.factor)}
    elif options.scaling == "yarn":
        scaling = {
            "rope_type": "yarn",
            "factor": float(options.factor),
            "original_max_position_embeddings": int(weights.shape.seq_len / options.factor),
            "attention_factor": _sharpness(options.factor),
            "beta_fast": 32.0,
            "beta_slow": 1.0,
        }
    return {
        "rope_parameters": {**scaling, "rope_theta": theta},
        "rope_theta": theta,
        "rope_scaling": scaling if options.scaling in ("linear", "yarn") else None,
    }


def rope_choice(config: Json, seq_len: int) -> tuple[VariantChoice, dict[str, str]]:
    """Return `rope` with the options that a config states, and problems by field."""
    stated = config.get("rope_parameters") or config.get("rope_scaling") or {}
    key = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    messages: dict[str, str] = {}
    if not isinstance(stated, dict):
        return _rope({}), {key: "must be an object"}
    parameters = dict(stated)
    theta = parameters.pop("rope_theta", config.get("rope_theta", THETA))
    if config.get("rope_theta", theta) != theta:
        messages["rope_theta"] = f"{config['rope_theta']}, but {key} has {theta}"
    if not isinstance(theta, int | float) or theta <= 0:
        return _rope({}), {"rope_theta": f"{theta!r}: must be a positive number"}
    kind = parameters.pop("rope_type", parameters.pop("type", "default"))
    parameters.pop("type", None)
    options: Json = {"theta": float(theta)}
    if kind != "default":
        factor = parameters.pop("factor", None)
        options |= {"scaling": kind, "factor": factor}
        if kind not in ("linear", "yarn"):
            messages[key] = f"rope_type = {kind}: must be default, linear or yarn"
        elif not isinstance(factor, int | float) or factor <= 1:
            messages[key] = f"factor = {factor!r}: must be a number above 1"
        elif kind == "yarn":
            messages |= _yarn_messages(key, parameters, float(factor), seq_len)
            parameters.clear()
    if parameters and key not in messages:
        messages[key] = f"{', '.join(parameters)}: not a parameter of rope_type = {kind} here"
    return _rope({} if messages else options), messages


def _yarn_messages(
    key: str, parameters: Mapping[str, object], factor: float, seq_len: int
) -> dict[str, str]:
    """Return the problem of other parameters than those that `rope` computes with."""
    for name, value in parameters.items():
        if name == "original_max_position_embeddings":
            if value != seq_len / factor:
                expected = f"max_position_embeddings / factor = {seq_len / factor:g}"
                return {key: f"{name} = {value}: must be {expected}"}
        elif name == "attention_factor":
            close = isinstance(value, float) and math.isclose(value, _sharpness(factor))
            if value is not None and not close:
                return {key: f"{name} = {value}: must be 0.1 ln(factor) + 1"}
        elif value not in YARN.get(name, ()):
            return {key: f"{name} = {value}: not a parameter that yarn has here"}
    if "original_max_position_embeddings" not in parameters:
        return {key: "original_max_position_embeddings: missing"}
    return {}


def _sharpness(factor: float) -> float:
    return 1 + 0.1 * math.log(factor)


def _options(weights: Weights) -> RopeOptions:
    _, options = load_variants(weights.axes, weights.variant_paths)["positional"]
    assert isinstance(options, RopeOptions)
    return options


def _rope(options: Mapping[str, object]) -> VariantChoice:
    return VariantChoice(name="rope", label="rope", options=dict(options))
