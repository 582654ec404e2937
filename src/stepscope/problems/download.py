"""Fetch one file from the first mirror that has it, whole or not at all, going on where a broken download stopped."""

import http.client
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stepscope.errors import DamagedData

__all__ = ["DownloadError", "download"]

_TIMEOUT = 20.0  # seconds without a byte, not for the whole file
_ATTEMPTS = 5  # on one mirror, as long as bytes arrive

_Report = Callable[[int, int | None], None]  # bytes so far, bytes in all if known


class DownloadError(Exception):
    """No mirror delivered the file. The text holds every mirror's reason."""


class _BrokenError(Exception):
    """The network's fault, as opposed to the disk's, which stays an OSError."""


def download(urls: Sequence[str], target: Path, check: Callable[[Path], object]) -> None:
    """Write the first of `urls` whose file passes `check` to `target`.

    check: raises DamagedData for a file with the wrong contents; it is thrown away. What has arrived of a broken
    download stays beside the target (`.part`) and is gone on with, where the server can (HTTP ranges).
    Counts the megabytes on stderr when that is a terminal.
    Raises: DownloadError; OSError if the disk refuses. `target` appears only when it is complete.
    """
    part = target.with_name(target.name + ".part")
    reasons = []
    with _progress(target.name) as report:
        for url in urls:
            for _ in range(_ATTEMPTS):
                before = _size(part)
                try:
                    _transfer(url, part, report)
                    check(part)
                except _BrokenError as error:
                    reason, give_up = str(error), _size(part) <= before
                except DamagedData:
                    part.unlink()
                    # After a resumption the older bytes may be at fault: once more, from the start.
                    reason, give_up = "not the file it should be", before == 0
                else:
                    part.replace(target)
                    return
                if give_up:
                    break
            reasons.append(f"{url}: {reason}")
    raise DownloadError("; ".join(reasons))


def _transfer(url: str, part: Path, report: _Report) -> None:
    have = _size(part)
    with _open(url, have) as response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        have = have if resumed else 0
        total = None if response.length is None else have + response.length
        with part.open("ab" if resumed else "wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                have += len(chunk)
                report(have, total)
    if total is not None and have < total:  # read() ends a cut connection like a complete one
        raise _BrokenError(f"stopped after {have} of {total} bytes")


def _open(url: str, have: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": "stepscope", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT
        )
    except urllib.error.HTTPError as error:
        error.close()
        if have and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _open(url, 0)
        raise _BrokenError(f"{error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(_text(error)) from error
    return response


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read(1 << 16):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(_text(error)) from error


def _text(error: Exception) -> str:
    reason = getattr(error, "reason", error)  # URLError wraps the socket's own error
    return " ".join(str(getattr(reason, "strerror", None) or reason or type(error).__name__).split())


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _progress(label: str) -> Iterator[_Report]:
    """One line on stderr that rewrites itself and is gone at the end."""
    terminal = sys.stderr.isatty()

    def report(have: int, total: int | None) -> None:
        if terminal:
            whole = f" of {total / 1e6:.1f}" if total else ""
            sys.stderr.write(f"\r{label}: {have / 1e6:.1f}{whole} MB")
            sys.stderr.flush()

    try:
        yield report
    finally:
        if terminal:
            sys.stderr.write("\r\x1b[K")
