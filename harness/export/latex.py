r"""Tables of the report in LaTeX, for `\input{}` into a paper: booktabs, captions, rounded."""

from pathlib import Path

import pandas as pd

from harness.analysis.study_frames import StudyFrames
from harness.printable import one_line

TABLES = {
    "entries": "Results by entry: mean over seeds with 95\\,\\% interval.",
    "comparisons": "Paired differences from the baseline with 95\\,\\% interval.",
    "verdicts": "Tests against the baseline, paired by seed.",
    "pooled": "Differences from the baseline, pooled over contexts.",
    "effects": "Main effects and interactions of the axes.",
    "rankings": "Validation loss at an equal budget.",
    "savings": "Cost to reach the baseline's final loss.",
    "variance": "Sources of the noise between runs.",
    "equivalence": "Deviation of parallel runs from the single-process run.",
    "scaling": "Speedup over fewer processes.",
    "decoding": "Decoding speed and KV cache size.",
    "lengths": "Validation loss by sequence length.",
    "tasks": "Metrics of the tasks of lm-eval.",
}
LARGE = 100_000.0  # numbers from here on are written with a power of ten
EMPTY = "--"


def write(study: StudyFrames, folder: Path, target: Path) -> str:
    r"""Write `<table>.tex` for each table with rows; the paper needs `\usepackage{booktabs}`."""
    for name, caption in TABLES.items():
        table = study.table(name)
        if len(table):
            (folder / f"{name}.tex").write_text(latex(table, caption, f"{study.name}-{name}"))
    return f"\\input{{{target / 'entries.tex'}}}  % needs \\usepackage{{booktabs}}"


def latex(table: pd.DataFrame, caption: str, label: str) -> str:
    r"""Return a frame as a `table` environment; `X`, `X_low` and `X_high` become one column.

    `caption` is LaTeX code, all cells and titles are escaped.
    """
    columns: dict[str, list[str]] = {}
    for name in table:
        if _is_bound(table, str(name)):
            continue
        title = _escape(str(name).replace("_", " "))
        if f"{name}_low" in table:
            columns[title] = [
                _interval(*row, 1.0 if str(name).endswith("_ratio") else 0.0)
                for row in zip(
                    table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True
                )
            ]
        else:
            columns[title] = [_cell(value) for value in table[name]]
    alignment = "".join(
        _alignment(table[name]) for name in table if not _is_bound(table, str(name))
    )
    text: str = pd.DataFrame(columns).to_latex(
        index=False,
        escape=False,
        caption=caption,
        label=f"tab:{label}",
        column_format=alignment,
        position="tbp",
    )
    return text


def _is_bound(table: pd.DataFrame, name: str) -> bool:
    center = name.removesuffix("_low").removesuffix("_high")
    return center != name and f"{center}_low" in table and f"{center}_high" in table


def _alignment(column: pd.Series) -> str:
    is_number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    return "r" if is_number else "l"


def _interval(value: float, low: float, high: float, null: float) -> str:
    """Return a value and its interval, which excludes an end at `null`, that of no difference."""
    if pd.isna(value):
        return EMPTY
    if pd.isna(low):
        return _number(value)
    left = "(" if low == null != high else "["
    right = ")" if high == null != low else "]"
    return f"{_number(value)} {left}{_number(low)}, {_number(high)}{right}"


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return _escape(", ".join(str(item) for item in value)) or EMPTY
    if pd.isna(value):
        return EMPTY
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value}"
    if isinstance(value, float):
        return _number(value)
    return _escape(str(value))


def _number(value: float) -> str:
    if abs(value) < LARGE:
        text = f"{value:.4g}"
    else:
        text = f"{value:.3e}"
    if "e" not in text:
        return f"${text}$"
    mantissa, exponent = text.split("e")
    return f"${mantissa} \\times 10^{{{int(exponent)}}}$"


def _escape(text: str) -> str:
    """Return text on one line in which no character is markup of LaTeX."""
    replacements = {
        "\\": "\\textbackslash{}",
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
        "–": "--",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
    escaped = "".join(replacements.get(character, character) for character in one_line(text))
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped  # else arguments of \\\\
