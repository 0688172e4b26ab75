"""Find a corpus, identify it by its hash, and return where its tokens are.

The launcher tokenizes once, into a cache: `$ABLATIONS_CACHE`, or the user's cache folder.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pooch

from harness.data import formats, synthetic, tables
from harness.data.batches import Tokens
from harness.data.documents import separator_of
from harness.data.hub import PREFIX, UnavailableError, load_hub
from harness.data.locate import CorpusFiles, Patterns, find_files
from harness.data.mixture import Corpus, Split, mix
from harness.data.shards import cache_folder, read_shards, source_files, writing_cache
from harness.data.text_cache import VALIDATION_FRACTION, Text, split, tokenize
from harness.data.tokenizers import Tokenizer
from harness.errors import Problem, UserError
from harness.provenance.sources import syntax_hash
from harness.results.files import absolute, read_file
from harness.results.records import CorpusPart, DataSettings, SourceFile, TokenDtype

__all__ = ["Corpus", "UnavailableError", "prepare"]

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
NAMED = ("synthetic", "tinyshakespeare")
SYNTHETIC_BYTES = 1_000_000


@dataclass(frozen=True)
class _Request:
    """A corpus as a study states it; `place` is named in errors."""

    name: str
    patterns: Patterns
    text_column: str
    token_dtype: TokenDtype
    folder: Path
    place: str


def prepare(data: DataSettings, folder: Path, study_file: str) -> Corpus:
    """Find the corpus, tokenize it unless it is cached, and return where its tokens are.

    Paths are relative to `folder`. `study_file` is named in errors.

    Raises:
        UserError: the corpus does not exist, or it cannot be downloaded and there is no
            `fallback_corpus`; its hash is not the expected one, a file is of another format, its
            tokens exceed the tokenizer's vocabulary, or it has no documents to mask.
    """
    tokenizer = Tokenizer(data.tokenizer, f"{study_file}: data.tokenizer")
    corpus = _find_or_replace(data, tokenizer, folder, study_file)
    if data.documents == "cross":
        return corpus
    place = f"{study_file}: data.documents"
    separator = separator_of(tokenizer, corpus.name, Tokens(corpus.train), place)
    return replace(corpus, separator=separator)


def _find_or_replace(
    data: DataSettings, tokenizer: Tokenizer, folder: Path, study_file: str
) -> Corpus:
    """Return the corpus, or its fallback if it cannot be downloaded."""
    place = f"{study_file}: data.corpus"
    if not isinstance(data.corpus, str):
        return _mixture(data, data.corpus, tokenizer, folder, place)
    request = _request(data, CorpusPart(path=data.corpus, weight=1), folder, place)
    try:
        return _find(request, tokenizer)
    except UnavailableError as error:
        if data.fallback_corpus is None:
            raise
        place = f"{study_file}: data.fallback_corpus"
        fallback_request = replace(
            request, name=data.fallback_corpus, patterns=Patterns(), place=place
        )
        fallback = _find(fallback_request, tokenizer)
        reason = error.problems[0].message
        note = f"{data.corpus} is not available, {data.fallback_corpus} replaces it ({reason})"
        return replace(fallback, note=note)


def _mixture(
    data: DataSettings, parts: list[CorpusPart], tokenizer: Tokenizer, folder: Path, place: str
) -> Corpus:
    """Return all corpora of a mixture as one."""
    corpora = []
    problems = []
    for i, part in enumerate(parts):
        request = _request(data, part, folder, f"{place}[{i}].path")
        try:
            corpora.append(_find(request, tokenizer))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return mix(corpora, parts, place)


def _request(data: DataSettings, part: CorpusPart, folder: Path, place: str) -> _Request:
    """Return what to find, with the settings of `data` where `part` has none.

    Raises:
        UserError: patterns are set for a corpus that has one text.
    """
    patterns = Patterns(part.train or data.train, part.val or data.val)
    if part.path in NAMED and (part.train or part.val or data.corpus in NAMED):
        if patterns != Patterns() and not data.fallback_corpus:
            message = f"'{part.path}' has one text; remove train and val"
            raise UserError([Problem(place, message)])
    return _Request(
        name=part.path,
        patterns=patterns,
        text_column=part.text_column or data.text_column,
        token_dtype=part.token_dtype or data.token_dtype,
        folder=folder,
        place=place,
    )


def _find(request: _Request, tokenizer: Tokenizer) -> Corpus:
    name = request.name
    if name == "synthetic":
        return _synthetic(tokenizer)
    if name == "tinyshakespeare":
        content = _read_tinyshakespeare(request.place)
        return _text(name, content, tokenizer)
    if name.startswith(PREFIX):
        return _read_hub(request, tokenizer)
    try:
        files = find_files(name, request.folder, request.patterns, request.place)
        kinds = {formats.kind_of(file) for file in files.all}
        if "tokens" not in kinds:
            return _read_texts(request, files, tokenizer)
        if len(kinds) > 1:
            message = f"'{name}': holds token files and texts; select one kind by a glob"
            raise UserError([Problem(request.place, message)])
        return _read_tokens(request, files, tokenizer)
    except (OSError, ValueError) as error:  # of a path that is too long, or not permitted
        message = f"'{name}': cannot be read ({error})"
        raise UserError([Problem(request.place, message)]) from error


def _read_tinyshakespeare(place: str) -> bytes:
    """Return the text from the folder `$ABLATIONS_DATA`, from the cache, or from its address."""
    data_folder = os.environ.get("ABLATIONS_DATA")
    if data_folder:
        file = Path(data_folder) / "tinyshakespeare.txt"
        if file.is_file():
            text = read_file(file)
            sha256 = hashlib.sha256(text).hexdigest()
            if sha256 != SHA256:
                message = f"{file}: SHA-256 {sha256}, expected {SHA256}; replace it by {URL}"
                raise UserError([Problem(place, message)])
            return text
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        downloaded = pooch.retrieve(
            URL,
            known_hash=SHA256,
            path=cache_folder(),
            fname="tinyshakespeare.txt",
            downloader=pooch.HTTPDownloader(timeout=20),
        )
    except ValueError as error:  # another hash; pooch has removed the file
        message = f"{URL}: the download is not the file expected and was not kept: {error}"
        raise UserError([Problem(place, message)]) from error
    except OSError as error:
        message = (
            f"'tinyshakespeare': not in $ABLATIONS_DATA, and {URL} cannot be reached "
            f"({type(error).__name__}); download it elsewhere, save it as tinyshakespeare.txt in a "
            f'folder and set ABLATIONS_DATA to that folder, or set fallback_corpus = "synthetic"'
        )
        raise UnavailableError([Problem(place, message)]) from error
    return read_file(Path(downloaded))


def _text(name: str, content: bytes, tokenizer: Tokenizer) -> Corpus:
    """Return the corpus of a text in UTF-8."""
    sha256 = hashlib.sha256(content).hexdigest()
    return _tokenized(name, sha256[:32], tokenizer, lambda: Text(content.decode("utf-8")))


def _synthetic(tokenizer: Tokenizer) -> Corpus:
    source_sha256 = syntax_hash(Path(synthetic.__file__))

    def make() -> Text:
        corpus = synthetic.generate(SYNTHETIC_BYTES)
        return Text(corpus.text.decode("ascii"), surprisal=corpus.surprisal)

    return _tokenized("synthetic", f"synthetic-{source_sha256[:32]}", tokenizer, make)


def _read_texts(request: _Request, files: CorpusFiles, tokenizer: Tokenizer) -> Corpus:
    """Return the corpus of the documents of text files, joined by the separator."""
    name = request.name
    if len(files.all) == 1 and formats.kind_of(files.train[0]) == "text":
        text = tables.plain_text(files.train[0], request.place)
        content = text.encode("utf-8")
        corpus = _text(name, content, tokenizer)
        source = SourceFile(file=str(absolute(files.train[0])), sha256=corpus.sha256)
        return replace(corpus, sources=[source])
    sources = source_files(files.all)
    _refuse_repeated(request, sources, len(files.train))
    content_hash = hashlib.sha256(request.text_column.encode())
    for i, source in enumerate(sources):
        file_split = "train" if i < len(files.train) else "val"
        content_hash.update(f"\n{file_split} {source.sha256}".encode())

    def join(paths: Sequence[Path]) -> str:
        documents: list[str] = []
        for path in paths:
            documents += tables.documents(path, request.text_column, request.place)
        return tables.SEPARATOR.join(documents)

    def make() -> Text:
        return Text(join(files.train), join(files.val) if files.val else None)

    corpus = _tokenized(name, f"files-{content_hash.hexdigest()[:32]}", tokenizer, make)
    return replace(corpus, sources=sources, note=_unused_note(name, files))


def _read_hub(request: _Request, tokenizer: Tokenizer) -> Corpus:
    """Return the corpus of a data set's documents, joined by the separator."""
    hub = load_hub(
        request.name, request.folder, request.patterns, request.text_column, request.place
    )

    def make() -> Text:
        train = tables.SEPARATOR.join(hub.documents(hub.train))
        val = None if hub.val is None else tables.SEPARATOR.join(hub.documents(hub.val))
        return Text(train, val)

    return _tokenized(request.name, f"hub-{hub.key[:32]}", tokenizer, make)


