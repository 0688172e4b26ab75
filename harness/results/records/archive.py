"""archive/code/<code_hash>.json: the files of code that computed a run."""

from pydantic import Field

from harness.results.records.base import StrictModel, Versioned


class ArchivedFile(StrictModel):
    """A file of code."""

    syntax_sha256: str = Field(
        description="SHA-256 of the syntax tree without docstrings, comments and formatting"
    )
    file: str = Field(description="name in `archive/files`: SHA-256 of the content, and suffix")


class CodeManifest(Versioned):
    """The code of a run. Names are `harness/...`, `variants/...`, and `user/...` for a user's."""

    files: dict[str, ArchivedFile] = Field(description="files by name")
