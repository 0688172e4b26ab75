"""Shard the vocabulary over processes that compute a model together (Shoeybi et al. 2019, 3).

Each process holds some rows of the embedding and of the output projection, and computes the logits
of its own tokens only. The losses need the maximum, the sum of exponentials and the target's logit
over all tokens: numbers for each position, not for each token of the vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.base import LanguageModel
from variants.linear import Linear
from variants.parallelism import _collective
from variants.parallelism._collective import Group, sum_gradients, sum_outputs
from variants.tensor_parallel import ShardSpec

REDUCED_PER_TOKEN = 3  # the maximum, the sum of exponentials and the target's logit


@dataclass(frozen=True)
class RankVocabulary:
    """The `VocabularyShard` of a rank."""

    tokens: range
    size: int
    group: Group = None

    def share(self, hidden: Tensor) -> Tensor:
        """Return the input of the output projection; sum its gradients over the processes."""
        return sum_gradients(hidden, self.group)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the processes."""
        return _collective.all_reduce(values, self.group)

    def max(self, values: Tensor) -> Tensor:
        """Return the maximum over the processes."""
        return _collective.all_reduce(values, self.group, "max")


class VocabularyParallelEmbedding(nn.Embedding):
    """An embedding with the rows of some tokens; outputs are summed over the processes."""

    vocabulary: RankVocabulary

    def forward(self, input: Tensor) -> Tensor:
        """Return the rows of all tokens."""
        row = input - self.vocabulary.tokens.start
        is_own = (row >= 0) & (row < len(self.vocabulary.tokens))
        embedded = F.embedding(row.where(is_own, 0), self.weight)
        return sum_outputs(embedded.where(is_own[..., None], 0), self.vocabulary.group)


def rank_tokens(size: int, rank: int, world_size: int) -> range:
    """Return the tokens of a rank: consecutive, and one more on each of the first ranks if need be.

    Shards of a parameter need not be of equal size, so none is padded.

    Raises:
        ValueError: there are fewer tokens than processes.
    """
    if size < world_size:
        raise ValueError(
            f"a vocabulary of {size} tokens does not divide over {world_size} processes"
        )
    n_each, n_more = divmod(size, world_size)
    start = rank * n_each + min(rank, n_more)
    return range(start, start + n_each + (rank < n_more))


def shard_vocabulary(model: LanguageModel, rank: int, world_size: int, group: Group = None) -> None:
    """Reduce embedding and output projection of a model on the meta device to a rank's rows."""
    size, width = model.wte.weight.shape
    dtype = model.wte.weight.dtype
    tokens = rank_tokens(size, rank, world_size)
    vocabulary = RankVocabulary(tokens, size, group)
    rows = ShardSpec(torch.Size((size, width)), 0, ((tokens.start, tokens.stop),), group)
    embedding = VocabularyParallelEmbedding(len(tokens), width, device="meta", dtype=dtype)
    embedding.vocabulary = vocabulary
    model.wte = embedding
    model.shards = {"wte.weight": rows}
    if model.lm_head is not None:
        model.lm_head = Linear(width, len(tokens), bias=False, device="meta", dtype=dtype)
        model.shards = {**model.shards, "lm_head.weight": rows}
    model.vocabulary = vocabulary