def _tokenized(name: str, key: str, tokenizer: Tokenizer, make: Callable[[], Text]) -> Corpus:
    """Return the corpus of the text that `make` returns; `key` identifies it in the cache."""
    tokenized = tokenize(key, tokenizer, make)
    return Corpus(
        name=name,
        sha256=tokenized.sha256,
        vocab_size=tokenizer.vocab_size,
        train=[tokenized.train],
        val=[tokenized.val],
        token_bytes=_token_bytes(tokenizer),
        entropy=tokenized.entropy,
    )


def _token_bytes(tokenizer: Tokenizer) -> str:
    """Return the file in the cache that holds the length in bytes of each token."""
    with writing_cache():
        return str(tokenizer.byte_lengths(cache_folder()))


def _refuse_repeated(request: _Request, sources: Sequence[SourceFile], n_train: int) -> None:
    """Refuse validation files with the content of one of the first `n_train`, which train.

    If all files train, the last part of their text validates, and no two may be the same.

    Raises:
        UserError: there are such files.
    """
    train = [source.sha256 for source in sources[:n_train]]
    repeated = set(train) & {source.sha256 for source in sources[n_train:]}
    if n_train == len(sources):
        repeated = {sha256 for sha256 in train if train.count(sha256) > 1}
    if repeated:
        paths = ", ".join(source.file for source in sources if source.sha256 in repeated)
        message = f"'{request.name}': training and validation have the same content: {paths}"
        raise UserError([Problem(request.place, f"{message}; validate on other text")])


