"""Check a request for text before the model is built, then write the text as it is generated."""

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
from harness.model.generation import decode, plan_generation
from harness.model.gpt import GPT
from harness.model.precision import autocast, dtype_of
from harness.model.weights import DESCRIPTION_FILE, Trust, Weights, load_weights
from harness.sampling.sampler import Sampler, Sampling, out_of_range
from variants.base import Cache, Precision

MAX_TOKENS = 2**20
MAX_SAMPLES = 2**16
MAX_SEED = 2**31 - 1

Write = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class GenerationRequest(Sampling):
    """A request for `samples` continuations of `prompt`, of `length` tokens each.

    If `tokenizer` is None, the checkpoint's own is used. `trust_code` lets it run the files of
    variants that are not this program's.
    """

    checkpoint: Path
    prompt: str
    length: int
    samples: int
    seed: int
    tokenizer: str | None
    device: Literal["auto", "cpu", "cuda"]
    precision: Precision
    trust_code: bool = False

    def problems(self) -> list[Problem]:
        """Return the problems that the request shows by itself."""
        problems = super().problems()
        problems += out_of_range("--length", self.length, 1, MAX_TOKENS)
        problems += out_of_range("--samples", self.samples, 1, MAX_SAMPLES)
        problems += out_of_range("--seed", self.seed, 0, MAX_SEED)
        if self.device == "cuda" and not torch.cuda.is_available():
            problems.append(Problem("--device", "cuda: not available here; use cpu"))
        try:
            self.prompt.encode("utf-8")
        except UnicodeEncodeError:
            problems.append(Problem("--prompt", "is not UTF-8"))
        return problems


class TextStream:
    """The text of one sample: the prompt, then whole characters, up to the end-of-text token."""

    def __init__(self, prompt: str, tokenizer: Tokenizer) -> None:
        self.text = prompt
        self.n_tokens = 0
        self.ended = False
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        """Append a token and return the new text.

        It is empty while a character is incomplete, and after the end of the text.
        """
        if self.ended:
            return ""
        self.n_tokens += 1
        self.ended = token == self._tokenizer.end_of_text
        return self._append(b"" if self.ended else self._tokenizer.decode_bytes([token]))

    def close(self) -> str:
        """Return the replacement of a character that has remained incomplete, if there is one."""
        return self._append(b"", final=True)

    def _append(self, utf8: bytes, final: bool = False) -> str:
        new = self._decoder.decode(utf8, final)
        self.text += new
        return new


def generate(request: GenerationRequest, write: Write) -> None:
    """Pass the text to `write` as it is generated.

    Prints to stderr why the prompt was cut, why generation stopped early, and the speed.

    Raises:
        UserError: the request cannot be fulfilled; `write` has not been called.
    """
    if problems := request.problems():
        raise UserError(problems)
    weights = load_weights(request.checkpoint, Trust(any=request.trust_code))
    tokenizer = tokenizer_of(weights, request.checkpoint, request.tokenizer)
    model = weights.model()
    plan = plan_generation(
        _encode_prompt(request.prompt, tokenizer),
        request.length,
        weights.shape.seq_len,
        model.positional.extrapolates,
        weights.axes["positional"].label,
    )
    device = _device(request.device)
    model.to(device, torch.float32).eval()
    caches = _caches(model, request, plan.n_cached)
    _log(plan.truncation_note)

    texts = [TextStream(request.prompt, tokenizer) for _ in range(request.samples)]
    prompt_BT = torch.tensor(plan.prompt, device=device).expand(request.samples, -1)
    sampler = Sampler(request, request.seed, request.samples)
    start = time.monotonic()
    with autocast(device, request.precision):
        write_texts(
            decode(model, prompt_BT, plan.n_new, caches, sampler), texts, request.seed, write
        )
    seconds = time.monotonic() - start

    if not all(text.ended for text in texts):
        _log(plan.stop_note)
    n_tokens = sum(text.n_tokens for text in texts)
    cache_mib = sum(cache.nbytes for cache in caches) / 2**20
    _log(f"{n_tokens} tokens, {n_tokens / seconds:,.1f} tokens/s, KV cache {cache_mib:,.2f} MiB")


def write_texts(
    steps: Iterable[Sequence[int]], texts: Sequence[TextStream], seed: int, write: Write
) -> None:
    """Write the first text token by token and then the others; several have a header each.

    `steps` yields one token per text. It is abandoned when all texts have ended.
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


def tokenizer_of(weights: Weights, checkpoint: Path, requested: str | None) -> Tokenizer:
    """Return the requested tokenizer, by default that of the checkpoint.

    Raises:
        UserError: neither is stated, or it does not fit the vocabulary.
    """
    name = requested or weights.tokenizer
    if name is None:
        message = f"does not state its tokenizer; give --tokenizer {' or '.join(NAMES)}"
        raise UserError([Problem(str(checkpoint), message)])
    source = "--tokenizer"
    if not requested:
        source = f"{checkpoint / DESCRIPTION_FILE}: tokenizer"
    tokenizer = Tokenizer(name, source)
    if tokenizer.vocab_size != weights.shape.vocab_size:
        sizes = f"{tokenizer.vocab_size} tokens, but the model has {weights.shape.vocab_size}"
        raise UserError([Problem(source, f"'{name}' has {sizes}")])
    return tokenizer


def _encode_prompt(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of the prompt.

    An empty prompt becomes the end-of-text token, or a line break if there is none.
    """
    if not text and tokenizer.end_of_text is not None:
        return [tokenizer.end_of_text]
    return [int(token) for token in tokenizer.encode(text or "\n")]


def _device(name: str) -> torch.device:
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _caches(model: GPT, request: GenerationRequest, length: int) -> list[Cache]:
    try:
        return model.caches(request.samples, length, dtype_of(request.precision))
    except NotImplementedError as error:
        raise UserError([Problem(str(request.checkpoint), str(error))]) from error


def _log(text: str | None) -> None:
    if text:
        print(text, file=sys.stderr)
