"""The examples of the README, followed literally."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_block(language: str, start: str) -> str:
    """Return the code block of a language that begins with `start`."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    (block,) = [block for block in blocks if block.startswith(start)]
    return block


def labels(study: Path) -> list[str]:
    """Return the labels of the entries that `list` prints for a study."""
    command = [sys.executable, "-m", "harness", "list", study.name, "--json"]
    result = subprocess.run(command, cwd=study.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    run_ids = re.findall(r'"run_id": "(.*)-s0-\w+"', result.stdout)
    return sorted(run_ids)


def test_the_study_of_the_readme_is_valid(tmp_path):
    study = tmp_path / "study.toml"
    text = code_block("toml", "[study]")
    study.write_text(text.replace('corpus = "tinyshakespeare" ', 'corpus = "synthetic" ', 1))
    assert labels(study) == [
        "learned-gqa2-ddp2",
        "learned-gqa2-single",
        "learned-mha-ddp2",
        "learned-mha-single",
        "learned-sliding_window32-single",
        "rope5000-gqa2-single",
        "rope5000-mha-single",
    ]


def test_the_variant_of_the_readme_works_in_a_folder_variants(tmp_path):
    (tmp_path / "variants/positional").mkdir(parents=True)
    file = tmp_path / "variants/positional/late.py"
    file.write_text(code_block("python", '"""Learned positions'))
    paths = re.search(r"^    (variant_paths = .*?) *#.*$", README, re.MULTILINE)[1]
    axis = re.search(r'^    (positional = .*"late".*)$', README, re.MULTILINE)[1]
    study = tmp_path / "study.toml"
    text = (ROOT / "ablations.toml").read_text()
    text = text.replace("[study]", f"[study]\n{paths}").replace("tinyshakespeare", "synthetic")
    text = re.sub(r"^positional = .*$", axis, text, flags=re.MULTILINE)
    study.write_text(text)
    positionals = {label.split("-")[0] for label in labels(study)}
    assert positionals == {"learned", "late", "late0.1"}


def test_the_readme_names_existing_files():
    names = re.findall(r"\]\((?!https?:)([\w./]+)\)", README)
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []
