"""Errors of variants' files, with the line of the user's code that is at fault."""

import functools
import inspect
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

SHIPPED = Path(__file__).parent
LIBRARIES = {"site-packages", "dist-packages", "harness"}  # folders of code that is not a variant's
# Errors of the code of a variant: an exit in it must not end a command as if all was done.
CODE_ERRORS = (Exception, SystemExit, GeneratorExit)
USER_PACKAGE = (
    "_user_variants"  # prefix of the module names of users' files; no such package exists
)
MAX_FILES = 5  # in a message
MAX_TEXT = 1_000  # characters of an exception in a message


class VariantError(Exception):
    """A variant cannot be used; each of `problems` names file, line, fault and remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def describe(
    error: BaseException, action: str, files: Iterable[Path], cls: type | None = None
) -> str:
    """Return the line of the code at fault, what failed, and the exception, in one line.

    `files` are the files of the variants in question. The place is the innermost line of the
    traceback in a user's file or its helpers, else in a shipped variant, else the definition of
    `cls`.
    """
    place = error_line(error, files) or (class_line(cls) if cls is not None else "")
    reason = " ".join(text_of(error).split())
    message = f"{action} raises {type(error).__name__}: {reason}".removesuffix(": ")
    return f"{place}: {message}" if place else message


def full_text(error: BaseException) -> str:
    """Return the text of an exception of any code, empty if it cannot be shown.

    Surrogates, which no file in UTF-8 can hold, are escaped.
    """
    try:
        return str(error).encode(errors="backslashreplace").decode()
    except BaseException:
        return ""


def text_of(error: BaseException) -> str:
    """Return the text of an exception of any code for a message, shortened."""
    text = full_text(error)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."


def user_line(error: BaseException) -> str:
    """Return `file:line` of the innermost frame of an exception in a user's variant, or "".

    The exception may be that of a handler, which the variant's own exception led to.
    """
    seen: set[int] = set()  # a variant may make a cycle of them
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        place = ""
        for frame, line in traceback.walk_tb(cause.__traceback__):
            if str(frame.f_globals.get("__name__")).startswith(USER_PACKAGE):
                place = f"{frame.f_code.co_filename}:{line}"
        if place:
            return place
        seen.add(id(cause))
        cause = cause.__context__
    return ""


def error_line(error: BaseException, files: Iterable[Path]) -> str:
    """Return `file:line` of the innermost line of a traceback in a variant's code, or ""."""
    roots = {file.parent.parent for file in files if not file.is_relative_to(SHIPPED)}
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename is not None:
        frames.append((error.filename, error.lineno))
    for root in (*roots, SHIPPED):
        for file, line in reversed(frames):
            if _is_below(Path(file), root):
                return f"{file}:{line}"
    return ""


def loaded_files() -> str:
    """Return the files of the user's variants that this process has imported, or their number."""
    modules = [
        module for name, module in list(sys.modules.items()) if name.startswith(USER_PACKAGE)
    ]
    files = [str(module.__file__) for module in modules]
    return ", ".join(files) if len(files) <= MAX_FILES else f"{len(files)} files of variants"


def is_users(cls: type) -> bool:
    """Return whether the class of a variant is the user's, and not shipped."""
    return cls.__module__.startswith(USER_PACKAGE)


def class_line(cls: type) -> str:
    """Return the file and the line of the definition of a class: `file:line`."""
    return _class_line(cls)


@functools.cache  # finding the line parses the file
def _class_line(cls: type) -> str:
    try:
        return f"{inspect.getfile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):  # defined without source
        return cls.__qualname__


def _is_below(file: Path, root: Path) -> bool:
    """Return whether a file is in one of the folders below `root`, and not in a library."""
    if not file.is_relative_to(root):
        return False
    folders = file.relative_to(root).parts[:-1]
    return bool(folders) and LIBRARIES.isdisjoint(folders)
