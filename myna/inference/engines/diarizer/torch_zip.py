"""Reads the tensors of a torch checkpoint without torch.

A checkpoint is a zip archive of a pickle and of one file for each storage. Of the pickle, only dicts and the rebuilding of
tensors are carried out; every other class becomes a `_Stub`.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_TYPES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
}  # fmt: skip

Tensors = Mapping[str, np.ndarray]
"""A model's parameters by name."""


def read_checkpoint(path: Path) -> Any:
    """Return what the checkpoint holds, with arrays in place of tensors. Raises OSError, `zipfile.BadZipFile`."""
    with zipfile.ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if name is None:
            raise zipfile.BadZipFile("the archive holds no data.pkl")
        return _Reader(archive, name.removesuffix("data.pkl"), archive.read(name)).load()


class _Stub:
    """Stands for an object of a class that is not needed."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str, pickled: bytes) -> None:
        super().__init__(io.BytesIO(pickled))
        self._archive = archive
        self._root = root

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            return _rebuilt if name == "_rebuild_tensor_v2" else lambda tensor, *_: tensor
        if module == "torch" and name in _TYPES:
            return name
        return collections.OrderedDict if (module, name) == ("collections", "OrderedDict") else _Stub

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, type_name, key, *_ = pid
        return np.frombuffer(self._archive.read(f"{self._root}data/{key}"), _TYPES[type_name])


def _rebuilt(storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> np.ndarray:
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).copy()
