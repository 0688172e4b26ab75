"""Without these, the time left would be wrong for runs that train at once, or lines would wrap."""

import io

import pytest
from rich.console import Console
from synthetic_results import SyntheticStudy

from harness.launch import progress
from harness.launch.progress import ProgressReporter


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda fd: None)
    axes = {"positional": ["rope"]}
    study = SyntheticStudy(
        tmp_path, axes=axes, baseline={"positional": "rope"}, seeds=tuple(range(8))
    ).write()
    return study.store.runs(study.name)


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose only element is the present time."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "POLL_INTERVAL_S", 3600.0)
    return now


def without_lines(run):
    for path in run.path.glob("steps.*"):
        path.unlink()


def test_time_left_counts_all_runs_that_train_at_once(runs, clock, capsys):
    """Eight equal runs of 100 s, four at once: after the first four, 100 s are left."""
    for run in runs:
        without_lines(run)
    with ProgressReporter([run.spec for run in runs]) as reporter:
        for run in runs[:4]:
            reporter.start_run(run, run.spec)
        clock[0] = 100.0
        for run in runs[:4]:
            reporter.end_run(run)
        reporter.start_run(runs[4], runs[4].spec)
    lines = capsys.readouterr().err.splitlines()
    assert lines[3].startswith("[4/8]") and lines[3].endswith("1 min 40 s left")


def test_a_resumed_run_is_no_faster_for_its_earlier_steps(runs, clock, capsys):
    """It trains one step in 100 s, and all steps of the other run are left."""
    first = runs[0]
    n_steps = first.spec.train.steps
    path = first.steps_path(0)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[: n_steps - 1]))
    without_lines(runs[1])
    with ProgressReporter([run.spec for run in runs[:2]]) as reporter:
        reporter.start_run(first, first.spec)
        clock[0] = 100.0
        reporter.end_run(first)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"{progress.duration(100.0 * n_steps)} left")


@pytest.mark.parametrize("width", [80, 200])
def test_each_run_that_trains_has_one_line_of_a_terminal(runs, width, monkeypatch):
    printed = io.StringIO()
    console = Console(file=printed, force_terminal=True, width=width, height=9, color_system=None)
    monkeypatch.setattr(progress, "Console", lambda **options: console)
    with ProgressReporter([run.spec for run in runs]) as reporter:
        for run in (*runs, runs[0]):  # the last one starts again, as after a requeue
            reporter.start_run(run, run.spec)
        assert len(reporter._display.tasks) == len(runs) + 1
        lines = console.render_lines(reporter._display.get_renderable())
        shown = ["".join(segment.text for segment in line) for line in lines]
        assert 3 <= len(shown) <= 9 and all(len(line) == width for line in shown)
        reporter.end_run(runs[0])
        assert len(console.render_lines(reporter._display.get_renderable())) == len(shown)
    assert "[1/8]" in printed.getvalue()
