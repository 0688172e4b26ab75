"""GPT-2 (Radford et al. 2019): pre-LayerNorm blocks, tied embeddings, tanh-GELU, with its variants as parts.

Written for one device; a parallelism wraps it from outside. Names of parameters are those of the published checkpoints.
Legend of shapes: B batch, T sequence, C channels (`n_embd`), V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.api import Attention, Cache, Initial, Positional, Shape, linear_flops


class MLP(nn.Module):
    """Four times as wide inside, tanh-approximated GELU (Hendrycks & Gimpel 2016)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.c_fc = nn.Linear(shape.n_embd, 4 * shape.n_embd)
        self.c_proj = nn.Linear(4 * shape.n_embd, shape.n_embd)
        self.dropout, self.proj_std = shape.dropout, 0.02 / (2 * shape.n_layer) ** 0.5

    def initial(self) -> Mapping[str, Initial]:
        """The residual projection is scaled down by depth (Radford et al. 2019, 2.3)."""
        return {"c_proj.weight": Initial(std=self.proj_std)}

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Widen, bend, narrow."""
        y_BTC = self.c_proj(F.gelu(self.c_fc(x_BTC), approximate="tanh"))
        return F.dropout(y_BTC, self.dropout, self.training)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, shape: Shape, attention: Attention) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(shape.n_embd)
        self.attn = attention
        self.ln_2 = nn.LayerNorm(shape.n_embd)
        self.mlp = MLP(shape)

    def forward(self, x_BTC: Tensor, positions_T: Tensor, positional: Positional, cache: Cache | None = None) -> Tensor:
        """Add what attention and then what the MLP makes of the residual stream."""
        x_BTC = x_BTC + self.attn(self.ln_1(x_BTC), positions_T, positional, cache)
        return x_BTC + self.mlp(self.ln_2(x_BTC))


class GPT(nn.Module):
    """The language model; `attention` makes the attention of the layer whose index it gets."""

    def __init__(self, shape: Shape, positional: Positional, attention: Callable[[int], Attention]) -> None:
        super().__init__()
        self.shape = shape
        self.wte = nn.Embedding(shape.vocab_size, shape.n_embd)
        self.positional = positional
        self.h = nn.ModuleList(Block(shape, attention(layer)) for layer in range(shape.n_layer))
        self.ln_f = nn.LayerNorm(shape.n_embd)

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

    def caches(self, batch: int, length: int, dtype: torch.dtype) -> list[Cache]:
        """Return an empty key-value cache for each layer, on the model's device."""
        device = self.wte.weight.device
        attentions = [module for module in self.modules() if isinstance(module, Attention)]
        return [attention.cache(batch, length, device, dtype) for attention in attentions]

    def next_logits(self, tokens_BT: Tensor, caches: Sequence[Cache]) -> Tensor:
        """Return the logits of what comes after the last token, (B, V).

        The caches are empty, and `tokens_BT` is the prompt, or they have seen all that came before, and T is 1.
        """
        return F.linear(self.hidden(tokens_BT, caches)[:, -1], self.wte.weight)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the cross-entropy of each target given the tokens up to it, (B, T), nats, float32."""
        logits_BTV = self.logits(tokens_BT).float()
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none").view_as(targets_BT)

    def flops_per_token(self) -> float:
        """Return the FLOPs of training on one token, as needed and not as executed.

        2 per multiply-add of matrix products (attention variants tell their own, see `Attention.flops_per_token`), the
        tied output projection included; the backward pass costs twice the forward (Kaplan et al. 2020, 2.1).
        """
        attention = sum(m.flops_per_token(self.shape.seq_len) for m in self.modules() if isinstance(m, Attention))
        mlp = sum(linear_flops(m) for m in self.modules() if isinstance(m, MLP))
        return 3.0 * (attention + mlp + 2.0 * self.wte.weight.numel())
