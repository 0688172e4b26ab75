"""Predict the cost of an entry by running its model on the meta device: shapes without memory."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from harness.config.axes import architecture_key
from harness.config.validate import MAX_PARAMETERS
from harness.errors import UserError
from harness.model.builder import ModelBuilder
from harness.model.gpt import GPT
from harness.model.loss import Objective
from harness.model.parameters import predicted_bytes
from harness.model.part_check import describe_failure
from harness.model.precision import dtype_of
from harness.probes.activations import Activations
from harness.probes.memory import recomputed_bytes
from harness.results.records import (
    MemoryNeed,
    PredictedCost,
    ResolvedModel,
    TrainSettings,
    VariantChoice,
)
from harness.training.averaging import with_average
from variants.base import ModelShape
from variants.errors import CODE_ERRORS
from variants.parameters import FP32_BYTES


@dataclass(frozen=True)
class ModelCost:
    """The cost of a model on one process, and the model on the meta device.

    `activation_bytes` is what one micro-batch stores for the backward pass; None if the forward
    pass depends on values.
    """

    parameters: int
    flops_per_token: float
    activation_bytes: int | None
    model: GPT


ModelCosts = dict[tuple[object, ...], ModelCost]  # by all that the cost depends on


class CostEstimator:
    """Estimate costs; each architecture is built once for all seeds and parallelisms.

    `models` keeps the costs of models for other estimators.
    """

    def __init__(
        self,
        model: ResolvedModel,
        train: TrainSettings,
        variant_paths: Sequence[str],
        separator: Sequence[int] | None = None,
        models: ModelCosts | None = None,
    ) -> None:
        self._shape = ModelShape(**model.model_dump())
        self._train = train
        self._objective = Objective(train.label_smoothing, train.z_loss)
        self._dtype = dtype_of(train.precision)
        self._variant_paths = variant_paths
        self._separator = separator
        self._models = {} if models is None else models

    def estimate(
        self, axes: Mapping[str, VariantChoice], micro_batch_size: int, n_sequences: int
    ) -> PredictedCost:
        """Return parameters, training FLOPs per token, and the peak memory of one rank in bytes.

        A rank has `n_sequences` in each step, `micro_batch_size` of them in a forward pass.

        Raises:
            UserError: the model cannot be built, or its parallelism fails.
        """
        builder = ModelBuilder(self._shape, axes, self._variant_paths, self._separator)
        parallelism = builder.parallelism()
        optimizer = builder.optimizer(self._train)
        train = (self._objective, self._train.loss_chunk, self._train.recompute, self._dtype)
        settings = (self._shape, *train, tuple(self._separator or ()))
        key = (*settings, micro_batch_size, architecture_key(axes))
        if key not in self._models:
            self._models[key] = self._measure(builder, micro_batch_size)
        cost = self._models[key]
        try:
            fractions = parallelism.memory_fractions(cost.model)
            predicted = predicted_bytes(cost.model, optimizer, parallelism)
        except CODE_ERRORS as error:
            failure = describe_failure(error, "memory_fractions", type(parallelism))
            raise UserError(failure) from error
        need = MemoryNeed(
            **with_average(predicted, self._train),
            gathered=FP32_BYTES * cost.parameters * fractions["gathered"],
            activations=cost.activation_bytes,
            state_on_host=parallelism.cpu_offload and self._train.device == "cuda",
            n_sequences=n_sequences,
            micro_batch_size=micro_batch_size,
        )
        return PredictedCost(
            parameters=cost.parameters,
            flops_per_token=cost.flops_per_token,
            memory_bytes=None if cost.activation_bytes is None else need.total,
            memory=need,
        )

    def _measure(self, builder: ModelBuilder, micro_batch_size: int) -> ModelCost:
        model = builder.model()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        flops_per_token = model.flops_per_token()
        if parameters > MAX_PARAMETERS:
            raise UserError(
                f"the model of {builder.names} has {parameters:.3g} parameters; "
                f"allowed: at most {MAX_PARAMETERS:.3g}"
            )
        model.objective = self._objective
        model.loss_chunk = self._train.loss_chunk
        model.recompute = self._train.recompute
        model.to(self._dtype)  # autocast does not support the meta device; this is close to it
        size = (micro_batch_size, self._shape.seq_len)
        tokens = torch.zeros(size, dtype=torch.long, device="meta")
        activation_bytes = None
        with contextlib.suppress(*CODE_ERRORS):  # of a user's variant: the run reports it in full
            with Activations(model) as activations:
                model(tokens, tokens)
            activation_bytes = activations.saved_bytes
            if model.recompute != "none":
                activation_bytes += recomputed_bytes(model, tokens)
        return ModelCost(parameters, flops_per_token, activation_bytes, model)
