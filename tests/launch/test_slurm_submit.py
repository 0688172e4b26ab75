"""Without these, runs would be submitted twice or never, or with code that was edited since."""

import dataclasses
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness.errors import UserError
from harness.launch.slurm import commands, submit
from harness.launch.slurm.commands import CommandError, NoAnswerError, NodeEntry
from harness.launch.slurm.script import batch_script, path_problem, sbatch_arguments
from harness.launch.slurm.shapes import pack, parallel_elements, plan_jobs
from harness.launch.slurm.snapshot import plan_snapshot
from harness.provenance.sources import Sources
from harness.results.job_shape import cpu_shape, gpu_shape
from harness.results.records import (
    JobShape,
    LaunchSettings,
    ProbeResults,
    RunTime,
    SlurmSettings,
    Submission,
    VariantChoice,
)
from harness.results.run import Run
from harness.results.store import Store
from tests.tiny_run import tiny_spec

ROOT = Path(harness.__file__).parent.parent
ADAMW = VariantChoice(name="adamw", label="adamw", options={})
GPUS = SlurmSettings(gpus_per_node=4)
NODE = NodeEntry("n1", "p", is_default=True, cpus=8, gres="", features="")


@pytest.mark.parametrize(
    ("world_size", "n_devices", "shape"),
    [
        (1, 1, (1, 1, 1)),
        (2, 2, (1, 2, 2)),
        (1, 4, (1, 1, 4)),
        (4, 4, (1, 4, 4)),
        (8, 8, (2, 4, 4)),
        (12, 12, (3, 4, 4)),
    ],
)
def test_gpu_runs_fill_one_node_then_whole_nodes(world_size, n_devices, shape):
    found = gpu_shape(world_size, n_devices, GPUS)
    assert (found.n_nodes, found.processes_per_node, found.gpus_per_node) == shape


@pytest.mark.parametrize(("n", "nearest"), [(6, "4, 8"), (9, "8, 12"), (5, "4, 8")])
def test_gpus_of_part_of_a_node_are_refused_with_the_nearest(n, nearest):
    with pytest.raises(ValueError, match=nearest):
        gpu_shape(n, n, GPUS)


def test_one_process_cannot_use_gpus_of_two_nodes():
    with pytest.raises(ValueError, match="at most 4"):
        gpu_shape(1, 8, GPUS)


def test_cpu_runs_stay_on_one_node_unless_asked():
    assert cpu_shape(6, SlurmSettings()).n_nodes == 1
    two = cpu_shape(6, SlurmSettings(processes_per_node=3))
    assert (two.n_nodes, two.processes_per_node) == (2, 3)
    with pytest.raises(ValueError, match="4, 8"):
        cpu_shape(6, SlurmSettings(processes_per_node=4))


def specs_of(folder, n, nproc=1):
    spec = tiny_spec(folder, nproc=nproc, optimizer=ADAMW)
    return [spec.model_copy(update={"run_id": f"a-s{i}-{i:08x}", "seed": i}) for i in range(n)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "tokens.bin").write_bytes(bytes(4096))
    return folder


@pytest.fixture(scope="module")
def specs(folder):
    return specs_of(folder, 40)


@given(
    seconds=st.lists(st.floats(1, 2000), min_size=1, max_size=40),
    n_parallel=st.none() | st.integers(1, 50),
    limit=st.integers(1, 7),
    per_element=st.sampled_from(["auto", 1, 3]),
)
def test_each_run_is_in_one_element_in_order(specs, seconds, n_parallel, limit, per_element):
    runs = specs[: len(seconds)]
    settings = SlurmSettings(per_element=per_element, max_parallel=n_parallel)
    known = dict(zip((run.run_id for run in runs), seconds, strict=True))
    jobs = plan_jobs(runs, settings, limit, None, lambda spec: known[spec.run_id])
    assert [spec for job in jobs for element in job.elements for spec in element] == runs
    for job in jobs:
        assert 1 <= len(job.elements) <= limit
        for element in job.elements:
            total_s = sum(known[spec.run_id] for spec in element)
            assert element and (len(element) == 1 or total_s <= 600 or per_element != "auto")


