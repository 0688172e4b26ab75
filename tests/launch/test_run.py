"""From a study to results: the whole line, in processes as a user starts them."""

import json
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from harness.results.store import Run, Store

pytestmark = pytest.mark.distributed

ATTENTION = (
    '["mha", { variant = "gqa", n_kv_head = 2 }, { variant = "sliding_window", window = 8 }]'
)
PARALLELISM = '["single", { variant = "ddp", nproc = 2 }, { variant = "fsdp", nproc = 2 }]'


@pytest.fixture(scope="module")
def results(harness):
    """Return what the run of a whole matrix printed, and its runs by entry."""
    study = harness.study('["learned", "rope"]', ATTENTION, PARALLELISM)
    printed = harness("run", study)
    return printed, {run.spec.entry: run for run in Store(harness.folder / "results").runs("s")}


def losses(run):
    return run.steps().loss


def test_every_entry_is_done_and_leaves_its_files(results):
    printed, runs = results
    assert len(runs) == 18 and printed.stdout == ""
    assert "18 of 18 done" in printed.stderr and "% of it training and evaluating" in printed.stderr
    for run in runs.values():
        assert run.status.status == "done" and run.status.reason is None
        world_size = run.spec.launch.world_size
        names = {path.name for path in run.path.iterdir()}
        steps = {f"steps.rank{rank}.jsonl" for rank in range(world_size)}
        assert (
            names
            == {
                "spec.json",
                "status.json",
                "env.json",
                "eval.jsonl",
                "probes.json",
                "log.txt",
                "checkpoint",
            }
            | steps
        )
        assert (
            run.env.world_size == world_size and run.env.deterministic and run.env.backend == "gloo"
        )
        assert len(run.steps()) == 8 and [line.step for line in run.evals()] == [0, 4, 8]
        assert np.isfinite(losses(run)).all() and losses(run)[-1] < losses(run)[0]
        assert len(run.probes.memory) == world_size and len(run.probes.initial_hash) == 64


def test_a_second_call_starts_nothing(harness, results):
    before = {path: path.stat().st_mtime_ns for path in harness.folder.glob("results/s/[!.]*/*")}
    assert len(before) == 18 * 8 + 12  # a step file more where there are two ranks
    printed = harness("run", harness.folder / "study.toml")
    assert "18 done, 0 to do" in printed.stderr
    assert {
        path: path.stat().st_mtime_ns for path in harness.folder.glob("results/s/[!.]*/*")
    } == before
    first, second = Store(harness.folder / "results").launches("s")
    assert (
        len(first.order) == 18
        and second.order == []
        and first.settings_hash == second.settings_hash
    )


def test_the_order_is_recorded_and_not_that_of_the_study(results, harness):
    launch = Store(harness.folder / "results").launches("s")[0]
    order, runs = launch.order, [run.run_id for run in results[1].values()]
    assert sorted(order) == sorted(runs)
    listed = json.loads(harness("list", harness.folder / "study.toml", "--json").stdout)["entries"]
    assert order != [entry["run_id"] for entry in listed]  # by chance once in 18! times


@pytest.mark.parametrize("attention", ["mha", "gqa2", "sliding_window8"])
@pytest.mark.parametrize("positional", ["learned", "rope"])
def test_parallelism_changes_nothing_but_where_it_is_computed(results, positional, attention):
    single, ddp, fsdp = (
        results[1][f"{positional}-{attention}-{name}"] for name in ("single", "ddp2", "fsdp2")
    )
    assert single.probes.initial_hash == ddp.probes.initial_hash == fsdp.probes.initial_hash
    for run in (ddp, fsdp):
        val, expected = (np.array([line.val_loss for line in one.evals()]) for one in (run, single))
        assert abs(val[0] - expected[0]) <= 1e-6
    assert (
        abs(losses(ddp) - losses(fsdp)).max() < 1e-5
    )  # they add up the gradient's norm in another order
    by_category = fsdp.probes.memory[0]
    for category in ("parameters", "gradients", "optimizer"):
        assert getattr(by_category, category) < 0.6 * getattr(ddp.probes.memory[0], category)


