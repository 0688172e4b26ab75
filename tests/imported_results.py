"""Made-up results of another trainer: 9 configurations with 3 seeds, in every form of a table."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

EFFECTS = {
    "adamw": 0.0,
    "muon": -0.05,
    "lion": 0.02,
    "sgd": 0.3,
    "rope": -0.01,
    "swiglu": -0.03,
    "gqa": 0.004,
    "relu2": 0.0,
    "mla": 0.06,
}
SEEDS = (0, 1, 2)
STEPS = (0, 1000, 2000, 3000)
TOKENS_PER_STEP = 4096

Row = dict[str, object]


def final_rows() -> list[Row]:
    """Return a row per run with the final loss."""
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for entry, effect in EFFECTS.items():
        for seed in SEEDS:
            loss = 3.3 + effect + 0.01 * seed + 0.003 * rng.standard_normal()
            rows.append({"entry": entry, "seed": seed, "val_loss": round(float(loss), 4)})
    return rows


def evaluation_rows() -> Iterator[Row]:
    """Yield a row per evaluation, with tokens, times and memory."""
    rng = np.random.default_rng(1)
    for row in final_rows():
        for step in STEPS:
            loss = float(str(row["val_loss"])) + 8 * (1 - step / STEPS[-1])
            step_s = 0.2 if row["entry"] == "muon" else 0.15
            yield row | {
                "step": step,
                "tokens": step * TOKENS_PER_STEP,
                "val_loss": round(loss, 4),
                "train_s": step * step_s,
                "step_s": round(step_s * float(1 + 0.01 * rng.standard_normal()), 6),
                "peak_memory": 4_000_000_000 - 500_000_000 * (row["entry"] == "gqa"),
            }


def wide_rows() -> list[Row]:
    """Return a row per entry with a column per seed."""
    rows: dict[object, Row] = {}
    for row in final_rows():
        of_entry = rows.setdefault(row["entry"], {"entry": row["entry"]})
        of_entry[f"seed{row['seed']}"] = row["val_loss"]
    return list(rows.values())


def write_csv(path: Path, rows: list[Row], separator: str = ",") -> Path:
    """Write rows with the columns of the first."""
    lines = [separator.join(rows[0])]
    lines += [separator.join(str(value) for value in row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_json_lines(path: Path, rows: list[Row]) -> Path:
    """Write rows as objects; a loss that is not finite becomes NaN, as Python writes it."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
