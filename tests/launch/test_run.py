"""Without these, a study could lose runs, give other numbers, or fail without a reason."""

import json
import subprocess
import sys

import numpy as np
import pytest

from harness.results.run import Run
from harness.results.store import Store

pytestmark = pytest.mark.distributed

ATTENTION = '["mha", { variant = "gqa", n_kv_head = 2 }]'
FILES = {
    "spec.json",
    "status.json",
    "env.json",
    "eval.jsonl",
    "probes.json",
    "log.txt",
    "checkpoint",
}
PARALLELISM = '["single", { variant = "ddp", nproc = 2 }, { variant = "fsdp", nproc = 2 }]'


@pytest.fixture(scope="module")
def results(harness):
    """Return the output of a whole matrix that a user started, and its runs by entry."""
    study = harness.study('["learned", "rope"]', ATTENTION, PARALLELISM)
    printed = harness.process("run", study)
    return printed, by_entry(harness)


def by_entry(harness):
    return {run.spec.entry: run for run in harness.runs()}


def losses(run):
    return run.steps().loss


def test_every_entry_is_done_and_leaves_its_files(results):
    printed, runs = results
    assert len(runs) == 12 and "No verdict: every difference" in printed.stdout
    assert "12 of 12 done" in printed.stderr and "% of it training and evaluating" in printed.stderr
    for run in runs.values():
        assert run.status.status == "done" and run.status.reason is None
        world_size = run.spec.launch.world_size
        names = {path.name for path in run.path.iterdir()}
        steps = {f"steps.rank{rank}.jsonl" for rank in range(world_size)}
        assert names == FILES | steps
        assert run.env.world_size == world_size
        assert run.env.deterministic and run.env.backend == "gloo"
        assert len(run.steps()) == 8 and [line.step for line in run.evals()] == [0, 4, 8]
        assert np.isfinite(losses(run)).all() and losses(run)[-1] < losses(run)[0]
        assert len(run.probes.memory) == world_size and len(run.probes.initial_hash) == 64


def test_a_second_call_starts_nothing(harness, results):
    before = modification_times(harness.folder)
    in_runs = [path for path in before if "archive" not in path.parts]
    assert len(in_runs) == 12 * 9 + 8  # two ranks write one more step file
    assert len(before) > len(in_runs)
    printed = harness("run", harness.folder / "study.toml")
    assert "12 done, 0 to do" in printed.stderr
    assert modification_times(harness.folder) == before
    first, second = Store(harness.folder / "results").launches("s")
    assert len(first.order) == 12 and second.order == []
    assert first.settings_hash == second.settings_hash


def modification_times(folder):
    paths = folder.glob("results/s/[!.]*/**/*")
    return {path: path.stat().st_mtime_ns for path in paths if path.is_file()}


def test_the_recorded_order_is_not_that_of_the_study(results, harness):
    order = Store(harness.folder / "results").launches("s")[0].order
    assert sorted(order) == sorted(run.run_id for run in results[1].values())
    listed = json.loads(harness("list", harness.folder / "study.toml", "--json").stdout)["entries"]
    assert order != [entry["run_id"] for entry in listed]  # by chance once in 12! times


@pytest.mark.parametrize("attention", ["mha", "gqa2"])
@pytest.mark.parametrize("positional", ["learned", "rope"])
def test_parallelism_changes_no_result(results, positional, attention):
    _, runs = results
    single = runs[f"{positional}-{attention}-single"]
    ddp = runs[f"{positional}-{attention}-ddp2"]
    fsdp = runs[f"{positional}-{attention}-fsdp2"]
    assert single.probes.initial_hash == ddp.probes.initial_hash == fsdp.probes.initial_hash
    for run in (ddp, fsdp):
        assert abs(run.evals()[0].val_loss - single.evals()[0].val_loss) <= 1e-6
    # ddp and fsdp sum the squares of the gradient's norm in another order.
    assert abs(losses(ddp) - losses(fsdp)).max() < 1e-5
    sharded = fsdp.probes.memory[0]
    replicated = ddp.probes.memory[0]
    for category in ("parameters", "gradients", "optimizer"):
        assert getattr(sharded, category) < 0.6 * getattr(replicated, category)


