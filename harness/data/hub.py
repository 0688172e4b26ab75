"""Text data sets of the Hugging Face hub, or of a local folder, through the package `datasets`."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data.locate import Patterns
from harness.data.shards import scan
from harness.data.tables import no_column
from harness.errors import Problem, UserError, choices

if TYPE_CHECKING:
    from datasets import Dataset

PREFIX = "hf:"
HINT = "pip install 'ablations[datasets]'"
VAL_SPLITS = ("validation", "valid", "val")
SAVED = ("dataset_dict.json", "state.json")  # in a folder that save_to_disk wrote
BATCH_ROWS = 1000


class UnavailableError(UserError):
    """A corpus cannot be downloaded; the fallback corpus may replace it."""


@dataclass(frozen=True)
class HubText:
    """The documents of a data set. Without a validation split, `val` is None."""

    train: "Dataset"
    val: "Dataset | None"
    column: str
    place: str

    def documents(self, split: "Dataset") -> Iterator[str]:
        """Yield the documents of a split.

        Raises:
            UserError: a row has no text.
        """
        n_rows = 0
        for batch in split.select_columns([self.column]).iter(BATCH_ROWS):
            for text in batch[self.column]:
                n_rows += 1
                if not isinstance(text, str):
                    message = f"row {n_rows} of {split.split}: '{self.column}' is "
                    message += f"{type(text).__name__}, not text; set text_column"
                    raise UserError([Problem(self.place, message)])
                yield text

    @property
    def files(self) -> list[Path]:
        """The files in which `datasets` keeps the splits."""
        splits = [self.train] if self.val is None else [self.train, self.val]
        return [Path(file["filename"]) for split in splits for file in split.cache_files]

    @property
    def key(self) -> str:
        """The hash of all that determines the documents."""
        sha = hashlib.sha256(self.column.encode())
        for split in (self.train, self.val):
            if split is not None:
                sha.update(f"\n{split.split} {split.num_rows}".encode())
                for file in split.cache_files:
                    sha.update(f" {scan(Path(file['filename'])).sha256}".encode())
        return sha.hexdigest()


def load_hub(name: str, folder: Path, patterns: Patterns, column: str, place: str) -> HubText:
    """Return a data set `hf:OWNER/NAME`, `hf:OWNER/NAME:CONFIG` or `hf:FOLDER`.

    `patterns` are the names of its splits, which may be slices ("train[:1%]"); the default is
    `train`, and `validation` if there is one.

    Raises:
        UserError: `datasets` is not installed, or the data set has no such split or column.
        UnavailableError: the data set cannot be downloaded.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError([Problem(place, f"'{name}' needs the package datasets: {HINT}")]) from error
    path, _, config = name.removeprefix(PREFIX).partition(":")
    local = folder / path
    try:
        if any((local / file).is_file() for file in SAVED):
            found = datasets.load_from_disk(str(local))
        else:
            source = str(local) if local.is_dir() else path
            found = datasets.load_dataset(source, config or None, split=_split_names(patterns))
    except ConnectionError as error:
        message = f"'{name}': cannot be downloaded ({error})"
        raise UnavailableError([Problem(place, message)]) from error
    except Exception as error:  # of any kind: the formats and the hub have their own
        raise UserError([Problem(place, f"'{name}': {type(error).__name__}: {error}")]) from error
    splits = _splits(name, found, patterns, place)
    for split in splits:
        if column not in split.column_names:
            message = f"'{name}': {no_column(column, split.column_names)}"
            raise UserError([Problem(place, message)])
    return HubText(splits[0], splits[1] if len(splits) > 1 else None, column, place)


def _split_names(patterns: Patterns) -> list[str] | None:
    """Return the splits that the study names; None: all that the data set has."""
    names = [name for name in (patterns.train, patterns.val) if name is not None]
    return names or None


def _splits(name: str, found: object, patterns: Patterns, place: str) -> "list[Dataset]":
    """Return the training split, and the validation split if there is one."""
    if isinstance(found, list):
        return found
    if not isinstance(found, dict):  # one split, from load_from_disk
        if patterns == Patterns():
            return [found]
        message = f"'{name}': has one split; remove train and val"
        raise UserError([Problem(place, message)])
    val = patterns.val or next((split for split in VAL_SPLITS if split in found), None)
    names = [patterns.train or "train", *([val] if val else [])]
    for split in names:
        if split not in found:
            message = f"'{name}': no split '{split}'; {choices(split, found)}; set train and val"
            raise UserError([Problem(place, message)])
    return [found[split] for split in names]
