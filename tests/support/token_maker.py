"""A stand-in for the hosts of the CLI's maker, behind a proxy on loopback: it makes new tokens.

Knows the one call by which the CLI has an expired token renewed. Everything else is a 404, and
nothing leaves the machine.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio
import trustme
from attrs import define, field

NEW_TOKEN = "sk-ant-oat01-dummy-renewed"
NEW_REFRESH = "sk-ant-ort01-dummy-renewed"


@define(eq=False)
class TokenMaker:
    """`ca`: the file of its certificate authority. `asked`: what came, as ``POST host/path``;
    `given`: the refresh tokens that were shown to it."""

    url: str
    ca: Path
    authority: trustme.CA
    asked: list[str] = field(factory=list)
    given: list[str] = field(factory=list)

    async def serve(self, stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, ValueError, IndexError):
            async with stream:
                head, _ = await _read_head(stream)
                method, target, _ = head.split("\r\n")[0].split(" ")
                if method != "CONNECT":
                    self.asked.append(f"{method} {target}")
                    return
                host = target.rpartition(":")[0]
                await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
                context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                self.authority.issue_cert(host).configure_cert(context)
                tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
                while True:
                    await self._answer(tls, host)

    async def _answer(self, stream: trio.abc.Stream, host: str) -> None:
        head, body = await _read_head(stream)
        lengths = [line for line in head.lower().split("\r\n") if line.startswith("content-length")]
        length = int(lengths[0].partition(":")[2]) if lengths else 0
        while len(body) < length:
            body += await stream.receive_some()
        method, path, _ = head.split("\r\n")[0].split(" ")
        self.asked.append(f"{method} {host}{path}")
        status = "404 Not Found"
        answer: dict[str, object] = {"error": "not_found"}
        if path.endswith("/oauth/token"):
            self.given.append(json.loads(body)["refresh_token"])
            status = "200 OK"
            answer = {
                "access_token": NEW_TOKEN,
                "refresh_token": NEW_REFRESH,
                "expires_in": 28800,
                "token_type": "Bearer",
                "scope": "user:inference user:profile",
            }
        data = json.dumps(answer).encode()
        await stream.send_all(
            f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(data)}\r\n\r\n".encode()
            + data
        )


async def _read_head(stream: trio.abc.ReceiveStream) -> tuple[str, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some()
        if not more:
            raise ValueError("the client has gone")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head.decode("latin-1"), rest


@asynccontextmanager
async def open_token_maker(folder: Path) -> AsyncIterator[TokenMaker]:
    """Serve on 127.0.0.1 while the block runs; its certificate authority is written to `folder`."""
    authority = trustme.CA()
    ca = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    maker = TokenMaker(f"http://127.0.0.1:{port}", ca, authority)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, maker.serve, [listener])
        yield maker
        nursery.cancel_scope.cancel()
