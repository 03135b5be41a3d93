"""HTTP/1.1 that two servers could read differently is refused; what proxies are sent is served."""

from __future__ import annotations

import orjson
import pytest

from ccapi.actors.http.auth import check_host
from ccapi.schemas.errors import Forbidden
from ccapi.schemas.hosts import split_authority
from ccapi.schemas.settings.settings import ServerSettings

from ...support.http_client import GET, echo, knock, open_door

HELLO = b"5\r\nhello\r\n0\r\n\r\n"
WEBSOCKET = (
    b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)

AMBIGUOUS = [
    pytest.param(
        b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        id="length-and-coding",
    ),
    pytest.param(
        b"POST / HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n",
        id="coding-and-length",
    ),
    pytest.param(
        b"POST / HTTP/1.1\r\nhost: here\r\ntransfer-encoding:\r\n chunked\r\n\r\n",
        id="folded-coding",
    ),
    pytest.param(
        b"POST / HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\tx: y\r\n\r\n",
        id="folded-behind-coding",
    ),
    pytest.param(b"GET / HTTP/1.1\r\nhost: here\r\nx: y\r\n z\r\n\r\n", id="folded"),
    pytest.param(b"GET / HTTP/1.1\nhost: here\nx: y\n z\n\n", id="folded-with-bare-newlines"),
    pytest.param(b"\r\n\r\nGET / HTTP/1.1\r\nhost: here\r\n folded\r\n\r\n", id="blank-lines"),
    pytest.param(
        b"POST / HTTP/1.0\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n", id="http-1.0-coding"
    ),
    pytest.param(b"GET / HTTP/1.1\r\nhost: here\r\nhost: there\r\n\r\n", id="two-hosts"),
    pytest.param(b"GET / HTTP/1.1\r\nhost: here\r\nhost: here\r\n\r\n", id="the-same-host-twice"),
    *(
        pytest.param(b"GET / HTTP/1.1\r\nhost: %s\r\n\r\n" % host, id=f"host-{host!r}")
        for host in (
            b"[127.0.0.1]evil.example", b"[::1]evil.example", b"[127.0.0.1]", b"[::1", b"::1",
            b"user@localhost", b"localhost, evil.example", b"localhost:80:80", b"localhost:x",
            b"localhost:99999", b"localhost evil", b"localhost/", b"[::1%25lo]", b"local\xffhost",
            b"http://localhost",
        )
    ),
    pytest.param(b"GET nowhere HTTP/1.1\r\nhost: here\r\n\r\n", id="no-path"),
    pytest.param(b"GET http:///path HTTP/1.1\r\nhost: here\r\n\r\n", id="no-host-in-target"),
    pytest.param(b"GET ftp://here/ HTTP/1.1\r\nhost: here\r\n\r\n", id="another-scheme"),
    pytest.param(b"GET http://me@here/ HTTP/1.1\r\nhost: here\r\n\r\n", id="user-in-target"),
]  # fmt: skip


@pytest.mark.parametrize("request_bytes", AMBIGUOUS)
@pytest.mark.parametrize("split", [False, True])
async def test_what_is_ambiguous_is_refused_and_ends_the_connection(
    request_bytes: bytes, split: bool
) -> None:
    async with open_door(echo) as port, knock(port) as client:
        if split:
            half = len(request_bytes) // 2
            await client.send(request_bytes[:half])
            await client.send(request_bytes[half:])
        else:
            await client.send(request_bytes + HELLO + GET)
        response = await client.response()
        assert response.status == 400
        assert response.error["code"] == "invalid_http"
        assert response.headers["connection"] == "close"
        assert await client.ended()


async def test_a_websocket_with_a_false_host_is_refused() -> None:
    async with open_door(echo) as port, knock(port) as client:
        head = b"GET /ws HTTP/1.1\r\nhost: [127.0.0.1]evil.example\r\n%s\r\n"
        await client.send(head % WEBSOCKET)
        response = await client.response()
        assert (response.status, response.error["code"]) == (400, "invalid_handshake")


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"http://there:81/some/path?a=b", "/some/path", "there:81"),
        (b"HTTP://there", "/", "there"),
        (b"https://there?a=b", "/", "there"),
        (b"http://[::1]:8080/x", "/x", "[::1]:8080"),
    ],
)
async def test_an_absolute_target_is_served_and_names_the_host(
    target: bytes, path: str, host: str
) -> None:
    hosts = []

    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        hosts.append([value for name, value in scope["headers"] if name == b"host"])
        await echo(scope, receive, send)

    async with open_door(app) as port, knock(port) as client:
        for _ in range(2):
            await client.send(b"GET %s HTTP/1.1\r\nhost: elsewhere\r\n\r\n" % target)
            response = await client.response()
            assert response.status == 200
            assert orjson.loads(response.body)["path"] == path
    assert hosts == [[host.encode()]] * 2


async def test_an_absolute_target_keeps_the_body_and_other_headers() -> None:
    async with open_door(echo) as port, knock(port) as client:
        head = b"POST http://there/p HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(head + HELLO + GET)
        first = orjson.loads((await client.response()).body)
        assert (first["method"], first["path"], first["body"]) == ("POST", "/p", "hello")
        assert (await client.response()).status == 200


@pytest.mark.parametrize(
    ("authority", "parts"),
    [
        (b"localhost", ("localhost", None)),
        (b"localhost:", ("localhost", None)),
        (b"my_host.example:8080", ("my_host.example", 8080)),
        (b"127.0.0.1:1", ("127.0.0.1", 1)),
        (b"[::1]", ("::1", None)),
        (b"[::ffff:127.0.0.1]:65535", ("::ffff:127.0.0.1", 65535)),
        (b"", None),
        (b":80", None),
        (b"[]", None),
        (b"[gg::1]", None),
        (b"a:65536", None),
        (b"a" * 256, None),
    ],
)
def test_authorities(authority: bytes, parts: tuple[str, int | None] | None) -> None:
    assert split_authority(authority) == parts


@pytest.mark.parametrize("names", [(), ("*",)])
def test_a_false_host_is_refused_whatever_names_are_allowed(names: tuple[str, ...]) -> None:
    server = ServerSettings(allowed_hosts=names)
    check_host(server, [b"[::1]:80"])
    for host in (b"[127.0.0.1]evil.example", b"a@localhost", b"localhost:x"):
        with pytest.raises(Forbidden):
            check_host(server, [host])
        with pytest.raises(Forbidden):
            check_host(server, [b"localhost", host])
