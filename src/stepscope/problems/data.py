"""Data sets on disk: where they are looked for, how they are checked, and how they get here."""

import hashlib
import os
import stat
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stepscope.errors import DamagedData, UserError, unknown_name
from stepscope.problems.download import DownloadError, download
from stepscope.problems.formats import decode_idx
from stepscope.problems.sources import DATASETS, DataSet, Edition, File

if sys.platform != "win32":
    import fcntl

__all__ = ["DataSetInfo", "datasets", "fetch", "load", "read"]


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
    return [DataSetInfo(d.name, _where(d), d.download_size, d.licence) for d in DATASETS.values()]


def fetch(name: str) -> list[Path]:
    """Make sure that a data set is here and undamaged: find each file, or download it to the cache.

    Looks in $STEPSCOPE_DATA, /usr/share/datasets, and the cache, $XDG_CACHE_HOME/stepscope or ~/.cache/stepscope.
    An archive that is found, or downloaded, is unpacked into the cache.
    Returns the files, none for a data set that comes with a package.
    Raises: UserError if STEPSCOPE_DATA names no readable folder or nothing can be downloaded; DamagedData.
    """
    dataset = _known(name)
    if dataset.editions:
        edition, paths = _edition(dataset)
        for path, file in zip(paths, edition.files, strict=True):
            _contents(path, file, dataset)
        return paths
    return [_checked(dataset, file)[0] for file in dataset.files]


def read(name: str) -> tuple[str, dict[Path, bytes]]:
    """The checked contents of all files of a data set, in the order of `fetch`, fetched if need be; and their form.

    form: "binary" or "python" for a data set that is published in both, otherwise "".  Raises as `fetch`.
    """
    dataset = _known(name)
    if not dataset.editions:
        return "", dict(_checked(dataset, file) for file in dataset.files)
    edition, paths = _edition(dataset)
    return edition.form, {p: _contents(p, file, dataset) for p, file in zip(paths, edition.files, strict=True)}


def load(name: str, file_name: str) -> npt.NDArray[np.uint8]:
    """One file of a data set as a read-only array, fetched if need be. Raises as `fetch`."""
    dataset = _known(name)
    file = next(file for file in dataset.files if file.name == file_name)
    path, contents = _checked(dataset, file)
    return decode_idx(contents, path)


def _known(name: str) -> DataSet:
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    return DATASETS[name]


def _checked(dataset: DataSet, file: File) -> tuple[Path, bytes]:
    path = _find_file(dataset, file) or _download(dataset, file)
    return path, _contents(path, file, dataset)


def _where(dataset: DataSet) -> str:
    if dataset.comes_with:
        return f"with {dataset.comes_with}"
    for edition in dataset.editions:
        if paths := _unpacked(edition):
            return str(paths[0].parent)
    for edition in dataset.editions:
        if archive := _archive(dataset, edition):
            return str(archive)
    found = [_find_file(dataset, file) for file in dataset.files]
    folders = sorted({str(path.parent) for path in found if path is not None})
    return "not here" if None in found or not found else ", ".join(folders)


def _find_file(dataset: DataSet, file: File) -> Path | None:
    return _find(dataset.subfolders, (file.name, file.name + ".gz"))


def _find(subfolders: Sequence[str], names: Sequence[str]) -> Path | None:
    for place in _places():
        for subfolder in subfolders:
            for name in names:
                path = place / subfolder / name
                try:
                    if stat.S_ISDIR(path.stat().st_mode):
                        continue
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except OSError as error:
                    raise _unreadable(path, error) from error
                return path
    return None


