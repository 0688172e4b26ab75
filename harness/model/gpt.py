"""GPT-2 (Radford et al. 2019): pre-LayerNorm blocks, tied embeddings, tanh-GELU, with its variants as parts.

Written for one device; a parallelism wraps it from outside. Names of parameters are those of the published checkpoints.
Legend of shapes: B batch, T sequence, C channels (`n_embd`), V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.base import Attention, Cache, FeedForward, ModelShape, Norm, Positional
from variants.linear import linear


class ModelBuilder(Protocol):
    """What the model is made of besides embeddings."""

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


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, parts: ModelBuilder, layer: int) -> None:
        super().__init__()
        self.ln_1 = parts.norm()
        self.attn = parts.attention(layer)
        self.ln_2 = parts.norm()
        self.mlp = parts.mlp()

    def forward(
        self, x_BTC: Tensor, positions_T: Tensor, positional: Positional, cache: Cache | None = None
    ) -> Tensor:
        """Add what attention and then what the MLP makes of the residual stream."""
        x_BTC = x_BTC + self.attn(self.ln_1(x_BTC), positions_T, positional, cache)
        return x_BTC + self.mlp(self.ln_2(x_BTC))


class GPT(nn.Module):
    """The language model."""

    def __init__(self, shape: ModelShape, parts: ModelBuilder) -> None:
        super().__init__()
        self.shape = shape
        self.wte = nn.Embedding(shape.vocab_size, shape.n_embd)
        self.positional = parts.positional()
        self.h = nn.ModuleList(Block(parts, layer) for layer in range(shape.n_layer))
        self.ln_f = parts.norm()

    def hidden(self, tokens_BT: Tensor, caches: Sequence[Cache] | None = None) -> Tensor:
        """Return what the last LayerNorm gives, (B, T, C); the tokens go on from what the caches have seen."""
        start = caches[0].n_seen if caches else 0
        positions_T = torch.arange(start, start + tokens_BT.shape[1], device=tokens_BT.device)
        x_BTC = self.positional.embed(self.wte(tokens_BT), positions_T)
        x_BTC = F.dropout(x_BTC, self.shape.dropout, self.training)
        for i, block in enumerate(self.h):
            x_BTC = block(x_BTC, positions_T, self.positional, caches[i] if caches else None)
        return self.ln_f(x_BTC)

    def logits(self, tokens_BT: Tensor) -> Tensor:
        """Return the unnormalised log-probabilities of each next token, (B, T, V)."""
        return F.linear(self.hidden(tokens_BT), self.wte.weight)

    def why_unsupported_length(self, length: int) -> str | None:
        """Return why the model takes no sequence of this length; None where it does."""
        if length > self.shape.seq_len and not self.positional.extrapolates:
            return f"no positions beyond seq_len = {self.shape.seq_len}"
        return None

    def caches(self, batch: int, length: int, dtype: torch.dtype) -> list[Cache]:
        """Return an empty key-value cache for each layer, on the model's device."""
        device = self.wte.weight.device
        attentions = [module for module in self.modules() if isinstance(module, Attention)]
        return [attention.cache(batch, length, device, dtype) for attention in attentions]

    def next_logits(self, tokens_BT: Tensor, caches: Sequence[Cache]) -> Tensor:
        """Return the logits of what comes after the last token, (B, V).

        The caches are empty, and `tokens_BT` is the prompt, or they have seen all that came before, and T is 1.
        """
        return linear(self.hidden(tokens_BT, caches)[:, -1], self.wte.weight)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the cross-entropy of each target given the tokens up to it, (B, T), nats, float32."""
        logits_BTV = self.logits(tokens_BT).float()
        return F.cross_entropy(
            logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none"
        ).view_as(targets_BT)

    def flops_per_token(self) -> float:
        """Return the FLOPs of training on one token, as needed and not as executed.

        2 per multiply-add of matrix products (variants tell their own, see `flops_per_token` in `variants.base`), the
        tied output projection included; the backward pass costs twice the forward (Kaplan et al. 2020, 2.1).
        """
        attention = sum(
            m.flops_per_token(self.shape.seq_len)
            for m in self.modules()
            if isinstance(m, Attention)
        )
        mlp = sum(m.flops_per_token() for m in self.modules() if isinstance(m, FeedForward))
        return 3.0 * (attention + mlp + 2.0 * self.wte.weight.numel())
