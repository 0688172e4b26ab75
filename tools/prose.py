"""List the words of `wordlist.toml` in the project's prose and compare their rates with limits.

Prose: docstrings, comments, string literals with a blank (messages, help, captions), Markdown,
page templates, and the comments of TOML files and the Makefile. Tests are skipped unless named.
"""

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORDLIST = ROOT / "tools/wordlist.toml"


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line number and the text of every line of prose in a file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield from enumerate(node.value.split("\n"), node.lineno)
    elif path.suffix in (".md", ".j2"):
        yield from enumerate(text.splitlines(), 1)
    else:
        for number, line in enumerate(text.splitlines(), 1):
            comment = re.search(r"(?:^|\s)#+ .*", line)
            if comment:
                yield number, comment.group()


def prose_files(paths: list[str]) -> list[Path]:
    """Return the tracked files with prose under `paths`; by default of all but the tests."""
    patterns = paths or [".", ":!tests", f":!{WORDLIST.relative_to(ROOT)}"]
    command = ["git", "-C", str(ROOT), "ls-files", "--", *patterns]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    files = [ROOT / name for name in names]
    suffixes = (".py", ".md", ".j2", ".toml", ".yaml", ".cff")
    return [file for file in files if file.suffix in suffixes or file.name == "Makefile"]


def main() -> int:
    """Print hits and rates; return 1 if a rate exceeds its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", help="files or folders (default: all but the tests)")
    parser.add_argument("--over", action="store_true", help="list only the words over their limit")
    arguments = parser.parse_args()
    lines = [(file, *line) for file in prose_files(arguments.paths) for line in prose(file)]
    n_words = sum(len(re.findall(r"[A-Za-z]+", text)) for _, _, text in lines)
    failed = False
    for rule in tomllib.loads(WORDLIST.read_text(encoding="utf-8"))["avoid"]:
        regex = re.compile(rf"\b(?:{rule['pattern']})\b", re.IGNORECASE)
        hits = [
            f"  {file.relative_to(ROOT)}:{number}: {match.group()}"
            for file, number, text in lines
            for match in regex.finditer(text)
        ]
        rate = 1e4 * len(hits) / max(n_words, 1)
        failed = failed or rate > rule["limit"]
        if rate > rule["limit"] or (hits and not arguments.over):
            print(*hits, sep="\n")
            print(f"{rule['pattern']}: {rate:.1f} per 10,000 words, limit {rule['limit']}")
            print(f"  use: {rule['use']}")
    print(f"prose: {n_words} words,", "over the limits" if failed else "within the limits")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
