"""Without these, results of edited code would pass as those of the present code."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import tiny_spec

from harness.provenance.sources import COMPUTING, ENTRY_POINTS, Sources
from harness.provenance.syntax import read
from harness.results.records import (
    DecodeProbeSettings,
    InitSource,
    LmEvalSettings,
    RunSpec,
    VariantChoice,
)

ROOT = Path(__file__).parents[2]
VARIANTS = sorted(
    f"variants/{path.parent.name}/{path.stem}" for path in (ROOT / "variants").glob("*/[!_]*.py")
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return the folder of a copy of the code."""
    folder = tmp_path_factory.mktemp("project")
    ignored = shutil.ignore_patterns("__pycache__")
    for package in ("harness", "variants"):
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    return folder


@pytest.fixture
def make_spec(tmp_path):
    """Return a function that returns a spec with these variants and folders of the user."""

    def make(*variant_paths: str | Path, **variants: str) -> RunSpec:
        spec = tiny_spec(tmp_path)
        axes = dict(spec.axes)
        for axis, name in variants.items():
            axes[axis] = VariantChoice(name=name, label=name, options={})
        paths = [str(path) for path in variant_paths]
        launch = spec.launch.model_copy(update={"variant_paths": paths})
        data = spec.data.model_copy(update={"corpus": "text.txt"})
        return spec.model_copy(update={"axes": axes, "launch": launch, "data": data})

    return make


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, code in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code)
    return folder


def with_edited_expression(code: str) -> str | None:
    """Return the code with one more character in a number or name; None without expressions."""
    nodes = list(ast.walk(ast.parse(code)))
    numbers = [node for node in nodes if isinstance(getattr(node, "value", ""), int | float)]
    names = [node for node in nodes if isinstance(node, ast.Name)]
    candidates = [node for node in [*numbers, *names] if isinstance(node, ast.expr)]
    if not candidates:
        return None
    node = candidates[0]
    lines = code.splitlines(keepends=True)
    line = lines[node.end_lineno - 1].encode()
    edited = line[: node.end_col_offset] + b"1" + line[node.end_col_offset :]
    lines[node.end_lineno - 1] = edited.decode()
    return "".join(lines)


def changed(root: Path, specs: dict[str, RunSpec], file: Path, code: str) -> set[str]:
    """Return the specs whose code differs while a file has another content."""
    before = Sources(root)
    hashes = {name: before.code(spec).hash for name, spec in specs.items()}
    content = file.read_text()
    file.write_text(code)
    try:
        after = Sources(root)
        return {name for name, spec in specs.items() if after.code(spec).hash != hashes[name]}
    finally:
        file.write_text(content)


def test_an_edited_file_changes_exactly_the_runs_that_use_it(project, make_spec, loaded):
    plain = make_spec()
    probes = plain.probes.model_copy(update={"decode": DecodeProbeSettings(batch=[1], context=[2])})
    tasks = plain.probes.model_copy(update={"lm_eval": LmEvalSettings(tasks=["x"])})
    lengths = plain.probes.model_copy(update={"eval_lengths": [4]})
    synthetic = plain.data.model_copy(update={"corpus": "synthetic"})
    specs = {
        "plain": plain,
        "rope": make_spec(positional="rope"),
        "ddp": make_spec(parallelism="ddp"),
        "decode": plain.model_copy(update={"probes": probes}),
        "lengths": plain.model_copy(update={"probes": lengths}),
        "lm_eval": plain.model_copy(update={"probes": tasks}),
        "synthetic": plain.model_copy(update={"data": synthetic}),
        "init": plain.model_copy(update={"init": InitSource(folder="x")}),
    }
    optional = {
        "harness/model/decoder.py": {"decode", "lm_eval"},
        "harness/probes/decode.py": {"decode"},
        "harness/probes/eval_lengths.py": {"lengths"},
        "harness/probes/lm_eval.py": {"lm_eval"},
        "harness/probes/example_scores.py": {"lm_eval"},
        "harness/probes/likelihood.py": {"lm_eval"},
        "harness/probes/whole_model.py": {"decode", "lm_eval"},
        "harness/data/synthetic.py": {"synthetic"},
    }
    used = {}
    for label, spec in specs.items():
        files = {name for name in loaded["main"] if label in optional.get(name, specs)}
        for axis, choice in spec.axes.items():
            files |= loaded[f"variants/{axis}/{choice.name}"]
        used[label] = files
    names = [file.relative_to(project).as_posix() for file in sorted(project.rglob("*.py"))]
    used_by_any = set().union(*used.values())
    others = [name for name in names if name not in used_by_any]
    for name in [*used_by_any, *others[::4]]:
        code = with_edited_expression((project / name).read_text())
        if code is not None:
            expected = {label for label, files in used.items() if name in files}
            assert changed(project, specs, project / name, code) == expected, name


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """Return the computing files that Python loads with a variant, or with the entry points.

    Each is imported in a process forked from one that has loaded torch.
    """
    code = """
import importlib, json, os, sys, torch, variants.base
for name in sys.argv[1:]:
    if os.fork() == 0:
        for module in name.split():
            importlib.import_module(module.replace("/", "."))
        files = [getattr(module, "__file__", None) for module in sys.modules.values()]
        print(json.dumps([name, [file for file in files if file]]), flush=True)
        os._exit(0)
    os.wait()
"""
    main = " ".join(name.removesuffix(".py") for name in ENTRY_POINTS)
    command = [sys.executable, "-c", code, main, *VARIANTS]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    files = dict(json.loads(line) for line in result.stdout.splitlines())
    assert sorted(files) == sorted([main, *VARIANTS])
    return {name.replace(main, "main"): computing(paths) for name, paths in files.items()}


