"""Results of runs that were not trained, planted as files or in place of `run`'s training."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import cycle

from harness.results.records import EvalRecord, ProbeResults, StepRecord
from harness.results.run import Run

PROBES = {
    "memory": [
        {
            "parameters": 1,
            "gradients": 1,
            "optimizer": 1,
            "activations": 1,
            "other": 0,
            "peak": 4,
            "resident_peak": 4,
        }
    ],
    "flops_per_token": 1e6,
    "flops_per_token_counted": 1e6,
    "parameters": 1000,
    "predicted_memory": {"parameters": 1.0, "gradients": 1.0, "optimizer": 1.0},
    "phases": [],
    "traffic": [],
    "predicted_bytes_sent": 0.0,
    "initial_hash": "a",
    "final_hashes": ["a"],
    "attention_kernels": ["flash"],
    "peak_flops": {"value": None, "source": "unknown"},
    "time": {"train_s": 1.0, "eval_s": 0.1, "total_s": 1.5},
}


def finish(run: Run, loss: float, step_s: Sequence[float] = (0.1,)) -> None:
    """End a run as one that trained to this loss, with steps of these durations, repeated."""
    lr = run.spec.train.lr
    n_steps = run.spec.train.steps
    steps = run.steps_file(0)
    for step, seconds in zip(range(n_steps), cycle(step_s), strict=False):
        steps.append(
            StepRecord(
                step=step,
                loss=2.0,
                step_s=seconds,
                tokens=512,
                grad_norm=1.0,
                lr=lr,
                warmup=False,
            )
        )
    steps.close()
    evals = run.eval_file()
    evals.append(
        EvalRecord(step=n_steps, val_loss=loss, bits_per_byte=2.0, train_s=1.0, eval_s=0.1)
    )
    evals.close()
    run.write_probes(ProbeResults.model_validate(PROBES))
    run.finish("done")


class PlantedRuns(ABC):
    """Starts runs in place of the launcher: each ends at once, as `plant` says.

    A run after `stop_after` others interrupts the command, as the user does.
    """

    def __init__(self) -> None:
        self.started: list[str] = []
        self.stop_after: int | None = None

    def __call__(self, run, launch) -> None:
        if len(self.started) == self.stop_after:
            raise KeyboardInterrupt
        self.started.append(run.spec.run_id)
        run.mark_running()
        self.plant(run)

    @abstractmethod
    def plant(self, run: Run) -> None:
        """End the run."""
