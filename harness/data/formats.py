"""Recognize the format of a file, and name the remedy if it cannot be read."""

import json
from pathlib import Path

HEAD_BYTES = 1 << 20  # of a file that are inspected
MAX_JSON_LINES = 100
MAX_CONTROL_FRACTION = 0.01  # of the characters of a text
CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1b")) + b"\x7f"

TEXT_FROM_TABLE = (
    "write its text column to a .txt file, documents separated by <|endoftext|>, "
    "e.g. '<|endoftext|>'.join(pandas.{reader}(FILE)['text'])"
)
REMEDIES = {
    "JSON": "write one object per line, e.g. pandas.read_json(FILE).to_json('corpus.jsonl', "
    "orient='records', lines=True); name a file of JSON lines .jsonl",
    "a CSV table": TEXT_FROM_TABLE.format(reader="read_csv"),
    "a Parquet table": "name it .parquet",
    "an Arrow table": TEXT_FROM_TABLE.format(reader="read_feather"),
    "an ORC table": TEXT_FROM_TABLE.format(reader="read_orc"),
    "compressed": "decompress it first, e.g. gunzip, unzip, unxz, bunzip2 or unzstd",
    "an archive": "unpack it first, e.g. tar xf or unzip",
    "a NumPy array": "write its tokens as numpy.load(FILE).astype('<u2').tofile('tokens.bin')",
    "a pickle": "it could run code and is not opened; write its text to a .txt file",
    "an HDF5 file": "write its text to a .txt file, or its tokens as uint16 to a .bin file",
    "a database": "write its text to a .txt file",
    "a document": "write its text to a .txt file",
    "a weights file": "name a text or its tokens",
    "an image or a recording": "name a text or its tokens",
    "UTF-16 or UTF-32": "convert it, e.g. iconv -f utf-16 -t utf-8",
    "binary": "name a UTF-8 text, or uint16 tokens with the suffix .bin",
}
# Formats that are read, by the end of a file's name. Any other file is read as plain text.
READABLE = {
    "tokens": (".bin",),
    "JSON lines": tuple(
        f".{name}{compression}"
        for name in ("jsonl", "ndjson", "jsonlines")
        for compression in ("", ".gz", ".zst", ".zstd")
    ),
    "Parquet": (".parquet", ".pq"),
    "text": (".txt", ".text", ".md"),
}
SUFFIXES = {
    "JSON": ".json .geojson .ipynb",
    "a CSV table": ".csv .tsv .psv",
    "an Arrow table": ".arrow .feather .ipc",
    "an ORC table": ".orc",
    "compressed": ".gz .zst .zstd .xz .bz2 .lz4 .lzma .br .z .sz .snappy",
    "an archive": ".zip .tar .tgz .tbz .txz .7z .rar .mds",
    "a NumPy array": ".npy .npz",
    "a pickle": ".pkl .pickle .pt .pth .joblib",
    "an HDF5 file": ".h5 .hdf5 .hdf",
    "a database": ".db .sqlite .sqlite3 .mdb .lmdb",
    "a document": ".pdf .docx .doc .odt .rtf .epub .xlsx .xls .pptx",
    "a weights file": ".safetensors .gguf .ckpt .onnx .tfrecord",
    "an image or a recording": ".png .jpg .jpeg .gif .mp3 .wav .mp4",
}
MAGIC = {
    b"PAR1": "a Parquet table",
    b"ARROW1": "an Arrow table",
    b"FEA1": "an Arrow table",
    b"\xff\xff\xff\xff": "an Arrow table",  # the stream form, as datasets.save_to_disk writes it
    b"\x1f\x8b\x08": "compressed",
    b"\x28\xb5\x2f\xfd": "compressed",
    b"\xfd7zXZ\x00": "compressed",
    b"\x04\x22\x4d\x18": "compressed",
    b"PK\x03\x04": "an archive",
    b"7z\xbc\xaf\x27\x1c": "an archive",
    b"Rar!\x1a\x07": "an archive",
    b"\x93NUMPY": "a NumPy array",
    b"\x80\x04\x95": "a pickle",
    b"\x80\x05\x95": "a pickle",
    b"\x80\x02}q": "a pickle",
    b"\x80\x03}q": "a pickle",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"SQLite format 3\x00": "a database",
    b"%PDF-": "a document",
    b"{\\rtf": "a document",
    b"GGUF": "a weights file",
    b"\x89PNG\r\n": "an image or a recording",
    b"\xff\xd8\xff": "an image or a recording",
    b"\xff\xfe": "UTF-16 or UTF-32",
    b"\xfe\xff": "UTF-16 or UTF-32",
    b"\x00\x00\xfe\xff": "UTF-16 or UTF-32",
}
UTF8_BOM = b"\xef\xbb\xbf"
BZIP2_MARK = b"1AY&SY"  # from byte 4
TAR_MARK = b"ustar"  # from byte 257


def describe(kind: str, by: str) -> str:
    """Return the problem of a file of a kind, which was recognized by a feature of it."""
    return f"is {kind} ({by}), not plain text or tokens; {REMEDIES[kind]}"


def kind_of(path: Path) -> str:
    """Return the format of a file by its name, a key of `READABLE`."""
    name = path.name.lower()
    return next((kind for kind, ends in READABLE.items() if name.endswith(ends)), "text")


def is_readable(path: Path) -> bool:
    """Return whether a file of a folder is of a format that is read, by its name."""
    ends = tuple(end for group in READABLE.values() for end in group)
    return path.is_file() and path.name[0] != "." and path.name.lower().endswith(ends)


def problem_of_suffix(path: Path) -> str | None:
    """Return why a file cannot be read, by its suffix; None for a suffix that is read."""
    suffix = path.suffix.lower()
    if path.name.lower().endswith(READABLE["JSON lines"]):
        return None
    for kind, suffixes in SUFFIXES.items():
        if suffix in suffixes.split():
            return describe(kind, f"by its suffix {suffix}")
    return None


def problem_of_magic(head: bytes) -> str | None:
    """Return why a file cannot be read, by its first bytes; None if they are of no known format."""
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return describe(kind, f"by its first bytes {magic!r}")
    if head[4:10] == BZIP2_MARK:
        return describe("compressed", f"by the mark {BZIP2_MARK!r}")
    if head[257:262] == TAR_MARK:
        return describe("an archive", f"by the mark {TAR_MARK!r}")
    return None


def problem_of_text(content: bytes) -> str | None:
    """Return why the content of a file is not plain text in UTF-8, or None if it is."""
    head = content[:HEAD_BYTES]
    problem = problem_of_magic(head)
    if problem:
        return problem
    n_control = len(head) - len(head.translate(None, CONTROL_BYTES))
    if n_control > MAX_CONTROL_FRACTION * len(head):
        return describe("binary", f"{n_control} of its first {len(head)} bytes are control codes")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}; convert it, e.g. iconv -f latin1 -t utf-8"
    if _is_json(content):
        return describe("JSON", "by its content")
    return None


def _is_json(content: bytes) -> bool:
    """Return whether the first lines, or all of the content, are JSON objects or arrays."""
    content = content.removeprefix(UTF8_BOM).strip()
    if content[:1] not in (b"{", b"["):
        return False
    lines = content.split(b"\n", MAX_JSON_LINES)[:MAX_JSON_LINES]
    if all(_parses(line) for line in lines if line.strip()):
        return True
    return content[-1:] in (b"}", b"]") and _parses(content)


def _parses(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False
