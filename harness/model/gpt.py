"""GPT-2 (Radford et al. 2019): pre-LayerNorm blocks, tied or untied embeddings, tanh-GELU.

Positional encoding, attention, norm and MLP come from a `LayerFactory`; the baseline variants make
it GPT-2. The model is written for one device, a parallelism wraps it from outside. Parameters have
the names of the published checkpoints.

Legend of shapes: B batch, T sequence, C channels (`n_embd`), V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.model.chunked_loss import chunked_token_losses, chunks
from harness.model.loss import CROSS_ENTROPY, Objective, at_least_fp32, token_losses
from harness.model.precision import product_dtype
from harness.model.sharded_loss import sharded_token_losses
from harness.results.records.settings import Recompute
from variants.base import (
    Attention,
    Cache,
    FeedForward,
    LanguageModel,
    ModelShape,
    Norm,
    Positional,
)
from variants.linear import Linear, linear
from variants.static_cache import StaticPosition

MAX_LOGITS = 2**25  # in a forward pass without gradients, which has no use for all at once


class LayerFactory(Protocol):
    """Makes the modules of a model of a shape other than its embeddings."""

    shape: ModelShape

    def positional(self) -> Positional:
        """Make the positional encoding, one for all layers."""
        ...

    def attention(self, layer: int) -> Attention:
        """Make the attention of a layer."""
        ...

    def norm(self) -> Norm:
        """Make one norm."""
        ...

    def mlp(self) -> FeedForward:
        """Make one MLP."""
        ...


def recomputed(module: nn.Module, dropout: float, *args: Any, **kwargs: Any) -> Tensor:
    """Return the output of a module whose activations the backward pass computes again.

    With dropout it computes the whole module again: tensor parallelism draws other random numbers
    within a part, from its beginning to its end.
    """
    output: Tensor = checkpoint(
        module, *args, use_reentrant=False, early_stop=dropout == 0, **kwargs
    )
    return output


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    With `recompute_attention`, training keeps no activations of the attention.
    """

    recompute_attention: bool = False

    def __init__(self, layers: LayerFactory, layer: int) -> None:
        super().__init__()
        self.dropout = layers.shape.dropout
        self.ln_1 = layers.norm()
        self.attn = layers.attention(layer)
        self.ln_2 = layers.norm()
        self.mlp = layers.mlp()

    def forward(
        self,
        x_BTC: Tensor,
        positions_T: Tensor,
        positional: Positional,
        cache: Cache | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Add the outputs of attention and of the MLP to the residual stream."""
        # Variants that do not support documents lack the argument.
        documents = {} if documents_BT is None else {"documents_BT": documents_BT}
        inputs = (self.ln_1(x_BTC), positions_T, positional, cache)
        if self.recompute_attention and self.training and torch.is_grad_enabled():
            x_BTC = x_BTC + recomputed(self.attn, self.dropout, *inputs, **documents)
        else:
            x_BTC = x_BTC + self.attn(*inputs, **documents)
        x_BTC = x_BTC + self.mlp(self.ln_2(x_BTC))
        return x_BTC


def _positions(tokens_BT: Tensor, caches: Sequence[Cache] | None) -> Tensor:
    """Return the positions of tokens, (T,)."""
    static: StaticPosition | None = getattr(caches[0], "static", None) if caches else None
    if static is not None:
        return static.begin_step()
    start = caches[0].n_seen if caches else 0
    return torch.arange(start, start + tokens_BT.shape[1], device=tokens_BT.device)


class GPT(LanguageModel):
    """The language model.

    `objective` is what training minimizes, and `loss_chunk` the number of tokens whose logits exist
    at once in training; None: all. `recompute` names the modules whose activations are computed
    again in the backward pass. With a `separator`, the tokens between two documents, no
    position attends to another document (Llama Team 2024, 3.2). Positions count through the
    sequence, as in modded-nanogpt: relative encodings do not see where a document begins, and
    absolute ones are trained at all positions.
    """

    objective: Objective = CROSS_ENTROPY
    loss_chunk: int | None = None

    def __init__(
        self, shape: ModelShape, layers: LayerFactory, separator: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self._recompute: Recompute = "none"
        self.shape = shape
        self.separator = separator
        self.wte = nn.Embedding(shape.vocab_size, shape.n_embd)
        self.positional = layers.positional()
        blocks = [Block(layers, layer) for layer in range(shape.n_layer)]
        self.rotated_width = blocks[0].attn.rotated_width
        self.h = nn.ModuleList(blocks)
        self.ln_f = layers.norm()
        self.lm_head = None
        if not shape.tie_embeddings:
            self.lm_head = Linear(shape.n_embd, shape.vocab_size, bias=False)

    @property
    def recompute(self) -> Recompute:
        """The modules whose activations the backward pass computes again."""
        return self._recompute

    @recompute.setter
    def recompute(self, modules: Recompute) -> None:
        self._recompute = modules
        for block in self.h:
            assert isinstance(block, Block)
            block.recompute_attention = modules == "attention"

    def hidden(self, tokens_BT: Tensor, caches: Sequence[Cache] | None = None) -> Tensor:
        """Return the output of the final norm, (B, T, C).

        With `caches`, the tokens continue the positions that the caches have seen, and all are one
        document.
        """
        documents_BT = None if caches else self.documents(tokens_BT)
        positions_T = _positions(tokens_BT, caches)
        x_BTC = self.positional.embed(self.wte(tokens_BT), positions_T)
        x_BTC = F.dropout(x_BTC, self.shape.dropout, self.training)
        self.positional.prepare(positions_T, self.rotated_width, product_dtype(x_BTC))
        for i, block in enumerate(self.h):
            cache = caches[i] if caches else None
            inputs = (x_BTC, positions_T, self.positional, cache, documents_BT)
            if self._recompute == "block" and self.training and torch.is_grad_enabled():
                x_BTC = recomputed(block, self.shape.dropout, *inputs)
            else:
                x_BTC = block(*inputs)
        hidden_BTC: Tensor = self.ln_f(x_BTC)
        return hidden_BTC

    def documents(self, tokens_BT: Tensor) -> Tensor | None:
        """Return the document of each token, counted from the start of its sequence, (B, T).

        None without a `separator`, whose last token is the first of the document that follows:
        that document's first word is predicted from this token only, and the separator itself from
        the document that it ends.
        """
        if self.separator is None:
            return None
        *first, last = self.separator
        begins_BT = tokens_BT == last
        for distance, token in enumerate(reversed(first), start=1):
            earlier_BT = F.pad(tokens_BT, (distance, 0), value=-1)[:, : tokens_BT.shape[1]]
            begins_BT = begins_BT & (earlier_BT == token)
        return begins_BT.cumsum(dim=1)

    def logits(self, tokens_BT: Tensor) -> Tensor:
        """Return the unnormalized log-probabilities of each next token, (B, T, V).

        A rank with a shard of the vocabulary returns those of its tokens.
        """
        return self._project(self.hidden(tokens_BT))

    def _project(self, hidden: Tensor) -> Tensor:
        """Return the logits, (..., V), of hidden states, (..., C)."""
        if self.lm_head is None:
            return F.linear(hidden, self.wte.weight)
        logits: Tensor = self.lm_head(hidden)
        return logits

    @property
    def output_weight(self) -> Tensor:
        """The matrix of the output projection, (V, C)."""
        return self.wte.weight if self.lm_head is None else self.lm_head.weight

    def why_unsupported_length(self, length: int) -> str | None:
        """Return why the model cannot take sequences of this length; None if it can."""
        if length > self.shape.seq_len and not self.positional.extrapolates:
            return f"no positions beyond seq_len = {self.shape.seq_len}"
        return None

    def caches(self, batch: int, length: int, dtype: torch.dtype) -> list[Cache]:
        """Return an empty KV cache for each layer, on the model's device."""
        device = self.wte.weight.device
        attentions = [module for module in self.modules() if isinstance(module, Attention)]
        return [attention.cache(batch, length, device, dtype) for attention in attentions]

    @property
    def supports_static_cache(self) -> bool:
        """Whether all attentions decode at a `StaticPosition`."""
        attentions = [module for module in self.modules() if isinstance(module, Attention)]
        return all(attention.supports_static_cache for attention in attentions)

    def next_logits(self, tokens_BT: Tensor, caches: Sequence[Cache]) -> Tensor:
        """Return the logits of the token after the last one, (B, V).

        Either the caches are empty and `tokens_BT` is the prompt, or they have seen all earlier
        positions and T is 1.
        """
        return linear(self.hidden(tokens_BT, caches)[:, -1], self.output_weight)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the cross-entropy of each target given the tokens up to it, (B, T), nats, fp32.

        In training its gradient is that of the objective.
        """
        objective = self.objective if self.training else CROSS_ENTROPY
        hidden_BTC = self.hidden(tokens_BT)
        if not torch.is_grad_enabled():
            losses = self._losses_without_gradient(hidden_BTC.flatten(0, 1), targets_BT.flatten())
            return losses.view_as(targets_BT)
        if self.vocabulary is not None:
            hidden_BTC = self.vocabulary.share(hidden_BTC)
        if self.training and self.loss_chunk is not None:
            return chunked_token_losses(
                hidden_BTC,
                self.output_weight,
                targets_BT,
                objective,
                self.loss_chunk,
                self.vocabulary,
            )
        return self._losses(hidden_BTC, targets_BT, objective)

    def _losses(self, hidden: Tensor, targets: Tensor, objective: Objective) -> Tensor:
        """Return the losses, (...), of all tokens at once, from `hidden`, (..., C)."""
        logits = self._project(hidden)
        if self.vocabulary is not None:
            return sharded_token_losses(logits, targets, objective, self.vocabulary)
        return token_losses(logits.to(at_least_fp32(logits.dtype)), targets, objective)

    def _losses_without_gradient(self, hidden_NC: Tensor, targets_N: Tensor) -> Tensor:
        """Return the losses.

        There are at most as many logits at once as those of one training sequence, the smallest
        micro-batch: no setting of the training may change the shapes, and so the rounding.
        """
        max_tokens = min(self.shape.seq_len, max(1, MAX_LOGITS // self.shape.vocab_size))
        losses = []
        for chunk in chunks(len(targets_N), max_tokens):
            losses.append(self._losses(hidden_NC[chunk], targets_N[chunk], CROSS_ENTROPY))
        return torch.cat(losses)

    def flops_per_token(self) -> float:
        """Return the FLOPs of training on one token, without recomputation.

        Matrix products count 2 per multiply-add, the output projection included; each variant
        states its own (`flops_per_token` in `variants.base`), as if documents were not masked: the
        kernels compute hidden pairs, too. The backward pass costs twice the forward pass (Kaplan et
        al. 2020, 2.1).
        """
        flops = 2.0 * self.wte.weight.numel()
        for module in self.modules():
            if isinstance(module, Attention):
                flops += module.flops_per_token(self.shape.seq_len)
            elif isinstance(module, FeedForward):
                flops += module.flops_per_token()
        return 3.0 * flops
