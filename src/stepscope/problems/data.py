"""Data sets on disk: where they are looked for, how they are checked, and how they get here."""

import hashlib
import math
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stepscope.errors import DamagedData, UserError, unknown_name
from stepscope.problems.download import DownloadError, download

if sys.platform != "win32":
    import fcntl

__all__ = ["DataSetInfo", "datasets", "fetch", "load"]


@dataclass(frozen=True)
class _File:
    """One file by its contents, in bytes: compressed copies of the same contents differ from place to place."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class _DataSet:
    """A data set that a Python package brings along has no files here, and nothing to fetch."""

    name: str
    licence: str
    comes_with: str = ""
    download_size: int = 0
    files: tuple[_File, ...] = ()
    subfolders: tuple[str, ...] = ("",)  # of each place where data is looked for
    mirrors: tuple[str, ...] = ()
    debian_package: str = ""


_DATASETS = {
    "digits": _DataSet("digits", licence="CC BY 4.0", comes_with="scikit-learn"),
    "fashion-mnist": _DataSet(
        "fashion-mnist",
        licence="MIT",
        download_size=30_878_645,
        files=(
            _File(
                "train-images-idx3-ubyte",
                47_040_016,
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            _File(
                "train-labels-idx1-ubyte", 60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
            ),
            _File(
                "t10k-images-idx3-ubyte", 7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
            ),
            _File("t10k-labels-idx1-ubyte", 10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
        ),
        subfolders=("", "fashion-mnist", "FashionMNIST/raw"),  # the last is torchvision's
        mirrors=(
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            # The authors' own address, on a host that does not speak https; the checksum vouches for the contents.
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        debian_package="dataset-fashion-mnist",
    ),
}

_SYSTEM_FOLDER = Path("/usr/share/datasets")  # where Debian's dataset-* packages put their files


class DataSetInfo(NamedTuple):
    """A line of `stepscope data`. size: bytes to download."""

    name: str
    where: str
    size: int
    licence: str


def datasets() -> list[DataSetInfo]:
    """Every known data set and where it is: a folder, "with <package>", or "not here". Contents are not checked.

    Raises: UserError if STEPSCOPE_DATA names no readable folder.
    """
    return [DataSetInfo(d.name, _where(d), d.download_size, d.licence) for d in _DATASETS.values()]


def fetch(name: str) -> list[Path]:
    """Make sure that a data set is here and undamaged: find each file, or download it to the cache.

    Looks in $STEPSCOPE_DATA, /usr/share/datasets, and the cache, $XDG_CACHE_HOME/stepscope or ~/.cache/stepscope.
    Returns the files, none for a data set that comes with a package.
    Raises: UserError if STEPSCOPE_DATA names no readable folder or nothing can be downloaded; DamagedData.
    """
    dataset = _known(name)
    return [_checked(dataset, file)[0] for file in dataset.files]


def load(name: str, file_name: str) -> npt.NDArray[np.uint8]:
    """One file of a data set as a read-only array, fetched if need be. Raises as `fetch`."""
    dataset = _known(name)
    file = next(file for file in dataset.files if file.name == file_name)
    path, contents = _checked(dataset, file)
    return _decode_idx(contents, path)


def _known(name: str) -> _DataSet:
    if name not in _DATASETS:
        raise unknown_name("data set", name, _DATASETS)
    return _DATASETS[name]


def _checked(dataset: _DataSet, file: _File) -> tuple[Path, bytes]:
    path = _find(dataset, file) or _download(dataset, file)
    return path, _contents(path, file, dataset)


def _where(dataset: _DataSet) -> str:
    if dataset.comes_with:
        return f"with {dataset.comes_with}"
    paths = [_find(dataset, file) for file in dataset.files]
    folders = sorted({str(path.parent) for path in paths if path is not None})
    return "not here" if None in paths else ", ".join(folders)


def _find(dataset: _DataSet, file: _File) -> Path | None:
    for place in _places():
        for subfolder in dataset.subfolders:
            for suffix in ("", ".gz"):
                path = place / subfolder / (file.name + suffix)
                try:
                    path.stat()
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except OSError as error:
                    raise _unreadable(path, error) from error
                return path
    return None


def _places() -> Iterator[Path]:
    """From the most to the least particular; lazy, so that a missing home folder matters only when it is needed."""
    override = os.environ.get("STEPSCOPE_DATA")
    if override:
        folder = Path(override).expanduser().absolute()
        try:
            next(folder.iterdir(), None)
        except OSError as error:
            raise UserError(
                f"STEPSCOPE_DATA names the folder {folder}, which cannot be read: {error.strerror}. "
                "Correct it, or unset it to look elsewhere."
            ) from error
        yield folder
    yield _SYSTEM_FOLDER
    yield _cache()


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(root) if root else Path.home() / ".cache") / "stepscope"
    except RuntimeError as error:
        raise UserError("there is no home folder to keep data in; set XDG_CACHE_HOME or STEPSCOPE_DATA.") from error


def _contents(path: Path, file: _File, dataset: _DataSet) -> bytes:
    """The file's contents, decompressed where need be and checked."""
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    remedy = f"Delete it, then run: stepscope data fetch {dataset.name}"
    try:
        if contents.startswith(b"\x1f\x8b"):  # gzip; not by the name, which may be a partial download's
            contents = zlib.decompressobj(wbits=31).decompress(contents, file.size + 1)
    except zlib.error as error:
        raise DamagedData(f"{path} is damaged: it cannot be decompressed ({error}). {remedy}") from error
    found = hashlib.sha256(contents).hexdigest()
    if found != file.sha256:
        raise DamagedData(
            f"{path} is damaged: the sha256 of its contents is {found}, expected {file.sha256} "
            f"({len(contents)} bytes, expected {file.size}). {remedy}"
        )
    return contents


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot read {path}: {error.strerror}. Give it to this user to read, or remove it.")


def _download(dataset: _DataSet, file: _File) -> Path:
    folder = _cache() / dataset.name
    target = folder / f"{file.name}.gz"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one_process(folder):
            if not target.exists():
                urls = [mirror + target.name for mirror in dataset.mirrors]
                download(urls, target, lambda part: _contents(part, file, dataset))
    except DownloadError as error:
        names = ", ".join(f"{file.name}.gz" for file in dataset.files)
        raise UserError(
            f"{dataset.name} is not on this machine and cannot be downloaded ({error}). "
            f"Either: apt-get install {dataset.debian_package}. Or get {names} from {' or '.join(dataset.mirrors)} "
            "and set STEPSCOPE_DATA to their folder."
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot keep data in {folder}: {error.strerror}. Set XDG_CACHE_HOME to a folder with room, "
            "or STEPSCOPE_DATA to one with the files."
        ) from error
    return target


@contextmanager
def _only_one_process(folder: Path) -> Iterator[None]:
    """Wait until no other process downloads into the folder. No lock on Windows: there the later one wins."""
    with (folder / ".lock").open("w") as lock:
        if sys.platform != "win32":
            with suppress(OSError):  # some network file systems have no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _decode_idx(contents: bytes, path: Path) -> npt.NDArray[np.uint8]:
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
