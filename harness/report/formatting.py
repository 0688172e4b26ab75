"""How numbers are written on the page. This is the only place that rounds."""

import re
from collections.abc import Iterable, Sequence

from tabulate import tabulate

from harness.analysis.intervals import Bounds, Mean, Median, Ratio

NONE = "–"
NO_SPEED = "diverges"  # stands for the speed of an entry that trains another model than it says
MIB = 2**20
MOST_ROWS = 250  # of a table


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a GitHub table, of many rows the first; `left` columns are text, the others are aligned as numbers."""
    align, rows = ["left"] * left + ["right"] * (len(header) - left), list(rows)
    cells = [[escape(cell) for cell in row] for row in rows[:MOST_ROWS]]
    text = tabulate(
        cells, header, tablefmt="github", disable_numparse=True, colalign=align if cells else None
    )
    more = f"The first {MOST_ROWS:,} of {len(rows):,} rows; the folder tables beside this has them all."
    return join(text, more if len(rows) > MOST_ROWS else "")


def escape(text: str) -> str:
    """Keep a text within its cell."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def mean(value: Mean | None, digits: int = 4) -> str:
    """Return 1.2345 ± 0.0012: the mean and half its interval, where it has one."""
    if value is None:
        return NONE
    half = f" ± {(value.ci95[1] - value.ci95[0]) / 2:.{digits}f}" if value.ci95 else ""
    return f"{value.mean:.{digits}f}{half}"


def difference(value: Mean | None) -> str:
    """Return a signed difference and its interval, with more digits where it would read as zero."""
    if value is None:
        return NONE
    return signed(value.mean) + (
        f" [{signed(value.ci95[0])}, {signed(value.ci95[1])}]" if value.ci95 else ""
    )


def signed(value: float) -> str:
    """Return +0.1234, or +1.2e-07 where that would read as zero."""
    return f"{value:+.4f}" if value == 0 or abs(value) >= 5e-4 else f"{value:+.1e}"


def median(value: Median | None, scale: float = 1.0) -> str:
    """Return the median and its interval, to three or more figures."""
    if value is None:
        return NONE
    return f"{figures(value.median * scale)} {_interval(value.ci95, scale)}"


def _interval(bounds: Bounds, scale: float) -> str:
    return f"[{figures(bounds[0] * scale)}, {figures(bounds[1] * scale)}]"


def figures(value: float) -> str:
    """Return 12,345 or 123.4 or 1.234: whole from a thousand on, else four figures."""
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3
    return f"{value:,.{digits}f}"


def ratio(value: Ratio | float | None) -> str:
    """Return 1.23 ×, with its interval where it has one."""
    if value is None:
        return NONE
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value.ratio:.3f} [{value.ci95[0]:.3f}, {value.ci95[1]:.3f}]"


def mib(size: float | None) -> str:
    """Return a number of bytes in MiB."""
    return NONE if size is None else f"{size / MIB:,.1f}"


def percent(share: float | None) -> str:
    """Return 12.3 %."""
    return NONE if share is None else f"{100 * share:.1f} %"


def deviation(value: float | None) -> str:
    """Return 1.2e-07, or 0 where there is none."""
    if value is None:
        return NONE
    return "0" if value == 0 else f"{value:.1e}"


def yes(value: bool | None, unknown: str = NONE) -> str:
    """Return yes, no, or what stands for not known."""
    return unknown if value is None else "yes" if value else "no"


def count(n: int, noun: str, plural: str | None = None) -> str:
    """Return 1 run, 2 runs."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def listing(items: Sequence[str], most: int = 4) -> str:
    """Return the items in code marks, or the first of them and how many more there are."""
    shown = ", ".join(f"`{item}`" for item in items[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")


def join(*parts: str) -> str:
    """Return the parts as paragraphs, empty ones left out."""
    return "\n\n".join(filter(None, parts))


def picture(name: str, captions: dict[str, str]) -> str:
    """Return a figure and its caption, or nothing where it was not drawn."""
    return (
        f"![{name.replace('_', ' ')}](figures/{name}.png)\n\n*{captions[name]}*"
        if name in captions
        else ""
    )
