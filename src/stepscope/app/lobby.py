"""The server of a page, which answers before everything behind it is loaded.

What answers a page's questions takes longer to import than a browser needs for the page itself. So the page and its
files, which need no framework, are served at once; a question waits until its answerer is there.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from importlib.resources import files

import uvicorn

from stepscope.app.door import Door
from stepscope.app.security import Application, Guard, Receive, Scope, Send

__all__ = ["Files", "serve"]

_MEDIA = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}


class Files:
    """The page at / and what it is made of below /static/, from memory; everything else goes on to `rest`."""

    def __init__(self, page: str, rest: Application) -> None:
        static = files("stepscope.app") / "static"
        kinds = {one.name: "." + one.name.rpartition(".")[2] for one in static.iterdir()}
        self.rest = rest
        self.files = {
            f"/static/{name}": ((static / name).read_bytes(), _MEDIA[kind])
            for name, kind in kinds.items()
            if kind in _MEDIA
        }
        self.files["/"] = self.files[f"/static/{page}.html"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. Names are looked up as they are, never made into a path."""
        found = self.files.get(scope["path"]) if scope["method"] in ("GET", "HEAD") else None
        if found is None:
            await self.rest(scope, receive, send)
            return
        body, media = found
        kind = f"{media}; charset=utf-8".encode()
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


class _Late:
    """An application that is loaded in a thread, begun with `begin`; requests wait for it."""

    def __init__(self, load: Callable[[], Application]) -> None:
        self.load, self.loaded = load, Future[Application]()

    def begin(self, failed: Callable[[], None]) -> None:
        """failed: is called if it cannot be loaded; `loaded` then has the reason."""

        def work() -> None:
            try:
                self.loaded.set_result(self.load())
            except BaseException as error:
                self.loaded.set_exception(error)
                failed()

        threading.Thread(target=work, daemon=True, name="stepscope-load").start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if not self.loaded.done():
            await asyncio.shield(asyncio.wrap_future(self.loaded))
        await self.loaded.result()(scope, receive, send)


def _worth_saying(record: logging.LogRecord) -> bool:
    """A page that is open and waits for an answer when the server ends is how it always is, and no error."""
    is_cut = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not is_cut and not str(record.msg).startswith("Cancel %s running")


def serve(page: str, load: Callable[[], Application], door: Door) -> None:
    """Serve until interrupted.  load: imports and makes what answers questions; what it raises, this raises."""
    late = _Late(load)
    config = uvicorn.Config(
        Guard(Files(page, late), door.policy),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=64,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=1 << 15,
        lifespan="off",
        ws="none",
    )
    logging.getLogger("uvicorn.error").addFilter(_worth_saying)
    server = uvicorn.Server(config)

    def end() -> None:
        server.should_exit = True

    late.begin(end)
    with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
        server.run(sockets=[door.listener])
    if late.loaded.done():
        late.loaded.result()
