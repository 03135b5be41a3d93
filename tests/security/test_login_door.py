"""The door of an agent's child to the API: the login goes there in a stand-in's place, and nowhere
else."""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from attrs import evolve

from ccapi.transport.sandbox import login_door
from ccapi.transport.sandbox.login_door import FileLogin, LoginDoor, Logins, NoLogin

from .test_egress import egress

KEY, TOKEN, FILE = "sk-ant-the-key", "sk-ant-oat01-the-token", "sk-ant-oat01-the-file"
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\ndata: 2\n\n"


def logins(tmp_path: Path, env: Mapping[str, str] = {}, status: tuple[str, ...] = ()) -> Logins:
    file = FileLogin(tmp_path / ".credentials.json", status or ("/bin/false",), env)
    return Logins(env, tmp_path / ".claude.json", file)


def held(tmp_path: Path, env: Mapping[str, str]) -> tuple[dict[str, str], LoginDoor]:
    found = logins(tmp_path, env).held_back(env)
    assert found is not None
    return found


def write_file(file: Path, token: str = FILE, due: float = 4e12) -> None:
    file.write_text(json.dumps({"claudeAiOauth": {"accessToken": token, "expiresAt": due}}))


class Api:
    """What was asked, a text for each connection, as far as it had come with the first piece."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.tls: ssl.SSLContext | None = None

    async def serve(self, raw: trio.SocketStream) -> None:
        stream: Any = raw
        if self.tls is not None:
            stream = trio.SSLStream(raw, self.tls, server_side=True, https_compatible=True)
        with suppress(trio.BrokenResourceError):
            await self._answer(stream)

    async def _answer(self, stream: trio.abc.Stream) -> None:
        async with stream:
            said = b""
            while not said.endswith(b"END"):
                said += await stream.receive_some(65536)
            self.asked.append(said.decode())
            await stream.send_all(SSE)


@asynccontextmanager
async def open_api(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Api, int]]:
    api = Api()
    api.tls = tls
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, api.serve, [listener])
            yield api, listener.socket.getsockname()[1]
            nursery.cancel_scope.cancel()


async def ask(door: LoginDoor, words: str) -> str:
    """What comes back through the door to these words."""
    confined = evolve(egress(), door=door)
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, confined._forward, [listener])
        got = b""
        async with await trio.testing.open_stream_to_socket_listener(listener) as client:
            await client.send_all(words.encode())
            async for data in client:
                got += data
        nursery.cancel_scope.cancel()
    return got.decode()


def post(login: str, path: str = "/v1/messages?beta=true") -> str:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{login}\r\nContent-Length: 3\r\n\r\nEND"


@pytest.mark.parametrize(
    ("variable", "secret", "header"),
    [
        ("ANTHROPIC_API_KEY", KEY, "x-api-key: {}"),
        ("ANTHROPIC_AUTH_TOKEN", TOKEN, "authorization: Bearer {}"),
        ("CLAUDE_CODE_OAUTH_TOKEN", TOKEN, "authorization: Bearer {}"),
    ],
)
async def test_the_api_is_shown_the_login(
    variable: str, secret: str, header: str, tmp_path: Path
) -> None:
    async with open_api() as (api, port):
        own = "X-Team: blue\nX-Secret: s3cret"
        url = f"http://127.0.0.1:{port}/below/"
        given = {variable: secret, "ANTHROPIC_BASE_URL": url, "ANTHROPIC_CUSTOM_HEADERS": own}
        env, door = held(tmp_path, {**given, "PATH": "/bin"})
        assert env.keys() == {variable, "PATH"}
        assert not {secret, "s3cret"} & {*" ".join(env.values()).split()}
        got = await ask(door, post(header.format(env[variable])))
        assert got.endswith("data: 1\n\ndata: 2\n\n")
        (asked,) = api.asked
        head, body = asked.split("\r\n\r\n")
        assert head.startswith("POST /below/v1/messages?beta=true HTTP/1.1\r\n")
        lines = head.lower().split("\r\n")
        assert header.format(secret).lower() in lines
        assert {f"host: 127.0.0.1:{port}", "x-team: blue", "x-secret: s3cret"} <= {*lines}
        assert "connection: close" in lines
        assert body == "END"
        assert env[variable] not in asked


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (post("x-api-key: wrong"), 401),
        (post("x-api-key: sk-ant-the-key"), 401),
        (post("authorization: Basic STAND-IN"), 401),
        (post("authorization: Bearer STAND-IN\r\nx-api-key: wrong"), 401),
        (post("accept: x"), 401),
        (post("x-api-key: STAND-IN", "/v1/organizations"), 404),
        (post("x-api-key: STAND-IN", "/v1/messages/../files"), 404),
        (post("x-api-key: STAND-IN", "/v1/messages/batches"), 404),
        (post("x-api-key: STAND-IN", "http://other/v1/messages"), 404),
        ("CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: x\r\nx-api-key: STAND-IN\r\n\r\n", 404),
        ("nonsense\r\n\r\n", 400),
    ],
)
async def test_nothing_else_passes(words: str, status: int, tmp_path: Path) -> None:
    async with open_api() as (api, port):
        url = f"http://127.0.0.1:{port}"
        env, door = held(tmp_path, {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": url})
        got = await ask(door, words.replace("STAND-IN", env["ANTHROPIC_API_KEY"]))
        assert got.startswith(f"HTTP/1.1 {status} "), got
        assert json.loads(got.partition("\r\n\r\n")[2])["type"] == "error"
        assert KEY not in got
        assert api.asked == []


async def test_another_childs_stand_in_is_worth_nothing(tmp_path: Path) -> None:
    async with open_api() as (api, port):
        given = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}"}
        one, door = held(tmp_path, given)
        other, _ = held(tmp_path, given)
        assert one != other
        got = await ask(door, post(f"x-api-key: {other['ANTHROPIC_API_KEY']}"))
        assert got.startswith("HTTP/1.1 401 ")
        assert api.asked == []


async def test_what_follows_a_request_goes_without_a_login(tmp_path: Path) -> None:
    async with open_api() as (api, port):
        url = f"http://127.0.0.1:{port}"
        env, door = held(tmp_path, {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": url})
        login = f"x-api-key: {env['ANTHROPIC_API_KEY']}"
        await ask(door, post(login)[:-3] + "one" + post(login, "/v1/organizations"))
        assert "".join(api.asked).count(KEY) == 1


@pytest.mark.parametrize("known", [True, False])
async def test_the_api_is_known_by_its_certificate(tmp_path: Path, *, known: bool) -> None:
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with open_api(tls) as (api, port):
        more = {"NODE_EXTRA_CA_CERTS": str(tmp_path / "ca.pem")} if known else {}
        base = f"https://localhost:{port}"
        given = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": base, **more}
        env, door = held(tmp_path, given)
        got = await ask(door, post(f"x-api-key: {env['ANTHROPIC_API_KEY']}"))
        assert got.startswith("HTTP/1.1 200" if known else "HTTP/1.1 502"), got
        assert [KEY in asked for asked in api.asked] == [True] * known


def test_which_logins_are_held_back(tmp_path: Path) -> None:
    def names(**env: str) -> set[str]:
        found = logins(tmp_path, env).held_back(env)
        return set() if found is None else {*found[0]}

    assume = "_CLAUDE_CODE_ASSUME_FIRST_PARTY_BASE_URL"
    assert names() == set()
    both = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_AUTH_TOKEN": TOKEN}
    assert names(**both) == {*both, assume}
    assert names(ANTHROPIC_API_KEY=KEY, ANTHROPIC_BASE_URL="https://llm.corp") == {
        "ANTHROPIC_API_KEY"
    }
    assert names(ANTHROPIC_API_KEY=KEY, CLAUDE_CODE_USE_BEDROCK="1") == set()
    assert names(ANTHROPIC_API_KEY=KEY, ANTHROPIC_BASE_URL="http://[") == set()
    (tmp_path / ".claude.json").write_text(json.dumps({"primaryApiKey": KEY}))
    assert names() == {"ANTHROPIC_API_KEY", assume}
    write_file(tmp_path / ".credentials.json")
    assert names() == {"CLAUDE_CODE_OAUTH_TOKEN", assume}


RENEW = """
import json, pathlib, sys
place = pathlib.Path(sys.argv[1])
with (place / "renewals").open("a") as file:
    file.write("one\\n")
