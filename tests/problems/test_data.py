import errno
import gzip
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from tests.problems import archives

import stepscope.problems.data as data_module
from stepscope.errors import DamagedData, UserError
from stepscope.problems import datasets, fetch
from stepscope.problems.data import load, read
from stepscope.problems.sources import DATASETS

PIXELS = [[0, 1, 2], [3, 4, 5]]


def where(name: str) -> str:
    return {info.name: info.where for info in datasets()}[name]


def put(folder, name: str, contents: bytes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(gzip.compress(contents) if name.endswith(".gz") else contents)
    return folder / name


# --- where data is found


@pytest.mark.parametrize("name", ["pixels", "pixels.gz"])
@pytest.mark.parametrize("subfolder", ["", "tiny"])
def test_a_folder_of_the_user_s_is_taken_with_or_without_compression(tiny, places, monkeypatch, subfolder, name):
    path = put(places / "mine" / subfolder, name, tiny)
    monkeypatch.setenv("STEPSCOPE_DATA", str(places / "mine"))
    assert fetch("tiny") == [path]
    assert load("tiny", "pixels").tolist() == PIXELS
    assert where("tiny") == str(path.parent)


def test_the_user_s_folder_goes_before_the_system_s_and_that_before_the_cache(tiny, places, monkeypatch):
    cached = put(places / "cache" / "stepscope" / "tiny", "pixels.gz", tiny)
    assert fetch("tiny") == [cached]
    installed = put(places / "system" / "tiny", "pixels.gz", tiny)
    assert fetch("tiny") == [installed]
    mine = put(places / "mine", "pixels", tiny)
    monkeypatch.setenv("STEPSCOPE_DATA", str(places / "mine"))
    assert fetch("tiny") == [mine]


def test_a_user_s_folder_without_the_data_set_is_passed_over(tiny, places, monkeypatch):
    """It may hold other data sets."""
    installed = put(places / "system" / "tiny", "pixels.gz", tiny)
    (places / "mine").mkdir()
    monkeypatch.setenv("STEPSCOPE_DATA", str(places / "mine"))
    assert fetch("tiny") == [installed]


def test_without_xdg_cache_home_the_cache_is_in_the_home_folder(tiny, places, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(places / "home"))
    cached = put(places / "home" / ".cache" / "stepscope" / "tiny", "pixels.gz", tiny)
    assert fetch("tiny") == [cached]


def test_without_a_home_folder_the_error_names_the_variables(tiny, places, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(UserError, match="no home folder to keep data in; set XDG_CACHE_HOME or STEPSCOPE_DATA"):
        fetch("tiny")


def test_the_list_of_data_sets(places):
    digits, fashion, *others = datasets()
    assert digits == ("digits", "with scikit-learn", 0, "CC BY 4.0")
    assert fashion == ("fashion-mnist", "not here", 30_878_645, "MIT")
    assert [info.name for info in others] == ["cifar-10", "cifar-100", "war-and-peace"]
    assert {info.where for info in others} == {"not here"}
    assert fetch("digits") == []


def test_an_unknown_data_set_is_named():
    with pytest.raises(UserError, match=r"unknown data set 'fashion': did you mean 'fashion-mnist'"):
        fetch("fashion")


# --- STEPSCOPE_DATA is never passed over in silence


def test_a_user_s_folder_that_does_not_exist_is_an_error(tiny, places, monkeypatch):
    put(places / "system" / "tiny", "pixels.gz", tiny)
    monkeypatch.setenv("STEPSCOPE_DATA", str(places / "absent"))
    for call in (lambda: fetch("tiny"), datasets):
        with pytest.raises(
            UserError, match=r"STEPSCOPE_DATA names the folder .*absent, .* No such file or directory\."
        ):
            call()


def test_a_user_s_folder_that_is_a_file_is_an_error(tiny, places, monkeypatch):
    monkeypatch.setenv("STEPSCOPE_DATA", str(put(places, "file", b"")))
    with pytest.raises(UserError, match=r"STEPSCOPE_DATA names the folder .*file, .* Not a directory\."):
        fetch("tiny")


def test_a_damaged_file_of_the_user_s_is_an_error_though_there_is_a_good_one(tiny, places, monkeypatch):
    put(places / "system" / "tiny", "pixels.gz", tiny)
    path = put(places / "mine", "pixels", tiny[:-1] + b"\xff")
    monkeypatch.setenv("STEPSCOPE_DATA", str(places / "mine"))
    with pytest.raises(DamagedData, match=str(path)):
        fetch("tiny")


UNPRIVILEGED = """
import os, sys
from pathlib import Path
import stepscope.problems.data as data
from stepscope.errors import UserError

root = Path(sys.argv[1])
data._SYSTEM_FOLDER = root / "absent"
if os.getuid() == 0:
    os.setuid(65534)
for user_folder, cache in (("locked", ""), ("unsearchable", ""), ("file", ""), ("", "locked"), ("", "read-only")):
    os.environ["STEPSCOPE_DATA"] = str(root / user_folder) if user_folder else ""
    os.environ["XDG_CACHE_HOME"] = str(root / cache)
    try:
        print(data.fetch("fashion-mnist"))
    except UserError as error:
        print(error)
"""


def test_missing_permissions_are_named():
    """In a process that gives up its rights, because root may read everything; outside pytest's own locked folder."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        for folder, mode in (("locked", 0), ("unsearchable", 0o444), ("file", 0o755), ("read-only", 0o555)):
            put(root / folder, "train-images-idx3-ubyte" if folder == "file" else "else", b"").chmod(0)
            (root / folder).chmod(mode)
        done = subprocess.run([sys.executable, "-c", UNPRIVILEGED, name], capture_output=True, text=True, check=True)
        for folder in root.iterdir():
            folder.chmod(0o755)  # so that its owner, too, can delete it
    locked, unsearchable, file, locked_cache, read_only_cache = done.stdout.splitlines()
    assert locked.startswith(f"STEPSCOPE_DATA names the folder {root}/locked, which cannot be read: Permission denied.")
    assert unsearchable.startswith(f"cannot read {root}/unsearchable/train-images-idx3-ubyte: Permission denied.")
    assert file.startswith(f"cannot read {root}/file/train-images-idx3-ubyte: Permission denied. Give it to this user")
    assert locked_cache.startswith(f"cannot read {root}/locked/stepscope/train-images-idx3-ubyte: Permission denied.")
    assert read_only_cache.startswith(
        f"cannot keep data in {root}/read-only/stepscope/fashion-mnist: Permission denied."
    )


# --- damage


def damage_text(path) -> str:
    with pytest.raises(DamagedData) as caught:
        fetch("tiny")
    text = str(caught.value)
    assert text.startswith(f"{path} is damaged: ")
    assert text.endswith("Delete it, then run: stepscope data fetch tiny")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", ["pixels", "pixels.gz"])
@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c + b"x", lambda c: b"", lambda c: c[:-1] + b"x"])
def test_wrong_contents_are_named_with_both_checksums(tiny, places, damage, name):
    contents = damage(tiny)
    text = damage_text(put(places / "system" / "tiny", name, contents))
    for expected in (hashlib.sha256(contents).hexdigest(), hashlib.sha256(tiny).hexdigest(), "expected 18"):
        assert expected in text


def test_a_compressed_file_that_cannot_be_decompressed_says_so(tiny, places):
    path = put(places / "system" / "tiny", "pixels.gz", tiny)
    packed = bytearray(path.read_bytes())
    packed[10] ^= 0xFF  # the first byte of the compressed stream: an invalid block type
    path.write_bytes(packed)
    assert "it cannot be decompressed (" in damage_text(path)


def test_a_compressed_file_that_is_cut_off_is_damaged(tiny, places):
    path = put(places / "system" / "tiny", "pixels.gz", tiny)
    path.write_bytes(path.read_bytes()[:14])
    assert "expected 18" in damage_text(path)


def test_a_file_that_unpacks_to_more_than_it_should_is_not_unpacked_to_the_end(tiny, places):
    path = put(places / "system" / "tiny", "pixels.gz", tiny + bytes(10**7))
    assert "(19 bytes, expected 18)" in damage_text(path)


# --- download


def test_what_is_nowhere_is_downloaded_to_the_cache_once(tiny, mirror, places):
    mirror.files["pixels.gz"] = gzip.compress(tiny)
    assert where("tiny") == "not here"
    cached = places / "cache" / "stepscope" / "tiny" / "pixels.gz"
    assert fetch("tiny") == fetch("tiny") == [cached]
    assert load("tiny", "pixels").tolist() == PIXELS
    assert where("tiny") == str(cached.parent)
    assert mirror.requests == [("/pixels.gz", None)]


def test_a_download_with_the_wrong_contents_is_not_kept(tiny, mirror, places):
    mirror.files["pixels.gz"] = gzip.compress(tiny[:-1] + b"x")
    with pytest.raises(UserError, match=r"pixels\.gz: not the file it should be"):
        fetch("tiny")
    assert not list(places.rglob("pixels*"))


def test_without_a_network_the_error_says_how_to_get_the_files(tiny, mirror):
    with pytest.raises(UserError) as caught:
        load("tiny", "pixels")
    assert str(caught.value) == (
        f"tiny is not on this machine and cannot be downloaded ({mirror.url}pixels.gz: 404 Not Found). "
        f"Either: apt-get install dataset-tiny. Or get pixels.gz from {mirror.url} "
        "and set STEPSCOPE_DATA to their folder."
    )


def test_a_cache_that_is_a_file_is_an_error(tiny, mirror, places):
    put(places, "cache", b"")
    with pytest.raises(UserError, match=r"cannot keep data in .*cache.stepscope.tiny: .*Set XDG_CACHE_HOME"):
        fetch("tiny")
    assert mirror.requests == []


def test_a_full_disk_is_an_error_about_the_disk(tiny, mirror, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(data_module, "download", full)
    with pytest.raises(UserError, match=r"cannot keep data in .*: No space left on device\. Set XDG_CACHE_HOME"):
        fetch("tiny")


def test_two_at_a_time_download_once(tiny, mirror):
    """The second waits for the lock, then finds the file."""
    mirror.files["pixels.gz"] = gzip.compress(tiny)
    threads = [threading.Thread(target=fetch, args=("tiny",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(mirror.requests) == 1


def test_the_checksums_are_those_of_the_real_files(here):
    """fetch compares sha256 and size of all four."""
    if not here("fashion-mnist"):
        pytest.skip("Fashion-MNIST is not on this machine")
    assert [path.name.removesuffix(".gz") for path in fetch("fashion-mnist")] == [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ]


# --- data sets in an archive, published in two forms


@pytest.fixture(params=["cifar-10", "cifar-100"])
def archived(request, monkeypatch, mirror, places):
    """The name of a data set that is known with the checksums of tiny archives, and to no mirror yet."""
    monkeypatch.setitem(DATASETS, request.param, archives.entry(request.param, (f"{mirror.url}a/", f"{mirror.url}b/")))
    return request.param


@pytest.mark.parametrize("form", ["binary", "python"])
def test_unpacked_files_of_the_user_s_are_read_where_they_lie(archived, places, monkeypatch, form):
    folder = archives.write(places / "mine", archived, form)
    for named in (places / "mine", folder):  # the folder around them or their own
        monkeypatch.setenv("STEPSCOPE_DATA", str(named))
        assert where(archived) == str(folder)
        found, files = read(archived)
        assert (found, list(files)) == (form, fetch(archived))
        assert {path.name: contents for path, contents in files.items()} == archives.contents(archived, form)
    assert not (places / "cache").exists()


@pytest.mark.parametrize("form", ["binary", "python"])
def test_an_archive_of_the_user_s_is_unpacked_into_the_cache(archived, places, monkeypatch, form):
    (places / "mine").mkdir()
    archive = places / "mine" / f"{archived}-{form}.tar.gz"
    archive.write_bytes(archives.archive(archived, form))
    monkeypatch.setenv("STEPSCOPE_DATA", str(places / "mine"))
    assert where(archived) == str(archive)
    folder = places / "cache" / "stepscope" / archives.FOLDERS[archived][form]
    assert [path.parent for path in fetch(archived)] == [folder] * len(archives.contents(archived, form))
    assert where(archived) == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(archives.contents(archived, form))
    assert list(archive.parent.iterdir()) == [archive]


def test_the_binary_archive_is_downloaded_and_gone_on_with_from_another_mirror(archived, mirror, places):
    body = archives.archive(archived, "binary")
    mirror.files[f"b/{archived}-binary.tar.gz"] = body
    mirror.cuts = [1000]
    paths = fetch(archived)
    assert [(path[:3], wanted) for path, wanted in mirror.requests] == [
        ("/a/", None),
        ("/b/", None),
        ("/b/", "bytes=1000-"),
    ]
    assert {path.name: path.read_bytes() for path in paths} == archives.contents(archived, "binary")
    assert not list(places.rglob("*.tar.gz*"))  # its contents are kept once
    count = len(mirror.requests)
    assert fetch(archived) == paths
    assert len(mirror.requests) == count


def test_a_mirror_with_another_archive_is_passed_over(archived, mirror, places):
    mirror.files[f"a/{archived}-binary.tar.gz"] = archives.archive(archived, "python")
    with pytest.raises(UserError, match=r"binary\.tar\.gz: not the file it should be; .*b/.*: 404 Not Found"):
        fetch(archived)
    assert not [path for path in places.rglob("*") if path.is_file() and path.name != ".lock"]


@pytest.mark.parametrize("damage", [lambda a: a[: len(a) // 2], lambda a: b"<html>", lambda a: b"\x1f\x8b" + a[9:]])
def test_a_damaged_archive_of_the_user_s_is_named(archived, places, monkeypatch, damage):
    (places / "mine").mkdir()
    archive = places / "mine" / f"{archived}-binary.tar.gz"
    archive.write_bytes(damage(archives.archive(archived, "binary")))
    monkeypatch.setenv("STEPSCOPE_DATA", str(places / "mine"))
    with pytest.raises(DamagedData, match=f"{archive} is damaged: it cannot be unpacked .*stepscope data fetch"):
        fetch(archived)


def test_an_archive_with_wrong_contents_is_named(archived, places, monkeypatch):
    other = "cifar-100" if archived == "cifar-10" else "cifar-10"
    (places / "mine").mkdir()
    (places / "mine" / f"{archived}-binary.tar.gz").write_bytes(archives.archive(other, "binary"))
    monkeypatch.setenv("STEPSCOPE_DATA", str(places / "mine"))
    with pytest.raises(DamagedData, match=r"is damaged: it holds no .*\.bin with the right sha256"):
        fetch(archived)


def test_without_a_network_the_error_names_both_archives(archived, mirror):
    with pytest.raises(UserError) as caught:
        fetch(archived)
    assert str(caught.value).endswith(
        f"Get {archived}-binary.tar.gz or {archived}-python.tar.gz from {mirror.url}a/ or {mirror.url}b/ "
        "and set STEPSCOPE_DATA to their folder; it need not be unpacked."
    )


def test_a_damaged_unpacked_file_is_named(archived, places, monkeypatch):
    folder = archives.write(places / "mine", archived, "binary")
    victim = next(folder.iterdir())
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    monkeypatch.setenv("STEPSCOPE_DATA", str(places / "mine"))
    with pytest.raises(DamagedData, match=f"{victim} is damaged: the sha256"):
        fetch(archived)


@pytest.mark.parametrize("name", ["cifar-10", "cifar-100", "war-and-peace"])
def test_the_checksums_are_those_of_the_published_files(here, name):
    """fetch compares sha256 and size of each."""
    if not here(name):
        pytest.skip(f"{name} is not on this machine")
    assert fetch(name)
