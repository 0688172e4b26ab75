"""One step of decoding GPT-2, and the bytes that bound its speed. Shapes: B batch, T sequence."""

from collections.abc import Callable

from torch import Tensor

from harness.model.decoder import Graph, StepGraph
from harness.model.gpt import GPT


def decoding_step(model: GPT, prompt_BT: Tensor) -> tuple[Callable[[], None], int]:
    """Return a call that decodes the token after a prompt, and the number of weights it reads.

    A token reads each weight once, and one row of the position table.
    """
    batch, n_prompt = prompt_BT.shape
    caches = model.caches(batch, n_prompt + 1, model.wte.weight.dtype)
    model.next_logits(prompt_BT, caches)

    def step() -> None:
        for cache in caches:
            cache.n_seen = n_prompt
        model.next_logits(prompt_BT[:, :1], caches)

    n_table = model.get_parameter("positional.wpe.weight").numel()
    return step, sum(weight.numel() for weight in model.parameters()) - n_table


def captured_step(model: GPT, prompt_BT: Tensor, graph: Graph) -> Callable[[], None]:
    """Return a call that decodes a token after a prompt with a graph, at later and later positions.

    At the last position it goes back, because to do so each time would launch one more kernel.
    """
    batch, n_prompt = prompt_BT.shape
    caches = model.caches(batch, n_prompt + 1, model.wte.weight.dtype)
    model.next_logits(prompt_BT, caches)
    decode = StepGraph(model, caches, batch, graph)
    token_B1 = prompt_BT[:, :1].clone()

    def step() -> None:
        if decode.n_seen == model.shape.seq_len:
            decode.n_seen = n_prompt
        decode(token_B1)

    return step