def computing(paths: list[str]) -> set[str]:
    names = {os.path.relpath(path, ROOT) for path in paths}
    folders = ("variants/", *(f"harness/{package}/" for package in COMPUTING))
    return {name for name in names if name.startswith(folders)}


def test_all_that_python_loads_for_a_variant_counts(loaded):
    for name in VARIANTS:
        _, axis, stem = name.split("/")
        assert loaded[name] <= set(Sources().variant_files(axis, stem)), name


def test_all_that_the_training_imports_counts_or_only_records():
    """A new package that computes must be added to `COMPUTING`."""
    recording = {"errors", "system_limits", "results", "provenance"}
    imported = set()
    for package in COMPUTING:
        for file in (ROOT / "harness" / package).rglob("*.py"):
            for statement in read(file).imports:
                top, _, rest = statement.name.partition(".")
                if top == "harness" and "." in rest:
                    imported.add(rest.partition(".")[0])
    assert imported <= recording | set(COMPUTING)


HELPERS = {
    "import": "import helper\n",
    "from": "from helper import f as g\n",
    "package of the folder": "from mine.attention import helper\n",
    "axis package": "import attention.helper\n",
    "relative": "from . import helper\n",
    "by path": "import importlib.util as u\nu.spec_from_file_location('x', 'a/b/helper.py')\n",
    "by module name": "import importlib\nimportlib.import_module('helper')\n",
    "executed": "exec(open(__file__.replace('ours.py', 'helper.py')).read())\n",
    "in a function": "def f():\n    from helper import g\n    return g()\n",
    "on a condition": "try:\n    import helper\nexcept ImportError:\n    pass\n",
}
PLACES = ("mine/attention/helper.py", "mine/helper.py", "mine/lib/helper.py", "helper.py")


@pytest.mark.parametrize("way", HELPERS)
def test_an_edited_helper_changes_the_runs_that_load_it(way, tmp_path, make_spec):
    code = HELPERS[way]
    files = {"ours.py": code, "other.py": "x = 1\n", "helper.py": "y = 1\n"}
    folder = write(tmp_path / "mine/attention", files).parent
    specs = {name: make_spec(folder, attention=name) for name in ("ours", "other", "mha")}
    helper = folder / "attention/helper.py"
    assert changed(ROOT, specs, helper, "y = 10\n") == {"ours"}
    assert changed(ROOT, specs, helper, "y = 1  # comment\n") == set()


@pytest.mark.parametrize("place", PLACES)
def test_a_helper_counts_wherever_it_lies(place, tmp_path, make_spec):
    write(tmp_path, {"mine/attention/ours.py": "import helper\n", place: "y = 1\n"})
    specs = {"ours": make_spec(tmp_path / "mine", attention="ours")}
    assert changed(ROOT, specs, tmp_path / place, "y = 10\n") == {"ours"}


def test_what_helpers_load_counts(tmp_path, make_spec):
    files = {
        "mine/attention/ours.py": "import a\n",
        "mine/a.py": "import b\nfrom variants.mlp.swiglu import SwiGLU\n",
        "mine/lib/b.py": "open('table.csv')\n",
        "mine/lib/table.csv": "1,2\n",
    }
    specs = {"ours": make_spec(write(tmp_path, files) / "mine", attention="ours")}
    for name, content in files.items():
        other = content.replace("1,2", "1,3") + "x = 1\n"
        assert changed(ROOT, specs, tmp_path / name, other) == {"ours"}, name
    assert "variants/mlp/swiglu.py" in Sources().code(specs["ours"]).files


def test_names_and_hashes_do_not_depend_on_where_a_study_lies(tmp_path, make_spec):
    files = {"mine/attention/ours.py": "import helper\n", "mine/helper.py": "x = 1\n"}
    codes = []
    for place in ("here", "there"):
        folder = write(tmp_path / place, files) / "mine"
        codes.append(Sources().code(make_spec(folder, attention="ours")))
    assert codes[0].hash == codes[1].hash
    assert {"user/mine/attention/ours.py", "user/mine/helper.py"} <= set(codes[0].files)


def test_the_first_folder_that_has_a_variant_wins(tmp_path, make_spec):
    """As when it is loaded; two folders of the same name are kept apart."""
    for place in ("a", "b"):
        write(tmp_path / place, {"mine/attention/mha.py": f"x = '{place}'\n"})
    folders = [tmp_path / "a/mine", tmp_path / "b/mine"]
    first = Sources().code(make_spec(*folders)).files
    second = Sources().code(make_spec(*reversed(folders))).files
    assert first["user/mine/attention/mha.py"] == folders[0] / "attention/mha.py"
    assert second["user/mine/attention/mha.py"] == folders[1] / "attention/mha.py"
    (folders[0] / "attention/mha.py").unlink()
    third = Sources().code(make_spec(*folders)).files
    assert third["user2/mine/attention/mha.py"] == folders[1] / "attention/mha.py"


def test_folders_of_results_and_environments_are_not_searched(tmp_path, make_spec):
    """With `variant_paths = ["."]`, results lie in the folder of the variants."""
    write(tmp_path, {"attention/ours.py": "import log\n", "results/study/run/log.py": "x = 1\n"})
    files = Sources().code(make_spec(tmp_path, attention="ours")).files
    assert not any("log" in name for name in files)
