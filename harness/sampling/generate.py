"""A request for text, checked before the model gets a device, and the text, written as it comes."""

import codecs
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from harness.data.tokenizers import NAMES, Tokenizer
from harness.errors import Problem, UserError
from harness.model import weights as folder
from harness.model.builder import ModelBuilder
from harness.model.generation import decode, plan
from harness.model.gpt import GPT
from harness.model.precision import autocast, dtype_of
from harness.model.weights import Weights
from harness.sampling.sampler import Draw, Sampling
from variants.base import Cache, Precision

KEPT = (
    "newest",
    "best",
    "checkpoint/newest",
    "checkpoint/best",
)  # in a run's folder of checkpoints, and in the run's

Write = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request(Sampling):
    """What the command line asks for: `samples` continuations of `prompt`, of `length` tokens each.

    `tokenizer` None is the checkpoint's own.
    """

    checkpoint: Path
    prompt: str
    length: int
    samples: int
    seed: int
    tokenizer: str | None
    device: Literal["auto", "cpu", "cuda"]
    precision: Precision

    def problems(self) -> list[Problem]:
        """Return all that can be told from the request alone."""
        found = super().problems()
        for place, value, least in (
            ("--length", self.length, 1),
            ("--samples", self.samples, 1),
            ("--seed", self.seed, 0),
        ):
            if value < least:
                found.append(Problem(place, f"{value}: must be at least {least}"))
        if self.device == "cuda" and not torch.cuda.is_available():
            found.append(Problem("--device", "cuda: none is available here; cpu always is"))
        try:
            self.prompt.encode("utf-8")
        except UnicodeEncodeError:
            found.append(Problem("--prompt", "is not UTF-8"))
        return found


class Text:
    """One sample's text: the prompt, then whole characters as tokens come, up to the tokenizer's end of text."""

    def __init__(self, prompt: str, tokenizer: Tokenizer) -> None:
        self.text, self.n_tokens, self.ended = prompt, 0, False
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        """Return what a token adds: nothing while a character is not whole, and nothing once the text has ended."""
        if self.ended:
            return ""
        self.n_tokens += 1
        self.ended = token == self._tokenizer.end_of_text
        return self._grow(b"" if self.ended else self._tokenizer.decode_bytes([token]))

    def close(self) -> str:
        """Return what is left: a replacement for a character that has remained in pieces."""
        return self._grow(b"", final=True)

    def _grow(self, utf8: bytes, final: bool = False) -> str:
        new = self._decoder.decode(utf8, final)
        self.text += new
        return new


def run(request: Request, write: Write) -> None:
    """Give the text to `write` as it comes, and say on stderr what was cut, why it stopped, and how fast it was.

    Raises:
        UserError: something that was asked for cannot be had; nothing was written.
    """
    if problems := request.problems():
        raise UserError(problems)
    weights = folder.load(_checkpoint(request.checkpoint))
    tokenizer = _tokenizer(request, weights)
    model = ModelBuilder(weights.shape, weights.axes, weights.variant_paths).model()
    prompt = _prompt(request.prompt, tokenizer)
    label = weights.axes["positional"].label
    planned = plan(
        prompt, request.length, weights.shape.seq_len, model.positional.extrapolates, label
    )
    device = _device(request.device)
    model.load_state_dict(weights.tensors, assign=True)
    model.to(device, torch.float32).eval()
    caches = _caches(model, request, planned.n_cached)
    _say(planned.cut)

    texts = [Text(request.prompt, tokenizer) for _ in range(request.samples)]
    prompt_BT = torch.tensor(planned.prompt, device=device).expand(request.samples, -1)
    draw, began = Draw(request, request.seed, request.samples), time.monotonic()
    with autocast(device, request.precision):
        stream(decode(model, prompt_BT, planned.n_new, caches, draw), texts, request.seed, write)
    seconds = time.monotonic() - began

    if not all(text.ended for text in texts):
        _say(planned.stop)
    n_tokens, cache_bytes = (
        sum(text.n_tokens for text in texts),
        sum(cache.nbytes for cache in caches),
    )
    _say(
        f"{n_tokens} tokens, {n_tokens / seconds:,.1f} tokens/s, key-value cache {cache_bytes / 2**20:,.2f} MiB"
    )


def stream(steps: Iterable[Sequence[int]], texts: Sequence[Text], seed: int, write: Write) -> None:
    """Write the first text token by token and then the others whole; several have a header each.

    `steps` yields a token for each text; it is left as soon as all have ended.
    """
    n = len(texts)
    headers = [f"--- sample {i} of {n} (seed {seed})\n" if n > 1 else "" for i in range(1, n + 1)]
    write(headers[0] + texts[0].text)
    for tokens in steps:
        new = [text.add(token) for text, token in zip(texts, tokens, strict=True)]
        if new[0]:
            write(new[0])
        if all(text.ended for text in texts):
            break
    write(texts[0].close() + "\n")
    for header, text in zip(headers[1:], texts[1:], strict=True):
        text.close()
        write(f"{header}{text.text}\n")


def _checkpoint(path: Path) -> Path:
    """Return the folder if it is one of our own.

    Raises:
        UserError: it is none; the message names the one that was probably meant.
    """
    if (path / folder.DESCRIPTION).is_file():
        return path
    meant = [
        place
        for place in (path.parent, *(path / name for name in KEPT))
        if (place / folder.DESCRIPTION).is_file()
    ]
    if meant:
        message = f"is no checkpoint itself; give {' or '.join(map(str, meant))}"
    elif not path.exists():
        message = "no such folder"
    elif (path / "spec.json").is_file():
        message = "a run that has kept no checkpoint; its study says in launch.keep_checkpoints what is kept"
    elif (path / "config.json").is_file():
        message = f"a published checkpoint; first: python -m harness checkpoint import {path} DEST"
    else:
        message = f"no checkpoint of this harness: has no {folder.DESCRIPTION}"
    raise UserError([Problem(str(path), message)])


def _tokenizer(request: Request, weights: Weights) -> Tokenizer:
    name = request.tokenizer or weights.tokenizer
    if name is None:
        message = f"does not say how its text was tokenised; give --tokenizer {' or '.join(NAMES)}"
        raise UserError([Problem(str(request.checkpoint), message)])
    place = (
        "--tokenizer"
        if request.tokenizer
        else f"{request.checkpoint / folder.DESCRIPTION}: tokenizer"
    )
    tokenizer = Tokenizer(name, place)
    if tokenizer.vocab_size != weights.shape.vocab_size:
        message = f"'{name}' has {tokenizer.vocab_size} tokens, but the model has {weights.shape.vocab_size}"
        raise UserError([Problem(place, message)])
    return tokenizer


def _prompt(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the prompt's tokens; an empty one begins a text: with its end-of-text token, or else a new line."""
    if not text and tokenizer.end_of_text is not None:
        return [tokenizer.end_of_text]
    return [int(token) for token in tokenizer.encode(text or "\n")]


def _device(name: str) -> torch.device:
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _caches(model: GPT, request: Request, length: int) -> list[Cache]:
    try:
        return model.caches(request.samples, length, dtype_of(request.precision))
    except NotImplementedError as error:
        raise UserError([Problem(str(request.checkpoint), str(error))]) from error


def _say(text: str | None) -> None:
    if text:
        print(text, file=sys.stderr)