@pytest.mark.parametrize(
    ("n_runs", "n_parallel", "sizes"),
    [(6, 2, [3, 3]), (6, 8, [1] * 6), (6, None, [1] * 6), (6, 1, [6]), (7, 3, [2, 3, 2])],
)
def test_short_runs_share_an_element_without_delay(specs, n_runs, n_parallel, sizes):
    elements = pack(specs[:n_runs], lambda spec: 20.0, n_parallel)
    assert [len(element) for element in elements] == sizes


@given(seconds=st.lists(st.floats(5, 20), min_size=1, max_size=29), n_parallel=st.integers(1, 9))
def test_sharing_an_element_delays_no_study(specs, seconds, n_parallel):
    runs = specs[: len(seconds)]
    known = dict(zip((run.run_id for run in runs), seconds, strict=True))
    elements = pack(runs, lambda spec: known[spec.run_id], n_parallel)
    times = [sum(known[spec.run_id] for spec in element) for element in elements]
    assert len(elements) <= max(n_parallel, 1) or len(elements) == len(runs)
    assert max(times) <= sum(seconds) / n_parallel + max(seconds)


def test_long_runs_have_an_element_each(specs):
    assert all(len(element) == 1 for element in pack(specs[:6], lambda spec: 400.0, 1))


def test_shapes_have_arrays_of_their_own(folder):
    runs = [*specs_of(folder, 2), *specs_of(folder, 2, nproc=2)]
    jobs = plan_jobs(runs, SlurmSettings(cpus_per_process=3), 1001, [NODE], lambda spec: 1.0)
    assert [job.shape.processes_per_node for job in jobs] == [1, 2]
    assert {job.shape.cpus_per_process for job in jobs} == {3}


@pytest.fixture
def slurm(monkeypatch):
    """Replace Slurm's commands; return the calls of sbatch."""
    calls = []

    def sbatch(arguments, script):
        calls.append((arguments, script))
        return str(100 + len(calls))

    monkeypatch.setattr(commands, "sbatch", sbatch)
    monkeypatch.setattr(commands, "max_array_size", lambda: 5)
    monkeypatch.setattr(commands, "nodes", lambda partition=None: [NODE])
    return calls


@pytest.fixture
def planned(tmp_path, specs):
    store = Store(tmp_path / "results")
    runs = []
    for spec in specs[:12]:
        code = Sources().code(spec)
        runs.append(spec.model_copy(update={"code_hash": code.hash}))
        store.run(spec.study, spec.run_id).create(runs[-1])
    return store, runs[0].study, runs


def test_submissions_are_split_and_recorded_with_their_jobs(planned, slurm):
    store, study, runs = planned
    submitted = submit.submit(store, study, runs, SlurmSettings(per_element=1), print)
    assert [len(submission.elements) for submission in submitted] == [5, 5, 2]
    assert store.submissions(study) == submitted
    assert [submission.job for submission in submitted] == ["101", "102", "103"]
    assert "--array=0-1" in slurm[-1][0]
    assert len({submission.name for submission in submitted}) == 3


def test_a_refused_job_leaves_no_record(planned, slurm, monkeypatch):
    store, study, runs = planned

    def refuse(arguments, script):
        raise CommandError("sbatch: invalid partition")

    monkeypatch.setattr(commands, "sbatch", refuse)
    with pytest.raises(UserError, match="invalid partition"):
        submit.submit(store, study, runs, SlurmSettings(), print)
    assert store.submissions(study) == []


@pytest.mark.parametrize("error", [NoAnswerError("sbatch: no answer"), KeyboardInterrupt()])
def test_a_job_without_an_answer_is_found_by_its_name(planned, slurm, monkeypatch, error):
    store, study, runs = planned

    def fail(arguments, script):
        raise error

    monkeypatch.setattr(commands, "sbatch", fail)
    with pytest.raises((UserError, KeyboardInterrupt)):
        submit.submit(store, study, runs, SlurmSettings(), print)
    (submission,) = store.submissions(study)
    assert submission.job is None and submission.name.startswith(f"ablations-{study}-")


def test_printing_writes_no_file(planned, slurm):
    store, study, runs = planned
    before = sorted(store.root.rglob("*"))
    text = submit.describe(store, study, runs, SlurmSettings(time="10"))
    assert sorted(store.root.rglob("*")) == before and not slurm
    assert "#SBATCH --time=10" in text and "sbatch --job-name" in text
    assert all(spec.run_id in text for spec in runs)


