"""`data`: tokenize texts into shards."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.output import example, log, show

if TYPE_CHECKING:
    from harness.data.prepare import Progress

REPORT_INTERVAL_S = 2.0

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A text, .jsonl or .parquet file, a folder or glob of them, or hf:OWNER/NAME.",
    ),
]


def build_app() -> typer.Typer:
    """Return the application of the subcommand."""
    app = typer.Typer(help="Tokenize texts into shards.", no_args_is_help=True)
    line = example("data prepare corpus.jsonl --tokenizer gpt2 --out shards")
    app.command("prepare", epilog=line)(prepare)
    app.callback()(lambda: None)  # so that `prepare` is a command of its own
    return app


def prepare(
    source: Source,
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    tokenizer: Annotated[str, typer.Option(help="The tokenizer: bytes, gpt2, ...")] = "gpt2",
    text_column: Annotated[str, typer.Option(help="The column of the text in tables.")] = "text",
    shard_tokens: Annotated[
        int, typer.Option(min=1, max=2**31 - 1, help="Tokens of a shard, at least.")
    ] = 100_000_000,
    val_fraction: Annotated[
        float,
        typer.Option(min=1e-6, max=0.5, help="Share of the validation text, if it has no files."),
    ] = 0.01,
) -> None:
    """Write the tokens of a text as shards in llm.c's format, on all cores.

    The same command finishes an interrupted one.
    """
    from harness.data.prepare import PrepareSettings, prepare_shards

    settings = PrepareSettings(source, tokenizer, out, text_column, shard_tokens, val_fraction)
    reporter = _Reporter()
    manifest = prepare_shards(settings, reporter)
    for split in ("train", "val"):
        shards = [shard for shard in manifest.shards if shard.split == split]
        n_tokens = sum(shard.tokens for shard in shards)
        show(f"{split}: {n_tokens:,} tokens in {len(shards)} files")
    show(f'\n[data]\ncorpus = "{out}"\ntokenizer = "{tokenizer}"')


class _Reporter:
    """Print progress to stderr, at most one line in two seconds."""

    def __init__(self) -> None:
        self._last_s = 0.0

    def __call__(self, progress: "Progress") -> None:
        now_s = time.monotonic()
        if now_s - self._last_s < REPORT_INTERVAL_S:
            return
        self._last_s = now_s
        left = "" if progress.left_s is None else f", {progress.left_s:,.0f} s left"
        log(f"{progress.fraction:.0%}, {progress.tokens:,} tokens, {progress.shards} shards{left}")