def test_torchrun_runs_one_entry_to_the_same_bits(results, harness, tmp_path):
    done = results[1]["rope-gqa2-ddp2"]
    copy = Run(tmp_path / done.run_id)
    copy.create(done.spec)
    torchrun = "-m torch.distributed.run --standalone --nproc-per-node 2 -m harness _worker"
    command = [sys.executable, *torchrun.split(), str(copy.path / "spec.json")]
    env = harness.env | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=env, check=True, capture_output=True)
    assert copy.status.status == "done"
    assert (losses(copy) == losses(done)).all()


def test_the_same_study_gives_the_same_bits_again(results, harness):
    where = ["positional=rope", "attention=gqa"]
    harness("run", "study.toml", "--results", "again", where=where)
    runs = Store(harness.folder / "again").runs("s")
    assert len(runs) == 3
    for run in runs:
        first = results[1][run.spec.entry]
        assert (losses(run) == losses(first)).all()
        assert [line.val_loss for line in run.evals()] == [line.val_loss for line in first.evals()]
        assert run.probes.initial_hash == first.probes.initial_hash


def test_without_dropout_all_parallelisms_train_alike(new_harness):
    study = new_harness.study('["rope"]', '["mha"]', PARALLELISM)
    new_harness("run", study, settings=["model.dropout=0.0", "train.steps=30"])
    single, *others = sorted(new_harness.runs(), key=lambda run: run.spec.launch.world_size)
    for run in others:
        difference = abs(losses(run) - losses(single))
        assert difference[0] <= 1e-6 and difference[-1] <= 1e-3
    assert losses(single)[-1] < losses(single)[0] - 1


def test_bf16_trains_close_to_fp32(new_harness):
    study = new_harness.study('["rope"]', '["mha"]', PARALLELISM)
    new_harness("run", study, settings=["model.dropout=0.0", "train.precision=bf16"])
    new_harness("run", study, settings=["model.dropout=0.0"], where=["parallelism=single"])
    runs = new_harness.runs()
    fp32 = next(run for run in runs if run.spec.train.precision == "fp32")
    assert len(runs) == 4
    for run in runs:
        assert abs(losses(run) - losses(fp32)).max() < 0.05


def test_a_failed_entry_stops_no_other_and_says_why(new_harness):
    study = new_harness.study('["learned", "raises", "diverges", "dies", "hangs", "greedy"]')
    new_harness.variant("raises", 'raise ZeroDivisionError("planted")')
    new_harness.variant("diverges", "x = x * float('inf') if self.training else x")
    new_harness.variant("dies", "os.kill(os.getpid(), signal.SIGKILL)")
    new_harness.variant("hangs", "time.sleep(3600)")
    new_harness.variant("greedy", "torch.zeros(1 << 50)")
    quick = "positional=learned,raises,diverges,dies,greedy"
    printed = new_harness("run", study, "--where", quick, code=1)
    new_harness("run", study, "--where", "positional=hangs", "--set", "launch.timeout_s=5", code=1)
    runs = {run.spec.axes["positional"].name: run for run in new_harness.runs()}
    assert {name: (run.status.status, run.status.reason) for name, run in runs.items()} == {
        "learned": ("done", None),
        "raises": ("failed", "error"),
        "diverges": ("failed", "nan"),
        "dies": ("failed", "killed"),
        "hangs": ("failed", "timeout"),
        "greedy": ("failed", "oom"),
    }
    assert "ZeroDivisionError: planted" in printed.stderr and "1 of 5 done" in printed.stderr
    assert "SIGKILL" in runs["dies"].status.message
    assert np.isnan(losses(runs["diverges"])[0])

    again = new_harness("run", study, code=1)
    assert "5 failed earlier" in again.stderr and "0 to do" in again.stderr
    status = new_harness("status").stdout
    assert f"{runs['raises'].run_id}: failed (error: ZeroDivisionError: planted)" in status


def test_retry_runs_what_failed_and_only_that(new_harness):
    study = new_harness.study('["learned", "rope", "flaky"]')
    flag = new_harness.folder / "mended"
    new_harness.variant("flaky", f"assert os.path.exists({str(flag)!r})")
    new_harness("run", study, "--where", "positional=learned,flaky", code=1)
    flag.touch()
    printed = new_harness("run", study, "--retry-failed", code=1)  # rope is still to be run
    assert "1 to do" in printed.stderr
    states = {entry: run.status.status for entry, run in by_entry(new_harness).items()}
    assert states == {"learned-mha-single": "done", "flaky-mha-single": "done"}
    new_harness("run", study)


