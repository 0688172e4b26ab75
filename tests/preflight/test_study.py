"""A model that violates the contract is refused before anything starts, or marked as permitted."""

import json
import shutil

import pytest

from harness.preflight import cache, models

LEAK = """from variants.mlp.gelu import Gelu
class Leak(Gelu):
    def forward(self, x):
        return super().forward(x.roll(-1, dims=-2))
"""
ALLOW = 'allow = ["non-causal"]'


def write_variant(study, axis, name, text):
    file = study.harness.folder / f"mine/{axis}/{name}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.fixture
def leaky(study):
    """Return a study whose second MLP reads the next token."""
    write_variant(study, "mlp", "leak", LEAK)
    study.write("mine", mlp='["gelu", "leak"]')
    return study


@pytest.fixture
def n_checked(monkeypatch):
    """Return a list with an element for each model that is checked, and not found in the cache."""
    checked = []
    check = models._check

    def counted(spec):
        checked.append(spec.entry)
        return check(spec)

    monkeypatch.setattr(models, "_check", counted)
    return checked


def test_a_leak_is_refused_and_nothing_is_written(leaky):
    """Its loss would win every comparison."""
    printed = leaky.run(code=2)
    assert "learned-mha-leak: causality: h.0.mlp (Leak" in printed
    assert "the output at position 0 depends on token 1" in printed
    assert 'permit it by [study] allow = ["non-causal"]' in printed
    assert "learned-mha-gelu" not in printed and not leaky.has_results
    assert leaky.run("--dry-run", code=2) == printed


def test_a_leak_that_is_not_selected_does_not_matter(leaky):
    leaky.run("--dry-run", "--where", "mlp=gelu")


def test_models_with_the_same_fault_are_reported_once(study):
    """Twenty combinations of one faulty variant would fill the screen."""
    write_variant(study, "mlp", "leak", LEAK)
    study.write("mine", mlp='["leak"]', norm='["layernorm", "rmsnorm"]', attention='["mha", "mqa"]')
    printed = study.run(code=2)
    assert "learned-mha-layernorm-leak and 3 more: causality: h.0.mlp (Leak" in printed
    assert len(printed.splitlines()) == 2


def test_faults_of_several_models_are_reported_together(study):
    write_variant(study, "mlp", "leak", LEAK)
    write_variant(study, "mlp", "dead", LEAK.replace("x.roll(-1, dims=-2)", "x.detach()"))
    raising = LEAK.replace("super().forward(x.roll(-1, dims=-2))", "x[0, 0, 0, 0]")
    file = write_variant(study, "norm", "raises", raising)
    study.write("mine", mlp='["leak", "dead"]', norm='["layernorm", "raises"]')
    text = study.path.read_text().replace('["layernorm", "raises"]', '["layernorm"]')
    study.path.write_text(text)
    printed = study.run(code=2)
    assert "error: 2 problems" in printed
    assert "leak: causality: " in printed and "dead: gradients: " in printed
    assert file.exists()


def test_a_source_of_other_runs_is_checked(study):
    """Runs that start from a run that saw later tokens would look better."""
    write_variant(study, "mlp", "leak", LEAK)
    study.write("mine", more='[init]\nfrom_run = { mlp = "leak" }\n')
    assert "learned-mha-leak: causality: " in study.run(code=2)


@pytest.mark.distributed
def test_an_allowed_leak_is_recorded_and_stamped(leaky):
    """A study of bidirectional models is possible, and can't be mistaken for another."""
    leaky.write("mine", mlp='["gelu", "leak"]', study=ALLOW)
    leaky.run("--set", "train.steps=2")
    allowed = {run.spec.axes["mlp"].name: run.spec.allowed for run in leaky.harness.runs()}
    assert allowed["gelu"] == []
    assert [violation.kind for violation in allowed["leak"]] == ["non-causal"]
    leaky.harness("report", "s")
    summary = json.loads((leaky.harness.folder / "reports/s/summary.json").read_text())
    assert [(c["kind"], c["entry"]) for c in summary["caveats"] if c["kind"] == "non-causal"] == [
        ("non-causal", "learned-mha-leak-single")
    ]
    page = (leaky.harness.folder / "reports/s/report.md").read_text()
    assert "depends on token 1" in page[: page.index("## ", 200)]


