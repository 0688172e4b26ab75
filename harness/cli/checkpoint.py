"""`checkpoint`: import, export and show GPT-2 weights."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.output import example
from harness.errors import UserError

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="A folder or file in GPT-2's published layout, or a hub name."
    ),
]
Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="A folder of weights of this program.")
]
Destination = Annotated[Path, typer.Argument(metavar="DEST", help="The folder to write.")]


def build_app() -> typer.Typer:
    """Return the application of the three subcommands."""
    app = typer.Typer(help="Import, export and show GPT-2 weights.", no_args_is_help=True)
    app.command("import", epilog=example("checkpoint import gpt2 checkpoints/gpt2"))(import_weights)
    app.command("export", epilog=example("checkpoint export checkpoints/gpt2 hf/gpt2"))(
        export_weights
    )
    app.command("show", epilog=example("checkpoint show checkpoints/gpt2"))(show_weights)
    return app


def import_weights(source: Source, dest: Destination) -> None:
    """Read a published GPT-2: a folder, a file, or a hub name."""
    from harness.model.weights import import_gpt2

    imported = import_gpt2(source, dest)
    print(f"{dest}: {imported.parameters:,} parameters, SHA-256 {imported.sha256}")


def export_weights(source: Folder, dest: Destination) -> None:
    """Write weights in the layout that transformers loads."""
    from harness.model.weights import export_gpt2

    _refuse_imported(source)
    export_gpt2(source, dest)
    print(dest)


def show_weights(source: Folder) -> None:
    """Print the shape, the parameters, the hash, and the origin of each tensor."""
    from tabulate import tabulate

    from harness.model.weights import load_weights

    _refuse_imported(source)
    loaded = load_weights(source)
    print(" ".join(f"{key}={value}" for key, value in asdict(loaded.shape).items()))
    print(" ".join(f"{axis}={choice.label}" for axis, choice in loaded.axes.items()))
    print(f"{loaded.parameters:,} parameters, SHA-256 {loaded.sha256}\n")
    rows = []
    for name, tensor in loaded.tensors.items():
        size = "x".join(map(str, tensor.shape))
        dtype = str(tensor.dtype).removeprefix("torch.")
        rows.append((name, size, dtype, loaded.origin.get(name, "")))
    print(tabulate(rows, ("tensor", "shape", "type", "origin")))


def _refuse_imported(source: Path) -> None:
    from harness.results.run import is_in_imported_run

    if is_in_imported_run(source):
        message = "a run that is imported from another trainer, which has no checkpoint here"
        raise UserError(f"{source}: {message}")
