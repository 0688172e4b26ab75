"""Turn the results of a study into a report: pages, summary, tables, figures. Never imports torch."""

from pathlib import Path

from harness.analysis import dataset as accounting
from harness.analysis import summary
from harness.report import page
from harness.results.store import Store, now, write_bytes, write_json, write_text

__all__ = ["write"]


def write(store: Store, study: str, out: Path, refresh_s: int | None = None) -> Path:
    """Write the report of a study to `out/<study>/`, in whatever state the study is, and return that folder.

    A page that is opened in a browser reads itself again every `refresh_s` seconds, where that is given.

    Raises:
        UserError: the study has no results.
    """
    work = summary.summarise(accounting.read(store, study), now())
    from harness.analysis import tables
    from harness.report import (  # import matplotlib, which is slow, and which other commands do without
        charts as figures,
    )
    from harness.report import html

    folder = out / study
    drawn = figures.draw_all(work, page.floor_nats_per_token(work.study))
    written = {
        folder / "tables" / f"{name}.csv": tables.to_csv(table).encode("utf-8")
        for name, table in work.tables.items()
    }
    for figure in drawn:
        written |= {
            folder / "figures" / f"{figure.name}.{suffix}": data
            for suffix, data in figure.files.items()
        }
    for path, content in written.items():
        write_bytes(path, content)
    for old in [
        *folder.glob("tables/*.csv"),
        *folder.glob("figures/*.png"),
        *folder.glob("figures/*.svg"),
    ]:
        if old not in written:
            old.unlink()  # of an earlier report, and of nothing that this one tells
    write_json(folder / "summary.json", summary.as_json(work))
    write_text(folder / "index.html", html.render(work, refresh_s))
    write_text(
        folder / "report.md", page.render(work, {figure.name: figure.caption for figure in drawn})
    )
    return folder