def test_a_permission_does_not_make_other_runs(leaky):
    """Results from before would be lost."""
    run_ids = []
    for study in ("", ALLOW):
        leaky.write("mine", mlp='["gelu", "leak"]', study=study)
        where = [] if study else ["--where", "mlp=gelu"]
        out = leaky.harness("run", leaky.path, "--dry-run", *where).stdout
        run_ids.append({line for line in out.splitlines() if "gelu" in line})
    assert run_ids[0] == run_ids[1]


def test_only_causality_may_be_permitted(study):
    write_variant(study, "mlp", "dead", LEAK.replace("x.roll(-1, dims=-2)", "x.detach()"))
    study.write("mine", mlp='["dead"]', study=ALLOW)
    assert "dead: gradients: " in study.run(code=2)
    study.write("mine", study='allow = ["batch"]')
    assert "study.allow[0]: 'batch': input should be 'non-causal'" in study.run(code=2)


def test_a_second_start_checks_nothing_again(study, n_checked):
    write_variant(study, "mlp", "mine", LEAK.replace("x.roll(-1, dims=-2)", "x"))
    study.write("mine", mlp='["gelu", "mine"]')
    study.run("--dry-run")
    assert len(n_checked) == 2
    study.run("--dry-run")
    assert len(n_checked) == 2
    study.run("--dry-run", "--set", "train.precision=bf16")
    assert len(n_checked) == 4, "the precision is a condition of the checks"


@pytest.mark.parametrize("edited", ["variant", "helper", "option", "shape"])
def test_what_changes_a_model_checks_it_again(study, n_checked, edited):
    """An edited variant would pass with the outcome of the code before."""
    helper = write_variant(study, "mlp", "_helper", "def same(x):\n    return x\n")
    text = (
        "import importlib.util, pathlib\n"
        "spec = importlib.util.spec_from_file_location(\n"
        "    '_helper', pathlib.Path(__file__).with_name('_helper.py'))\n"
        "helper = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(helper)\n" + LEAK.replace("x.roll(-1, dims=-2)", "helper.same(x)")
    )
    file = write_variant(study, "mlp", "mine", text)
    study.write("mine", mlp='["mine"]')
    study.run("--dry-run")
    leaked = False
    if edited == "variant":
        file.write_text(text.replace("helper.same(x)", "x.roll(-1, dims=-2)"))
        leaked = True
    elif edited == "helper":
        helper.write_text("def same(x):\n    return x.roll(-1, dims=-2)\n")
        file.touch()
        leaked = True
    elif edited == "option":
        study.write("mine", mlp='[{ variant = "mine", width = 8 }]')
    else:
        study.path.write_text(study.path.read_text().replace("n_layer = 2", "n_layer = 3"))
    study.run("--dry-run", code=2 if leaked else 0)
    assert len(n_checked) == 2


def test_slow_checks_report_their_progress(study, monkeypatch):
    """A start of a large study that prints nothing for a minute seems to hang."""
    write_variant(study, "mlp", "unused", LEAK)
    study.write("mine", norm='["layernorm", "rmsnorm"]')
    assert "checking" not in study.run("--dry-run", "--where", "norm=layernorm")
    monkeypatch.setattr(models, "QUIET_S", 0.0)
    printed = study.run("--dry-run")
    assert "checking 2 models before the start" in printed and "checked 1 models in" in printed


def test_seeds_and_parallelisms_share_a_check(study, n_checked):
    study.write("mine", parallelism='["single", { variant = "ddp", nproc = 2 }]')
    write_variant(study, "mlp", "unused", LEAK)
    study.run("--dry-run", "--seeds", "0,1,2")
    assert len(n_checked) == 1


def test_a_damaged_or_read_only_cache_costs_only_time(study, n_checked, monkeypatch):
    write_variant(study, "mlp", "unused", LEAK)
    study.write("mine")
    study.run("--dry-run")
    folder = study.harness.folder / "own_cache" / cache.FOLDER
    for file in folder.iterdir():
        file.write_text("[{}")
    study.run("--dry-run")
    shutil.rmtree(folder)
    folder.write_text("not a folder")
    study.run("--dry-run")
    assert len(n_checked) == 3
