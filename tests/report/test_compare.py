"""A comparison finds regressions between two commits and reports none without a difference."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from harness.analysis import dataset
from harness.cli import app as cli
from harness.report.compare import charts, comparison, sources
from harness.results.records import (
    ArchivedFile,
    CodeManifest,
    LaunchInputs,
    LaunchRecord,
    LookPlan,
)
from harness.results.records.study_comparison import StudyComparison
from harness.results.store import Store

AXES = {"positional": ["learned", "rope"], "attention": ["mha"], "parallelism": ["single"]}


@pytest.fixture
def before(fake):
    fake.axes, fake.seeds, fake.steps, fake.n_warmup = AXES, tuple(range(6)), 40, 2
    return fake.write()


def after(before, edit=lambda run, line: line, **changes):
    """Write the study again to another folder, with each step changed by `edit(run_id, step)`."""
    other = replace(before, root=before.root.with_name("after"), **changes).write()
    for run in other.store.runs(other.name):
        for path in run.path.glob("steps.*"):
            lines = [
                json.dumps(edit(run.run_id, json.loads(line)))
                for line in path.read_text().splitlines()
            ]
            path.write_text("".join(line + "\n" for line in lines))
    return other


def compared(*sides, out, results="results"):
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", *map(str, sides), "--out", str(out), "--results", str(results)])
    assert stop.value.code == 0
    (folder,) = out.iterdir()
    page = (folder / "report.md").read_text()
    named = re.findall(r"\]\((figures/[^)]+)\)", page)
    assert sorted(named) == sorted(
        str(path.relative_to(folder)) for path in folder.glob("figures/*.png")
    )
    StudyComparison.model_validate_json((folder / "summary.json").read_text())
    return json.loads((folder / "summary.json").read_text()), page


def timing(factor=1.0):
    """Return what gives each step a time of its own, slower by a factor in the mean."""
    noise = np.random.default_rng(3)
    return lambda run_id, line: (
        line | {"step_s": line["step_s"] * factor * (1 + 0.01 * noise.standard_normal())}
    )


def test_the_same_code_is_bitwise_identical_and_not_faster(before, tmp_path):
    other = after(before, timing())
    found, page = compared(before.root / "tiny", other.root / "tiny", out=tmp_path / "out")
    assert [pair["bitwise"] for pair in found["pairs"]] == [True, True]
    assert {pair["tokens_per_s"]["verdict"] for pair in found["pairs"]} == {"unresolved"}
    assert "Losses: bitwise identical in all 2 entries." in page
    assert "Throughput: 2 unresolved" in page
    assert "Peak memory: 2 equivalent (1.000x to 1.000x)" in page


def test_a_slower_commit_is_found_with_its_size(before, tmp_path):
    other = after(before, timing(1.1), env={"learned-mha-single": {"git_commit": "feedface" * 5}})
    found, page = compared(before.root / "tiny", other.root / "tiny", out=tmp_path / "out")
    for pair in found["pairs"]:
        assert pair["tokens_per_s"]["verdict"] == "worse"
        assert pair["tokens_per_s_ratio"]["ratio"] == pytest.approx(1 / 1.1, rel=0.02)
    assert "Throughput: 2 worse (learned, rope) (0.9" in page
    assert "git_commit" in found["environment_diff"] and "not comparable" not in page


def test_one_bit_of_one_loss_is_seen(before, tmp_path):
    def nudge(run_id, line):
        changed = run_id.startswith("rope-mha-single-s3") and line["step"] == 7
        return line | {"loss": math.nextafter(line["loss"], 9.0)} if changed else line

    found, page = compared(
        before.root / "tiny", after(before, nudge).root / "tiny", out=tmp_path / "out"
    )
    assert {pair["entry"]: pair["bitwise"] for pair in found["pairs"]} == {
        "learned-mha-single": True,
        "rope-mha-single": False,
    }
    assert "bitwise identical in 1 of 2 entries; of the others 1 equivalent" in page


def test_a_different_machine_or_setting_is_a_warning(before, tmp_path):
    other = after(
        before, env={"rope-mha-single": {"cpu": "Another CPU"}}, tokens=2048, settings_hash="beef"
    )
    found, page = compared(before.root / "tiny", other.root / "tiny", out=tmp_path / "out")
    assert (
        "Throughputs are not comparable, other processor (Another CPU, Example CPU" in page
        and found["environment_diff"]["cpu"][1][0] == "Another CPU"
    )
    assert (
        found["settings_diff"] == {"train.tokens_per_step": [1024, 2048]}
        and "Settings differ" in page
    )
    assert all(pair["val_loss"] for pair in found["pairs"])
    assert "Trained on 81,920 tokens in" in page and "on 40,960 in" in page


def test_losses_on_different_windows_are_not_compared(before, tmp_path):
    """The weights may be the same bit for bit: a verdict would be one on the validation text."""
    other = after(before, overrides={"train.eval_tokens": 512}, settings_hash="beef")
    found, page = compared(before.root / "tiny", other.root / "tiny", out=tmp_path / "out")
    assert not found["losses_comparable"]
    assert {pair["val_loss"] for pair in found["pairs"]} == {None}
    assert "Losses are not comparable, other eval_tokens (512, all)" in page
    assert "| not comparable |" in page and found["pairs"][0]["tokens_per_s"]


def test_other_tokenizers_are_compared_in_bits_per_byte(before, tmp_path):
    other = after(before, tokenizer="gpt2", settings_hash="beef")
    found, page = compared(before.root / "tiny", other.root / "tiny", out=tmp_path / "out")
    assert found["losses_comparable"]
    assert {pair["val_loss"]["unit"] for pair in found["pairs"]} == {"bits per byte"}
    assert "compared in bits per byte" in page and "figures/curves" not in page  # nats per token


def test_unmatched_entries_and_statuses_are_listed(before, tmp_path):
    axes = AXES | {"positional": ["learned", "alibi"]}
    other = after(
        before, axes=axes, outcome={"learned-mha-single-s0": ("failed", "oom", "too large")}
    )
    found, page = compared(before.root / "tiny", other.root / "tiny", out=tmp_path / "out")
    assert (found["only_in_a"], found["only_in_b"]) == (["rope-mha-single"], ["alibi-mha-single"])
    assert found["pairs"][0]["seeds"] == [1, 2, 3, 4, 5] and "5 done, 1 failed" in page


def test_an_axis_that_one_lacks_matches_the_baseline(before, tmp_path):
    wider = AXES | {"norm": ["layernorm", "rmsnorm"]}
    other = replace(
        before, name="wide", axes=wider, baseline=before.baseline | {"norm": "layernorm"}
    ).write()
    found, _ = compared("tiny", "wide", out=tmp_path / "out", results=other.root)
    assert [pair["entry"] for pair in found["pairs"]] == [
        "learned-mha-single-layernorm",
        "rope-mha-single-layernorm",
    ]
    assert len(found["only_in_b"]) == 2 and not found["only_in_a"]


def test_two_commits_of_one_results_folder(before, tmp_path, capsys):
    newer = {"git_commit": "feedface" * 5}
    for run in Store(before.root).runs("tiny"):
        if run.run_id.split("-")[3] in ("s3", "s4", "s5"):
            run.write_env(run.env.model_copy(update=newer))
    with pytest.raises(SystemExit) as stop:
        cli.main(
            [
                "compare",
                "tiny@0123",
                "tiny@nope",
                "--results",
                str(before.root),
                "--out",
                str(tmp_path / "out"),
            ]
        )
    assert stop.value.code == 2 and "allowed: 01234567, feedface" in capsys.readouterr().err
    found, page = compared(
        "tiny@0123456", "tiny@feedface", out=tmp_path / "out", results=before.root
    )
    assert found["pairs"][0]["seeds"] == [] and "no seed" not in page
    assert {pair["val_loss"]["method"] for pair in found["pairs"]} == {"Welch"}
    assert "do not match" in page and "one of the two has none" not in page


@pytest.mark.parametrize("second", ["tiny", "{root}/tiny"])
def test_a_study_with_itself_is_refused(before, tmp_path, capsys, second):
    with pytest.raises(SystemExit) as stop:
        cli.main(
            [
                "compare",
                "tiny",
                second.format(root=before.root),
                "--results",
                str(before.root),
                "--out",
                str(tmp_path / "out"),
            ]
        )
    assert stop.value.code == 2 and "are the same runs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_study_of_one_entry_has_verdicts(fake, tmp_path):
    """Both sides have the same label: one must not take the place of the other."""
    fake.axes = AXES | {"positional": ["learned"]}
    fake.seeds = (0, 1, 2, 3)
    noise = np.random.default_rng(0)
    before = after(fake.write(), timing())
    second = replace(before, gain={"learned-mha-single": -0.5}, root=fake.root.with_name("second"))
    for run in second.write().store.runs(second.name):
        path = run.path / "eval.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[-1]["val_loss"] += 0.01 * noise.standard_normal()
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, page = compared(before.root / "tiny", second.root / "tiny", out=tmp_path / "out")
    (pair,) = found["pairs"]
    assert pair["val_loss"]["verdict"] == "better"
    assert pair["tokens_per_s"]["verdict"] is not None
    assert "as one of the two has none" not in page


def test_seeds_added_because_of_results_lower_the_level(before, tmp_path):
    """Else looking twice at a study would double the error rate of its comparison."""
    other = after(before, timing(1.005))
    once, _ = compared(before.root / "tiny", other.root / "tiny", out=tmp_path / "once")
    run_ids = [run.run_id for run in other.store.runs("tiny")]
    plan = LookPlan(seeds=list(range(12)), looks=[6, 12])
    launch = LaunchRecord(order=run_ids, settings_hash=other.settings_hash, looks=plan)
    other.store.record_launch("tiny", launch)
    level = dataset.read(other.store, "tiny").level
    assert level < 0.05
    twice, _ = compared(before.root / "tiny", other.root / "tiny", out=tmp_path / "twice")
    for one, two in zip(once["pairs"], twice["pairs"], strict=True):
        p = one["tokens_per_s"]["p_adjusted"]
        assert two["tokens_per_s"]["p_adjusted"] == pytest.approx(min(1.0, p * 0.05 / level))
        low, _ = one["tokens_per_s"]["difference"]["ci95"]
        assert two["tokens_per_s"]["difference"]["ci95"][0] < low
    assert all(pair["tokens_per_s"]["p_adjusted"] < 0.5 for pair in once["pairs"])


def record_code(study, files, packages):
    """Archive code, by name and (content, syntax hash), and packages as those of the runs."""
    archive = study.store.archive(study.name)
    manifest = {}
    for name, (content, syntax) in files.items():
        manifest[name] = ArchivedFile(syntax_sha256=syntax, file=archive.add(content, ".py"))
    archive.add_code(study.root.name, CodeManifest(files=manifest))
    run_ids = []
    for run in study.store.runs(study.name):
        run.update_spec(run.spec.model_copy(update={"code_hash": study.root.name}))
        run_ids.append(run.run_id)
    inputs = LaunchInputs(
        study_file="",
        folder="",
        settings=[],
        seeds=None,
        where=[],
        packages=archive.add(packages, ".txt"),
        git_commit=None,
        data_folder=None,
    )
    launch = LaunchRecord(order=run_ids, settings_hash=study.settings_hash, inputs=inputs)
    study.store.record_launch(study.name, launch)


def test_changed_code_and_packages_are_listed(before, tmp_path):
    other = after(before)
    old = {
        "harness/model/gpt.py": (b"a = 1\nb = 2\n", "s1"),
        "harness/same.py": (b"same", "s2"),
        "variants/norm/old.py": (b"old\n", "s3"),
        "harness/comment.py": (b"c = 3\n", "s4"),
    }
    new = {
        "harness/model/gpt.py": (b"a = 1\nb = 3\nc = 4\n", "s5"),
        "harness/same.py": (b"same", "s2"),
        "variants/norm/new.py": (b"new\n", "s6"),
        "harness/comment.py": (b"c = 3  # three\n", "s4"),
    }
    record_code(before, old, b"numpy==1.0\nsame==2\ngone==1\nown @ file:///secret/place\n")
    record_code(other, new, b"numpy==1.1\nsame==2\nown @ file:///other/place\n")
    found, page = compared(before.root / "tiny", other.root / "tiny", out=tmp_path / "out")
    changes = {}
    for file in found["code_diff"]:
        changes[file["name"]] = (file["change"], file["lines_added"], file["lines_removed"])
    assert changes == {
        "harness/model/gpt.py": ("changed", 2, 1),
        "variants/norm/new.py": ("added", 1, 0),
        "variants/norm/old.py": ("removed", 0, 1),
        "harness/comment.py": ("reformatted", 1, 1),
    }
    assert found["packages_diff"] == {"gone": ["1", None], "numpy": ["1.0", "1.1"]}
    assert "the code of 3 files (`harness/model/gpt.py`," in page
    assert "+b = 3" in page and "| numpy" in page and "secret" not in page


def test_code_that_is_not_archived_is_not_called_equal(before, tmp_path):
    other = after(before)
    record_code(before, {"harness/a.py": (b"a", "s")}, b"numpy==1\n")
    found, page = compared(before.root / "tiny", other.root / "tiny", out=tmp_path / "out")
    sides = [str(other.root / "tiny")]
    assert found["code_unknown"] == sides and found["packages_unknown"] == sides
    assert "The code is not archived of" in page
    assert "No setting or machine differs; not recorded: the code, the packages." in page


def test_a_chart_has_each_tested_entry_once_best_first(before):
    """Copies under other parallelisms repeat the same losses."""
    axes = AXES | {"parallelism": ["single", "ddp2"]}
    first = after(replace(before, axes=axes, root=before.root.with_name("wide")).write())
    gain = {"rope-mha-single": -0.5, "rope-mha-ddp2": -0.5}
    second = replace(first, gain=gain, root=before.root.with_name("second")).write()
    a = sources.Source("a", dataset.read(first.store, "tiny"), first.store.archive("tiny"))
    b = sources.Source("b", dataset.read(second.store, "tiny"), second.store.archive("tiny"))
    result, _ = comparison.compare(a, b, "2026-01-01T00:00:00+00:00")
    by_name = {chart.name: chart.plot for chart in charts.build(result, a, b)}
    forest = by_name["answer"]
    assert [row.entry for row in forest.rows] == ["rope-mha-single", "learned-mha-single"]
    for row in forest.rows:
        pair = next(pair for pair in result.pairs if pair.entry == row.entry)
        assert (row.value, row.interval) == (
            pair.val_loss.difference.mean,
            pair.val_loss.difference.ci95,
        )
        assert row.verdict == ("bitwise equal" if pair.bitwise else "no interval")
    losses, differences = by_name["curves"].panels
    styles = [(line.entry, line.style.dash) for line in losses.lines]
    assert styles == [
        (entry, dash)
        for entry in ("rope-mha-single", "learned-mha-single")
        for dash in ("solid", "dash")
    ]
    colours = {line.style.colour for line in losses.lines if line.entry == "rope-mha-single"}
    assert colours == {forest.rows[0].swatch}
    for line in differences.lines:
        pair = next(pair for pair in result.pairs if pair.entry == line.entry)
        assert line.y[-1] == pytest.approx(pair.val_loss.difference.mean)


def test_runs_of_several_versions_of_the_code_are_named(before, tmp_path):
    """Else a side whose code was edited between its runs looks like one version."""
    other = after(before)
    record_code(before, {"harness/a.py": (b"a = 1\n", "s1")}, b"")
    record_code(other, {"harness/a.py": (b"a = 2\n", "s2")}, b"")
    archive = other.store.archive("tiny")
    old = ArchivedFile(syntax_sha256="s1", file=archive.add(b"a = 1\n", ".py"))
    archive.add_code("earlier", CodeManifest(files={"harness/a.py": old}))
    first = other.store.runs("tiny")[0]
    first.update_spec(first.spec.model_copy(update={"code_hash": "earlier"}))
    found, page = compared(before.root / "tiny", other.root / "tiny", out=tmp_path / "out")
    assert found["code_mixed"] == [str(other.root / "tiny")]
    assert "used several versions of the code" in page
    assert "outdated" not in {caveat["kind"] for caveat in found["caveats"]}


def test_other_software_is_not_called_equal(before, tmp_path):
    """Packages may not be archived; the version of torch is known of each run."""
    other = after(before, env={"rope-mha-single": {"torch": "9.9"}})
    _, page = compared(before.root / "tiny", other.root / "tiny", out=tmp_path / "out")
    assert "What differs: 1 package (`torch`)." in page


def test_a_model_that_is_not_known_does_not_differ(before, tmp_path):
    failed = {f"rope-mha-single-s{seed}": ("failed", "oom", "too large") for seed in before.seeds}
    other = after(before, outcome=failed)
    _, page = compared(before.root / "tiny", other.root / "tiny", out=tmp_path / "out")
    assert "Models that differ" not in page and "### Models" not in page
