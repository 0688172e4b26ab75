"""If these failed, a report would not say which entries exceed the study's threshold."""

import csv
import re
from dataclasses import replace

import pytest
from reported import written

from harness.cli import app as cli
from harness.results.records import LaunchRecord, Superiority

GAIN = "learned-gqa2-single"


@pytest.fixture
def asked(one_axis, no_figures):
    """Return a study of one entry that is better by 0.05, with two thresholds."""
    one_axis.gain = {GAIN: -0.07}
    one_axis.seeds = tuple(range(6))
    one_axis.write()
    stated = Superiority(val_loss=0.005, tokens_per_s=0.5)
    launch = LaunchRecord(order=[], settings_hash="c0ffee", superiority=stated)
    one_axis.store.record_launch(one_axis.name, launch)
    return one_axis


def test_tables_and_answer_say_what_exceeds_the_threshold(asked):
    page, _, folder = written(asked)
    answer = page.split("## Results")[0]
    assert "Better in validation loss by more than 0.005 nats: gqa2." in answer
    assert "Better in throughput by more than 50 %: none; not: gqa2." in answer
    rows = list(csv.DictReader((folder / "tables" / "verdicts.csv").read_text().splitlines()))
    superior = {row["quantity"]: row["superior"] for row in rows}
    assert superior == {"val_loss": "yes", "tokens_per_s": "no", "peak_memory": ""}
    headings = re.findall(r"(\w+ better by more than [^|]*?) *\|", page)
    assert headings == [
        "loss better by more than 0.005 nats",
        "throughput better by more than 50 %",
    ]
    html = (folder / "index.html").read_text()
    assert html.count("loss better by more than 0.005 nats") > 1  # in the table of entries as well


def test_no_threshold_no_column(one_axis, no_figures):
    page, summary, _ = written(one_axis.write())
    assert "better by" not in page
    assert summary["verdicts"]["val_loss"]["superiority"] is None


def test_compare_applies_the_threshold_of_its_second_study(asked, tmp_path):
    other = replace(asked, root=tmp_path / "before", settings_hash="0ther").write()
    sides = [str(study.root / study.name) for study in (other, asked)]
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", *sides, "--out", str(tmp_path / "out")])
    assert stop.value.code == 0
    (folder,) = (tmp_path / "out").iterdir()
    header = (folder / "report.md").read_text().split("Comparison of each entry")[-1]
    assert "loss better by more than 0.005 nats" in header
    assert "throughput better by more than 50 %" in header
