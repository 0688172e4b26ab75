"""If these failed, logs of other trainers would become another table than they state."""

import csv
import importlib.util
import io
import math
import re
import sys
from pathlib import Path

import pytest
from command_line import Harness

from harness.ingest import IngestRequest, ingest
from harness.results.store import Store

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs/ingest.md").read_text(encoding="utf-8")

NANOGPT = """\
tokens per iteration will be: 491,520
number of parameters: 123.59M
step 0: train loss 10.9886, val loss 10.9898
iter 0: loss 10.9886, time 41234.56ms, mfu -100.00%
iter 5: loss 9.9000, time 900.00ms, mfu -100.00%
iter 10: loss 9.1000, time 500.00ms, mfu 15.34%
iter 20: loss 8.2000, time 510.00ms, mfu 15.34%
iter 30: loss 7.4000, time 490.00ms, mfu 15.34%
step 40: train loss 6.9000, val loss {val_loss}
saving checkpoint to out
iter 40: loss 6.9000, time 35392.33ms, mfu 13.85%
"""
MODDED = """\
        print0(f"step:{step}/{train_steps} val_loss:{val_loss:.4f} train_time:{t:.0f}ms")
====================================================================================================
step:0/5100 val_loss:10.8258 train_time:0ms step_avg:nanms
step:1/5100 train_loss:10.8258 train_time:32000ms step_avg:nanms
step:125/5100 val_loss:4.4000 train_time:18000ms step_avg:156.52ms
step:126/5100 train_loss:4.3800 train_time:18144ms step_avg:156.41ms
step:250/5100 val_loss:3.9000 train_time:36125ms step_avg:150.52ms
peak memory consumption: 28496 MiB
"""
LLMC = """\
s:0 tel:11.0121
s:0 trl:11.0093 lr:0.000001 norm:15.47
s:250 tel:6.4618
s:250 trl:6.4701 lr:0.000214 norm:0.91
s:250 eval:0.2462
"""
LOGS = {"nanogpt": NANOGPT.replace("{val_loss}", "6.9500"), "modded": MODDED, "llm.c": LLMC}


@pytest.fixture
def example():
    """The module of the example."""
    spec = importlib.util.spec_from_file_location("logs", ROOT / "examples/ingest_nanogpt.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXPECTED = {
    "nanogpt": [(0, 10.9898, None, None), (40, 6.95, None, 0.5)],
    "modded": [(0, 10.8258, 0.0, None), (125, 4.4, 18.0, None), (250, 3.9, 36.125, 0.145)],
    "llm.c": [(0, 11.0121, None, None), (250, 6.4618, None, None)],
}


@pytest.mark.parametrize("trainer", LOGS)
def test_a_log_gives_its_evaluations_and_times(example, trainer):
    rows = example.rows_of_log(LOGS[trainer].splitlines())
    names = ("step", "val_loss", "train_s", "step_s")
    found = [tuple(row.get(name) for name in names) for row in rows]
    assert found == [pytest.approx(row) for row in EXPECTED[trainer]]


def write_table(example, monkeypatch, folder, logs, *options):
    """Write logs by name and return the table that the example prints."""
    for name, content in logs.items():
        (folder / f"{name}.txt").write_text(content)
    paths = [str(folder / f"{name}.txt") for name in logs]
    out = io.StringIO()
    monkeypatch.setattr(sys, "argv", ["ingest_nanogpt.py", *paths, *options])
    monkeypatch.setattr(sys, "stdout", out)
    example.main()
    return out.getvalue()


@pytest.mark.parametrize("trainer", LOGS)
def test_logs_become_a_study(example, monkeypatch, tmp_path, trainer):
    names = [f"{entry}-seed{seed}" for entry in ("adamw", "muon-2") for seed in (0, 1)]
    logs = dict.fromkeys(names, LOGS[trainer])
    text = write_table(example, monkeypatch, tmp_path, logs, "--tokens-per-step", "1000")
    assert list(csv.DictReader(io.StringIO(text)))[-1]["entry"] == "muon-2"
    (tmp_path / "runs.csv").write_text(text)
    store = Store(tmp_path / "results")
    outcome = ingest(IngestRequest(tmp_path / "runs.csv", "logs", ("adamw",)), store)
    assert (outcome.n_entries, outcome.n_runs, outcome.n_failed) == (2, 4, 0)
    last = store.runs("logs")[0].imported.evals[-1]
    assert (last.step, last.val_loss) == EXPECTED[trainer][-1][:2]
    assert last.tokens == 1000 * last.step


def test_a_run_that_diverged_is_kept(example, monkeypatch, tmp_path):
    logs = {"adamw-seed0": LOGS["nanogpt"], "adamw-seed1": NANOGPT.replace("{val_loss}", "nan")}
    text = write_table(example, monkeypatch, tmp_path, logs)
    assert math.isnan(float(list(csv.DictReader(io.StringIO(text)))[-1]["val_loss"]))
    (tmp_path / "runs.csv").write_text(text)
    request = IngestRequest(tmp_path / "runs.csv", "logs", ("adamw",))
    assert ingest(request, Store(tmp_path / "results")).n_failed == 1


@pytest.mark.parametrize(
    ("name", "content"), [("adamw", LLMC), ("adamw-seed0", "nothing")], ids=["name", "content"]
)
def test_a_log_without_seed_or_loss_is_refused(
    example, monkeypatch, tmp_path, capsys, name, content
):
    with pytest.raises(SystemExit) as end:
        write_table(example, monkeypatch, tmp_path, {name: content})
    assert end.value.code == 2
    assert str(tmp_path / f"{name}.txt") in capsys.readouterr().err


TABLES = re.findall(r"((?:^ {6}\S.*\n)+)", DOCS, re.MULTILINE)


@pytest.mark.parametrize("text", TABLES, ids=["runs", "evaluations", "seeds"])
def test_each_table_of_the_docs_is_accepted(tmp_path, text):
    lines = [line.strip() for line in text.splitlines()]
    (tmp_path / "runs.csv").write_text("\n".join(lines))
    request = IngestRequest(tmp_path / "runs.csv", "s", ("adamw",), allow_missing_seeds=True)
    assert ingest(request, Store(tmp_path / "results")).n_runs


def test_the_docs_name_every_option_and_column(tmp_path):
    from harness.ingest.runs import LOSS, OPTIONAL, SEED

    shown = Harness(tmp_path)("ingest", "--help").stdout
    options = set(re.findall(r"--[a-z-]+", shown)) - {"--help", "--results", "--out"}
    assert options and options <= set(re.findall(r"--[a-z-]+", DOCS))
    for column in (SEED, LOSS, *OPTIONAL):
        assert f"| `{column}` |" in DOCS


def test_the_docs_name_existing_files():
    names = re.findall(r"\]\((?!https?:|#)([\w./]+)\)", DOCS)
    assert names and all((ROOT / "docs" / name).resolve().exists() for name in names)
