"""Make text of others harmless to show: labels, messages, logs and corpora may hold any character.

A terminal obeys escape sequences, a page shows text that is ordered by bidirectional controls, and
a lone surrogate cannot be written at all. Every place that shows text passes it through
`printable`, then through the escaping of its own format.
"""

import re

# Sequences of terminals: colours and cursor movements, titles and links, and others of two bytes.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[@-Z\\^_]"
)
# Control characters except the tab and the line end, and characters that reorder or hide text.
_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff]"
)


def printable(text: str) -> str:
    r"""Return text without the sequences of terminals and with other controls as codes.

    Tabs and line ends stay; "\r\n" and "\r" become line ends.

    >>> printable("\x1b[31mred\x1b[0m\x07 \u202eabc")
    'red\\x07 \\u202eabc'
    """
    if not _UNSAFE.search(text):
        return text
    text = _SEQUENCES.sub("", text.replace("\r\n", "\n"))
    return _UNSAFE.sub(_code, text.replace("\r", "\n"))


def one_line(text: str) -> str:
    """Return printable text in which each run of whitespace is one space."""
    return printable(re.sub(r"\s+", " ", text))


def _code(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
