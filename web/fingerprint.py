"""The fingerprint of the sources that the pages are built from: `python web/fingerprint.py [--write]`.

`make web` stores it beside the built pages, with that of what was built; a test computes both again, so a page that is
older than its sources, or was changed by hand, is noticed without building anything.
"""

import hashlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "src" / "stepscope" / "app" / "static" / "sources.sha256"


def sources() -> list[Path]:
    """What a build reads, in a fixed order."""
    web = ROOT / "web"
    files = [web / name for name in ("package.json", "package-lock.json", "tsconfig.json", "build.mjs")]
    files += [*web.glob("*.html"), *(path for path in (web / "src").rglob("*") if path.is_file())]
    files.append(ROOT / "src" / "stepscope" / "graph" / "runtime.js")
    return sorted(files)


def built() -> list[Path]:
    """What a build writes; first.js is Python's, and compared with what Python prints."""
    return sorted(
        path for path in STORED.parent.iterdir() if path.suffix in (".html", ".js", ".css") and path.stem != "first"
    )


def fingerprint() -> str:
    """SHA-256 over the names and contents of the sources, and over those of what was built, a line each."""
    return f"{_digest(sources())}\n{_digest(built())}"


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        STORED.write_text(fingerprint() + "\n", "utf-8")
    sys.stdout.write(fingerprint() + "\n")
