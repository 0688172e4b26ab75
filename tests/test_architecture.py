"""The import order of the packages, and which commands start without loading torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Package: the packages it may import, lowest first. A package imports only from rows above its own,
# so that the table cannot hold a cycle. A new package or import needs a change here.
# `harness/__init__.py` (the version, and `load`, which imports lazily) is open to all.
IMPORTS = {
    "errors": "",
    "printable": "",
    "results": "errors",
    "provenance": "errors results",
    "variants": "",
    "system_limits": "variants",
    "study": "errors results",
    "analysis": "errors results provenance study",
    "ingest": "errors results analysis",
    "__init__": "analysis",
    "report": "errors printable results analysis",
    "export": "errors printable results analysis",
    "distributed": "variants",
    "model": "errors results variants distributed",
    "data": "errors results provenance",
    "probes": "errors results variants distributed model data",
    "contract": "errors results variants distributed model probes",
    "published": "errors results variants model data",
    "sampling": "errors results variants model data probes",
    "training": "errors system_limits results provenance variants distributed model data probes",
    "config": "errors results provenance study variants model data probes training",
    "preflight": "errors results provenance variants data config contract",
    "launch": "errors printable system_limits results provenance",
    "cli": "errors printable system_limits results provenance variants study analysis ingest "
    "report export model data published sampling training config contract preflight launch",
    "__main__": "cli",
}
TORCH_FREE = (
    "errors",
    "printable",
    "results",
    "provenance",
    "study",
    "__init__",
    "analysis",
    "ingest",
    "report",
    "export",
)


def source_files(package: str) -> list[Path]:
    folder = ROOT / package if package == "variants" else ROOT / "harness" / package
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def imported_modules(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: use an absolute import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def package_of(module: str) -> str | None:
    """Return the package of this project that a dotted name belongs to, None for others."""
    parts = module.split(".")
    if parts[0] == "harness":
        return parts[1] if parts[1:] and parts[1] in IMPORTS else "__init__"
    return "variants" if parts[0] == "variants" else None


def test_every_package_has_a_row():
    entries = (ROOT / "harness").iterdir()
    packages = {path.stem for path in entries if path.suffix == ".py" or any(path.rglob("*.py"))}
    assert packages | {"variants"} == set(IMPORTS)


def test_rows_allow_only_packages_above_them():
    packages = list(IMPORTS)
    for row, package in enumerate(packages):
        assert set(IMPORTS[package].split()) <= set(packages[:row]), package


@pytest.mark.parametrize("package", IMPORTS)
def test_imports_follow_the_order(package):
    allowed = {package, None, "__init__", *IMPORTS[package].split()}
    for file in source_files(package):
        for module in imported_modules(file):
            assert package_of(module) in allowed, f"{file.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("package", TORCH_FREE)
def test_reading_packages_import_no_torch(package):
    assert set(IMPORTS[package].split()) <= set(TORCH_FREE)
    for file in source_files(package):
        for module in imported_modules(file):
            assert module.split(".")[0] != "torch", f"{file.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("arguments", [["--help"], ["status"], ["report"]], ids=" ".join)
def test_reading_commands_load_no_torch(arguments, tmp_path):
    code = (
        "import sys; from harness.cli.app import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'variants.base', 'harness.config'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", ["status", "report"])
def test_without_results_the_command_names_the_next_step(command, tmp_path):
    command = [sys.executable, "-m", "harness", command]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert "python -m harness run STUDY.toml" in result.stderr


def test_axes_of_a_study_file_are_those_of_the_variants():
    from harness.study import axis_names
    from variants.base import AXES

    facts = {name: (axis.default, axis.in_every_name) for name, axis in AXES.items()}
    named = axis_names.AXES.items()
    assert facts == {name: (axis.default, axis.in_every_name) for name, axis in named}
    assert list(facts) == list(axis_names.AXES)


def test_no_variant_is_named_outside_its_folder():
    from variants.base import AXES
    from variants.registry import files

    variants = {name for axis in AXES for name in files(axis)} - {"none"}
    for file in (ROOT / "harness").rglob("*.py"):
        for compare in ast.walk(ast.parse(file.read_text())):
            if not isinstance(compare, ast.Compare):
                continue
            constants = [node for node in ast.walk(compare) if isinstance(node, ast.Constant)]
            named = [node.value for node in constants if node.value in variants]
            assert not named, f"{file.relative_to(ROOT)}:{compare.lineno} compares with {named}"
