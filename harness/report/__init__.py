"""Write the report of a study: report.md, index.html, summary.json, tables and figures.

Never imports torch, and imports pandas and matplotlib only when a report is written.
"""

from pathlib import Path

from harness.analysis import dataset as accounting
from harness.analysis import followed, summary
from harness.analysis.selection import WHOLE, Selection
from harness.results.files import write_bytes, write_json, write_text
from harness.results.records import now
from harness.results.store import Store

__all__ = ["write"]


def write(
    store: Store,
    study: str,
    out: Path,
    refresh_s: int | None = None,
    study_file: Path | None = None,
    selection: Selection = WHOLE,
) -> Path:
    """Write the report of a study to `out/<study>/` and return that folder.

    The study may be incomplete. The page reloads itself every `refresh_s` seconds if that is given.
    The report follows the study file if one is given, else the newest launch.

    Raises:
        UserError: the study has no results, the file is invalid, or nothing matches the selection.
    """
    from harness.analysis import tables
    from harness.report import charts, details, names, study_report
    from harness.report.charts import mpl
    from harness.report.render import html, markdown

    following = None if study_file is None else followed.read(study_file)
    data = accounting.read(store, study, following=following, selection=selection)
    results = summary.summarize(data, now())
    folder = out / study
    shown = names.of_summary(results)
    specs = charts.build(results)
    files = {
        folder / "tables" / f"{name}.csv": tables.to_csv(table).encode("utf-8")
        for name, table in results.tables.items()
    }
    for spec in specs:
        for suffix, image in mpl.render(names.rename(spec, shown)).items():
            files[folder / "figures" / f"{spec.name}.{suffix}"] = image
    for path, content in files.items():
        write_bytes(path, content)
    _remove_other_files(folder, files)
    document = names.rename_document(study_report.build(results, specs), shown)
    details.write(results, folder)
    write_json(folder / "summary.json", summary.as_record(results))
    write_text(folder / "index.html", html.render(document, refresh_s))
    write_text(folder / "report.md", markdown.render(document))
    return folder


def first_screen(data: accounting.StudyResults, width: int, encoding: str) -> str:
    """Return the question, the answers and the table of the first screen as plain text."""
    from harness.report import names
    from harness.report.charts import answer as answer_chart
    from harness.report.render import terminal
    from harness.report.sections import answer

    results = summary.summarize(data, now())
    by_name = {chart.name: chart for chart in answer_chart.build(results)}
    first = names.rename(answer.build(results, by_name), names.of_summary(results))
    return terminal.render(first, width, encoding)


def _remove_other_files(folder: Path, files: dict[Path, bytes]) -> None:
    """Remove the tables and figures of an earlier report."""
    for pattern in ("tables/*.csv", "figures/*.png", "figures/*.svg"):
        for path in folder.glob(pattern):
            if path not in files:
                path.unlink()