def test_the_time_of_an_earlier_run_decides_about_sharing(planned, slurm, monkeypatch):
    store, study, runs = planned
    sizes = []
    for train_s in (1.0, 700.0):
        time = RunTime(train_s=train_s, eval_s=0.0, total_s=train_s / 2)
        probes = property(lambda run, time=time: ProbeResults.model_construct(time=time))
        monkeypatch.setattr(Run, "probes", probes)
        jobs = submit.submit(store, study, runs, SlurmSettings(max_parallel=2), print)
        sizes.append([len(element) for job in jobs for element in job.elements])
    assert sizes == [[6, 6], [1] * 12]


def test_files_that_nodes_may_not_have_are_named(planned, slurm, monkeypatch):
    store, study, runs = planned
    monkeypatch.setattr(submit, "OWN_FOLDERS", (str(store.root.parent),))
    notes = []
    submit.submit(store, study, runs, SlurmSettings(), notes.append)
    assert [note for note in notes if note.startswith("results: ") and "do not share" in note]
    monkeypatch.setattr(submit, "OWN_FOLDERS", ("/elsewhere",))
    assert "do not share" not in submit.describe(store, study, runs, SlurmSettings())


def test_several_arrays_and_node_types_are_stated(planned, slurm, monkeypatch):
    store, study, runs = planned
    other = dataclasses.replace(NODE, name="n2", features="a100")
    monkeypatch.setattr(commands, "nodes", lambda partition=None: [NODE, other])
    notes = []
    submit.submit(store, study, runs, SlurmSettings(per_element=1, max_parallel=2), notes.append)
    text = "\n".join(notes)
    assert "max_parallel = 2 counts for each of the 3 array jobs" in text
    assert "8 cores (n1" in text and "8 cores, a100 (n2" in text and "constraint" in text
    notes.clear()
    submit.submit(store, study, runs, SlurmSettings(constraint="a100"), notes.append)
    assert "nodes of several types" not in "\n".join(notes)


def test_exclusive_times_need_whole_nodes(planned, slurm, monkeypatch):
    """Beside another job, the times of a run are those of both."""
    launch = LaunchSettings(timed="exclusive", slurm=SlurmSettings(options=["--mem=4G"]))
    whole = launch.job_settings()
    assert whole.options == ["--mem=4G", "--exclusive"]
    assert LaunchSettings(timed="exclusive", slurm=whole).job_settings() == whole
    assert LaunchSettings(slurm=launch.slurm).job_settings() == launch.slurm
    nodes = [NODE, dataclasses.replace(NODE, name="n2")]
    shape = JobShape()
    assert parallel_elements(shape, launch.slurm, nodes) == 16
    assert parallel_elements(shape, whole, nodes) == 2
    forced = dataclasses.replace(NODE, oversubscribe="FORCE:4")
    monkeypatch.setattr(commands, "nodes", lambda partition=None: [NODE, forced])
    with pytest.raises(UserError, match=r"launch.timed.* p,.*launch.slurm.partition"):
        submit.submit(*planned, whole, print)
    assert slurm == [] and planned[0].submissions(planned[1]) == []
    assert submit.submit(*planned, launch.slurm, print)
    assert "--exclusive" not in slurm[-1][0]
    monkeypatch.setattr(commands, "nodes", lambda partition=None: nodes)
    assert submit.submit(*planned, whole, print)
    assert slurm[-1][0][-1] == "--exclusive"


def test_code_edited_after_planning_is_not_submitted(planned, slurm):
    store, study, runs = planned
    stale = [spec.model_copy(update={"code_hash": "0" * 16}) for spec in runs]
    with pytest.raises(UserError, match="has changed since"):
        submit.submit(store, study, stale, SlurmSettings(), print)
    assert not slurm and store.submissions(study) == []


def test_runs_of_changed_code_are_set_aside(planned, slurm):
    store, study, runs = planned
    run = store.run(study, runs[0].run_id)
    run.update_spec(runs[0].model_copy(update={"code_hash": "0" * 16}))
    run.finish("failed", "error", "of older code")
    submit.submit(store, study, runs, SlurmSettings(), print)
    assert run.status.status == "pending"
    assert list((store.root / study / ".outdated").iterdir())


