"""The folder `archive/` of a study: the inputs of its launches and the code of its runs."""

import hashlib
from pathlib import Path

from harness.errors import StoreError
from harness.results.files import own_folder, read_file, read_record, write_bytes, write_json
from harness.results.records import CodeManifest


class Archive:
    """Files by their content, each stored once, and manifests of code by the code's hash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, content: bytes, suffix: str) -> str:
        """Store a file, unless it is stored already; return its name.

        Raises:
            StoreError: the archive leads out of the study.
        """
        name = f"{hashlib.sha256(content).hexdigest()}{suffix}"
        if not self._holds(name, content):
            write_bytes(self._own(self._file(name)), content)
        return name

    def _holds(self, name: str, content: bytes) -> bool:
        """Return whether a file is stored undamaged."""
        try:
            return self.read(name) == content
        except OSError:
            return False

    def _own(self, path: Path) -> Path:
        """Return the path of a file that is about to be written, in folders of the archive.

        Raises:
            StoreError: one is a link or no folder.
        """
        own_folder(self.folder)
        own_folder(path.parent)
        return path

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
        write_json(self._own(self._manifest(code_hash)), manifest)

    def has_code(self, code_hash: str) -> bool:
        """Return whether the manifest of the code of that hash is stored undamaged."""
        try:
            self.code(code_hash)
        except StoreError:
            return False
        return True

    def code(self, code_hash: str) -> CodeManifest:
        """Return the manifest of the code of that hash.

        Raises:
            StoreError: it is missing or damaged.
        """
        return read_record(self._manifest(code_hash), CodeManifest)

    def _manifest(self, code_hash: str) -> Path:
        return self.folder / "code" / f"{code_hash}.json"
