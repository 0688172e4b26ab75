"""`sample`: continue a prompt with a trained model."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.cli.isolation import isolate
from harness.cli.options import TrustCodeOption
from harness.printable import printable

TOKENIZER_HELP = (
    "bytes, gpt2, r50k_base, p50k_base, cl100k_base or o200k_base; default: the checkpoint's."
)

Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A folder of weights: results/STUDY/RUN_ID/checkpoint/newest or .../best, or one "
        "that `checkpoint import` wrote.",
    ),
]
Prompt = Annotated[str, typer.Option(metavar="TEXT", help='The text to continue; may be "".')]
Length = Annotated[
    int, typer.Option(metavar="N", help="New tokens per sample; fewer where the text ends.")
]
Samples = Annotated[
    int, typer.Option(metavar="N", help="Number of samples; sample i does not depend on it.")
]
Temperature = Annotated[
    float, typer.Option(metavar="T", help="Divides the logits; 0 selects the likeliest token.")
]
TopK = Annotated[
    int | None, typer.Option(metavar="K", help="Sample from the K likeliest tokens; default: all.")
]
TopP = Annotated[
    float,
    typer.Option(metavar="P", help="Then from the likeliest tokens of total probability P."),
]
Seed = Annotated[int, typer.Option(metavar="S", help="The same seed gives the same text.")]
Tokenizer = Annotated[str | None, typer.Option(metavar="NAME", help=TOKENIZER_HELP)]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="auto: a GPU if there is one.")
]
Precision = Annotated[
    Literal["fp32", "bf16"], typer.Option(help="Of the computation and the KV cache.")
]


def sample(
    checkpoint: Checkpoint,
    prompt: Prompt,
    length: Length = 200,
    samples: Samples = 1,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    tokenizer: Tokenizer = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    trust_code: TrustCodeOption = False,
) -> None:
    """Continue a prompt with a trained model. The text goes to stdout as it is generated."""
    options = locals()
    if trust_code:
        isolate()
    from harness.sampling.generate import GenerationRequest, generate

    generate(GenerationRequest(**options), _write)


def _write(text: str) -> None:
    if sys.stdout.isatty():  # a model may generate the sequences that a terminal obeys
        text = printable(text)
    print(text, end="", flush=True)