if len((place / "renewals").read_text()) < int(sys.argv[2]):
    sys.exit()  # as the CLI does now and then
login = {"accessToken": "new", "expiresAt": 4e12}
(place / ".credentials.json").write_text(json.dumps({"claudeAiOauth": login}))
"""


@pytest.mark.parametrize("runs", [1, 2])
async def test_a_token_that_expires_is_renewed_once_for_all(runs: int, tmp_path: Path) -> None:
    status = (sys.executable, "-c", RENEW, str(tmp_path), str(4 * runs))
    file = logins(tmp_path, {}, status).file
    write_file(tmp_path / ".credentials.json", due=1000)
    told: list[str] = []

    async def tell() -> None:
        told.append(await file.token())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(tell)
    assert told == ["new"] * 5
    assert (tmp_path / "renewals").read_text() == "one\n" * runs


async def test_what_cannot_be_renewed_is_shown_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login_door, "RENEWAL_SECONDS", 0.5)
    for status in (("/bin/false",), ("/nowhere/claude",)):
        write_file(tmp_path / ".credentials.json", due=1000)
        assert await logins(tmp_path, {}, status).file.token() == FILE


@pytest.mark.parametrize(
    "junk", [None, "", "{}", "[" * 100_000, '{"claudeAiOauth": 1}', "x" * 70000]
)
async def test_what_is_no_login_is_none(junk: str | None, tmp_path: Path) -> None:
    if junk is not None:
        (tmp_path / ".credentials.json").write_text(junk)
    file = logins(tmp_path).file
    assert not file.is_there()
    with pytest.raises(NoLogin):
        await file.token()
