"""Read the state of a run without running code that its files may contain.

PyTorch's reader loads the index of a state (`.metadata`) and the values that are not tensors with
`pickle`, which runs any code that they name. A results folder may come from someone else.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

from harness.results.files import open_file

INDEX = ".metadata"
CHECKPOINT_CLASSES = {
    "Metadata",
    "MetadataIndex",
    "StorageMeta",
    "TensorStorageMetadata",
    "BytesStorageMetadata",
    "ChunkStorageMetadata",
    "TensorProperties",
    "_MEM_FORMAT_ENCODING",
}
# By module: the names that an index of PyTorch 2 holds besides types of numbers.
ALLOWED = {
    "torch.distributed.checkpoint.metadata": CHECKPOINT_CLASSES,
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "device"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
    "collections": {"OrderedDict"},
}


class _IndexUnpickler(pickle.Unpickler):
    """Loads the classes of an index, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the object of this name, which the pickle may call."""
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and name not in ALLOWED.get(module, ()):
            message = f"refused: it names {module}.{name}, and loading it could run code"
            raise pickle.UnpicklingError(message)
        return super().find_class(module, name)


class StateReader(FileSystemReader):
    """Reads a state whose index may hold no code."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the index.

        Raises:
            pickle.UnpicklingError: it names anything but the classes of an index.
        """
        with open_file(Path(self.path) / INDEX) as file:
            metadata = _IndexUnpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"refused: it holds a {type(metadata).__name__}")
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id  # as `FileSystemReader` does
        return metadata


class StatePlanner(DefaultLoadPlanner):
    """Loads values that are not tensors only if they hold no code."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Load one value.

        Raises:
            pickle.UnpicklingError: loading it could run code.
        """
        checked = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), checked)
        checked.seek(0)
        super().load_bytes(read_item, checked)