def _unused_note(name: str, files: CorpusFiles) -> str | None:
    if not files.unused:
        return None
    names = ", ".join(file.name for file in files.unused)
    return f"{name}: neither training nor validation files, not read: {names}"


def _read_tokens(request: _Request, files: CorpusFiles, tokenizer: Tokenizer) -> Corpus:
    """Return the corpus of token files (see `token_files`)."""
    name = request.name
    slices = read_shards(files.all, tokenizer, request.token_dtype, request.place)
    train = slices[: len(files.train)]
    val = slices[len(files.train) :]
    sources = [SourceFile(file=part.file, sha256=str(part.sha256)) for part in slices]
    _refuse_repeated(request, sources, len(train))
    sha256 = content_hash(train, val)
    n_headers = sum(part.start > 0 for part in slices)
    notes = [_unused_note(name, files)]
    if n_headers:
        notes.append(f"{name}: the header of llm.c is skipped in {n_headers} token files")
    if not val:
        train, val = _split_last(train)
    return Corpus(
        name=name,
        sha256=sha256,
        vocab_size=tokenizer.vocab_size,
        train=train,
        val=val,
        token_bytes=_token_bytes(tokenizer),
        note="; ".join(filter(None, notes)) or None,
        sources=sources,
    )


def content_hash(train: Split, val: Split) -> str:
    """Return the hash of the files and types of both parts."""
    sha = hashlib.sha256()
    for file_split, parts in (("train", train), ("val", val)):
        for part in parts:
            dtype = "" if part.dtype == "uint16" else f" {part.dtype}"
            sha.update(f"{file_split} {part.sha256}{dtype}\n".encode())
    return sha.hexdigest()


def _split_last(slices: Split) -> tuple[Split, Split]:
    """Return the first nine tenths of the tokens, and the others."""
    n_left = int(Corpus.n_tokens(slices) * (1 - VALIDATION_FRACTION))
    train: Split = []
    val: Split = []
    for part in slices:
        n_train = min(n_left, part.stop - part.start)
        n_left -= n_train
        first, last = split(part, n_train)
        train += [first] if first.start < first.stop else []
        val += [last] if last.start < last.stop else []
    return train, val
