"""Readable names of choices and runs, safe as names of files and never longer than these allow.

A file system allows 255 bytes for a name, and trackers of experiments 64 for a tag and 128 for a
run.
"""

import hashlib
import re
from collections.abc import Mapping
from itertools import groupby

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+]{0,39}")  # of a user
LABEL_FORM = "must be up to 40 letters, digits and any of . _ +"
MAX_LABEL = 60
MAX_ENTRY = 100  # within a run's id, which adds up to 30 characters for its seeds and hash
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
