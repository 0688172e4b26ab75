"""Compare two studies, or one study at two commits: list changes and bitwise equal results."""

import re
from pathlib import Path

from harness.errors import UserError
from harness.report.compare import comparison
from harness.report.compare.sources import Source, read
from harness.results.files import write_bytes, write_json, write_text
from harness.results.records import now

__all__ = ["Source", "read", "write"]

MAX_NAME = 250  # characters of a folder; two names of studies with commits fit


def write(a: Source, b: Source, out: Path) -> Path:
    """Write the comparison of B with A to `out/<A>-vs-<B>/` and return that folder.

    Raises:
        UserError: A and B have no entry in common.
    """
    result, files = comparison.compare(a, b, now())
    if not result.pairs:
        raise UserError(
            f"{a.label} and {b.label} have no entry in common: the former has "
            f"{_first(result.only_in_a)}, the latter {_first(result.only_in_b)}"
        )
    from harness.report import names
    from harness.report.charts import mpl
    from harness.report.compare import charts, document
    from harness.report.render import html, markdown
    from harness.report.sections.overview import unreadable_notes

    folder_name = re.sub(r"[^\w.@-]+", "-", f"{a.label}-vs-{b.label}").strip("-.")
    folder = out / folder_name[:MAX_NAME]
    shown = names.find_names([*a.study.entries, *b.study.entries], result.caveats)
    specs = charts.build(result, a, b)
    for path in folder.glob("figures/*"):
        path.unlink()
    for spec in specs:
        for suffix, image in mpl.render(names.rename(spec, shown)).items():
            write_bytes(folder / "figures" / f"{spec.name}.{suffix}", image)
    left_out = [note for side in (a, b) for note in unreadable_notes(side.study, side.label)]
    page = names.rename_document(document.build(result, specs, files, left_out), shown)
    write_json(folder / "summary.json", result)
    write_text(folder / "index.html", html.render(page))
    write_text(folder / "report.md", markdown.render(page))
    return folder


def _first(labels: list[str], limit: int = 3) -> str:
    more = ", ..." if len(labels) > limit else ""
    return ", ".join(labels[:limit]) + more if labels else "no entry"
