"""`report --watch` updates the report while a study runs, and ends with it."""

import shutil
import threading
import time

import pytest

from harness.cli import app as cli
from harness.report.watch import ReportRequest


def watch(fake, out):
    """Watch in this thread until all runs end; return the exit code."""
    with pytest.raises(SystemExit) as stop:
        folders = ["--results", str(fake.root), "--out", str(out)]
        cli.main(["report", fake.name, *folders, "--watch", "--interval", "1"])
    return stop.value.code


def test_the_report_is_rewritten_until_all_runs_end(one_axis, tmp_path, no_figures, capsys):
    one_axis.outcome = {"learned-gqa2-single-s1": ("pending", None, None)}
    one_axis.write()
    pages = []

    def finish():
        page = tmp_path / "out" / "tiny" / "index.html"
        while not page.exists():
            time.sleep(0.1)
        pages.append(page.read_text())
        one_axis.outcome = {}
        one_axis.run(("learned", "gqa2", "single"), 1)

    other = threading.Thread(target=finish)
    other.start()
    assert watch(one_axis, tmp_path / "out") == 0
    other.join()
    lines = capsys.readouterr().err.splitlines()
    assert "5 of 6 runs done" in lines[0] and "6 of 6 runs done" in lines[-1]
    assert 'id="refresh"' in pages[0] and "location.reload" in pages[0]
    last = (tmp_path / "out" / "tiny" / "index.html").read_text()
    assert 'id="refresh"' not in last and "location.reload" not in last


def test_an_unchanged_report_is_not_rewritten(one_axis, tmp_path, monkeypatch):
    one_axis.outcome = {"learned-gqa2-single-s1": ("pending", None, None)}
    one_axis.write()
    written, slept = [], []
    monkeypatch.setattr(
        "harness.report.watch.write", lambda *arguments: written.append(arguments) or tmp_path
    )

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("harness.report.watch.sleep", sleep)
    assert watch(one_axis, tmp_path / "out") == 130  # as whoever stops it with Ctrl-C
    assert len(slept) == 3 and len(written) == 1 and min(slept) >= 1


@pytest.mark.parametrize("side", ["before", "after"])
def test_the_last_run_may_end_between_two_reads(one_axis, tmp_path, no_figures, monkeypatch, side):
    """The last report has all runs, whether a run ends just before or after the time is read."""
    one_axis.outcome = {"learned-gqa2-single-s1": ("pending", None, None)}
    one_axis.write()
    last_change = ReportRequest.last_change
    # With "before", the end is in the first report; with "after", the first report lacks it.
    rounds = iter([side == "before", True])

    def end_last_run():
        if one_axis.outcome and next(rounds):
            one_axis.outcome = {}
            one_axis.run(("learned", "gqa2", "single"), 1)

    def racing(request, store):
        if side == "before":
            end_last_run()
        changed = last_change(request, store)
        if side == "after":
            end_last_run()
        return changed

    monkeypatch.setattr(ReportRequest, "last_change", racing)
    monkeypatch.setattr("harness.report.watch.sleep", lambda seconds: None)
    assert watch(one_axis, tmp_path / "out") == 0
    assert not one_axis.outcome
    last = (tmp_path / "out" / "tiny" / "index.html").read_text()
    assert "6 of 6 runs done" in last and 'id="refresh"' not in last


def test_an_interval_below_a_second_is_refused(one_axis, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", "tiny", "--watch", "--interval", "0"])
    assert stop.value.code == 2 and "--interval" in capsys.readouterr().err


def test_an_unreadable_run_does_not_end_the_watch(one_axis, tmp_path, no_figures):
    one_axis.write()
    one_axis.store.runs("tiny")[0].path.joinpath("status.json").write_text("{")
    assert watch(one_axis, tmp_path / "out") == 0
    assert "could not be read" in (tmp_path / "out" / "tiny" / "report.md").read_text()


def test_a_study_that_is_not_there_yet_is_waited_for(one_axis, tmp_path, no_figures, monkeypatch):
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        one_axis.write()

    monkeypatch.setattr("harness.report.watch.sleep", sleep)
    assert watch(one_axis, tmp_path / "out") == 0
    assert len(waits) == 1
    assert (tmp_path / "out" / "tiny" / "report.md").exists()


def test_a_folder_that_is_made_again_is_reported_again(one_axis, tmp_path, no_figures, monkeypatch):
    one_axis.outcome = {"learned-gqa2-single-s1": ("pending", None, None)}
    one_axis.write()
    steps = iter([lambda: shutil.rmtree(one_axis.root), lambda: None, one_axis.write])

    def sleep(seconds):
        one_axis.outcome = {}
        next(steps)()

    monkeypatch.setattr("harness.report.watch.sleep", sleep)
    assert watch(one_axis, tmp_path / "out") == 0
    assert "6 done" in (tmp_path / "out" / "tiny" / "report.md").read_text()
