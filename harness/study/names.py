"""Labels of choices and runs, which name files, and titles of choices, which people read.

Labels are safe as names of files and never longer than these allow.

A file system allows 255 bytes for a name, and trackers of experiments 64 for a tag and 128 for a
run.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from itertools import groupby
from string import Formatter

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+]{0,39}")  # of a user
LABEL_FORM = "must be up to 40 letters, digits and any of . _ +"
MAX_LABEL = 60
MAX_TITLE = 80
MAX_ENTRY = 100  # within a run's id, which adds up to 30 characters for its seeds and hash
SOURCE_PREFIX = "start-"  # of the names of runs that others start from
MIN_RUN_LENGTH = 3  # equal items of a list from which on they are counted


def default_label(name: str, given: Mapping[str, object]) -> str:
    """Return a readable label: gqa2, or, with several options, rope_theta5000_fraction0.5."""
    values = {option: _format_option(value) for option, value in given.items()}
    if len(values) == 1:
        suffix = next(iter(values.values()))
    else:
        suffix = "".join(f"_{option}{value}" for option, value in values.items())
    label = re.sub(r"[^A-Za-z0-9._+]", "", name + suffix.replace("-", "m"))
    return shorten(label, MAX_LABEL)


def default_title(
    form: str, name: str, options: Mapping[str, object], given: Collection[str]
) -> str:
    """Return what people read: GQA-2, or MHA no qk_norm, or RoPE theta=5000, fraction=0.5.

    `form` is the variant's title, a format string over its options; without one, its name takes the
    place. Options that the study gives and that the form does not contain are spelled after it.
    """
    parsed = list(Formatter().parse(form or _literal(name)))
    in_form = {option for _, option, _, _ in parsed if option is not None}
    words = ""
    for text, option, _, _ in parsed:
        words += text + ("" if option is None else _spell_value(options[option]))
    added = [option for option in options if option in given and option not in in_form]
    spelled = [_spell(option, options[option]) for option in added]
    return shorten(f"{words} {', '.join(spelled)}".strip(), MAX_TITLE)


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _spell(option: str, value: object) -> str:
    if isinstance(value, bool):
        return option if value else f"no {option}"
    return f"{option}={_spell_value(value)}"


def _spell_value(value: object) -> str:
    """Return a value as people read it: 0.5, or 4/8/16 or 128×48 for a list."""
    if isinstance(value, list):
        runs = [(item, len(list(items))) for item, items in groupby(map(_spell_value, value))]
        parts = []
        for item, length in runs:
            parts += [f"{item}×{length}"] if length >= MIN_RUN_LENGTH else [item] * length
        return "/".join(parts)
    if isinstance(value, Mapping):
        return " ".join(f"{key}:{_spell_value(item)}" for key, item in value.items())
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return _format_option(value)


def shorten(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters; the end of a longer one becomes its hash."""
    if len(text) <= limit:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    return f"{text[: limit - len(digest) - 1]}+{digest}"


def _format_option(value: object) -> str:
    """Return an option's value as a part of a label: 0.5, or 4.8.16 or 128x48 for a list."""
    if isinstance(value, list):
        runs = [(item, len(list(items))) for item, items in groupby(map(_format_option, value))]
        return ".".join(_format_run(item, length) for item, length in runs)
    if isinstance(value, float):
        rounded = f"{value:g}"
        return rounded if float(rounded) == value else repr(value)
    return str(value)


def _format_run(item: str, length: int) -> str:
    return f"{item}x{length}" if length >= MIN_RUN_LENGTH else ".".join([item] * length)
