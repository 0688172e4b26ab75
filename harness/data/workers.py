"""Worker processes that tokenize texts, which import only what they need, to start fast."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

import numpy as np

from harness.data.tokenizers import Tokenizer
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.data.pieces import Piece

TASK_CHARACTERS = 1 << 19  # of text that a worker tokenizes at once
TASKS_AHEAD = 3  # for each worker

_tokenizer: Tokenizer | None = None  # of a worker process


def tokenize(
    pieces: "Iterator[Piece]", tokenizer: str, workers: int
) -> "Iterator[tuple[list[Piece], list[np.ndarray]]]":
    """Yield pieces with their tokens, in their order; a few batches are tokenized ahead."""
    executor = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start, (tokenizer,)
    )
    pending: deque[tuple[list[Piece], Future[list[np.ndarray]]]] = deque()
    try:
        for batch in _batches(pieces):
            pending.append((batch, executor.submit(_encode, [piece.text for piece in batch])))
            if len(pending) > TASKS_AHEAD * workers:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()
    except BrokenProcessPool as error:
        message = "a worker process has ended, perhaps for lack of memory; run the command again"
        raise UserError(message) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _start(tokenizer: str) -> None:
    global _tokenizer  # noqa: PLW0603
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _tokenizer = Tokenizer(tokenizer)


def _end_with_parent() -> None:
    """End this process when the parent has ended, also if it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _encode(texts: Sequence[str]) -> list[np.ndarray]:
    assert _tokenizer is not None
    return [_tokenizer.encode(text) for text in texts]


def _batches(pieces: "Iterator[Piece]") -> "Iterator[list[Piece]]":
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= TASK_CHARACTERS:
            yield batch
            batch = []
            size = 0
    if batch:
        yield batch
