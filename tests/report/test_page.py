"""index.html is self-contained, complete, accessible, and never executes text of a run."""

import dataclasses
import itertools
import json
import re
from html.parser import HTMLParser

import pytest

from harness import report
from harness.analysis import dataset as accounting
from harness.analysis import summary
from harness.report import charts, study_report
from harness.report.charts.answer import candidate_title
from harness.report.render import html
from harness.results.run_data import RunData

pytestmark = pytest.mark.usefixtures("no_figures")
VOID = {"meta", "link", "br", "img", "input"}
SINGLE_PROCESS = {
    "positional": ["learned", "rope"],
    "attention": ["mha", "gqa2"],
    "parallelism": ["single"],
}
HOSTILE = "</script><script>alert(1)</script>"


class Page(HTMLParser):
    """The elements of a page in order: tag, attributes, text and enclosing tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict, list[str], list[str]]] = []
        self.open: list[tuple[str, dict, list[str], list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        element = (tag, dict(attributes), [], [one[0] for one in self.open])
        self.found.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2].append(data)

    def all(self, *tags):
        return [
            (attributes, "".join(text)) for tag, attributes, text, _ in self.found if tag in tags
        ]

    def data(self):
        return json.loads(
            next(text for attributes, text in self.all("script") if attributes.get("id") == "data")
        )


def written(fake) -> Page:
    folder = report.write(fake.store, fake.name, fake.root.parent / "reports")
    return Page((folder / "index.html").read_text())


@pytest.fixture
def whole(fake) -> Page:
    """The page of a study with all there is: probes, failures, a run that goes on."""
    fake.decode, fake.lengths = ([1, 8], [64, 128]), [64, 128, 256]
    fake.axes["parallelism"].append("ddp4")
    fake.outcome = {
        "rope-gqa2-ddp2-s1": ("failed", "oom", f"OutOfMemoryError: {HOSTILE}"),
        "rope-mha-fsdp2-s2": ("running", None, None),
        **{
            f"rope-local64-fsdp2-s{seed}": ("failed", "nan", "NotFiniteError: step 6")
            for seed in fake.seeds
        },
    }
    return written(fake.write())


def test_the_page_is_one_file_without_requests(whole):
    for attributes, _ in whole.all(
        "script", "link", "img", "iframe", "object", "source", "video", "audio"
    ):
        assert "src" not in attributes
        assert attributes.get("href", "data:").startswith("data:")
    styles = "".join(text for _, text in whole.all("style"))
    assert "url(" not in styles and "@import" not in styles
    policy = next(
        a["content"]
        for a, _ in whole.all("meta")
        if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy and "http" not in policy and "connect-src" not in policy


def test_every_entry_is_in_the_table_with_its_verdict(whole, fake):
    study = summary.summarize(accounting.read(fake.store, fake.name), "now")
    _, body = next((a, text) for a, text in whole.all("table") if a.get("id") == "table")
    rows = len(re.findall(r"parallelism \(\d\)", body))
    assert rows == len(study.answer.rows)
    for row in study.answer.rows:
        assert candidate_title(row) in body
        assert (row.verdict or row.reason) in body
    loss = study.metric_tests["val_loss"].entries
    assert {verdict.verdict for verdict in loss.values()} >= {"better", "worse"}
    assert "0 of 3; 3 failed (nan)" in body and "within tolerance" in body


def test_every_section_and_chart_is_on_the_page(whole):
    data = whole.data()
    plots = {a["data-chart"]: a["aria-label"] for a, _ in whole.all("div") if "data-chart" in a}
    assert list(plots) == [
        "throughput_loss",
        "length_loss",
        "position_loss",
        "differences_tokens_per_s",
        "effects_val_loss",
        "effects_tokens_per_s",
        # none of the memory: seeds are lost, and without them no effect has a verdict
        "contexts",
        "phases_by_context",
        "scaling",
        "throughput",
        "memory",
        "phases",
        "decode_time",
        "decode_cache",
    ]
    assert plots.keys() == data["charts"].keys() and all(plots.values())
    titles = [text for _, text in whole.all("h2", "h3")]
    for title in (
        "Unfinished runs",
        "Equal budgets",
        "Equivalence of parallelisms",
        "Environment",
        "Settings",
        "Order of runs",
    ):
        assert title in titles
    curve = data["curves"]["entries"][0]["curves"]
    assert curve["validation"]["x"] == [0, 4, 8, 12] and len(curve["training"]["x"]) == 12
    band = [curve["validation"][key] for key in ("low", "y", "high")]
    assert all(low <= y <= high for low, y, high in zip(*band, strict=True))
    command = next(text for _, text in whole.all("pre") if "harness run" in text)
    assert (
        "python -m harness run ablations.toml --set train.steps=12\npython -m harness report tiny"
        in command
    )


def test_screen_readers_can_navigate_the_page(whole):
    ids = [a["id"] for _, a, _, _ in whole.found if "id" in a]
    assert len(ids) == len(set(ids))
    for attributes, _ in whole.all("a"):
        if not attributes["href"].startswith("details/"):
            assert attributes["href"].removeprefix("#") in ids
    for attributes, _ in whole.all("section"):
        assert attributes["aria-labelledby"] in ids
    levels = [int(tag[1]) for tag, *_ in whole.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert len(whole.all("caption")) == len(whole.all("table")) and all(
        text for _, text in whole.all("caption")
    )
    assert all("label" in around for tag, _, _, around in whole.found if tag in ("input", "select"))
    assert {tag for tag, *_ in whole.found} >= {"header", "nav", "main", "footer"}


def test_logs_and_labels_are_never_executed(fake):
    label = "<img src=x onerror=alert(1)>"
    fake.axes = {"positional": ["learned", label], "attention": ["mha", "gqa2"]}
    fake.baseline = {axis: labels[0] for axis, labels in fake.axes.items()}
    fake.outcome = {
        "learned-gqa2-s1": ("failed", "error", f"{HOSTILE} ``` **x** <details><summary>")
    }
    page = written(fake.write())
    assert [a for a, _ in page.all("script") if a] == [
        {"type": "application/json", "id": "table-data"},
        {"type": "application/json", "id": "data"},
        {"type": "text/plain", "id": "plotly"},
    ]
    assert not page.all("img") and not any("onerror" in a for _, a, _, _ in page.found)
    assert any(HOSTILE in text for _, text in page.all("pre")) and any(
        HOSTILE in text for _, text in page.all("td")
    )
    assert any(text == label for _, text in page.all("td"))
    names = [entry["label"] for entry in page.data()["curves"]["entries"]]
    assert (
        f"{label} · mha".replace("<", "&lt;").replace(">", "&gt;") in names
    )  # plotly reads some HTML in names


def test_a_study_without_results_has_a_page(one_axis):
    one_axis.seeds = (0,)
    one_axis.outcome = {
        f"learned-{label}-single-s0": ("pending", None, None) for label in ("mha", "gqa2")
    }
    page = written(one_axis.write())
    assert page.data()["charts"] == {}
    assert any("no run is done" in text.lower() for _, text in page.all("p"))


def test_ten_thousand_entries_fit_in_15_mb(fake):
    fake.steps, fake.eval_every, fake.seeds = 1000, 20, (0,)
    fake.axes = SINGLE_PROCESS
    few = summary.summarize(accounting.read(fake.write().store, fake.name), "now")
    many = multiplied(few, 2500)
    assert len(many.study.runs) == 10_000
    specs = charts.build(many)
    page = html.render(study_report.build(many, specs))
    assert len(page.encode()) < 15e6
    data = json.loads(
        re.search('<script type="application/json" id="data">(.*?)</script>', page)[1]
    )
    assert len(data["curves"]["entries"]) == 10_000 and all(
        8 <= len(entry["curves"]["validation"]["x"]) <= 300 for entry in data["curves"]["entries"]
    )
    assert data["curves"]["shown"] <= 30 and "10,000" in page


def test_work_grows_in_proportion_to_the_entries(fake, monkeypatch):
    """The report of a large matrix would take minutes if each entry looked at all runs."""
    fake.axes, fake.seeds = SINGLE_PROCESS, (0,)
    few = summary.summarize(accounting.read(fake.write().store, fake.name), "now")
    n_read = 0
    imported = RunData.imported.fget

    def counted(run):
        nonlocal n_read
        n_read += 1
        return imported(run)

    monkeypatch.setattr(RunData, "imported", property(counted))
    counts = []
    for times in (10, 20):
        n_read = 0
        study_report.build(multiplied(few, times), [])
        counts.append(n_read)
    assert 0 < counts[1] < 2.5 * counts[0]


def multiplied(few, times):
    """Return the summary with every entry so many times, under further names."""

    def named(found):
        return {f"{label}-{i}": value for label, value in found.items() for i in range(times)}

    entries = {entry.label: entry for entry in few.study.entries}
    copies = tuple(
        dataclasses.replace(entry, label=label) for label, entry in named(entries).items()
    )
    return dataclasses.replace(
        few,
        study=dataclasses.replace(few.study, entries=copies),
        results={
            label: result.model_copy(update={"entry": label})
            for label, result in named(few.results).items()
        },
        comparisons=[
            c.model_copy(update={"entry": f"{c.entry}-{i}"})
            for c in few.comparisons
            for i in range(times)
        ],
        metric_tests={
            quantity: judged.model_copy(update={"entries": named(judged.entries)})
            for quantity, judged in few.metric_tests.items()
        },
        rankings=[r.model_copy(update={"val_loss": named(r.val_loss)}) for r in few.rankings],
        answer=few.answer.model_copy(
            update={
                "rows": [
                    row.model_copy(update={"entry": label, "entries": [label]})
                    for row in few.answer.rows
                    for label in (f"{row.entry}-{i}" for i in range(times))
                ],
                "axes": [],
                "advice": [],
            }
        ),
        savings=[
            s.model_copy(update={"entry": f"{s.entry}-{i}"})
            for s in few.savings
            for i in range(times)
        ],
    )
