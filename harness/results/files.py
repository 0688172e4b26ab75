"""Atomic writes, JSON files and files of JSON lines, all read into records.

A file is either replaced whole (written to a temporary file, flushed, renamed) or grows by whole
lines, so that a reader sees the old or the new content. A torn line, which a crash leaves behind,
is ignored.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import time
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Protocol, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from harness.errors import StoreError
from harness.results.records import Versioned
from harness.results.upgrade import Json, upgrade

TORN = b"#torn"  # the end of a torn line to which a later writer has appended others
TORN_AFTER_S = 0.1  # without growth: whoever writes a line now has written it whole by then
TEMPORARY_NAME = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
LEFT_AFTER_S = 3600.0  # without a change, a temporary file is one that a crash has left
REMEDY = "remove its folder to run that entry again"
CHUNK_BYTES = 1 << 22  # read at once for a checksum

_JSON = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY

RecordT = TypeVar("RecordT", bound=BaseModel)
VersionedT = TypeVar("VersionedT", bound=Versioned)


# -- whole files ----------------------------------------------------------------------------------


class Fence(Protocol):
    """What keeps a process that has lost its right to write from replacing a file."""

    def temporary(self) -> Path:
        """Return the path of a new temporary file, which a successor removes."""

    def check(self) -> None:
        """Raise an exception if the right is lost."""


def write_bytes(path: Path, content: bytes, fence: Fence | None = None) -> None:
    """Replace `path` with `content`; after a crash it holds the old or the new content, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if fence is not None:
        fence.check()
        _write(fence.temporary(), path, content, fence)
        return
    try:
        _write(_temporary(path), path, content, None)
    except FileNotFoundError:  # `remove_temporaries` of another process took it for a left one
        _write(_temporary(path), path, content, None)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def _write(temporary: Path, path: Path, content: bytes, fence: Fence | None) -> None:
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, path, fence)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files that crashes of `write_bytes` have left in a folder, if it exists.

    A writer that lives has renamed its file long before LEFT_AFTER_S, or writes it again.
    """
    if folder.is_symlink():
        return
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if TEMPORARY_NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > LEFT_AFTER_S:
                    os.unlink(entry.path)


def own_folder(path: Path) -> Path:
    """Create a folder of a study's results, unless it exists; return it.

    Raises:
        StoreError: see `check_own_folder`.
    """
    check_own_folder(path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def check_own_folder(path: Path) -> None:
    """Check that what is written to or removed from a folder, if it exists, is in that place.

    Raises:
        StoreError: it is a link, which may lead out of the results, or it is not a folder.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{path}: unreadable ({error})") from error
    if stat.S_ISLNK(mode):
        raise StoreError(
            f"{path}: is a link, which is not followed to write or to remove files; remove it, or "
            "move the folder that it leads to here"
        )
    if not stat.S_ISDIR(mode):
        raise StoreError(f"{path}: must be a folder; remove it")


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it exists. No link is followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace(temporary: Path, path: Path, fence: Fence | None) -> None:
    """Rename a temporary file to `path`, if the right to write still holds."""
    if fence is not None:
        fence.check()
    try:
        os.replace(temporary, path)
    except FileNotFoundError:
        if fence is not None:
            fence.check()  # a successor has removed the temporary file
        raise


def create(temporary: Path, path: Path) -> bool:
    """Create `path` with the content of a temporary file; return False if `path` exists.

    One process at most creates it. The content is whole at once, except on file systems without
    hard links.

    Raises:
        FileNotFoundError: the temporary file is gone.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:  # NFS reports so of its own success if it repeats a request
        return os.path.samefile(temporary, path)
    except FileNotFoundError:
        raise
    except OSError:  # no hard links
        return _create_in_place(path, temporary.read_bytes())
    return True


def _create_in_place(path: Path, content: bytes) -> bool:
    try:
        file = open(path, "xb")  # noqa: SIM115 - an error of `open` is none of the content
    except FileExistsError:
        return False
    try:
        with file:
            file.write(content)
    except OSError:  # a full disk
        path.unlink(missing_ok=True)
        raise
    return True


def check_regular(path: Path) -> None:
    """Check that `path` is a file: to read from a pipe or a device may never end.

    Raises:
        OSError: it is missing or is something else.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(
            errno.EINVAL, "must be a regular file, not a folder, pipe or device", str(path)
        )


def open_to_append(path: Path) -> int:
    """Open a file to append to it, which is created if it is missing; return its descriptor.

    Raises:
        OSError: it is a link, folder, pipe or device, or cannot be opened.
    """
    if os.path.lexists(path):
        if path.is_symlink():
            raise OSError(errno.ELOOP, "must be a regular file, not a link", str(path))
        check_regular(path)  # to open a pipe would wait for its reader
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)


def open_file(path: Path) -> BufferedReader:
    """Open a file to read its bytes.

    Raises:
        OSError: it is missing, is a folder, pipe or device, or cannot be read.
    """
    check_regular(path)
    return open(path, "rb")


