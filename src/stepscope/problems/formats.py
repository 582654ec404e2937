"""What the files of data sets hold: their bytes as arrays."""

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stepscope.errors import DamagedData

__all__ = ["decode_cifar", "decode_idx"]

Bytes = npt.NDArray[np.uint8]
PIXELS: Final = (3, 32, 32)  # red, green, blue; rows from the top


def decode_cifar(contents: bytes, path: Path, form: str, label_bytes: int) -> tuple[Bytes, Bytes]:
    """Images of shape (n, 3, 32, 32) and their classes of shape (n,) from one file of CIFAR-10 or CIFAR-100.

    form: "binary", where an image is `label_bytes` bytes (CIFAR-10: its class; CIFAR-100: superclass, class) and its
    pixels; or "python", a pickle of Python 2.
    Raises: DamagedData if it is something else.
    """
    pixels, labels = _python(contents, path) if form == "python" else _binary(contents, path, label_bytes)
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != math.prod(PIXELS):
        raise DamagedData(f"{path} holds an array of {pixels.dtype} of shape {pixels.shape}, not images of 32 x 32.")
    if labels.shape != (len(pixels),):
        raise DamagedData(f"{path} holds {len(pixels)} images, but {labels.size} classes.")
    return pixels.reshape(-1, *PIXELS), labels


def _binary(contents: bytes, path: Path, label_bytes: int) -> tuple[Bytes, Bytes]:
    length = label_bytes + math.prod(PIXELS)
    if not contents or len(contents) % length:
        raise DamagedData(f"{path} holds {len(contents)} bytes, which is no multiple of {length}.")
    rows = np.frombuffer(contents, dtype=np.uint8).reshape(-1, length)
    return rows[:, label_bytes:], rows[:, label_bytes - 1]


class _Arrays(pickle.Unpickler):
    """Makes arrays and builtin values, nothing else: a pickle may otherwise call any function by its name.

    Its files are only read when their checksum is the official one; this guards against a mistake there.
    """

    _known: Final[dict[tuple[str, str], Callable[..., Any]]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],  # type: ignore[dict-item]
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The function for a name in the pickle.  Raises: UnpicklingError for one that no array needs."""
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self._known[module, name]


def _python(contents: bytes, path: Path) -> tuple[Bytes, Bytes]:
    try:
        batch = _Arrays(io.BytesIO(contents), encoding="latin1").load()
        labels = batch["fine_labels"] if "fine_labels" in batch else batch["labels"]
        return np.asarray(batch["data"]), np.asarray(labels, dtype=np.uint8)
    except Exception as error:  # a damaged pickle raises anything
        raise DamagedData(f"{path} is no batch of CIFAR images: {error!r}.") from error


def decode_idx(contents: bytes, path: Path) -> Bytes:
    """IDX: 0, 0, type (8: unsigned byte), number of dimensions; each dimension as big-endian uint32; the bytes."""
    if len(contents) < 4 or contents[:3] != b"\0\0\x08":
        raise DamagedData(f"{path} is no IDX file of bytes: it begins with {contents[:4].hex() or 'nothing'}.")
    start = 4 + 4 * contents[3]
    if len(contents) < start:
        raise DamagedData(f"{path} holds {len(contents)} bytes, but its header is cut off.")
    shape = tuple(int(size) for size in np.frombuffer(contents[4:start], dtype=">u4"))
    if len(contents) != start + math.prod(shape):
        raise DamagedData(f"{path} holds {len(contents)} bytes, but its header says shape {shape}.")
    return np.frombuffer(contents, dtype=np.uint8, offset=start).reshape(shape)
