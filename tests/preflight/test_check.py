"""`check` prints the outcome of every check, and its exit code says whether one failed."""

import pytest
from gallery import GALLERY, SCREEN, expectation, found

from variants import registry


@found("check")
def test_fault_of_one_part_is_found_in_its_file(study, file):
    """A model of the trained length does not show it; another study would."""
    printed = study.harness("check", file, code=2).stdout
    _, parts = expectation(file)
    (failed,) = [line for line in printed.splitlines() if "FAILED  " in line]
    assert all(part in failed for part in parts)
    assert len(printed.splitlines()) <= SCREEN


def test_checklist_of_a_file_names_every_check(study):
    printed = study.harness("check", GALLERY / "mlp/leak_next_token.py", code=2).stdout
    lines = printed.splitlines()[1:]
    outcomes = {line.split()[1]: line.split()[0] for line in lines}
    assert outcomes["causality"] == "FAILED" and outcomes["cache"] == "skipped"
    assert outcomes["gradients"] == "ok" and outcomes["positionwise"] == "FAILED"
    assert len(printed.splitlines()) <= SCREEN


def test_checklist_of_an_optimizer(study):
    """Every shipped optimizer passes, and a fault is named with its line."""
    for name, file in registry.files("optimizer").items():
        printed = study.harness("check", file).stdout
        assert printed.startswith(f"{name}: 6 ok\n"), printed
    file = GALLERY / "optimizer/hidden_state.py"
    printed = study.harness("check", file, code=2).stdout
    assert "FAILED   resume" in printed and f"{file}:11: " in printed


def test_options_of_a_file_are_stated_or_missing(study):
    """A variant whose option has no default can be checked, too."""
    file = registry.files("attention")["gqa"]
    error = study.harness("check", file, code=2).stderr
    assert "option.n_kv_head: missing, and has no default" in error
    error = study.harness("check", file, "--option", "n_kv_head=3", code=2).stderr
    assert "option.n_kv_head: 3 does not divide n_head = 4" in error
    error = study.harness("check", file, "--option", "n_kv_head", code=2).stderr
    assert "must be NAME=VALUE" in error


@pytest.mark.parametrize("name", ["missing.py", "mlp/missing.py", "missing.toml"])
def test_a_path_without_a_variant_is_named(study, name):
    assert name in study.harness("check", name, code=2).stderr


def test_faults_of_a_file_are_named_together(study):
    printed = study.harness("check", GALLERY / "norm/options_not_frozen.py", code=2).stderr
    assert "options_not_frozen.py:12: the dataclass Scaled.Options must be frozen" in printed


def test_checklist_of_a_study_covers_its_models(study):
    study.write(GALLERY, mlp='["gelu", "leak_next_token"]')
    printed = study.harness("check", study.path, code=2).stdout
    assert printed.startswith("learned-mha-gelu: ") and " ok\n" in printed.splitlines(True)[0]
    assert "\nlearned-mha-leak_next_token: " in printed and "FAILED   causality" in printed
    study.harness("check", study.path, "--where", "mlp=gelu")
    study.write(GALLERY, mlp='["leak_next_token"]', study='allow = ["non-causal"]')
    study.harness("check", study.path)
