"""Tokenize a text into shards in llm.c's format, in parallel.

Documents are tokenized by worker processes and written in their order: a shard ends with the piece
that reaches `shard_tokens`. The manifest is replaced after each shard. A later call keeps the
finished shards and tokenizes the rest, so that the files are the same as without interruption.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.data import pieces, workers
from harness.data.batches import DTYPES
from harness.data.pieces import Piece, Split, TextSource, find_source
from harness.data.shards import MANIFEST, scan
from harness.data.text_cache import tokenization_hash
from harness.data.token_files import header
from harness.data.tokenizers import Tokenizer
from harness.errors import UserError
from harness.provenance.sources import Code
from harness.results.files import read_record, write_bytes, write_json
from harness.results.records import ShardManifest, TokenDtype, TokenShard

SHARD_TOKENS = 100_000_000
VAL_FRACTION = 0.01


@dataclass(frozen=True)
class Progress:
    """How far the tokenization is, and the estimated time to its end in seconds."""

    fraction: float
    tokens: int
    shards: int
    left_s: float | None


@dataclass(frozen=True)
class PrepareSettings:
    """What to tokenize, and where to write it; `source` is relative to the working directory."""

    source: str
    tokenizer: str
    out: Path
    text_column: str = "text"
    shard_tokens: int = SHARD_TOKENS
    val_fraction: float = VAL_FRACTION
    n_workers: int | None = None


def prepare_shards(
    settings: PrepareSettings, report: Callable[[Progress], None] = lambda progress: None
) -> ShardManifest:
    """Write the shards that are missing, and return the manifest of all.

    Raises:
        UserError: the source cannot be read, the folder holds something else, or a split is empty.
    """
    tokenizer = Tokenizer(settings.tokenizer, "--tokenizer")
    source = find_source(
        settings.source, Path(), settings.text_column, settings.val_fraction, "SOURCE"
    )
    manifest = _resume(settings, source)
    if manifest.complete:
        return manifest
    settings.out.mkdir(parents=True, exist_ok=True)
    writer = _Writer(settings, manifest, tokenizer.dtype)
    clock = _Clock(source.n_bytes)
    n_workers = settings.n_workers or os.cpu_count() or 1
    todo = writer.missing(source.pieces(settings.val_fraction))
    for batch, tokens in workers.tokenize(todo, settings.tokenizer, n_workers):
        for piece, piece_tokens in zip(batch, tokens, strict=True):
            writer.add(piece, piece_tokens)
        report(clock.progress(batch[-1].n_bytes, writer))
    return writer.finish()


# -- earlier calls ---------------------------------------------------------------------------------


def _resume(settings: PrepareSettings, source: TextSource) -> ShardManifest:
    """Return the manifest of the folder without damaged shards, or a new one.

    Raises:
        UserError: the folder holds other files, or the shards of another source or setting.
    """
    wanted = ShardManifest(
        source=settings.source,
        sources=source.files,
        tokenizer=settings.tokenizer,
        text_column=settings.text_column,
        shard_tokens=settings.shard_tokens,
        val_fraction=settings.val_fraction,
        code=_code_hash(),
        complete=False,
        shards=[],
    )
    out = settings.out
    if not out.exists() or not any(out.iterdir()):
        return wanted
    if not (out / MANIFEST).is_file():
        raise UserError(f"--out {out}: holds other files; name an empty or a new folder")
    found = read_record(out / MANIFEST, ShardManifest)
    names = "sources tokenizer text_column shard_tokens val_fraction code".split()
    differing = [name for name in names if getattr(found, name) != getattr(wanted, name)]
    if differing:
        raise UserError(
            f"--out {out}: holds shards of another {', '.join(differing)}; name another folder, or "
            "remove this one"
        )
    shards = []
    damaged: set[Split] = set()
    for shard in found.shards:
        if shard.split not in damaged and _is_whole(out / shard.file, shard):
            shards.append(shard)
        else:
            damaged.add(shard.split)
    complete = found.complete and not damaged
    return found.model_copy(update={"shards": shards, "complete": complete})


def _is_whole(file: Path, shard: TokenShard) -> bool:
    return file.is_file() and scan(file).sha256 == shard.sha256


def _code_hash() -> str:
    files = {"pieces.py": Path(pieces.__file__), "prepare.py": Path(__file__)}
    return f"{tokenization_hash()}-{Code.of(files).hash}"


# -- writing ---------------------------------------------------------------------------------------


@dataclass
class _OpenShard:
    """The tokens of a split that are in no file yet."""

    index: int
    parts: list[np.ndarray] = field(default_factory=list)
    n_tokens: int = 0


class _Writer:
    """Collect tokens, and write each full shard with a new manifest."""

    def __init__(
        self, settings: PrepareSettings, manifest: ShardManifest, dtype: TokenDtype
    ) -> None:
        self._settings = settings
        self._manifest = manifest
        self._dtype = dtype
        self._open: dict[Split, _OpenShard] = {}
        for split in ("train", "val"):
            self._open[split] = _OpenShard(sum(shard.split == split for shard in self.shards))

    @property
    def shards(self) -> list[TokenShard]:
        """The finished shards."""
        return self._manifest.shards

    @property
    def n_tokens(self) -> int:
        """Return the number of all tokens so far."""
        n_open = sum(shard.n_tokens for shard in self._open.values())
        return n_open + sum(shard.tokens for shard in self.shards)

    def missing(self, all_pieces: Iterator[Piece]) -> Iterator[Piece]:
        """Yield the pieces that are in no finished shard."""
        n_left: dict[Split, int] = {"train": 0, "val": 0}
        for shard in self.shards:
            n_left[shard.split] += shard.pieces
        for piece in all_pieces:
            if n_left[piece.split] > 0:
                n_left[piece.split] -= 1
            else:
                yield piece

    def add(self, piece: Piece, tokens: np.ndarray) -> None:
        """Add the tokens of a piece; write the shard if it is full."""
        shard = self._open[piece.split]
        shard.parts.append(tokens)
        shard.n_tokens += len(tokens)
        if shard.n_tokens >= self._settings.shard_tokens:
            self._write(piece.split)

    def finish(self) -> ShardManifest:
        """Write the last shards and the complete manifest."""
        for split, shard in self._open.items():
            if shard.parts:
                self._write(split)
        for split in ("train", "val"):
            if not any(shard.split == split for shard in self.shards):
                n_documents = sum(shard.pieces for shard in self.shards)
                raise UserError(
                    f"{self._settings.source}: no text for {split} among {n_documents} documents; "
                    f"--val-fraction {self._settings.val_fraction:g} is not fit for this text"
                )
        self._replace_manifest(complete=True)
        return self._manifest

    def _write(self, split: Split) -> None:
        shard = self._open[split]
        content = header(self._dtype, shard.n_tokens)
        content += np.concatenate(shard.parts).astype(DTYPES[self._dtype]).tobytes()
        name = f"{split}_{shard.index:06d}.bin"
        write_bytes(self._settings.out / name, content)
        finished = TokenShard(
            file=name,
            split=split,
            tokens=shard.n_tokens,
            pieces=len(shard.parts),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        self._open[split] = _OpenShard(shard.index + 1)
        shards = sorted([*self.shards, finished], key=lambda shard: shard.file)
        self._manifest = self._manifest.model_copy(update={"shards": shards})
        self._replace_manifest(complete=False)

    def _replace_manifest(self, complete: bool) -> None:
        self._manifest = self._manifest.model_copy(update={"complete": complete})
        write_json(self._settings.out / MANIFEST, self._manifest)


class _Clock:
    """Estimate the time left from the bytes that were tokenized since the first result."""

    def __init__(self, n_bytes: int) -> None:
        self._n_bytes = n_bytes
        self._first: tuple[int, float] | None = None

    def progress(self, n_bytes: int, writer: _Writer) -> Progress:
        """Return how far the tokenization is after `n_bytes`."""
        total = max(self._n_bytes, n_bytes)
        now_s = time.monotonic()
        n_before, start_s = self._first or (n_bytes, now_s)
        self._first = (n_before, start_s)
        left_s = None
        if n_bytes > n_before:
            left_s = (now_s - start_s) * (total - n_bytes) / (n_bytes - n_before)
        return Progress(n_bytes / max(1, total), writer.n_tokens, len(writer.shards), left_s)
