"""Two studies side by side, or one at two commits: what changed, what is the same to the bit, what cannot be told."""

import re
from pathlib import Path

from harness.errors import UserError
from harness.report.compare import differences, page
from harness.report.compare.sources import Source, read
from harness.results.files import write_json, write_text
from harness.results.records import now

__all__ = ["Source", "read", "write"]


def write(a: Source, b: Source, out: Path) -> Path:
    """Write the comparison of B with A to `out/<A>-vs-<B>/`, and return that folder.

    Raises:
        UserError: no entry is in both.
    """
    found = differences.versus(a, b, now())
    if not found.pairs:
        raise UserError(
            f"{a.label} and {b.label} have no entry in common: {found.only_a[:3]} and {found.only_b[:3]} ..."
        )
    from harness.report import html

    folder = out / re.sub(r"[^\w.@-]+", "-", f"{a.label}-vs-{b.label}").strip("-.")
    write_json(folder / "summary.json", differences.as_json(found))
    write_text(folder / "index.html", html.render_versus(found))
    write_text(folder / "report.md", page.render(found))
    return folder
