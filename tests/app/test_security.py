"""The wall around the server, met with raw sockets: what a browser or an attacker may send, byte by byte."""

import socket
from collections.abc import Iterator

import pytest
from tests.app.serving import Server, served

from stepscope.app.security import LARGEST_BODY, policy_for
from stepscope.errors import UserError


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with served("play") as one:
        yield one


def raw(port: int, text: str, host: str = "127.0.0.1") -> tuple[int, str]:
    """Send bytes as they are; the status and the whole answer."""
    with socket.create_connection((host, port), timeout=10) as line:
        line.sendall(text.encode("latin-1"))
        answer = b""
        while piece := line.recv(65536):
            answer += piece
    return int(answer.split(b" ", 2)[1]), answer.decode("utf-8", "replace")


def ask(port: int, path: str = "/", method: str = "GET", body: str = "", **headers: str) -> tuple[int, str]:
    fields = {"Host": f"127.0.0.1:{port}", "Connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    if body:
        fields.setdefault("Content-Length", str(len(body)))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return raw(port, f"{method} {path} HTTP/1.1\r\n{head}\r\n{body}")


def test_the_page_is_served_with_its_protection(server: Server):
    status, answer = ask(server.port)
    assert status == 200
    low = answer.lower()
    assert "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'" in low
    assert "unsafe" not in low.split("\r\n\r\n")[0]
    for header in ("x-content-type-options: nosniff", "frame-ancestors 'none'", "referrer-policy: no-referrer"):
        assert header in low
    assert "access-control-allow" not in low


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_its_own_names_are_answered(server: Server, host: str):
    assert ask(server.port, Host=f"{host}:{server.port}")[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "evil.example:8808",
        "127.0.0.1@evil.example",
        "10.0.0.1",
        "[::2]",
        "a b",
    ],
)
def test_a_foreign_host_is_refused(server: Server, host: str):
    """A name that somebody else made point at this machine."""
    assert ask(server.port, Host=host)[0] in (400, 421)


def test_host_must_be_there_once(server: Server):
    assert raw(server.port, "GET / HTTP/1.1\r\nConnection: close\r\n\r\n")[0] == 400
    two = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert raw(server.port, two)[0] == 400


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost"])
def test_a_foreign_origin_is_refused(server: Server, origin: str):
    assert ask(server.port, "/api/catalogue", Origin=origin)[0] == 403


def test_the_own_origin_is_not(server: Server):
    assert ask(server.port, "/api/catalogue", Origin=f"http://127.0.0.1:{server.port}")[0] == 200


def test_a_foreign_page_may_link_here_but_not_read(server: Server):
    assert ask(server.port, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200
    assert ask(server.port, "/api/catalogue", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e/server.py",
        "/static/..\\server.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/sources.sha256",
        "/../../../../etc/passwd",
        "//etc/passwd",
        "/static/play.js%00.css",
    ],
)
def test_no_path_leads_out(server: Server, path: str):
    status, answer = ask(server.port, path)
    assert status in (400, 404)
    assert "root:" not in answer
    assert "import" not in answer


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT"])
def test_other_methods_are_refused(server: Server, method: str):
    assert ask(server.port, "/", method)[0] in (400, 405)


def test_a_form_cannot_post(server: Server):
    """A form or a simple request of another site can only send these types, and they are not read."""
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data", ""):
        assert ask(server.port, "/api/catalogue", "POST", "{}", Content_Type=kind)[0] == 415


def test_large_requests_are_refused(server: Server):
    kind = "application/json"
    huge = str(LARGEST_BODY + 1)
    assert ask(server.port, "/api/catalogue", "POST", "{", Content_Type=kind, Content_Length=huge)[0] == 413
    assert ask(server.port, "/?" + "a" * 9000)[0] == 414
    assert ask(server.port, "/" + "a" * 60_000)[0] in (400, 414, 431)


def test_a_web_socket_is_refused(server: Server):
    upgrade = {"Upgrade": "websocket", "Sec_WebSocket_Version": "13", "Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    assert ask(server.port, "/api/catalogue", Connection="Upgrade, close", **upgrade)[0] != 101


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_this_machine_needs_no_token(address: str):
    assert policy_for(address, 1).token is None


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1"])
def test_other_addresses_do(address: str):
    one, two = policy_for(address, 1), policy_for(address, 1)
    assert one.token is not None
    assert len(one.token) >= 32
    assert one.token != two.token


def test_a_name_is_no_address():
    with pytest.raises(UserError, match=r"--host example\.org: give an IP address"):
        policy_for("example.org", 1)


def test_a_token_opens_and_nothing_else_does():
    with served("play", "--host", "0.0.0.0") as one:
        token = one.printed.split("token=")[1]
        port = one.port
        assert ask(port)[0] == 401
        assert ask(port, "/static/play.js")[0] == 401
        assert ask(port, f"/?token={token[:-1]}")[0] == 401
        assert ask(port, f"/api/catalogue?token={token}", "POST", "{}", Content_Type="application/json")[0] == 401
        status, answer = ask(port, f"/?token={token}")
        assert status == 303
        assert "location: /\r\n" in answer.lower()
        (cookie,) = [line for line in answer.split("\r\n") if line.lower().startswith("set-cookie")]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert ask(port, Cookie=f"stepscope={token}")[0] == 200
        assert ask(port, Cookie=f"stepscope={token}x")[0] == 401
        assert ask(port, Cookie=f"stepscope={token}", Host="evil.example")[0] == 421
        assert "location: /evil.example" in ask(port, f"//evil.example?token={token}")[1].lower()
