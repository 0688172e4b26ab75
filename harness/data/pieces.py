"""Cut a source of text into pieces, each of one split, which are tokenized independently."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.data import formats, tables
from harness.data.hub import PREFIX, load_hub
from harness.data.locate import Patterns, find_files
from harness.data.shards import source_files
from harness.errors import Problem, UserError
from harness.results.records import SourceFile

Split = Literal["train", "val"]
Documents = Callable[[], Iterator[str]]

PIECE_CHARACTERS = 1 << 16  # longer documents are cut
# A line's end that tiktoken's encodings never merge with what follows, so that both sides have the
# same tokens as the whole.
SEAM = re.compile(r"(?<=\S\n)(?=[^\s/])")


@dataclass(frozen=True)
class Piece:
    """A document, or a part of a long one; `n_bytes` of the source come up to its end."""

    text: str
    split: Split
    n_bytes: int


@dataclass(frozen=True)
class TextSource:
    """The documents of each split. Without `val`, a fraction of `train` is for validation.

    `is_whole` is True if the documents are few plain texts; the last part of each is for
    validation. `n_bytes` is an estimate of the size of the text.
    """

    files: list[SourceFile]
    n_bytes: int
    train: Documents
    val: Documents | None
    is_whole: bool

    def pieces(self, val_fraction: float) -> Iterator[Piece]:
        """Yield the pieces of all documents; each document ends with a separator."""
        n_bytes = 0
        for text, split in self._texts(val_fraction):
            for part in cut(text, PIECE_CHARACTERS):
                n_bytes += len(part.encode("utf-8"))
                yield Piece(part, split, n_bytes)

    def _texts(self, val_fraction: float) -> Iterator[tuple[str, Split]]:
        for i, document in enumerate(self.train()):
            ended = document + tables.SEPARATOR
            if self.val is not None:
                yield ended, "train"
            elif self.is_whole:
                n_train = _seam_after(ended, int(len(document) * (1 - val_fraction)))
                if n_train >= len(document):  # validation would be only the separator
                    n_train = len(ended)
                yield ended[:n_train], "train"
                if n_train < len(ended):
                    yield ended[n_train:], "val"
            else:  # every (1 / fraction)th document
                is_val = int((i + 1) * val_fraction) > int(i * val_fraction)
                yield ended, "val" if is_val else "train"
        for document in self.val() if self.val is not None else ():
            yield document + tables.SEPARATOR, "val"


def cut(text: str, size: int) -> Iterator[str]:
    """Yield parts of at least `size` characters, cut at line ends; their tokens are the whole's."""
    start = 0
    while start < len(text):
        stop = _seam_after(text, start + size)
        yield text[start:stop]
        start = stop


def _seam_after(text: str, position: int) -> int:
    """Return the first place from `position` at which a text may be cut; its end, if none."""
    found = SEAM.search(text, position) if position < len(text) else None
    return len(text) if found is None else found.start()


def find_source(
    name: str, folder: Path, column: str, val_fraction: float, place: str
) -> TextSource:
    """Return the text that `name` states, as `[data] corpus` does.

    Raises:
        UserError: there is no such text, or it is not text. The message begins with `place`.
    """
    if name.startswith(PREFIX):
        return _hub_source(name, folder, column, place)
    found = find_files(name, folder, Patterns(), place)
    kinds = {formats.kind_of(file) for file in found.all}
    if "tokens" in kinds:
        message = f"'{name}': holds tokens already; name it as [data] corpus, or select texts"
        raise UserError([Problem(place, message)])

    def documents(files: list[Path]) -> Documents:
        def read() -> Iterator[str]:
            for file in files:
                yield from tables.documents(file, column, place)

        return read

    is_plain = kinds == {"text"} and len(found.train) < 2 / val_fraction
    return TextSource(
        files=source_files(found.all),
        n_bytes=sum(tables.text_bytes(file, column, place) for file in found.all),
        train=documents(found.train),
        val=documents(found.val) if found.val else None,
        is_whole=is_plain and not any(_has_separator(file, place) for file in found.train),
    )


def _has_separator(file: Path, place: str) -> bool:
    return tables.SEPARATOR in tables.plain_text(file, place)


def _hub_source(name: str, folder: Path, column: str, place: str) -> TextSource:
    hub = load_hub(name, folder, Patterns(), column, place)
    val = hub.val
    return TextSource(
        files=source_files(hub.files),
        n_bytes=sum(file.stat().st_size for file in hub.files),
        train=lambda: hub.documents(hub.train),
        val=None if val is None else lambda: hub.documents(val),
        is_whole=False,
    )
