import io
import socket
import sys

import pytest

from stepscope.errors import DamagedData
from stepscope.problems.download import DownloadError, download

BODY = bytes(range(256)) * 1000


@pytest.fixture
def target(tmp_path):
    return tmp_path / "file.gz"


def complete(path):
    if path.read_bytes() != BODY:
        raise DamagedData(f"{path} is damaged")


def test_a_file_arrives_whole_and_leaves_no_part(mirror, target):
    mirror.files["file.gz"] = BODY
    download([mirror.url + "file.gz"], target, complete)
    assert target.read_bytes() == BODY
    assert list(target.parent.iterdir()) == [target]
    assert mirror.requests == [("/file.gz", None)]


def test_the_next_mirror_is_asked_when_one_has_nothing(mirror, target):
    mirror.files["good/file.gz"] = BODY
    download([mirror.url + "bad/file.gz", mirror.url + "good/file.gz"], target, complete)
    assert [path for path, _ in mirror.requests] == ["/bad/file.gz", "/good/file.gz"]
    assert target.read_bytes() == BODY


def test_the_next_mirror_is_asked_when_one_has_another_file(mirror, target):
    """For instance a login page that answers every request."""
    mirror.files |= {"bad": b"<html>", "good": BODY}
    download([mirror.url + "bad", mirror.url + "good"], target, complete)
    assert target.read_bytes() == BODY
    assert mirror.requests == [("/bad", None), ("/good", None)]


def test_a_cut_download_is_gone_on_with(mirror, target):
    mirror.files["file.gz"], mirror.cuts = BODY, [1000, 500]
    download([mirror.url + "file.gz"], target, complete)
    assert target.read_bytes() == BODY
    assert [wanted for _, wanted in mirror.requests] == [None, "bytes=1000-", "bytes=1500-"]


def test_a_cut_download_is_gone_on_with_by_the_next_call(mirror, target):
    mirror.files["file.gz"], mirror.cuts = BODY, [1000, 0]
    with pytest.raises(DownloadError, match="stopped after 1000 of 256000 bytes"):
        download([mirror.url + "file.gz"], target, complete)
    assert not target.exists()
    download([mirror.url + "file.gz"], target, complete)
    assert target.read_bytes() == BODY
    assert mirror.requests[-1] == ("/file.gz", "bytes=1000-")


def test_a_server_without_ranges_starts_again(mirror, target):
    mirror.files["file.gz"], mirror.cuts, mirror.resumes = BODY, [1000], False
    download([mirror.url + "file.gz"], target, complete)
    assert target.read_bytes() == BODY


def test_wrong_bytes_from_an_earlier_call_are_thrown_away(mirror, target):
    mirror.files["file.gz"] = BODY
    (target.parent / "file.gz.part").write_bytes(b"wrong")
    download([mirror.url + "file.gz"], target, complete)
    assert target.read_bytes() == BODY
    assert [wanted for _, wanted in mirror.requests] == ["bytes=5-", None]


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_a_part_that_is_already_long_enough_starts_again(mirror, target, extra):
    """A process may die between the last byte and the renaming; the server then answers 416."""
    mirror.files["file.gz"] = BODY
    (target.parent / "file.gz.part").write_bytes(BODY + extra)
    download([mirror.url + "file.gz"], target, complete)
    assert target.read_bytes() == BODY


def test_when_all_fail_every_mirror_s_reason_is_given(mirror, target):
    mirror.files["wrong"] = b"<html>"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    urls = [mirror.url + "absent", mirror.url + "wrong", f"http://127.0.0.1:{port}/x"]
    with pytest.raises(DownloadError) as caught:
        download(urls, target, complete)
    absent, wrong, refused = str(caught.value).split("; ")
    assert absent == f"{urls[0]}: 404 Not Found"
    assert wrong == f"{urls[1]}: not the file it should be"
    assert refused == f"{urls[2]}: Connection refused"
    assert list(target.parent.iterdir()) == []


def test_a_silent_server_is_given_up(monkeypatch, target):
    monkeypatch.setattr("stepscope.problems.download._TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DownloadError, match="timed out"):
        download([f"http://127.0.0.1:{silent.getsockname()[1]}/x"], target, complete)


def test_a_server_that_speaks_no_http_is_an_error_of_that_mirror(mirror, monkeypatch, target):
    """http.client's own exceptions are no OSErrors."""
    mirror.files["file.gz"] = BODY
    monkeypatch.setattr("http.client._MAXLINE", 3)  # the status line is now too long
    with pytest.raises(DownloadError, match="status line"):
        download([mirror.url + "file.gz"], target, complete)


def test_a_full_disk_is_not_blamed_on_the_mirror(mirror, tmp_path):
    mirror.files["file.gz"] = BODY
    with pytest.raises(OSError, match="No such file"):
        download([mirror.url + "file.gz"], tmp_path / "absent" / "file.gz", complete)


def test_progress_is_for_terminals_only(mirror, target, monkeypatch, capsys):
    mirror.files["file.gz"] = BODY
    download([mirror.url + "file.gz"], target, complete)
    assert capsys.readouterr().err == ""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    download([mirror.url + "file.gz"], target, complete)
    assert "\rfile.gz: 0.3 of 0.3 MB" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")  # the line is cleared
