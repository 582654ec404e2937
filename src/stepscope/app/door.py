"""The address of a page, open before what answers there is loaded.

Loading takes longer than a browser needs to start. Whoever comes meanwhile waits, and is not turned away.
"""

import socket
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass

from stepscope.app.security import Policy, policy_for
from stepscope.errors import UserError

__all__ = ["Door", "open_door"]


@dataclass(frozen=True)
class Door:
    """A socket that listens, its address, and who may come in."""

    listener: socket.socket
    address: str
    policy: Policy


def open_door(page: str, *, host: str, port: int, show: bool, say: Callable[[str], None], fragment: str = "") -> Door:
    """Listen. port 0: a free one.  say: is told the address.  show: open it in the browser.

    Raises UserError for an address that cannot be listened on.
    """
    policy = policy_for(host, port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, or asyncio does not know it for TCP and lets small answers wait for 40 ms (Nagle).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror}; choose another --port.") from error
    name = "127.0.0.1" if host in ("localhost", "0.0.0.0") else "[::1]" if host == "::" else host
    name = f"[{name}]" if ":" in name and not name.startswith("[") else name
    token = f"?token={policy.token}" if policy.token else ""
    address = f"http://{name}:{listener.getsockname()[1]}/{token}{fragment}"
    say(f"stepscope {page}: {address}  (Ctrl-C ends it)")
    if show:
        opening = threading.Timer(0.05, webbrowser.open, [address])
        opening.daemon = True
        opening.start()
    return Door(listener, address, policy)