def read_file(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        OSError: as `open_file`.
    """
    with open_file(path) as file:
        return file.read()


def crc32(path: Path, n_bytes: int | None = None) -> int:
    """Return the CRC-32 of a file, or of its first `n_bytes` bytes.

    Raises:
        OSError: the file cannot be read.
    """
    value = 0
    with open_file(path) as file:
        left = n_bytes
        while chunk := file.read(CHUNK_BYTES if left is None else min(left, CHUNK_BYTES)):
            value = zlib.crc32(chunk, value)
            left = None if left is None else left - len(chunk)
    return value


def absolute(path: Path) -> Path:
    """Return an absolute path without links, like `Path.resolve`, which fails for a loop of links.

    A loop stays in the path; whatever reads it fails with an `OSError`.
    """
    return Path(os.path.realpath(path))


def write_text(path: Path, text: str) -> None:
    """Replace `path` with `text` as UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(
    path: Path, value: object, fence: Fence | None = None, *, compact: bool = False
) -> None:
    """Replace `path` with `value` as JSON; numbers keep every digit, others become null.

    Records and dataclasses are written as their fields. A `compact` file is one line.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump()
    option = _JSON if compact else _JSON | orjson.OPT_INDENT_2
    content = orjson.dumps(value, default=_default, option=option)
    write_bytes(path, content, fence)


def _default(value: object) -> Json:
    if isinstance(value, BaseModel):
        return value.model_dump()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def read_json(path: Path) -> Json:
    """Read one JSON object.

    Raises:
        StoreError: the file is missing or not a JSON object.
    """
    try:
        value = orjson.loads(read_file(path))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: unreadable ({error}); {REMEDY}") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path}: unreadable (not a JSON object); {REMEDY}")
    return value


def read_record(path: Path, record: type[VersionedT]) -> VersionedT:
    """Read a JSON file into its record, of this version or an older one.

    Raises:
        StoreError: the file is missing, is not JSON, or does not have the form of its version.
    """
    try:
        return parse_record(read_json(path), record)
    except FormError as error:
        raise StoreError(f"{path}: {error}; {REMEDY}") from error
    except ValueError as error:
        raise StoreError(f"{path}: {error}") from error


def read_optional_record(path: Path, record: type[VersionedT]) -> VersionedT | None:
    """Read a JSON file into its record; None if the file does not exist.

    Raises:
        StoreError: as `read_record`.
    """
    try:
        return read_record(path, record)
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


class FormError(Exception):
    """The content of a file does not have the form of its version."""


def parse_record(content: Json, record: type[VersionedT]) -> VersionedT:
    """Return the content of a file, of this version or an older one, as its record.

    Raises:
        FormError: it does not have the form of its version; names the first field.
        ValueError: its version is unknown.
    """
    try:
        return record.model_validate(upgrade(content, record))
    except ValidationError as error:
        problem = error.errors()[0]
        location = ".".join(str(key) for key in problem["loc"])
        message = f"{location}: {problem['msg']}" if location else problem["msg"]
        raise FormError(message) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise FormError(f"damaged ({type(error).__name__}: {error})") from error


# -- files of lines -------------------------------------------------------------------------------


class JsonLinesWriter:
    """Append records to a file of JSON lines; each is one whole line, written at once.

    A torn last line of a writer that crashed is ended with `TORN`, by which readers skip it.
    """

    def __init__(self, path: Path) -> None:
        self._fd = open_to_append(path)
        size = os.fstat(self._fd).st_size
        if not self._ends_within_line(size):
            return
        time.sleep(TORN_AFTER_S)
        if os.fstat(self._fd).st_size == size:
            os.write(self._fd, TORN + b"\n")

    def _ends_within_line(self, size: int) -> bool:
        return size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"

    def append(self, record: BaseModel) -> None:
        """Write one record; readers see it from now on.

        Raises:
            OSError: the line cannot be written whole, as on a full disk.
        """
        line = orjson.dumps(record.model_dump(), option=_JSON)
        n_written = os.write(self._fd, line)
        if n_written < len(line):
            os.write(self._fd, line[n_written:])  # raises the reason

    def close(self) -> None:
        """Close the file; lines are not buffered."""
        os.close(self._fd)


def truncate_lines(path: Path, n_lines: int, fence: Fence | None = None) -> None:
    """Keep the first `n_lines` lines of a file, if it exists."""
    if path.exists():
        lines = read_file(path).splitlines(keepends=True)
        write_bytes(path, b"".join(lines[:n_lines]), fence)


def split_lines(path: Path) -> list[bytes]:
    """Return the whole lines of a file; none if it does not exist. A torn last line is ignored.

    Raises:
        StoreError: it is no file, or it cannot be read.
    """
    try:
        return read_file(path).split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{path}: unreadable ({error}); {REMEDY}") from error


def read_lines(path: Path, record: type[RecordT], until_damaged: bool = False) -> list[RecordT]:
    """Read JSON lines into records; none if the file does not exist. Torn lines are ignored.

    With `until_damaged`, the lines before the first damaged one are returned.

    Raises:
        StoreError: a whole line is damaged.
    """
    records = []
    for number, line in enumerate(split_lines(path), start=1):
        if line.endswith(TORN):
            continue
        try:
            records.append(_parse(line, record))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if until_damaged:
                break
            raise StoreError(f"{path}: line {number} is unreadable; {REMEDY}") from error
    return records


def _parse(line: bytes, record: type[RecordT]) -> RecordT:
    content = orjson.loads(line)
    if issubclass(record, Versioned):
        content = upgrade(content, record)
    return record.model_validate(content)
