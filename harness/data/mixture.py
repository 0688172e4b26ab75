"""A tokenized corpus, which may be a mixture of several corpora with weights."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from harness.errors import Problem, UserError
from harness.results.records import CorpusPart, SourceFile, TokenSlice

Split = list[TokenSlice]


@dataclass(frozen=True)
class Corpus:
    """A tokenized corpus.

    `token_bytes` is a .npy file with the number of bytes of each token. `entropy` (nats per byte,
    of the validation part) is known only for the synthetic corpus. `note` says why a corpus
    replaces another, that headers are skipped, or which files are not read. `separator` are
    the tokens between two documents, if attention is masked there. `sources` are the user's files,
    and `mixture` the corpora of a mixture, whose tokens are marked with their index.
    """

    name: str
    sha256: str
    vocab_size: int
    train: Split
    val: Split
    token_bytes: str
    entropy: float | None = None
    note: str | None = None
    separator: list[int] | None = None
    sources: list[SourceFile] = field(default_factory=list)
    mixture: list[CorpusPart] = field(default_factory=list)

    def parts(self) -> list["Corpus"]:
        """Return each corpus of a mixture, or the corpus itself."""
        corpora = []
        for i, choice in enumerate(self.mixture):
            splits = [[part for part in s if part.part == i] for s in (self.train, self.val)]
            corpora.append(replace(self, name=choice.path, train=splits[0], val=splits[1]))
        return corpora or [self]

    @staticmethod
    def n_tokens(split: Split) -> int:
        """Return the number of tokens of a split."""
        return sum(part.stop - part.start for part in split)


def mix(corpora: Sequence[Corpus], parts: list[CorpusPart], place: str) -> Corpus:
    """Return the mixture of corpora with the weights of `parts`.

    Raises:
        UserError: a corpus repeats another, or trains on another's validation file.
    """
    if len(parts) == 1:
        return corpora[0]
    problems = []
    for i, j in itertools.permutations(range(len(corpora)), 2):
        first, second = corpora[i], corpora[j]
        pair = f"'{parts[i].path}' and '{parts[j].path}'"
        if i < j and first.sha256 == second.sha256:
            message = f"{pair} have the same content; name it once, with the sum of the weights"
            problems.append(Problem(f"{place}[{j}].path", message))
        elif _overlap(first.train, second.val):
            message = f"{pair}: training files of the first are validation files of the second"
            problems.append(Problem(f"{place}[{i}].path", f"{message}; validate on other text"))
    if problems:
        raise UserError(problems)
    total = sum(part.weight for part in parts)
    sha = hashlib.sha256()
    for corpus, part in zip(corpora, parts, strict=True):
        sha.update(f"{part.weight / total!r} {corpus.sha256}\n".encode())
    shares = [f"{part.weight / total:.3g} {part.path}" for part in parts]
    return replace(
        corpora[0],
        name=" + ".join(shares),
        sha256=sha.hexdigest(),
        train=_marked([corpus.train for corpus in corpora]),
        val=_marked([corpus.val for corpus in corpora]),
        entropy=None,
        note="; ".join(corpus.note for corpus in corpora if corpus.note) or None,
        sources=[source for corpus in corpora for source in corpus.sources],
        mixture=parts,
    )


def _overlap(train: Split, val: Split) -> bool:
    """Return whether two splits have tokens of the same content in common."""
    for first, second in itertools.product(train, val):
        is_same = first.sha256 == second.sha256
        if is_same and max(first.start, second.start) < min(first.stop, second.stop):
            return True
    return False


def _marked(splits: Sequence[Split]) -> Split:
    """Return the slices of all corpora with the index of their corpus."""
    marked = []
    for i, slices in enumerate(splits):
        marked += [part.model_copy(update={"part": i}) for part in slices]
    return marked
