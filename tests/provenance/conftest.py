"""A copy of the project's code that tests may edit, and specs of runs that use parts of it."""

import ast
import shutil
from pathlib import Path

import pytest
from tiny_run import tiny_spec

from harness.provenance.sources import Sources
from harness.results.records import RunSpec, VariantChoice

ROOT = Path(__file__).parents[2]
USER = {
    "mine/attention/ours.py": "from variants.attention.mha import MultiHead\nfactor = 2\n",
    "mine/attention/unused.py": "factor = 3\n",
}


@pytest.fixture(scope="session")
def _project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    for package in ("harness", "variants"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("*.pyc"))
    return folder


@pytest.fixture
def project(_project):
    """Return the folder of a copy of the code; edits are undone after the test."""
    contents = {path: path.read_bytes() for path in _project.rglob("*.py")}
    yield _project
    for path in _project.rglob("*.py"):
        if path not in contents:
            path.unlink()
        elif path.read_bytes() != contents[path]:
            path.write_bytes(contents[path])


@pytest.fixture
def make_spec(tmp_path):
    """Return a function that returns a spec with these variants and folders of the user."""

    def make(variant_paths: tuple[str | Path, ...] = (), **variants: str) -> RunSpec:
        spec = tiny_spec(tmp_path)
        choices = {
            axis: VariantChoice(name=name, label=name, options={})
            for axis, name in variants.items()
        }
        paths = [str(path) for path in variant_paths]
        launch = spec.launch.model_copy(update={"variant_paths": paths})
        data = spec.data.model_copy(update={"corpus": "text.txt"})
        return spec.model_copy(update={"axes": spec.axes | choices, "launch": launch, "data": data})

    return make


def edit_expression(path: Path) -> None:
    """Change one character of an expression: a digit, or, without numbers, a name."""
    code = path.read_text()
    tree = ast.parse(code)
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Constant | ast.Name)]
    numbers = [node for node in nodes if isinstance(getattr(node, "value", ""), int | float)]
    names = [node for node in nodes if isinstance(node, ast.Name)]
    node = (numbers or names)[0]
    lines = code.splitlines(keepends=True)
    line = lines[node.lineno - 1].encode()
    end = node.end_col_offset
    lines[node.lineno - 1] = (line[:end] + b"1" + line[end:]).decode()
    path.write_text("".join(lines))


def hashes(project: Path, specs: dict[str, RunSpec]) -> dict[str, str]:
    """Return the hash of the code of each spec."""
    sources = Sources(project)
    return {name: sources.code(spec).hash for name, spec in specs.items()}
