"""Turn logs of nanoGPT, modded-nanogpt and llm.c into a table for `python -m harness ingest`.

Each log is one run, and its name states entry and seed: `muon-seed0.txt`. The table goes to
standard output, with a row for each evaluation:

    python examples/ingest_nanogpt.py logs/*.txt --tokens-per-step 491520 > runs.csv
    python -m harness ingest runs.csv --study nanogpt --baseline adamw --report

Lines that are read; all others are skipped:

    step 250: train loss 2.1000, val loss 2.2000                         nanoGPT
    iter 260: loss 2.0512, time 1097.30ms, mfu 15.34%                    nanoGPT
    step:125/5100 val_loss:4.5000 train_time:18042ms step_avg:156.89ms   modded-nanogpt
    s:250 tel:4.5000                                                     llm.c (main.log)
"""

import argparse
import csv
import re
import statistics
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

NUMBER = r"([-+.\w]+)"  # also nan and inf
NANOGPT_EVAL = re.compile(rf"step (\d+): train loss {NUMBER}, val loss {NUMBER}")
NANOGPT_STEP = re.compile(r"iter (\d+): loss .*?, time ([\d.]+)ms")
MODDED = re.compile(rf"step:(\d+)/\d+ val_loss:{NUMBER} train_time:([\d.]+)ms")
LLMC = re.compile(rf"s:(\d+) tel:{NUMBER}")
RUN_NAME = re.compile(r"(.+?)[-_.]seed[-_=]?(\d+)")
COLUMNS = ("entry", "seed", "step", "tokens", "val_loss", "train_s", "step_s")
WARMUP_STEPS = 10  # that compile or warm up; nanoGPT itself does not count the first ones

Row = dict[str, object]


def rows_of_log(lines: Iterable[str]) -> list[Row]:
    """Return a row for each evaluation of a log, with the time of the steps before it.

    nanoGPT states the time of single steps, of which the median is taken. That of a step with an
    evaluation includes the evaluation and is left out. modded-nanogpt states the training time so
    far, without evaluations; the time of a step is the mean since the evaluation before.
    """
    rows: list[Row] = []
    step_times: list[float] = []
    evaluated = -1
    for line in lines:
        if match := NANOGPT_EVAL.search(line):
            evaluated = int(match[1])
            row: Row = {"step": evaluated, "val_loss": float(match[3])}
            if step_times:
                row["step_s"] = statistics.median(step_times) / 1e3
            step_times = []
            rows.append(row)
        elif match := NANOGPT_STEP.search(line):
            step = int(match[1])
            if step != evaluated and step >= WARMUP_STEPS:
                step_times.append(float(match[2]))
        elif match := MODDED.search(line):
            rows.append(_modded_row(rows, int(match[1]), float(match[2]), float(match[3]) / 1e3))
        elif match := LLMC.search(line):
            rows.append({"step": int(match[1]), "val_loss": float(match[2])})
    return rows


def _modded_row(rows: list[Row], step: int, val_loss: float, train_s: float) -> Row:
    row: Row = {"step": step, "val_loss": val_loss, "train_s": train_s}
    if rows:
        before_step = int(str(rows[-1]["step"]))
        before_s = float(str(rows[-1]["train_s"]))
        # older versions restart the clock after the first steps
        if before_step >= WARMUP_STEPS and train_s > before_s:
            row["step_s"] = (train_s - before_s) / (step - before_step)
    return row


def table(paths: Iterable[Path], tokens_per_step: int | None) -> Iterator[Row]:
    """Yield the rows of all logs.

    Raises:
        ValueError: a name states no seed, or a log has no evaluation.
    """
    for path in paths:
        name = RUN_NAME.fullmatch(path.stem)
        if name is None:
            raise ValueError(f"{path}: name it ENTRY-seedN, as in muon-seed0.txt")
        rows = rows_of_log(path.read_text(encoding="utf-8", errors="replace").splitlines())
        if not rows:
            raise ValueError(f"{path}: has no line with a validation loss")
        for row in rows:
            row |= {"entry": name[1], "seed": int(name[2])}
            if tokens_per_step is not None:
                row["tokens"] = int(str(row["step"])) * tokens_per_step
            yield row


def main() -> None:
    """Write the table of the logs to standard output."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("logs", nargs="+", type=Path, help="logs named ENTRY-seedN.txt")
    parser.add_argument("--tokens-per-step", type=int, help="tokens of a step over all devices")
    arguments = parser.parse_args()
    try:
        rows = list(table(arguments.logs, arguments.tokens_per_step))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    columns = [name for name in COLUMNS if any(name in row for row in rows)]
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    main()