def test_dry_run_names_what_is_due_and_starts_nothing(new_harness):
    study = new_harness.study('["learned", "rope"]')
    printed = new_harness("run", study, "--dry-run")
    assert len(printed.stdout.split()) == 2 and not (new_harness.folder / "results").exists()


def test_compile_changes_speed_and_not_the_losses(new_harness):
    study = new_harness.study('["rope"]')
    settings = ["model.dropout=0.0", "model.n_layer=1"]
    new_harness("run", study, settings=["train.compile=true", *settings])
    new_harness("run", study, settings=settings)
    compiled, eager = sorted(new_harness.runs(), key=lambda run: not run.env.compile)
    assert abs(losses(compiled) - losses(eager)).max() < 1e-4


def test_no_loss_falls_below_the_entropy_of_the_corpus(new_harness):
    study = new_harness.study('["rope"]')
    settings = [
        "data.corpus=synthetic",
        "model.seq_len=128",
        "model.n_embd=64",
        "model.dropout=0.0",
        "train.steps=150",
        "train.tokens_per_step=2048",
        "train.micro_batch_size=16",
        "train.eval_every=150",
        "train.eval_tokens=16384",
    ]
    new_harness("run", study, settings=settings)
    (run,) = new_harness.runs()
    entropy = run.spec.data.entropy_nats_per_byte
    loss = run.evals()[-1].val_loss
    assert 0.4 < entropy < 0.7
    assert entropy < loss < 2.75  # a model of single letters reaches 2.9


def test_entries_start_from_another_runs_checkpoint(new_harness):
    """Uptraining as one study: the other runs start from the source's weights, some converted."""
    study = new_harness.study(
        '["learned", "rope"]',
        '["mha", { variant = "gqa", n_kv_head = 2, kv_pooling = "first" }]',
        '["single", { variant = "fsdp", nproc = 2 }]',
    )
    parallelism = '{ variant = "fsdp", nproc = 2 }'
    init = f"\n[init]\nfrom_run = {{ parallelism = {parallelism}, train = {{ steps = 4 }} }}\n"
    study.write_text(
        study.read_text() + init + "[probes]\ndecode = { batch = [2], context = [8] }\n"
    )
    new_harness("run", study, where=["positional=learned"])
    runs = by_entry(new_harness)
    assert len(runs) == 5 and all(run.status.status == "done" for run in runs.values())
    source = runs.pop("start-learned-mha-fsdp2")
    assert len(source.steps()) == 4
    for name, run in runs.items():
        init = run.probes.init_report
        assert init.source == source.run_id
        converted = {
            name for name, origin in init.tensors.items() if origin.startswith("converted")
        }
        heads = {f"h.{layer}.attn.c_attn.{kind}" for layer in (0, 1) for kind in ("weight", "bias")}
        assert converted == (heads if "gqa" in name else set())
        if "mha" in name:
            assert abs(run.evals()[0].val_loss - source.evals()[-1].val_loss) < 1e-6
        (decoded,) = run.probes.decoding
        width = 16 if "gqa" in name else 32
        assert decoded.cache_bytes == 2 * 2 * 2 * 8 * width * 4 and decoded.decode_s
    assert runs["learned-gqa_n_kv_head2_kv_poolingfirst-single"].probes.initial_hash == (
        runs["learned-gqa_n_kv_head2_kv_poolingfirst-fsdp2"].probes.initial_hash
    )
    assert "0 to do" in new_harness("run", study, where=["positional=learned"]).stderr
    new_harness("report", "s")


def test_a_run_whose_source_failed_stays_pending(new_harness):
    study = new_harness.study('["learned"]')
    new_harness.variant("breaks", 'raise ValueError("planted")')
    study.write_text(study.read_text() + '\n[init]\nfrom_run = { positional = "breaks" }\n')
    err = new_harness("run", study, code=1).stderr
    assert "learned-mha-single-s0" in err
    assert "not started: waits for start-breaks-mha-single-s0-" in err
    states = {entry: run.status.status for entry, run in by_entry(new_harness).items()}
    assert states == {"start-breaks-mha-single": "failed", "learned-mha-single": "pending"}
