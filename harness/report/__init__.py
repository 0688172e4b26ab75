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
    from harness.report import charts, html
    from harness.report.charts import mpl  # imports matplotlib, which is slow

    folder = out / study
    specs = charts.build(work)
    written = {
        folder / "tables" / f"{name}.csv": tables.to_csv(table).encode("utf-8")
        for name, table in work.tables.items()
    }
    for spec in specs:
        for suffix, image in mpl.render(spec).items():
            written[folder / "figures" / f"{spec.name}.{suffix}"] = image
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
    write_text(folder / "index.html", html.render(work, specs, refresh_s))
    write_text(folder / "report.md", page.render(work, {spec.name: spec.caption for spec in specs}))
    return folder
