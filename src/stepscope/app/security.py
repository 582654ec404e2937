"""Who may talk to the server and how much: a wall of plain ASGI around the application.

It refuses hosts that are not its own (a page elsewhere may have its name point here: DNS rebinding), requests that
another site's page makes, bodies that are too large, and, where the server listens beyond this machine, everybody who
does not know the token.
"""

import hmac
import ipaddress
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from stepscope.errors import UserError

__all__ = ["COOKIE", "HEADERS", "LARGEST_BODY", "Guard", "Policy", "policy_for"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "stepscope"
LARGEST_BODY = 1 << 16
_LONGEST_TARGET = 8192  # bytes of a path with its query

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src blob:; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}
"""What every answer carries: nothing but this server's own scripts and styles runs, and no other page may show it."""


@dataclass(frozen=True)
class Policy:
    """Names under which the server may be addressed (lower case, no port), and the token if one is needed."""

    hosts: frozenset[str]
    token: str | None = None
    port: int | None = field(default=None, compare=False)


def policy_for(address: str, port: int) -> Policy:
    """For an address to listen on: this machine alone needs no token; any other address gets a fresh one.

    Raises UserError for an address that is neither an IP address nor localhost.
    """
    local = frozenset({"localhost", "127.0.0.1", "::1"})
    if address == "localhost":
        return Policy(local, None, port)
    try:
        ip = ipaddress.ip_address(address)
    except ValueError as error:
        raise UserError(f"--host {address}: give an IP address, such as 127.0.0.1 or 0.0.0.0.") from error
    if ip.is_loopback:
        return Policy(local | {str(ip)}, None, port)
    # Listening everywhere, it may be addressed by any of the machine's IP addresses: a number cannot be rebound.
    hosts = local | ({"*"} if ip.is_unspecified else {str(ip)})
    return Policy(hosts, secrets.token_urlsafe(24), port)


def _host_of(text: str) -> str:
    """The name in a Host header, "" for what is not one."""
    try:
        parts = urlsplit(f"//{text}")
        _ = parts.port
    except ValueError:
        return ""
    plain = parts.username is None and not parts.path and not parts.query and not parts.fragment
    return (parts.hostname or "") if plain else ""


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Guard:
    """The wall: everything that is refused never reaches the application."""

    def __init__(self, application: Application, policy: Policy) -> None:
        self.application, self.policy = application, policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] == "lifespan":
            await self.application(scope, receive, send)
            return
        if scope["type"] != "http":  # no page opens a WebSocket
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1008})
            return
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        problem = self._problem(scope, headers)
        if problem is not None:
            await _refuse(send, *problem)
            return
        if self.policy.token is not None and not self._known(headers):
            await self._ask(scope, send)
            return
        await self.application(scope, _Bounded(receive), _Dressed(send))

    def _problem(  # noqa: PLR0911 -- one reason each
        self, scope: Scope, headers: dict[str, str]
    ) -> tuple[int, str] | None:
        target = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
        if target > _LONGEST_TARGET:
            return 414, "the address is too long"
        if sum(1 for name, _ in scope["headers"] if name == b"host") != 1:
            return 400, "exactly one Host header is needed"
        host = _host_of(headers["host"])
        if not (host in self.policy.hosts or ("*" in self.policy.hosts and _is_number(host))):
            return 421, "this server does not answer under that name"
        own = {f"{scheme}://{headers['host'].lower()}" for scheme in ("http", "https")}
        if "origin" in headers and headers["origin"].lower() not in own:
            return 403, "requests of other sites are refused"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
            return 403, "requests of other sites are refused"
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "only GET, HEAD and POST are understood"
        if scope["method"] == "POST":
            if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
                return 415, "only application/json is understood"
            length = headers.get("content-length", "0")
            if not length.isascii() or not length.isdigit() or int(length) > LARGEST_BODY:
                return 413, f"a request's body has at most {LARGEST_BODY} bytes"
        return None

    def _known(self, headers: dict[str, str]) -> bool:
        assert self.policy.token is not None
        try:
            jar = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        given = jar[COOKIE].value if COOKIE in jar else ""
        return hmac.compare_digest(given.encode(), self.policy.token.encode())

    async def _ask(self, scope: Scope, send: Send) -> None:
        """Take the token from the address, once, and put it into a cookie that no script can read."""
        assert self.policy.token is not None
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        given = next((value for name, value in query if name == "token"), "")
        if scope["method"] != "GET" or not hmac.compare_digest(given.encode(), self.policy.token.encode()):
            await _refuse(send, 401, "open the address that the server printed; it contains the token")
            return
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        # A path may begin with two slashes, which a browser would take for another host.
        place = "/" + scope.get("path", "/").lstrip("/\\")
        safe = "".join(c for c in place if c.isascii() and (c.isalnum() or c in "/-._"))
        cookie = f"{COOKIE}={self.policy.token}; Path=/; HttpOnly; SameSite=Strict"
        headers = {**HEADERS, "location": f"{safe}{'?' if rest else ''}{rest}", "set-cookie": cookie}
        await _answer(send, 303, headers, b"")


async def _refuse(send: Send, status: int, problem: str) -> None:
    body = b'{"error": "' + problem.encode("ascii") + b'"}'
    await _answer(send, status, {**HEADERS, "content-type": "application/json"}, body)


async def _answer(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    pairs.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


class _Bounded:
    """A request's body, cut off where it exceeds what is allowed; a length that was announced is checked before."""

    def __init__(self, receive: Receive) -> None:
        self.receive, self.size = receive, 0

    async def __call__(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.request":
            self.size += len(message.get("body", b""))
            if self.size > LARGEST_BODY:
                return {"type": "http.disconnect"}
        return message


class _Dressed:
    """Puts the headers on whatever the application answers."""

    def __init__(self, send: Send) -> None:
        self.send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name for name, _ in message["headers"]}
            extra = [(n.encode(), v.encode("latin-1")) for n, v in HEADERS.items() if n.encode() not in present]
            message = {**message, "headers": [*message["headers"], *extra]}
        await self.send(message)
