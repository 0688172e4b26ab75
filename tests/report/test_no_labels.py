"""People read titles: a label in a sentence, table, legend or alternative text names a file."""

import re

import gallery_results
import pytest
from gallery_results import GALLERY
from synthetic_results import SyntheticStudy

from harness.analysis import dataset
from harness.analysis.summary import summarize
from harness.report import charts, names, study_report
from harness.report.charts import plotly
from harness.report.render import html, markdown

TITLES = {
    "learned": "Learned",
    "rope": "RoPE",
    "alibi": "ALiBi",
    "mha": "MHA",
    "gqa2": "GQA-2",
    "local64": "window 64",
    "single": "one process",
    "ddp2": "DDP ×2",
    "fsdp2": "FSDP ×2",
    "S0": "size 0",
    "S1": "size 1",
    "S2": "size 2",
    "S3": "size 3",
}
APPENDIX = ("failures", "launches", "settings", "import")
LEVELS = re.compile(r"(?<![\w\-./=])(gqa2|local64|ddp2|fsdp2|rope|mha|S[0-3])(?![\w\-.=/])")


@pytest.fixture(params=[name for name in GALLERY if name != "many-entries"])
def report(request, tmp_path, monkeypatch):
    """Return the renamed document, charts and study of each kind of results."""
    monkeypatch.setattr(SyntheticStudy, "titles", TITLES)
    monkeypatch.setattr(gallery_results, "STEPS", 10)
    fake = GALLERY[request.param](tmp_path)
    study = dataset.read(fake.store, fake.name)
    summary = summarize(study, "now")
    shown = names.of_summary(summary)
    specs = charts.build(summary)
    document = names.rename_document(study_report.build(summary, specs), shown)
    return document, [names.rename(spec, shown) for spec in specs], study


def test_no_label_outside_of_the_appendix(report):
    document, specs, study = report
    sections = [one for one in document.sections if one.id not in APPENDIX]
    document = type(document)(**vars(document) | {"sections": sections})
    texts = [markdown.render(document), html.render(document).partition("<script")[0]]
    texts += [str(plotly.render(spec)) for spec in specs]
    texts += [spec.alt + spec.caption for spec in specs]
    assert len(study.entries) == 1 or "GQA-2" in texts[0].partition("\n## ")[0]
    labels = {entry.label for entry in study.entries}
    for text in texts:
        found = re.findall(r"[A-Za-z0-9][\w.+]*(?:-[\w.+]+)+", text)
        assert not labels & set(found)
        level = LEVELS.search(text)
        assert not level, text[max(0, level.start() - 150) : level.end() + 50]