def test_the_command_torchrun_runs_one_entry_to_the_same_bits(results, harness, tmp_path):
    done = results[1]["rope-gqa2-ddp2"]
    copy = Run(tmp_path / done.run_id)
    copy.create(done.spec)
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    command = [*torchrun, "-m", "harness", "_worker", str(copy.path / "spec.json")]
    subprocess.run(
        command, env=harness.env | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True
    )
    assert copy.status.status == "done"
    assert (losses(copy) == losses(done)).all()


def test_the_same_study_gives_the_same_bits_again(results, harness):
    harness(
        "run",
        "study.toml",
        "--results",
        "again",
        where=["positional=rope", "attention=sliding_window"],
    )
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
    single, *others = sorted(
        Store(new_harness.folder / "results").runs("s"),
        key=lambda run: run.spec.launch.world_size,
    )
    for run in others:
        difference = abs(losses(run) - losses(single))
        assert difference[0] <= 1e-6 and difference[-1] <= 1e-3
    assert losses(single)[-1] < losses(single)[0] - 1


def test_bf16_trains_close_to_fp32(new_harness):
    study = new_harness.study('["rope"]', '["mha"]', PARALLELISM)
    new_harness("run", study, settings=["model.dropout=0.0", "train.precision=bf16"])
    new_harness("run", study, settings=["model.dropout=0.0"], where=["parallelism=single"])
    runs = Store(new_harness.folder / "results").runs("s")
    fp32 = next(run for run in runs if run.spec.train.precision == "fp32")
    assert len(runs) == 4
    for run in runs:
        assert abs(losses(run) - losses(fp32)).max() < 0.05


def test_a_failed_entry_stops_no_other_and_says_why(new_harness):
    study = new_harness.study('["learned", "raises", "diverges", "dies", "hangs", "greedy"]')
    new_harness.variant("raises", 'raise ZeroDivisionError("planted")')
    new_harness.variant("diverges", "x = x * float('inf') if self.training else x")
    new_harness.variant("dies", "os.kill(os.getpid(), signal.SIGKILL)")
    new_harness.variant("hangs", "time.sleep(600)")
    new_harness.variant("greedy", "torch.zeros(1 << 50)")
    quick = "positional=learned,raises,diverges,dies,greedy"
    printed = new_harness("run", study, "--where", quick, code=1)
    new_harness("run", study, "--where", "positional=hangs", "--set", "launch.timeout_s=8", code=1)
    runs = {
        run.spec.axes["positional"].name: run
        for run in Store(new_harness.folder / "results").runs("s")
    }
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
    assert "raises: failed (error: ZeroDivisionError: planted)" in new_harness(
        "status"
    ).stdout.replace(f"{runs['raises'].run_id}", "raises")


def test_retry_runs_what_failed_and_only_that(new_harness):
    study = new_harness.study('["learned", "rope", "flaky"]')
    flag = new_harness.folder / "mended"
    new_harness.variant("flaky", f"assert os.path.exists({str(flag)!r})")
    new_harness("run", study, "--where", "positional=learned,flaky", code=1)
    flag.touch()
    printed = new_harness("run", study, "--retry-failed", code=1)  # rope is still to be run
    assert "1 to do" in printed.stderr
    states = {
        run.spec.entry: run.status.status for run in Store(new_harness.folder / "results").runs("s")
    }
    assert states == {"learned-mha-single": "done", "flaky-mha-single": "done"}
    new_harness("run", study)


def wait_for_steps(folder, n=1):
    for _ in range(600):
        found = [run for run in Store(folder / "results").runs("s") if len(run.steps()) >= n]
        if found:
            return found[0]
        time.sleep(0.1)
    raise AssertionError("no run has begun")


@pytest.mark.parametrize(("how", "code"), [("terminate", 130), ("kill", -9)])
def test_a_stopped_study_leaves_no_process_and_goes_on(new_harness, how, code):
    study = new_harness.study('["slow"]', '["mha"]', '[{ variant = "ddp", nproc = 2 }]')
    fast = new_harness.folder / "fast"
    new_harness.variant("slow", f"time.sleep(0.0 if os.path.exists({str(fast)!r}) else 0.5)")
    process = new_harness.start("run", study)
    run = wait_for_steps(new_harness.folder)
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 3  # the fork server and two ranks
    assert "running at step" in new_harness("status").stdout
    getattr(process, how)()
    process.communicate()
    assert process.returncode == code
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    assert run.status.status == "interrupted"
    fast.touch()
    assert "1 of 1 done" in new_harness("run", study).stderr
    assert len(run.steps()) == 8


