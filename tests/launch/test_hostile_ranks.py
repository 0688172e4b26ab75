"""Whatever the code of a variant does while a rank trains, its run alone fails, and says why.

The deeds are variants of one study, next to one that trains as usual. A sample is tried;
`FUZZ=100` tries all.
"""

import contextlib
from pathlib import Path

import psutil
import pytest
from command_line import all_end
from hostile import sample
from hostile_code import CHANGES, ENDS, HARMLESS, IMPORTS, RAISED

pytestmark = pytest.mark.distributed

DEEDS = RAISED | ENDS | CHANGES | HARMLESS
# An error that no `except Exception` sees, a text that UTF-8 has not, a second process with the
# files of the run, and a speed that other runs have not.
ALWAYS = {  # by the number of ranks
    1: ("BaseException", "an error with controls", "a fork", "threads"),
    2: ("BaseException", "a fork"),
}
REASONS = {
    "MemoryError": "oom",
    "a tensor without memory": "oom",
    "a chain of errors": "disk",
    **dict.fromkeys(("a loop", "a sleep", "a lock"), "timeout"),
    **dict.fromkeys(("os._exit(3)", "os.abort", "SIGKILL", "SIGTERM", "SIGSEGV"), "killed"),
}
OF_OTHER_CODE = ("built-in", "no gradients")  # changes that make other code fail first
OTHER_RESULTS = ("seeds",)
UNABLE = ("hooks",)  # it may keep the run from its end
VARIANT = """
import IMPORTS
from pathlib import Path
import torch
from variants.positional.learned import Learned

n_calls = 0


def deed():
    DEED


class V(Learned):
    def embed(self, x, positions):
        global n_calls
        if self.training and not x.is_meta and os.environ.get("RANK") == "LAST":
            n_calls += 1
            if n_calls == 3:
                deed()
        return super().embed(x, positions)
"""


def curve(run) -> list[object]:
    steps = run.steps()
    evals = [(line.step, line.val_loss) for line in run.evals()]
    return [steps.step.tolist(), steps.loss.tolist(), evals]


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the processes that write a file in a folder, such as the log of a run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(Path(file.path).is_relative_to(folder) for file in process.open_files()):
                found.append(process)
    return found


@pytest.mark.parametrize("n_ranks", ALWAYS)
def test_a_deed_of_a_rank_costs_its_own_run(new_harness, n_ranks):
    """With two ranks, it is the other one that meets the broken connection."""
    chosen = [*ALWAYS[n_ranks], *sample(DEEDS.keys() - ALWAYS[n_ranks], 2)]
    deeds = {f"deed{i}": deed for i, deed in enumerate(chosen)}
    labels = ", ".join(f'"{name}"' for name in (*deeds, "learned"))
    parallelism = '"single"' if n_ranks == 1 else f'{{ variant = "ddp", nproc = {n_ranks} }}'
    study = new_harness.study(f"[{labels}]", parallelism=f"[{parallelism}]")
    for name, deed in deeds.items():
        text = VARIANT.replace("IMPORTS", IMPORTS).replace("DEED", DEEDS[deed])
        text = text.replace("LAST", str(n_ranks - 1))
        (study.parent / f"mine/positional/{name}.py").write_text(text)
    new_harness("run", study, settings=["launch.stall_timeout_s=20"], code=1)
    assert all_end(processes_of(study.parent))
    runs = {run.spec.labels["positional"]: run for run in new_harness.runs()}
    expected = curve(runs.pop("learned"))
    assert runs.keys() == deeds.keys()
    for name, run in runs.items():
        deed, status = deeds[name], run.status
        found = (deed, status.status, status.reason, status.message)
        if deed in HARMLESS:
            assert status.status == "done" or deed in UNABLE, found
            if status.status == "done" and deed not in OTHER_RESULTS:
                assert curve(run) == expected, found
            continue
        assert status.status == ("interrupted" if deed == "SIGTERM" else "failed"), found
        assert status.reason == REASONS.get(deed, "error"), found
        assert status.message, found
        if deed in CHANGES and deed not in OF_OTHER_CODE:
            assert f"{name}.py changes " in status.message, found
