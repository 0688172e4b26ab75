"""What an entry will cost, told before it runs by the model itself, on the meta device: shapes without memory."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from harness.config.axes import architecture
from harness.errors import UserError
from harness.model.builder import ModelBuilder
from harness.model.gpt import GPT
from harness.model.precision import dtype_of
from harness.probes.activations import Activations
from harness.results.records import PredictedCost, ResolvedModel, TrainSettings, VariantChoice
from harness.training.optimizer import predicted_bytes
from variants.base import ModelShape


@dataclass(frozen=True)
class Cost:
    """Of one model: its parameters, training FLOPs per token, and what a micro-batch keeps for the backward pass."""

    parameters: int
    flops_per_token: float
    activation_bytes: int | None  # None where the forward pass needs values and not only shapes
    model: GPT  # on the meta device


class Costs:
    """Asks each model once, however many seeds and parallelisms share it."""

    def __init__(
        self, model: ResolvedModel, train: TrainSettings, variant_paths: list[str]
    ) -> None:
        self._shape = ModelShape(**model.model_dump())
        self._dtype = dtype_of(train.precision)
        self._paths = variant_paths
        self._known: dict[object, Cost] = {}

    def of(self, axes: Mapping[str, VariantChoice], micro_batch: int) -> PredictedCost:
        """Return parameters, FLOPs per token, and the memory of one rank with all that it holds in a step, in bytes."""
        parts = ModelBuilder(self._shape, axes, self._paths)
        parallelism = parts.parallelism()
        key = micro_batch, architecture(axes)
        if key not in self._known:
            self._known[key] = self._ask(parts, micro_batch)
        cost = self._known[key]
        shares = parallelism.memory_fractions(cost.model)
        gathered = 4 * cost.parameters * shares["gathered"]
        held = sum(predicted_bytes(cost.parameters, shares).values()) + gathered
        return PredictedCost(
            parameters=cost.parameters,
            flops_per_token=cost.flops_per_token,
            memory_bytes=None if cost.activation_bytes is None else held + cost.activation_bytes,
        )

    def _ask(self, parts: ModelBuilder, micro_batch: int) -> Cost:
        try:
            model = parts.model()
            parameters, flops = (
                sum(parameter.numel() for parameter in model.parameters()),
                model.flops_per_token(),
            )
        except Exception as error:
            raise UserError(
                f"the model of {parts.names} cannot be built: {type(error).__name__}: {error}"
            ) from error
        model.to(self._dtype)  # autocast does not know the meta device; this comes close
        tokens = torch.zeros(micro_batch, self._shape.seq_len, dtype=torch.long, device="meta")
        try:
            with Activations(model) as kept:
                model(tokens, tokens)
        except Exception:  # a user's variant; when it runs, its error will be told in full
            return Cost(parameters, flops, None, model)
        return Cost(parameters, flops, kept.activation_bytes, model)
