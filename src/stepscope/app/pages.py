"""`stepscope play` and `stepscope watch`: the pages in a browser."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepscope.app.security import Application

__all__ = ["play", "watch"]

_HOST = typer.Option(metavar="ADDRESS", help="Where to listen. Beyond this machine, the printed address has a token.")
_PORT = typer.Option(metavar="N", min=0, max=65535, help="0 takes a free one.")
_SHOW = typer.Option("--open/--no-open", help="Open the page in the browser.")


def play(
    host: Annotated[str, _HOST] = "127.0.0.1",
    port: Annotated[int, _PORT] = 8808,
    show: Annotated[bool, _SHOW] = True,
) -> None:
    """Play with optimizers on landscapes in the browser: paths, losses, and what each step is made of."""

    def load() -> "Application":
        from stepscope.app import api_play
        from stepscope.app.server import application

        return application("play", api_play.ENDPOINTS)

    _open("play", load, host, port, show)


def watch(
    runs: Annotated[Path, typer.Argument(metavar="RUNS", help="A run, a dissection, or a folder of them.")] = Path(
        "runs"
    ),
    host: Annotated[str, _HOST] = "127.0.0.1",
    port: Annotated[int, _PORT] = 8809,
    show: Annotated[bool, _SHOW] = True,
) -> None:
    """Watch running and finished runs in the browser."""
    from stepscope.errors import UserError

    if not runs.is_dir():
        raise UserError(f"{runs} is not a folder; name a run, a dissection, or a folder of them.")

    def load() -> "Application":
        from stepscope.app import api_watch
        from stepscope.app.server import application

        return application("watch", api_watch.endpoints(runs))

    _open("watch", load, host, port, show)


def _open(page: str, load: "Callable[[], Application]", host: str, port: int, show: bool) -> None:
    """Open the door, then serve. An interrupt is how these commands end, whatever they are at."""
    from stepscope.app.door import open_door

    with contextlib.suppress(KeyboardInterrupt):
        door = open_door(page, host=host, port=port, show=show, say=typer.echo)
        with door.listener:
            from stepscope.app.lobby import serve

            serve(page, load, door)