def test_dry_run_names_what_is_due_and_starts_nothing(new_harness):
    study = new_harness.study('["learned", "rope"]')
    printed = new_harness("run", study, "--dry-run")
    assert len(printed.stdout.split()) == 2 and not (new_harness.folder / "results").exists()


def test_compile_changes_speed_and_not_the_losses(new_harness):
    study = new_harness.study('["rope"]')
    new_harness(
        "run", study, settings=["train.compile=true", "model.dropout=0.0", "model.n_layer=1"]
    )
    new_harness("run", study, settings=["model.dropout=0.0", "model.n_layer=1"])
    compiled, eager = sorted(
        Store(new_harness.folder / "results").runs("s"), key=lambda run: not run.env.compile
    )
    assert abs(losses(compiled) - losses(eager)).max() < 1e-4


def test_no_loss_falls_below_the_entropy_of_the_corpus(new_harness):
    study = new_harness.study('["rope"]')
    settings = [
        "data.corpus=synthetic",
        "model.seq_len=128",
        "model.n_embd=64",
        "model.dropout=0.0",
    ]
    training = {
        "steps": 150,
        "tokens_per_step": 2048,
        "micro_batch_size": 16,
        "eval_every": 150,
        "eval_tokens": 16384,
    }
    new_harness(
        "run",
        study,
        settings=[*settings, *(f"train.{key}={value}" for key, value in training.items())],
    )
    (run,) = Store(new_harness.folder / "results").runs("s")
    floor, reached = run.spec.data.entropy_nats_per_byte, run.evals()[-1].val_loss
    assert 0.4 < floor < 0.7
    assert floor < reached < 2.75  # lower than with letter frequencies only, 2.9


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
    new_harness("run", "study.toml", "--where", "positional=learned")
    runs = {run.spec.entry: run for run in Store(new_harness.folder / "results").runs("s")}
    assert len(runs) == 5 and all(run.status.status == "done" for run in runs.values())
    source = runs.pop("start-learned-mha-fsdp2")
    assert len(source.steps()) == 4
    for name, run in runs.items():
        start = run.probes.init_report
        assert start.source == source.run_id
        converted = {tensor for tensor, how in start.tensors.items() if how.startswith("converted")}
        heads = {f"h.{layer}.attn.c_attn.{kind}" for layer in (0, 1) for kind in ("weight", "bias")}
        assert converted == (heads if "gqa" in name else set())
        if "mha" in name:
            assert abs(run.evals()[0].val_loss - source.evals()[-1].val_loss) < 1e-6
        (decoded,) = run.probes.decoding
        assert (
            decoded.cache_bytes == 2 * 2 * 2 * 8 * (16 if "gqa" in name else 32) * 4
            and decoded.decode_s
        )
    assert runs["learned-gqa_n_kv_head2_kvfirst-single"].probes.initial_hash == (
        runs["learned-gqa_n_kv_head2_kvfirst-fsdp2"].probes.initial_hash
    )
    assert "0 to do" in new_harness("run", "study.toml", "--where", "positional=learned").stderr
    new_harness("report", "s")


def test_a_run_whose_source_failed_stays_pending(new_harness):
    study = new_harness.study('["learned"]')
    new_harness.variant("breaks", 'raise ValueError("planted")')
    study.write_text(study.read_text() + '\n[init]\nfrom_run = { positional = "breaks" }\n')
    err = new_harness("run", "study.toml", code=1).stderr
    assert (
        "learned-mha-single-s0" in err
        and "not started: waits for start-breaks-mha-single-s0-" in err
    )
    found = {
        run.spec.entry: run.status.status for run in Store(new_harness.folder / "results").runs("s")
    }
    assert found == {"start-breaks-mha-single": "failed", "learned-mha-single": "pending"}
