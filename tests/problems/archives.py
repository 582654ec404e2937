"""Tiny archives in the official formats of CIFAR, made on the spot, and an entry in the table that knows them."""

import hashlib
import io
import struct
import tarfile
from pathlib import Path

import numpy as np

from stepscope.problems import cifar10, cifar100, eigen, war_and_peace
from stepscope.problems.sources import DATASETS, DataSet, Edition, File

TRAINING_FILES = {"cifar-10": [f"data_batch_{i}" for i in range(1, 6)], "cifar-100": ["train"]}
TEST_FILE = {"cifar-10": "test_batch", "cifar-100": "test"}
FOLDERS = {
    "cifar-10": {"binary": "cifar-10-batches-bin", "python": "cifar-10-batches-py"},
    "cifar-100": {"binary": "cifar-100-binary", "python": "cifar-100-python"},
}


def images(name: str, count: int = 60) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """File name -> pixels (count, 3072), labels (count, 1 or 2): superclass and class in CIFAR-100."""
    draw = np.random.RandomState(len(name))
    classes = 10 if name == "cifar-10" else 100
    found = {}
    for file in [*TRAINING_FILES[name], TEST_FILE[name]]:
        fine = draw.randint(classes, size=count).astype(np.uint8)
        labels = fine[:, None] if name == "cifar-10" else np.stack([fine // 5, fine], axis=1)
        found[file] = (draw.randint(256, size=(count, 3072)).astype(np.uint8), labels)
    return found


def contents(name: str, form: str) -> dict[str, bytes]:
    """File name -> its bytes."""
    files = {}
    for file, (pixels, labels) in images(name).items():
        if form == "binary":
            files[f"{file}.bin"] = np.concatenate([labels, pixels], axis=1).tobytes()
            continue
        columns = [b"labels"] if name == "cifar-10" else [b"coarse_labels", b"fine_labels"]
        entries = _string(b"data") + _array(pixels)
        for column, values in zip(columns, labels.T, strict=True):
            entries += _string(column) + b"](" + b"".join(_integer(int(value)) for value in values) + b"e"
        files[file] = b"\x80\x02}(" + entries + b"u."
    return files


def _string(text: bytes) -> bytes:
    """As Python 2 pickles a str, which no later pickler writes any more."""
    return b"T" + struct.pack("<i", len(text)) + text


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _array(pixels: np.ndarray) -> bytes:
    """As Python 2 pickles an array of bytes: an empty one, then its shape, type and contents."""
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + _integer(0) + b"t" + _string(b"b") + b"tR"
    kind = b"cnumpy\ndtype\n(" + _string(b"u1") + _integer(0) + _integer(1) + b"tR"
    kind += b"(" + _integer(3) + _string(b"|") + b"NNN" + _integer(-1) + _integer(-1) + _integer(0) + b"tb"
    shape = b"(" + b"".join(map(_integer, pixels.shape)) + b"t"
    return empty + b"(" + _integer(1) + shape + kind + b"\x89" + _string(pixels.tobytes()) + b"tb"


def archive(name: str, form: str) -> bytes:
    """A tar.gz with the files in their folder, and a file that nobody asks for."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for file, data in ({"readme.html": b"<html>"} | contents(name, form)).items():
            info = tarfile.TarInfo(f"{FOLDERS[name][form]}/{file}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def entry(name: str, mirrors: tuple[str, ...] = ()) -> DataSet:
    """What the table says of the data set, with the checksums of the tiny one."""
    editions = []
    for form in ("binary", "python"):
        files = contents(name, form).items()
        known = tuple(File(file, len(data), hashlib.sha256(data).hexdigest()) for file, data in files)
        editions.append(Edition(form, f"{name}-{form}.tar.gz", FOLDERS[name][form], known))
    return DataSet(name, licence="none", download_size=100, mirrors=mirrors, editions=tuple(editions))


def write(folder: Path, name: str, form: str) -> Path:
    """The files as they are when somebody has unpacked the archive into `folder`."""
    place = folder / FOLDERS[name][form]
    place.mkdir(parents=True)
    for file, data in contents(name, form).items():
        (place / file).write_bytes(data)
    return place


def text(length: int = 50 * 50 * 8 + 1) -> str:
    """Few kinds of characters, with a byte-order mark and line ends as in the original."""
    draw = np.random.RandomState(5)
    return "\ufeff" + "".join(draw.choice(list("War, and Peace\r\n"), size=length))


def text_entry() -> DataSet:
    """What the table would say of `text`."""
    data = text().encode()
    file = File("warpeace_input.txt", len(data), hashlib.sha256(data).hexdigest())
    return DataSet("war-and-peace", licence="none", files=(file,), subfolders=("", "tolstoi"), gzipped=False)


def install(monkeypatch, folder: Path) -> None:
    """Put tiny data sets, written into `folder`, in the place of the real ones."""
    for name in FOLDERS:
        monkeypatch.setitem(DATASETS, name, entry(name))
        write(folder, name, "binary")
    monkeypatch.setitem(DATASETS, "war-and-peace", text_entry())
    (folder / "warpeace_input.txt").write_bytes(text().encode())
    monkeypatch.setenv("STEPSCOPE_DATA", str(folder))
    forget()


def forget() -> None:
    """Problems read their data once a process; after this they read anew."""
    for module in (cifar10, cifar100, eigen, war_and_peace):
        module._data.cache_clear()
