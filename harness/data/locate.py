"""Find the files of a corpus, and which of them are for training and for validation."""

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from harness.data import formats
from harness.errors import Problem, UserError
from harness.results.files import absolute

MAX_LISTED = 5  # names of files in a message
# Parts of a file's name, between its digits and punctuation, that state its split.
SPLIT_WORDS = {"train": {"train", "training"}, "val": {"val", "valid", "validation"}}
GLOB_CHARACTERS = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Patterns:
    """Patterns of the names of training and validation files; None: by their parts."""

    train: str | None = None
    val: str | None = None


@dataclass(frozen=True)
class CorpusFiles:
    """The files of a corpus. Without validation files, its last part is for validation."""

    train: list[Path]
    val: list[Path]
    unused: list[Path]

    @property
    def all(self) -> list[Path]:
        """The files that are read."""
        return [*self.train, *self.val]


def find_files(name: str, folder: Path, patterns: Patterns, place: str) -> CorpusFiles:
    """Return the files that `name` states: a file, a folder, or a glob, relative to `folder`.

    Files of a folder or a glob are training or validation files by `patterns`. Without these, `val`
    or `train` is a whole part of their names (fineweb_val_000.bin, not interval.bin); if no name in
    a glob has such a part, the files are one text in the order of their names.

    Raises:
        UserError: there is no such file, or the split is unclear. The message begins with `place`.
    """
    path = folder / name
    if path.is_dir():
        files = [file for file in path.iterdir() if formats.is_readable(file)]
    elif path.is_file():
        if patterns != Patterns():
            message = "is one file; train and val select files of a folder or a glob"
            raise UserError([Problem(place, f"'{name}' {message}: remove them")])
        return CorpusFiles([path], [], [])
    elif GLOB_CHARACTERS.search(name):
        files = [Path(file) for file in glob.glob(str(path), recursive=True)]
        files = [file for file in files if file.is_file()]
        if not files:
            raise UserError([Problem(place, f"'{name}': matches no file ({path.absolute()})")])
    else:
        message = (
            f"'{name}': no such file ({absolute(path)}); allowed: a file, a folder, a glob, "
            "hf:OWNER/NAME, and in a study tinyshakespeare or synthetic"
        )
        raise UserError([Problem(place, message)])
    if patterns == Patterns():
        return _split_by_name(name, path, sorted(files), place)
    return _split_by_pattern(name, sorted(files), patterns, place)


def _split_by_pattern(
    name: str, files: Sequence[Path], patterns: Patterns, place: str
) -> CorpusFiles:
    section = place.rpartition(".")[0]
    if patterns.train is None or patterns.val is None:
        missing = "train" if patterns.train is None else "val"
        message = "missing; both train and val must be patterns of file names, or neither"
        raise UserError([Problem(f"{section}.{missing}", message)])
    problems = []
    selected = {}
    for split, pattern in (("train", patterns.train), ("val", patterns.val)):
        selected[split] = [file for file in files if fnmatchcase(file.name, pattern)]
        if not selected[split]:
            message = f"'{pattern}': matches no name of a file of '{name}'; its files: "
            problems.append(Problem(f"{section}.{split}", message + _names(files)))
    both = [file for file in selected["train"] if file in selected["val"]]
    if both:
        message = f"'{patterns.train}' and val '{patterns.val}' both match {_names(both)}"
        problems.append(Problem(f"{section}.train", f"{message}; validate on other files"))
    if problems:
        raise UserError(problems)
    unused = [file for file in files if file not in (*selected["train"], *selected["val"])]
    return CorpusFiles(selected["train"], selected["val"], unused)


def _split_by_name(name: str, path: Path, files: Sequence[Path], place: str) -> CorpusFiles:
    train = [file for file in files if _has_word(file, "train")]
    val = [file for file in files if _has_word(file, "val")]
    both = [file for file in train if file in val]
    message = None
    if both:
        message = f"{_names(both)} names both train and val; rename it, or set train and val"
    elif not (train or val or path.is_dir()):
        return CorpusFiles(list(files), [], [])
    elif not train or not val:
        message = (
            "needs files with `train` and files with `val` as a part of their names, e.g. "
            "train_000.bin and val_000.bin, or the patterns train and val; found: "
            f"{_names(files) if files else 'none' + _unreadable(path)}"
        )
    if message is not None:
        raise UserError([Problem(place, f"'{name}': {message}")])
    return CorpusFiles(train, val, [file for file in files if file not in (*train, *val)])


def _has_word(file: Path, split: str) -> bool:
    """Return whether a word of the split is a whole part of a file's name."""
    stem = file.name.partition(".")[0].lower()
    return not SPLIT_WORDS[split].isdisjoint(re.split(r"[^a-z]+", stem))


def _unreadable(path: Path) -> str:
    """Return the problem of the first file of a folder that is of another format."""
    if not path.is_dir():
        return ""
    problems = filter(None, map(formats.problem_of_suffix, sorted(path.iterdir())))
    problem = next(problems, None)
    return "" if problem is None else f"; a file in it {problem}"


def _names(files: Sequence[Path]) -> str:
    names = [file.name for file in files[:MAX_LISTED]]
    n_more = len(files) - len(names)
    return (", ".join(names) or "none") + (f" and {n_more} more" if n_more else "")