def test_edits_after_the_submission_change_nothing(planned, slurm, tmp_path):
    store, study, runs = planned
    mine = tmp_path / "my variants"
    (mine / "attention").mkdir(parents=True)
    variant = mine / "attention" / "mha.py"
    variant.write_text((ROOT / "variants/attention/mha.py").read_text())
    paths = {"variant_paths": [str(mine)]}
    spec = runs[0].model_copy(update={"launch": runs[0].launch.model_copy(update=paths)})
    spec = spec.model_copy(update={"code_hash": Sources().code(spec).hash})
    submit.submit(store, study, [spec], SlurmSettings(), print)
    variant.write_text(variant.read_text() + "\nEDITED = 1\n")
    snapshot = store.root.resolve() / study / ".code" / store.submissions(study)[0].code
    queued = store.run(study, spec.run_id).spec
    assert Sources(snapshot).code(queued).hash == spec.code_hash != Sources().code(spec).hash
    assert all(Path(path).is_relative_to(snapshot) for path in queued.launch.variant_paths)


def test_a_snapshot_runs_without_the_project(planned, tmp_path):
    store, study, runs = planned
    snapshot = plan_snapshot(store, study, runs)
    snapshot.write(runs)
    snapshot.write(runs)  # a second submission shares it
    code = "import harness, variants; print(harness.__file__, variants.__file__)"
    for arguments in (["-c", code], ["-m", "harness", "--version"]):
        result = subprocess.run(
            [sys.executable, "-P", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(snapshot.path)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        assert "harness" not in result.stdout or result.stdout.count(str(snapshot.path)) == 2
    assert len(list(snapshot.path.parent.iterdir())) == 1


HOSTILE = ["with space", "it's", 'a"b', "ünï-日本", "$HOME", "100%d", "#x", "a;b", "`id`", "&"]


@pytest.mark.parametrize("name", HOSTILE)
def test_paths_reach_python_as_they_are(name, tmp_path):
    file = tmp_path / name / "submissions" / "a1.json"
    file.parent.mkdir(parents=True)
    python = tmp_path / name / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$PYTHONPATH" "$ABLATIONS_DATA" "$@"\n')
    python.chmod(0o755)
    submission = Submission(id="a1", name="n", elements=[["r"]], python=str(python))
    code = tmp_path / name / "code"
    script = batch_script(submission, file, code, {"ABLATIONS_DATA": name})
    environment = {"PATH": os.environ["PATH"]}
    result = subprocess.run(["bash"], input=script, capture_output=True, text=True, env=environment)
    expected = [str(code), name, "-P", "-m", "harness", "_element", str(file)]
    assert result.stdout.splitlines() == expected
    assert path_problem(file) is None
    (output,) = [text for text in sbatch_arguments(submission, file) if "--output" in text]
    assert output.replace("%%", "%") == f"--output={file.with_suffix('')}.%a.log"


@pytest.mark.parametrize("name", ["a\nb", "a:b", "a\\b", "a\rb"])
def test_paths_that_slurm_reads_otherwise_are_refused(name):
    assert "move it" in str(path_problem(Path("/x") / name))


def test_the_script_asks_for_the_shape_and_the_signal():
    shape = JobShape(n_nodes=2, processes_per_node=4, gpus_per_node=4, cpus_per_process=3)
    settings = SlurmSettings(
        partition="p", account="a", qos="q", constraint="a100", time="1-0", signal_s=90,
        max_parallel=3, setup=["module load cuda"], options=["--mem=4G"],
    )  # fmt: skip
    submission = Submission(
        id="a1", name="n", shape=shape, elements=[["r"]] * 4, settings=settings, python="/py"
    )
    script = batch_script(submission, Path("/r/s/submissions/a1.json"), Path("/c"), {})
    for option in (
        "partition=p", "account=a", "qos=q", "constraint=a100", "time=1-0", "nodes=2",
        "ntasks-per-node=1", "cpus-per-task=12", "gres=gpu:4", "signal=B:USR1@90", "requeue",
        "open-mode=append",
    ):  # fmt: skip
        assert f"\n#SBATCH --{option}\n" in script
    assert script.index("#SBATCH --requeue") < script.index("module load cuda")
    assert script.splitlines()[-1] == shlex.join(
        ["exec", "/py", "-P", "-m", "harness", "_element", "/r/s/submissions/a1.json"]
    )
    arguments = sbatch_arguments(submission, Path("/r/s/submissions/a1.json"))
    assert {"--array=0-3%3", "--mem=4G", "--chdir=/r/s"} < set(arguments)
