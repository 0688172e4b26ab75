"""`checkpoint`: import, export and show weights."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.cli.isolation import isolate
from harness.cli.options import TrustCodeOption
from harness.cli.output import example, log, show

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder or file in the published layout of GPT-2, Llama or Mistral, or a hub name.",
    ),
]
Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="A folder of weights of this program.")
]
Format = Annotated[
    Literal["gpt2", "llama", "mistral"],
    typer.Option(help="The class of transformers: GPT-2, or RoPE with RMSNorm and SwiGLU."),
]
Destination = Annotated[Path, typer.Argument(metavar="DEST", help="The folder to write.")]


def build_app() -> typer.Typer:
    """Return the application of the three subcommands."""
    app = typer.Typer(help="Import, export and show weights.", no_args_is_help=True)
    app.command("import", epilog=example("checkpoint import gpt2 checkpoints/gpt2"))(import_weights)
    app.command("export", epilog=example("checkpoint export checkpoints/gpt2 hf/gpt2"))(
        export_weights
    )
    app.command("show", epilog=example("checkpoint show checkpoints/gpt2"))(show_weights)
    return app


def import_weights(source: Source, dest: Destination) -> None:
    """Read a published GPT-2, Llama or Mistral: a folder, a file, or a hub name."""
    from harness.published import convert

    imported = convert.import_weights(source, dest)
    show(f"{dest}: {imported.parameters:,} parameters, SHA-256 {imported.sha256}")


def export_weights(
    source: Folder,
    dest: Destination,
    format: Format = "gpt2",
    trust_code: TrustCodeOption = False,
) -> None:
    """Write weights in the layout that transformers loads."""
    if trust_code:
        isolate()
    from harness.published import convert

    convert.export_weights(source, dest, format, trust_code)
    show(dest)


def show_weights(source: Folder, trust_code: TrustCodeOption = False) -> None:
    """Print the shape, the parameters, the hash, and the origin of each tensor.

    Compares the tensors with the model that they are said to belong to, unless that would run
    code that is not this program's.
    """
    if trust_code:
        isolate()
    from tabulate import tabulate

    from harness.model.weights import Trust, load_weights, read_weights

    loaded = read_weights(source)
    foreign = loaded.foreign_files
    if trust_code or not foreign:
        loaded = load_weights(source, Trust(any=trust_code))
    else:
        log(
            "not compared with the model, which would run "
            f"{', '.join(map(str, foreign))}; give --trust-code if you trust them"
        )
    show(" ".join(f"{key}={value}" for key, value in asdict(loaded.shape).items()))
    show(" ".join(f"{axis}={choice.label}" for axis, choice in loaded.axes.items()))
    show(f"{loaded.parameters:,} parameters, SHA-256 {loaded.sha256}\n")
    rows = []
    for name, tensor in loaded.tensors.items():
        size = "x".join(map(str, tensor.shape))
        dtype = str(tensor.dtype).removeprefix("torch.")
        rows.append((name, size, dtype, loaded.origin.get(name, "")))
    show(tabulate(rows, ("tensor", "shape", "type", "origin")))
