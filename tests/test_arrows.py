"""The arrows of the architecture: who imports whom, and what starts at once because it loads no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {  # package: what nothing in it may import
    "variants": ["harness"],
    "harness/store.py": ["torch", "variants", "harness."],
    "harness/spec.py": ["torch", "variants"],
    "harness/data": ["torch", "variants", "harness.training", "harness.config", "harness.launch"],
    "harness/export": ["torch", "variants", "harness.training", "harness.config", "harness.launch"],
    "harness/report": ["torch", "variants", "harness.training", "harness.config", "harness.launch"],
    "harness/study": ["harness.launch", "harness.report"],
    "harness/launch": ["harness.training", "harness.config", "harness.report", "variants"],
    "harness/worker": ["harness.config", "harness.launch", "harness.report"],
}


def imported(file: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_nothing_imports_against_the_arrows(package):
    files = [ROOT / package] if package.endswith(".py") else sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = [
        (str(file.relative_to(ROOT)), name)
        for file in files
        for name in imported(file)
        for forbidden in FORBIDDEN[package]
        if name == forbidden.rstrip(".") or name.startswith(forbidden.rstrip(".") + ".")
    ]
    assert not wrong


@pytest.mark.parametrize("arguments", [["--help"], ["status"], ["report"]])
def test_what_only_reads_loads_no_torch(arguments, tmp_path):
    code = (
        "import sys; from harness.cli.app import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'variants', 'harness.config'} & sys.modules.keys()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_no_results_says_what_to_run(tmp_path):
    for command in ("status", "report"):
        result = subprocess.run(
            [sys.executable, "-m", "harness", command], cwd=tmp_path, capture_output=True, text=True
        )
        assert result.returncode == 2 and "python -m harness run ablations.toml" in result.stderr


def test_no_variant_is_named_outside_its_folder():
    from variants.base import AXES
    from variants.registry import files

    names = {name for axis in AXES for name in files(axis)} - {"none"}
    named = [
        (str(file.relative_to(ROOT)), node.value)
        for file in (ROOT / "harness").rglob("*.py")
        for compare in ast.walk(ast.parse(file.read_text()))
        if isinstance(compare, ast.Compare)
        for node in ast.walk(compare)
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert not named
