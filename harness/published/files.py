"""Read a folder, a file or an index of shards in the layout of `transformers`, safely."""

import json
from pathlib import Path

from harness.errors import UserError
from harness.model.weights import SAFETENSORS_FILE, Tensors, read_weights_file
from harness.results.files import check_regular

INDEX_SUFFIX = ".index.json"
INDEX_FILE = f"model.safetensors{INDEX_SUFFIX}"
PICKLE_FILE = "pytorch_model.bin"
CONFIG_FILE = "config.json"

Json = dict[str, object]


def read_tensors(source: Path) -> Tensors:
    """Return the tensors of a folder, of an index of shards, or of a single file.

    They are memory-mapped or on the CPU, in the precision of the file.

    Raises:
        UserError: there is no checkpoint, a shard is missing, or a file is truncated or would run
            code.
    """
    if source.is_dir():
        candidates = [source / name for name in (INDEX_FILE, SAFETENSORS_FILE, PICKLE_FILE)]
        existing = [file for file in candidates if file.exists()]
        if not existing:
            names = f"{SAFETENSORS_FILE}, {INDEX_FILE} or {PICKLE_FILE}"
            raise UserError(f"{source}: not a checkpoint: must hold {names}")
        source = existing[0]
    if not source.is_file():
        raise UserError(f"{source}: no such file or folder")
    if not source.name.endswith(INDEX_SUFFIX):
        return read_weights_file(source)
    weight_map = _read_json(source).get("weight_map")
    if not isinstance(weight_map, dict):
        raise UserError(f"{source}: not an index of shards: has no weight_map")
    tensors: Tensors = {}
    for name in sorted({str(name) for name in weight_map.values()}):
        if name != Path(name).name or name.endswith(INDEX_SUFFIX):
            message = "must name a file of weights in its own folder"
            raise UserError(f"{source}: weight_map: {name!r}: {message}")
        tensors |= read_tensors(source.parent / name)
    return tensors


def read_config(source: Path) -> Json:
    """Return the config.json of a folder or next to a file, empty if there is none.

    Raises:
        UserError: it is not a JSON object.
    """
    path = (source if source.is_dir() else source.parent) / CONFIG_FILE
    return _read_json(path) if path.exists() else {}


def _read_json(path: Path) -> Json:
    try:
        check_regular(path)
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: unreadable: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return value
