"""Check the file of one variant, in a model whose other variants are GPT-2's."""

import tomllib
import warnings
from collections.abc import Sequence
from pathlib import Path

from harness.config.axes import Axes
from harness.contract.checks import CheckResult
from harness.contract.optimizer import optimizer_results
from harness.contract.variant import run_all
from harness.errors import UserError, choices
from harness.results.files import absolute
from variants import registry
from variants.base import AXES, ModelShape

SHAPE = ModelShape(n_layer=4, n_head=4, n_embd=128, seq_len=128, vocab_size=256)


def check_file(path: Path, options: Sequence[str]) -> list[CheckResult]:
    """Return the outcome of each check of the contract, at these options and others.

    `options` are NAME=VALUE, the value as in a study file. Those without a default are required.

    Raises:
        UserError: the file is missing or invalid, or an option is; it names every problem.
    """
    file = absolute(path)
    axis = file.parent.name
    if axis not in AXES or not file.is_file():
        form = f"must be the file AXIS/NAME.py of a variant; {choices(axis, AXES)}"
        raise UserError(f"{path}: {form}")
    root = file.parent.parent
    axes = Axes(str(path), [root], shape=SHAPE)
    choice = axes.choose(axis, {"variant": file.stem} | _parse(options), "option")
    if choice is None:
        raise UserError(axes.problems)
    results = [CheckResult("file", "passed")]
    if axis == "parallelism":
        return results
    cls = registry.load(axis, file.stem, [root])
    if axis == "optimizer":
        return results + optimizer_results(cls, cls.Options(**choice.options))
    with warnings.catch_warnings(action="ignore"):  # of the user's code
        return results + run_all(axis, cls, cls.Options(**choice.options), SHAPE)


def _parse(options: Sequence[str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals or not name:
            raise UserError(f"--option {option}: must be NAME=VALUE, e.g. window=64")
        try:
            values[name] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[name] = text  # a string without quotes, which the shell would remove
    return values
