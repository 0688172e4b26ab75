"""`ablations-lm-eval`: the command `lm_eval` with checkpoints of this project as a model.

`lm_eval` finds a model by its registration, for which it imports only its own modules; so this
command registers `ablations` and then runs it:

    ablations-lm-eval run --model ablations --model_args path=CHECKPOINT --tasks hellaswag
"""

import sys
from pathlib import Path

import torch

from harness.errors import ExitCode, UserError
from harness.model.weights import Trust, load_weights
from harness.probes import lm_eval
from harness.probes.likelihood import Scorer
from harness.sampling.generate import tokenizer_of
from variants.base import Precision

MODEL = "ablations"


class Ablations(lm_eval.Adapter):
    """A checkpoint as a model of `lm-eval`; the arguments are those of `--model_args`.

    Raises:
        UserError: there is no such checkpoint, its tokenizer is unknown, or it would run the files
            of other variants than this program's without `trust_code`.
    """

    def __init__(
        self,
        path: str,
        tokenizer: str | None = None,
        precision: Precision = "fp32",
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        trust_code: bool = False,
    ) -> None:
        folder = Path(path)
        remedy = "give trust_code=true in --model_args if you trust them"
        weights = load_weights(folder, Trust(trust_code is True, remedy=remedy))
        model = weights.model()
        if not torch.cuda.is_available() and (device is None or device.startswith("cuda")):
            device = "cpu"  # `lm_eval` asks for CUDA by default
        model.to(device or "cuda", torch.float32)
        states_size = str(batch_size).isdigit()  # `auto`: as many as fit
        n_sequences = int(batch_size) if batch_size is not None and states_size else None
        scorer = Scorer(model.eval(), precision, n_sequences)
        super().__init__(scorer, tokenizer_of(weights, folder, tokenizer))


def main() -> None:
    """Run the command `lm_eval` with this project's model."""
    try:
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.api.registry import register_model
    except ImportError:
        print(f"error: ablations-lm-eval {lm_eval.INSTALL}", file=sys.stderr)
        sys.exit(ExitCode.INVALID)
    register_model(MODEL)(lm_eval.subclass(Ablations))
    try:
        cli_evaluate()
    except UserError as error:
        print("error:", *error.problems, sep="\n  ", file=sys.stderr)
        sys.exit(ExitCode.INVALID)


if __name__ == "__main__":
    main()
