"""Without this, a command that is stopped while it loads its modules would go on."""

import subprocess
import sys

import pytest

from harness.errors import ExitCode

PROGRAM = """
import os, signal
from harness.cli.interrupts import end_on_interrupt
signal.signal(signal.SIGINT, signal.SIG_IGN if {is_ignored} else signal.default_int_handler)
end_on_interrupt()
{action}
"""
KILL = "os.kill(os.getpid(), signal.SIGINT)"
SWALLOWED = "import swallower"
RAISED = f"try: {KILL}\nexcept KeyboardInterrupt: os._exit(9)"


@pytest.mark.parametrize(
    ("is_ignored", "action", "code"),
    [
        (False, SWALLOWED, ExitCode.INTERRUPTED),
        (True, SWALLOWED, 0),
        (False, RAISED, 9),
        (True, RAISED, 0),
    ],
)
def test_ctrl_c_is_not_lost_in_an_import(tmp_path, is_ignored, action, code):
    (tmp_path / "swallower.py").write_text(
        f"import os, signal\ntry: {KILL}\nexcept KeyboardInterrupt: pass\n"
    )
    program = PROGRAM.format(is_ignored=is_ignored, action=action)
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path).returncode == code
