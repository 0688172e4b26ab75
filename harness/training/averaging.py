"""Keep an exponential moving average of the parameters, sharded as they are."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from harness.distributed.shards import named_local_parameters
from harness.results.records import TrainSettings
from variants.dtensor import local


def with_average(predicted: Mapping[str, float], settings: TrainSettings) -> dict[str, float]:
    """Return predicted bytes by category; the optimizer's include an average, if there is one."""
    n_bytes = dict(predicted)
    if settings.ema_decay is not None:
        n_bytes["optimizer"] += n_bytes["parameters"]
    return n_bytes


class ParameterAverage:
    """The mean of the parameters after each step, with weights that fall by `decay` a step.

    After t steps it is the sum of (1 - decay) decay^(t - i) p_i over the steps i, divided by the
    sum of the weights, 1 - decay^t: Adam's bias correction (Kingma & Ba 2015, section 3). So the
    initial parameters p_0 have no weight. Before the first step it is p_0. `values` are this rank's
    values by parameter name.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._decay = decay
        self.values: dict[str, Tensor] = {
            name: value.clone() for name, value in named_local_parameters(model)
        }

    @torch.no_grad()
    def reset(self) -> None:
        """Start again, from the present parameters."""
        for average, value in self._pairs():
            average.copy_(value)

    @torch.no_grad()
    def update(self, n_steps: int) -> None:
        """Include the parameters after `n_steps` steps."""
        weight = (1 - self._decay) / (1 - self._decay**n_steps)
        for average, value in self._pairs():
            average.lerp_(value, weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model compute with the average; exchanges one parameter after the other."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for average, value in self._pairs():
            kept = value.clone()
            value.copy_(average)
            average.copy_(kept)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the memory of each average and of its parameter on this rank."""
        for name, value in named_local_parameters(self._model):
            yield local(self.values[name]), local(value)
