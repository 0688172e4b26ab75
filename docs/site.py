"""Add the pages that are kept elsewhere to the site: README, changelog, files, variants.

A hook of mkdocs (`mkdocs.yml`). Pages of the repository are rendered from their own files, so that
none is kept twice. Their links are turned into links of the site; a file that is not a page is
copied, a folder has no link.
"""

import dataclasses
import inspect
import json
import posixpath
import re
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from variants import registry
from variants.base import AXES

ROOT = Path(__file__).parent.parent
PAGES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "files/results.md": "results/README.md",
    "files/reports.md": "reports/README.md",
}  # of the site -> of the repository
LINK = re.compile(r"\[([^\][]*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")
VARIANTS = """# Variants

A variant is one file in `variants/AXIS/`; its name in a study file is the name of the file. In a
study, an option is written next to the name: `{ variant = "gqa", n_kv_head = 2 }`.
[Home](index.md#add-a-variant) shows how to add one.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the repository, that of the variants, and the files that pages link to."""
    for uri, name in PAGES.items():
        content = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, uri, content=content))
        for target in _targets(content):
            _add_file(files, config, posixpath.join(posixpath.dirname(name), target))
    for page in sorted((ROOT / "docs").glob("*.md")):
        for target in _targets(page.read_text(encoding="utf-8")):
            _add_file(files, config, posixpath.join("docs", target))
    files.append(File.generated(config, "variants.md", content=variants_page()))
    return files


def _targets(markdown: str) -> list[str]:
    """Return the paths that a page links to, without their anchors."""
    return [path.partition("#")[0] for _, path in LINK.findall(markdown)]


def _add_file(files: Files, config: MkDocsConfig, path: str) -> None:
    """Copy a file of the repository that is not a page, if it is not part of the site yet."""
    path = posixpath.normpath(path)
    uri = _uri(path)
    if (ROOT / path).is_file() and uri is not None and files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, content=(ROOT / path).read_bytes()))


def _uri(path: str) -> str | None:
    """Return the address in the site of a path of the repository; None for a folder."""
    by_path = {name: uri for uri, name in PAGES.items()}
    if path in by_path:
        return by_path[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return None if (ROOT / path).is_dir() else path


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links of the site."""
    uri = page.file.src_uri
    path = PAGES.get(uri, f"docs/{uri}")
    folder = posixpath.dirname(path)

    def relink(match: re.Match[str]) -> str:
        target, hash_sign, anchor = match[2].partition("#")
        if uri == "variants.md":
            return match[0]
        new = _uri(posixpath.normpath(posixpath.join(folder, target)))
        if new is None:
            return match[1]
        address = posixpath.relpath(new, posixpath.dirname(uri) or ".")
        return f"[{match[1]}]({address}{hash_sign}{anchor})"

    parts = re.split(r"(```.*?```)", markdown, flags=re.DOTALL)
    linked = [part if part.startswith("```") else LINK.sub(relink, part) for part in parts]
    return "".join(linked)


def variants_page() -> str:
    """Return the page of all variants: a table for each axis, from their files."""
    parts = [VARIANTS]
    for axis in AXES:
        rows = ["| variant | title | idea and source | options |", "| --- | --- | --- | --- |"]
        for name in registry.files(axis):
            cls = registry.load(axis, name)
            module = inspect.getmodule(cls)
            idea = (module.__doc__ or "").partition("\n")[0] if module else ""
            title = registry.own_title(cls)
            cells = [f"`{name}`", title and f"`{title}`", idea, _options(cls.Options)]
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append(f"## {axis}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _options(options: type) -> str:
    """Return the options with their types and defaults, a line each."""
    hints = get_type_hints(options)
    shown = []
    for field in dataclasses.fields(options):
        shown.append(f"`{field.name}: {_type_name(hints[field.name])}{_default(field)}`")
    return "<br>".join(shown) or "none"


def _type_name(kind: object) -> str:
    """Return a type as it is written in code, a choice of values as `"a" or "b"`."""
    if get_origin(kind) is Literal:
        return " or ".join(json.dumps(value) for value in get_args(kind))
    name = str(kind) if get_args(kind) else getattr(kind, "__name__", str(kind))
    return name.replace("typing.", "").replace("NoneType", "None")


def _default(field: "dataclasses.Field[object]") -> str:
    if field.default is not dataclasses.MISSING:
        return f" = {field.default!r}"
    if field.default_factory is not dataclasses.MISSING:
        return f" = {field.default_factory()!r}"
    return ", required"
