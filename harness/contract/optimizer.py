"""The contract of an optimizer, on a parameter of each kind."""

import copy
from typing import Any

import torch
from torch import Tensor

from harness.contract.checks import Check, CheckResult, run_checks
from harness.contract.violation import Violation
from harness.model.part_check import sample_parameters
from variants.base import Optimizer
from variants.errors import class_line
from variants.parameters import OptimizerDefaults, TrainedParameter

N_STEPS = 3
BYTES_TOLERANCE = 0.05  # of the predicted state, relative
Values = dict[str, Tensor]


def optimizer_results(cls: type[Optimizer], options: Any) -> list[CheckResult]:
    """Return the outcome of every check of an optimizer with these options."""
    contract = _Contract(cls, options)
    return run_checks(
        [
            Check("steps", contract.steps),
            Check("state", contract.state, needs=("steps",)),
            Check("state_bytes", contract.state_bytes, needs=("steps",)),
            Check("rate", contract.rate, needs=("steps",)),
            Check("resume", contract.resume, needs=("steps",)),
        ]
    )


class _Trial:
    """An optimizer with fresh parameters of the same initial values."""

    def __init__(self, cls: type[Optimizer], options: Any) -> None:
        self.variant = cls(options, OptimizerDefaults(lr=0.01))
        self.parameters = sample_parameters()
        self.made = self.variant.make(self.parameters)

    def step(self, seed: int) -> None:
        """Make a step with random gradients."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters:
            grad = torch.randn(parameter.info.size, generator=generator)
            parameter.value.grad = grad
        self.made.step()

    def values(self) -> Values:
        """Return copies of the parameters by name."""
        return {p.info.name: p.value.detach().clone() for p in self.parameters}

    def state(self, parameter: TrainedParameter) -> Values:
        """Return the tensors of a parameter's state."""
        state = self.made.state.get(parameter.value, {})
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}


class _Contract:
    def __init__(self, cls: type[Optimizer], options: Any) -> None:
        self._cls = cls
        self._options = options

    def _trial(self, n_steps: int = N_STEPS) -> _Trial:
        trial = _Trial(self._cls, self._options)
        for step in range(n_steps):
            trial.step(step)
        return trial

    def _violation(self, check: str, message: str) -> Violation:
        return Violation(check, message, class_line(self._cls))

    def steps(self) -> list[Violation]:
        """Every parameter changes and stays finite, in the same way when steps are repeated."""
        trial = self._trial()
        before = self._trial(0).values()
        again = self._trial().values()
        violations = []
        for name, value in trial.values().items():
            if not value.isfinite().all():
                message = f"{name} is not finite after {N_STEPS} steps"
            elif torch.equal(value, before[name]):
                message = f"{name} is not changed by {N_STEPS} steps"
            elif not torch.equal(value, again[name]):
                message = f"{name} differs when the same steps are made again"
            else:
                continue
            violations.append(self._violation("steps", message))
        return violations

    def state(self) -> list[Violation]:
        """All state is finite, and has the parameter's shape or fewer dimensions.

        Checkpoints shard such state as the parameter.
        """
        trial = self._trial()
        violations = []
        for parameter in trial.parameters:
            size = parameter.info.size
            for name, value in trial.state(parameter).items():
                place = f"the state `{name}` of {parameter.info.name}"
                if not value.isfinite().all():
                    violations.append(self._violation("state", f"{place} is not finite"))
                if value.ndim >= len(size) and value.shape != size:
                    message = (
                        f"{place} has the shape {tuple(value.shape)}; it must have the "
                        f"parameter's, {tuple(size)}, or fewer dimensions"
                    )
                    violations.append(self._violation("state", message))
        return violations

    def state_bytes(self) -> list[Violation]:
        """`state_bytes` is the size of the state, without scalars."""
        trial = self._trial()
        violations = []
        for parameter in trial.parameters:
            stated = trial.variant.state_bytes(parameter.info)
            predicted = stated.sharded + stated.replicated
            actual = sum(value.nbytes for value in trial.state(parameter).values() if value.ndim)
            if abs(predicted - actual) > BYTES_TOLERANCE * actual:
                message = (
                    f"`state_bytes` returns {predicted:g} for {parameter.info.name}, and its "
                    f"state takes {actual}"
                )
                violations.append(self._violation("state_bytes", message))
        return violations

    def rate(self) -> list[Violation]:
        """The schedule scales the steps by the `lr` of each group; at 0, nothing changes."""
        trial = self._trial()
        before = trial.values()
        for group in trial.made.param_groups:
            group["lr"] = 0.0
        trial.step(N_STEPS)
        violations = []
        for name, value in trial.values().items():
            if not torch.equal(value, before[name]):
                message = (
                    f'{name} changes in a step at lr 0; use the `lr` of its group, group["lr"]'
                )
                violations.append(self._violation("rate", message))
        return violations

    def resume(self) -> list[Violation]:
        """An optimizer that loads the state continues bit for bit."""
        trial = self._trial()
        resumed = self._trial(0)
        saved = copy.deepcopy(trial.made.state_dict())
        with torch.no_grad():
            for parameter, other in zip(resumed.parameters, trial.parameters, strict=True):
                parameter.value.copy_(other.value)
        resumed.made.load_state_dict(saved)
        for seed in range(N_STEPS, 2 * N_STEPS):
            trial.step(seed)
            resumed.step(seed)
        violations = []
        expected = trial.values()
        for name, value in resumed.values().items():
            if not torch.equal(value, expected[name]):
                message = (
                    f"{name} differs after resuming from `state_dict()`; keep all that changes "
                    "from step to step in `self.state`"
                )
                violations.append(self._violation("resume", message))
        return violations
