"""Decode token by token: eagerly, or by repeating a CUDA graph of one step.

The host launches some 170 kernels for a token of GPT-2 124M. At small batches this takes longer
than the kernels, most of which wait for the host. A CUDA graph launches them all at once. It
repeats them with the same memory and the same integers, so that a captured step decodes at a
`StaticPosition`.

Legend of shapes: B samples, T positions, V vocabulary.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from harness.model.gpt import GPT
from variants.base import Cache
from variants.errors import text_of
from variants.static_cache import StaticPosition

# Both limits are estimates: no GPU has measured them.
MIN_STEPS = 64  # the capture takes about as long as these
# A step reads all slots of a static cache. Up to this size of a layer's cache, an H100 reads it
# faster than the host launches the kernels of a layer (100 microseconds).
MAX_LAYER_BYTES = 2**28
N_WARMUP = 3  # steps before the capture, in which libraries allocate and choose kernels

Step = Callable[[], Tensor]


def uses_graph(
    device_type: str,
    *,
    supports_static_cache: bool,
    training: bool,
    needs_gradients: bool,
    n_steps: int,
    layer_bytes: float,
) -> bool:
    """Return whether `n_steps` steps of decoding are faster with a CUDA graph, and possible.

    `layer_bytes` is the mean size of a layer's cache.
    """
    if device_type != "cuda" or not supports_static_cache or training or needs_gradients:
        return False
    return n_steps >= MIN_STEPS and layer_bytes <= MAX_LAYER_BYTES


class Graph(Protocol):
    """Records the operations of a step and repeats them."""

    def warm_up(self, step: Step) -> None:
        """Run a step, whose effects a second run repeats."""
        ...

    def capture(self, step: Step) -> Step:
        """Record a step, which need not be run, and return the function that repeats it.

        It returns the same tensor each time, with new values.
        """
        ...


class CudaGraph:
    """A `torch.cuda.CUDAGraph` on one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._graph = torch.cuda.CUDAGraph()

    def warm_up(self, step: Step) -> None:
        """Run a step several times on the stream of the capture."""
        present = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(present)
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            for _ in range(N_WARMUP):
                step()
        present.wait_stream(self._stream)

    def capture(self, step: Step) -> Step:
        """Record a step. A wait for the device in it raises a RuntimeError."""
        with (
            torch.cuda.device(self._device),
            torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"),
        ):
            output = step()

        def replay() -> Tensor:
            with torch.cuda.device(self._device):
                self._graph.replay()
            return output

        return replay


class StepGraph:
    """A captured step: maps the next token of each sample, (B, 1), to logits, (B, V).

    The next call overwrites the logits. With autocast, all calls must be in the context in which
    the graph was captured: at its end PyTorch frees the cast weights. Afterwards the caches are of
    no use without the graph, since their `n_seen` stays at that of the prompt.

    Raises:
        RuntimeError: the step cannot be captured; the caches can still decode without a graph.
    """

    def __init__(self, model: GPT, caches: Sequence[Cache], batch: int, graph: Graph) -> None:
        device = model.wte.weight.device
        self._model = model
        self._caches = caches
        self._n_seen = caches[0].n_seen
        self._position = StaticPosition(self._n_seen, device)
        self._tokens_B1 = torch.zeros(batch, 1, dtype=torch.long, device=device)
        self._set_static(self._position)
        try:
            graph.warm_up(self._logits)
            self._replay = graph.capture(self._logits_and_advance)
        except BaseException:
            self._set_static(None)
            raise

    @property
    def n_seen(self) -> int:
        """Return the number of positions that the caches have seen; set it to go back."""
        return self._n_seen

    @n_seen.setter
    def n_seen(self, n_seen: int) -> None:
        self._n_seen = n_seen
        self._position.set(n_seen)

    def __call__(self, tokens_B1: Tensor) -> Tensor:
        """Decode one position.

        Raises:
            IndexError: the positional encoding has no such position.
        """
        if reason := self._model.why_unsupported_length(self._n_seen + 1):
            raise IndexError(reason)  # the graph would read beyond a table
        self._tokens_B1.copy_(tokens_B1)
        self._n_seen += 1
        return self._replay()

    def _logits(self) -> Tensor:
        return self._model.next_logits(self._tokens_B1, self._caches)

    def _logits_and_advance(self) -> Tensor:
        logits_BV = self._logits()
        self._position.end_step()
        return logits_BV

    def _set_static(self, position: StaticPosition | None) -> None:
        for cache in self._caches:
            cache.static = position  # type: ignore[attr-defined]


def step_graph(model: GPT, caches: Sequence[Cache], batch: int, n_steps: int) -> StepGraph | None:
    """Return a captured step if it is faster for `n_steps` steps, with caches that hold a prompt.

    None also if it cannot be captured, as for a variant that waits for the device; then it warns.
    """
    if not uses_graph(
        model.wte.weight.device.type,
        supports_static_cache=model.supports_static_cache,
        training=model.training,
        needs_gradients=torch.is_grad_enabled(),
        n_steps=n_steps,
        layer_bytes=sum(cache.nbytes for cache in caches) / max(1, len(caches)),
    ):
        return None
    try:
        return StepGraph(model, caches, batch, CudaGraph(model.wte.weight.device))
    except RuntimeError as error:
        reason = (text_of(error) or type(error).__name__).splitlines()[0]
        message = f"decodes without a CUDA graph, which is slower: {reason}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return None


class Decoder:
    """Maps tokens to the logits of the next one, (B, V): first of a prompt, then token by token.

    After the prompt it captures a graph if that is faster for `n_steps` steps. The next call may
    overwrite the logits. With autocast, all calls must be in one context.
    """

    def __init__(self, model: GPT, caches: Sequence[Cache], n_steps: int) -> None:
        self._model = model
        self._caches = caches
        self._n_steps = n_steps
        self._is_prompt = True
        self._step: StepGraph | None = None

    def __call__(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits after the last token."""
        if self._is_prompt:
            self._is_prompt = False
            return self._model.next_logits(tokens_BT, self._caches)
        if self._n_steps:
            self._step = step_graph(self._model, self._caches, len(tokens_BT), self._n_steps)
            self._n_steps = 0
        if self._step is not None:
            return self._step(tokens_BT)
        return self._model.next_logits(tokens_BT, self._caches)
