"""Without this, a study on a file system without links, as exFAT, could be lost or repeated."""

import signal

import pytest

pytestmark = pytest.mark.distributed

# Every process of Python imports this. Each call fails as on another file system.
SITE = """
import errno, itertools, os
errors = itertools.cycle([errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS])

def refuse(source, target, *arguments, **options):
    with open({calls!r}, "a") as file:
        file.write(os.path.basename(target) + "\\n")
    raise OSError(next(errors), "no links", source, None, target)

os.link = os.symlink = refuse
"""
SETTINGS = ["launch.checkpoint_every=1"]


def test_a_study_needs_no_links(new_harness):
    """It trains, is interrupted, resumes by one of two harnesses, and is reported."""
    study = new_harness.study('["slow"]')
    fast = new_harness.folder / "fast"
    new_harness.variant(
        "slow", f"time.sleep(0.3 if self.training and not os.path.exists({str(fast)!r}) else 0)"
    )
    calls = new_harness.folder / "calls"
    site = new_harness.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE.format(calls=str(calls)))
    new_harness.env["PYTHONPATH"] = str(site)
    first = new_harness.start("run", study, settings=SETTINGS)
    run = new_harness.wait_for_steps(first, 2)
    first.send_signal(signal.SIGTERM)
    first.communicate()
    assert first.returncode == 130 and run.status.status == "interrupted"
    fast.touch()
    for harness in [new_harness.start("run", study, settings=SETTINGS) for _ in range(2)]:
        _, err = harness.communicate()
        assert harness.returncode == 0 and "1 of 1 done" in err, err
    assert run.status.attempts == 2 and run.probes.resumed_at[0] >= 2
    assert len(run.steps()) == 8
    refused = calls.read_text().split()
    assert {"status.json", "1.json", "2.json"} <= set(refused), "no file was to be linked"
    assert not any(path.is_symlink() for path in run.path.rglob("*"))
    new_harness("report", "s")
    assert (new_harness.folder / "reports/s/report.md").exists()
