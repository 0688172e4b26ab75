"""The folder `archive/` of a study: the inputs of its launches and the code of its runs."""

import hashlib
from pathlib import Path

from harness.results.files import read_file, read_record, write_bytes, write_json
from harness.results.records import CodeManifest


class Archive:
    """Files by their content, each stored once, and manifests of code by the code's hash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, content: bytes, suffix: str) -> str:
        """Store a file, unless it is stored already; return its name."""
        name = f"{hashlib.sha256(content).hexdigest()}{suffix}"
        path = self._file(name)
        if not path.exists():
            write_bytes(path, content)
        return name

    def read(self, name: str) -> bytes:
        """Return the content of a stored file.

        Raises:
            OSError: it is missing.
        """
        return read_file(self._file(name))

    def _file(self, name: str) -> Path:
        return self.folder / "files" / name

    def add_code(self, code_hash: str, manifest: CodeManifest) -> None:
        """Store the manifest of the code of that hash."""
        write_json(self._manifest(code_hash), manifest)

    def has_code(self, code_hash: str) -> bool:
        """Return whether the code of that hash is stored."""
        return self._manifest(code_hash).exists()

    def code(self, code_hash: str) -> CodeManifest:
        """Return the manifest of the code of that hash.

        Raises:
            StoreError: it is missing or damaged.
        """
        return read_record(self._manifest(code_hash), CodeManifest)

    def _manifest(self, code_hash: str) -> Path:
        return self.folder / "code" / f"{code_hash}.json"
