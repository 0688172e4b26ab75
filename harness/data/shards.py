"""Token files, which are mapped where they are.

A file is hashed and checked whole. The result is cached by the file's size and times, so that a
file that has not changed is read once.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pooch

from harness.data import formats, token_files
from harness.data.batches import DTYPES, Tokens
from harness.data.token_files import SAMPLE_BYTES, layout
from harness.data.tokenizers import Tokenizer
from harness.errors import Problem, StoreError, UserError
from harness.results.files import absolute, open_file, read_json, read_record, write_json
from harness.results.records import (
    ShardManifest,
    SourceFile,
    TokenDtype,
    TokenFileScan,
    TokenSlice,
)

MANIFEST = "manifest.json"  # of a folder that `data prepare` has written
CHUNK_BYTES = 1 << 24
# A file may change again within the resolution of its times; a younger scan is not cached.
SETTLED_S = 2.0


def cache_folder() -> Path:
    """Return the folder of downloaded and tokenized texts, and of the hashes of token files."""
    return Path(os.environ.get("ABLATIONS_CACHE") or pooch.os_cache("ablations"))


@contextlib.contextmanager
def writing_cache() -> Iterator[None]:
    """Within this, raise a `UserError` with the remedy if the cache cannot be written."""
    try:
        yield
    except OSError as error:
        place = error.filename2 or error.filename or cache_folder()
        message = f"{place}: the cache cannot be written ({error.strerror})"
        raise UserError(f"{message}; name another folder by ABLATIONS_CACHE") from error


def source_files(files: Iterable[Path]) -> list[SourceFile]:
    """Return files with the hash of their content."""
    return [SourceFile(file=str(absolute(file)), sha256=scan(file).sha256) for file in files]


def read_shards(
    files: Sequence[Path], tokenizer: Tokenizer, token_dtype: TokenDtype, place: str
) -> list[TokenSlice]:
    """Return the tokens of each file; those of a file without a header are `token_dtype`.

    Raises:
        UserError: a file is unreadable, does not hold tokens of this type, or holds a token that is
            not the tokenizer's. The message begins with `place`.
    """
    slices = []
    problems = []
    folders = {file.parent for file in files}
    for folder in sorted(folders):
        for meta in sorted(folder.glob("*meta*.pkl")):
            message = (
                "describes the alphabet of character tokens, and the study has the tokenizer "
                f"'{tokenizer.name}'; name the text itself as the corpus, or move this file away "
                "if the tokens are the tokenizer's"
            )
            problems.append(Problem(place, f"{meta}: {message}"))
        problems += _manifest_problems(folder, tokenizer, place)
    if problems:
        raise UserError(problems)
    for file in files:
        try:
            problem = _problem(file, tokenizer, token_dtype)
            if problem is None:
                slices.append(_slice(file, token_dtype))
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        if problem is not None:
            problems.append(Problem(place, f"{file}: {problem}"))
    if problems:
        raise UserError(problems)
    return slices


def _manifest_problems(folder: Path, tokenizer: Tokenizer, place: str) -> Iterator[Problem]:
    """Yield why the shards that `data prepare` has written in a folder cannot be read."""
    file = folder / MANIFEST
    try:
        manifest = read_record(file, ShardManifest)
    except StoreError:  # none, or of another program
        return
    if not manifest.complete:
        message = "the shards are incomplete; run the same `data prepare` again to finish them"
        yield Problem(place, f"{file}: {message}")
        return
    if manifest.tokenizer != tokenizer.name:
        message = (
            f"the shards hold tokens of '{manifest.tokenizer}', the study has the tokenizer "
            f"'{tokenizer.name}'; set data.tokenizer, or prepare the text again"
        )
        yield Problem(place, f"{file}: {message}")
    for shard in manifest.shards:
        path = folder / shard.file
        if not path.is_file():
            yield Problem(place, f"{path}: is missing; run the same `data prepare` again")
        elif scan(path).sha256 != shard.sha256:
            message = "is not as `data prepare` has written it; run the same command again"
            yield Problem(place, f"{path}: {message}")


def verify(slices: Iterable[TokenSlice]) -> None:
    """Check that the files of a run are the ones that it was planned with.

    Raises:
        UserError: a file is missing, is shorter, or has other content.
    """
    problems = {}
    for tokens in slices:
        file = Path(tokens.file)
        try:
            n_tokens = file.stat().st_size // DTYPES[tokens.dtype].itemsize
            found = scan(file, tokens.dtype).sha256
            changed = tokens.sha256 not in (None, found)
        except OSError as error:
            problems[file] = (
                f"cannot be read ({error.strerror}); restore it, or start the study again"
            )
            continue
        if n_tokens < tokens.stop:
            problems[file] = f"has {n_tokens} tokens, the run reads {tokens.stop}; restore it"
        elif changed:
            problems[file] = (
                f"has changed since the run was planned: its SHA-256 is not {tokens.sha256}; "
                f"restore the file, or start the study again: the changed text is another run"
            )
    if problems:
        raise UserError([Problem(str(file), problem) for file, problem in problems.items()])


def check_not_overwritten(splits: Iterable[Tokens]) -> None:
    """Check at the end of a run that its files have not changed in place while it read them.

    Raises:
        UserError: one has, so that the run has trained on a mixture.
    """
    problems = []
    for split in splits:
        for file in split.overwritten:
            message = "was overwritten while the run trained; start the study again"
            problems.append(Problem(file, message))
    if problems:
        raise UserError(problems)


def scan(file: Path, token_dtype: TokenDtype = "uint16") -> TokenFileScan:
    """Return the hash of a file's content and its largest token, from the cache if possible.

    Tokens of a file without a header are `token_dtype`.
    """
    path = str(absolute(file))
    cached = cache_folder() / "scans" / f"{hashlib.sha256(path.encode()).hexdigest()[:32]}.json"
    stat = file.stat()
    file_layout = layout(file, token_dtype)
    identity = (path, file_layout.dtype, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    try:
        known = TokenFileScan.model_validate(read_json(cached))
        if _identity(known) == identity:
            return known
    except (StoreError, ValueError):  # no cached scan, or not one of this version
        pass
    sha = hashlib.sha256()
    max_token = 0
    dtype = file_layout.numpy_dtype
    n_skipped = file_layout.n_header_bytes
    with open_file(file) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            sha.update(chunk)
            n_whole = len(chunk) - len(chunk) % dtype.itemsize
            tokens = np.frombuffer(memoryview(chunk)[n_skipped:n_whole], dtype)
            max_token = max(max_token, int(tokens.max(initial=0)))
            n_skipped = 0
    result = TokenFileScan(
        path=path,
        dtype=file_layout.dtype,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        ctime_ns=stat.st_ctime_ns,
        sha256=sha.hexdigest(),
        max_token=max_token,
    )
    if time.time() - stat.st_ctime > SETTLED_S:
        with contextlib.suppress(OSError):  # a worker may not be permitted to write here
            write_json(cached, result)
    return result


def _identity(known: TokenFileScan) -> tuple[str, TokenDtype, int, int, int]:
    return known.path, known.dtype, known.size, known.mtime_ns, known.ctime_ns


def _slice(file: Path, token_dtype: TokenDtype) -> TokenSlice:
    file_layout = layout(file, token_dtype)
    return TokenSlice(
        file=str(absolute(file)),
        dtype=file_layout.dtype,
        start=file_layout.start,
        stop=file.stat().st_size // file_layout.numpy_dtype.itemsize,
        sha256=scan(file, token_dtype).sha256,
    )


def _problem(file: Path, tokenizer: Tokenizer, token_dtype: TokenDtype) -> str | None:
    """Return why a file of tokens is invalid, None if it is valid."""
    with open_file(file) as stream:
        head = stream.read(SAMPLE_BYTES)
    n_bytes = file.stat().st_size
    if n_bytes == 0:
        return "is empty; remove it"
    problem = formats.problem_of_magic(head) or token_files.header_problem(head, n_bytes)
    if problem:
        return problem
    file_layout = layout(file, token_dtype)
    dtype = file_layout.numpy_dtype
    if n_bytes == file_layout.n_header_bytes:
        return "has a header and no tokens; remove it"
    sample = head[file_layout.n_header_bytes :]
    problem = token_files.dtype_problem(sample, file_layout.dtype, tokenizer.vocab_size)
    if problem:
        return problem
    if n_bytes % dtype.itemsize:
        size = {2: "two", 4: "four"}[dtype.itemsize]
        return f"{n_bytes} bytes; {file_layout.dtype} tokens take {size} each"
    if scan(file, token_dtype).max_token >= tokenizer.vocab_size:
        return token_files.vocabulary_problem(file, file_layout, tokenizer)
    return token_files.alphabet_problem(np.frombuffer(sample, dtype), tokenizer)