def _edition(dataset: DataSet) -> tuple[Edition, list[Path]]:
    """The edition that is here, and its files; unpacked first if only its archive is here, or nothing."""
    for edition in dataset.editions:
        if paths := _unpacked(edition):
            return edition, paths
    for edition in dataset.editions:
        if archive := _archive(dataset, edition):
            with _keeping(_cache()) as folder, _only_one_process(folder):
                return edition, _unpacked(edition) or _unpack(archive, edition, dataset)
    edition = dataset.editions[0]
    with _keeping(_cache()) as folder, _only_one_process(folder):
        if not (paths := _unpacked(edition)):
            target = folder / edition.archive
            try:
                urls = [mirror + edition.archive for mirror in dataset.mirrors]
                download(urls, target, lambda part: _unpack(part, edition, dataset))
            except DownloadError as error:
                archives = " or ".join(edition.archive for edition in dataset.editions)
                raise _absent(dataset, error, archives, "folder; it need not be unpacked") from error
            target.unlink()
            paths = _unpacked(edition)
    return edition, paths


def _unpacked(edition: Edition) -> list[Path]:
    """The edition's files if all are here, else none."""
    paths = [_find(("", edition.folder), (file.name,)) for file in edition.files]
    found = [path for path in paths if path is not None]
    return found if len(found) == len(paths) else []


def _archive(dataset: DataSet, edition: Edition) -> Path | None:
    return _find(("", dataset.name), (edition.archive,))


def _unpack(archive: Path, edition: Edition, dataset: DataSet) -> list[Path]:
    """Put the edition's files, once their checksums are right, into a folder of the cache, and nothing else.

    No name in the archive becomes a path: the files that are wanted are looked up by theirs.
    """
    remedy = f"Delete it, then run: stepscope data fetch {dataset.name}"
    wanted = {f"{edition.folder}/{file.name}": file for file in edition.files}
    try:
        with tarfile.open(archive, "r|gz") as members:
            for member in members:
                file = wanted.get(member.name.removeprefix("./"))
                stream = members.extractfile(member) if file is not None and member.size == file.size else None
                if file is None or stream is None:
                    continue
                contents = stream.read()
                if hashlib.sha256(contents).hexdigest() == file.sha256:
                    del wanted[member.name.removeprefix("./")]
                    _keep(contents, _cache() / edition.folder / file.name)
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise DamagedData(f"{archive} is damaged: it cannot be unpacked ({error}). {remedy}") from error
    if wanted:
        raise DamagedData(f"{archive} is damaged: it holds no {', no '.join(wanted)} with the right sha256. {remedy}")
    return [_cache() / edition.folder / file.name for file in edition.files]


def _keep(contents: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(contents)
    part.replace(path)


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


def _contents(path: Path, file: File, dataset: DataSet) -> bytes:
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


def _download(dataset: DataSet, file: File) -> Path:
    suffix = ".gz" if dataset.gzipped else ""
    with _keeping(_cache() / dataset.name) as folder, _only_one_process(folder):
        target = folder / (file.name + suffix)
        if not target.exists():
            try:
                urls = [mirror + target.name for mirror in dataset.mirrors]
                download(urls, target, lambda part: _contents(part, file, dataset))
            except DownloadError as error:
                names = ", ".join(file.name + suffix for file in dataset.files)
                raise _absent(dataset, error, names, "folder") from error
    return target


def _absent(dataset: DataSet, error: DownloadError, names: str, folder: str) -> UserError:
    package = f"Either: apt-get install {dataset.debian_package}. Or get" if dataset.debian_package else "Get"
    return UserError(
        f"{dataset.name} is not on this machine and cannot be downloaded ({error}). "
        f"{package} {names} from {' or '.join(dataset.mirrors)} and set STEPSCOPE_DATA to their {folder}."
    )


@contextmanager
def _keeping(folder: Path) -> Iterator[Path]:
    """A folder of the cache, made if need be; what the disk refuses inside the block is an error about the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        raise UserError(
            f"cannot keep data in {folder}: {error.strerror}. Set XDG_CACHE_HOME to a folder with room, "
            "or STEPSCOPE_DATA to one with the files."
        ) from error


@contextmanager
def _only_one_process(folder: Path) -> Iterator[None]:
    """Wait until no other process downloads into the folder. No lock on Windows: there the later one wins."""
    with (folder / ".lock").open("w") as lock:
        if sys.platform != "win32":
            with suppress(OSError):  # some network file systems have no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
