"""The gateway's own door, from outside, byte by byte: what must be refused is, on every route."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import frozen

from ccapi.actors.keys.registry import owner_of
from ccapi.schemas.settings.settings import AuthSettings, ImageSettings
from tests.support.live import Live, open_live_demo

ADA, BOB = "sk-of-ada-lovelace", "sk-of-bob-the-builder"
KEYED = AuthSettings(api_keys=(ADA, BOB), agent_keys=(ADA, BOB))
BODY = {"model": "sonnet", "messages": [{"role": "user", "content": "hello"}]}

ROUTES = (
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/responses/input_tokens"),
    ("GET", "/v1/responses/{response}"),
    ("DELETE", "/v1/responses/{response}"),
    ("POST", "/v1/responses/{response}/cancel"),
    ("GET", "/v1/responses/{response}/input_items"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/sonnet"),
    ("GET", "/v1/conversations"),
    ("POST", "/v1/conversations"),
    ("GET", "/v1/conversations/{conversation}"),
    ("POST", "/v1/conversations/{conversation}"),
    ("DELETE", "/v1/conversations/{conversation}"),
    ("GET", "/v1/conversations/{conversation}/items"),
    ("POST", "/v1/conversations/{conversation}/items"),
    ("GET", "/v1/conversations/{conversation}/items/{item}"),
    ("DELETE", "/v1/conversations/{conversation}/items/{item}"),
    ("GET", "/v1/conversations/{conversation}/permissions"),
    ("POST", "/v1/conversations/{conversation}/permissions/{permission}"),
    ("GET", "/stats"),
    ("GET", "/metrics"),
    ("GET", "/v1/embeddings"),
    ("GET", "/nowhere"),
)
SOCKETS = ("/v1/responses", "/v1/overview", "/v1/conversations/{conversation}/events")
IDS = {name: f"{name}_x" for name in ("response", "conversation", "item", "permission")}


@frozen
class Answer:
    status: int
    head: bytes
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


async def knock(live: Live, request: bytes) -> Answer:
    """Send these bytes, and read to the end or for long enough: no status is 0."""
    host, _, port = live.url.rpartition("/")[2].rpartition(":")
    data = bytearray()
    with trio.fail_after(20):
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream:
            await stream.send_all(request)
            while True:
                piece = await stream.receive_some()
                data += piece
                head, _, body = bytes(data).partition(b"\r\n\r\n")
                upgraded = head.startswith(b"HTTP/1.1 101")
                if not piece or upgraded or len(body) >= _length(head):
                    break
    status = int(head.split()[1]) if head else 0
    return Answer(status, head, body)


def _length(head: bytes) -> float:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return float("inf")


def request(
    method: str, path: str, *lines: str, host: str | None = "127.0.0.1", body: Any = None
) -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    head = [f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host is not None else []), *lines]
    if data or method == "POST":
        head += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    return "\r\n".join([*head, "Connection: close", "", ""]).encode("latin-1") + data


def upgrade(path: str, *lines: str, host: str = "127.0.0.1") -> bytes:
    words = ("Upgrade: websocket", "Sec-WebSocket-Version: 13")
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    head = [f"GET {path} HTTP/1.1", f"Host: {host}", *words, key, "Connection: Upgrade", *lines]
    return "\r\n".join([*head, "", ""]).encode("latin-1")


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    async with open_live_demo(tmp_path) as live:
        yield live


@pytest.fixture
async def keyed(tmp_path: Path) -> AsyncIterator[Live]:
    async with open_live_demo(tmp_path, auth=KEYED) as live:
        yield live


# -- to whom a request is addressed ----------------------------------------------------------------

STRANGERS = (
    *("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example"),
    *("evil.example#127.0.0.1", "127.0.0.1@evil.example", "[127.0.0.1]evil.example", "", " "),
    *("[::1]evil.example", "[::1]:80:evil.example", "localhost:80@evil.example", "[evil.example]"),
    *("[localhost", "127.0.0.1:evil.example", "0", "127.1", "2130706433", "*", "localhost\t.evil"),
)


@pytest.mark.parametrize("host", STRANGERS)
async def test_a_name_that_was_bound_to_this_machine_is_not_its_own(host: str, live: Live) -> None:
    """DNS rebinding: a page's own name leads here, and the browser says it."""
    for asked in (
        request("GET", "/v1/models", host=host),
        request("POST", "/v1/chat/completions", host=host, body=BODY),
        upgrade("/v1/responses", host=host),
    ):
        assert (await knock(live, asked)).status in {400, 403}, asked


@pytest.mark.parametrize(
    "asked",
    [
        request("GET", "/v1/models", "Host: evil.example"),
        request("GET", "/v1/models", "Host: 127.0.0.1", host="evil.example"),
        request("GET", "/v1/models", host=None),
        b"GET /v1/models HTTP/1.0\r\n\r\n",
        request("GET", "http://evil.example/v1/models"),
        request("GET", "/v1/models", " folded: x", host="127.0.0.1"),
    ],
    ids=["two", "two the other way", "none", "HTTP/1.0", "absolute form", "folded"],
)
async def test_who_is_meant_is_said_once(asked: bytes, live: Live) -> None:
    answer = await knock(live, asked)
    assert answer.status in {400, 403}, answer


# -- where a request ends --------------------------------------------------------------------------

INNER = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 4", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 4"),
        ("Content-Length: 4", "Content-Length: 40"),
        ("Content-Length: 4, 40",),
        ("Content-Length: +4",),
        ("Content-Length: 0x4",),
        ("Content-Length : 4",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding: chunked, identity",),
    ],
    ids=" and ".join,
)
async def test_a_body_that_ends_in_two_places_is_refused(
    lines: tuple[str, ...], live: Live
) -> None:
    """And what would be a second request is never answered."""
    head = ["POST /v1/chat/completions HTTP/1.1", "Host: 127.0.0.1", *lines, "", ""]
    answer = await knock(live, "\r\n".join(head).encode() + b"0\r\n\r\n" + INNER)
    assert answer.status in {400, 411, 501}, answer
    assert answer.head.count(b"HTTP/1.1") + answer.body.count(b"HTTP/1.1") == 1


# -- where a page is from --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        *("https://evil.example", "null", "http://127.0.0.1.evil.example", "file://", "*"),
        *("http://localhost.evil.example", "http://[::1].evil.example", "http://evil@127.0.0.1"),
        *("chrome-extension://x", "http://127.0.0.1:80:80", "http://", "evil.example"),
    ],
)
async def test_a_page_from_elsewhere_may_not_call(origin: str, live: Live) -> None:
    line = f"Origin: {origin}"
    for method, path in (("POST", "/v1/chat/completions"), ("DELETE", "/v1/conversations/x")):
        answer = await knock(live, request(method, path, line, body=BODY))
        assert (answer.status, answer.code) == (403, "origin_not_allowed")
    for path in SOCKETS[:2]:
        assert (await knock(live, upgrade(path, line))).status == 403
    seen = await knock(live, request("GET", "/v1/models", line))
    assert b"access-control-allow-origin" not in seen.head.lower()
    asked = request("OPTIONS", "/v1/models", line, "Access-Control-Request-Method: POST")
    assert b"access-control-allow-origin" not in (await knock(live, asked)).head.lower()


# -- keys ------------------------------------------------------------------------------------------

HASH = owner_of(ADA)
NO_KEYS = (
    *((), ("Authorization: Bearer",), ("Authorization: Bearer ",), ("Authorization:",)),
    ("Authorization: Bearer sk-wrong",),
    (f"Authorization: Basic {base64.b64encode(ADA.encode()).decode()}",),
    (f"Authorization: {ADA}",),
    (f"Authorization: Bearer {ADA} x",),
    (f"Authorization: Bearer {ADA[:-1]}",),
    (f"Authorization: Bearer {ADA.upper()}",),
    (f"Authorization: Bearer {HASH}",),
    (f"Authorization: Bearer sha256:{HASH}",),
    ("x-api-key:",),
    ("x-api-key: sk-wrong",),
    (f"x-api-key: sha256:{HASH}",),
    (f"api-key: {ADA}",),
    (f"Cookie: api_key={ADA}; x-api-key={ADA}",),
    ("x-api-key: \xff\xfe",),
)


@pytest.mark.parametrize("lines", NO_KEYS, ids=lambda lines: ascii(" ".join(lines)) or "none")
async def test_without_a_key_no_route_answers(lines: tuple[str, ...], keyed: Live) -> None:
    for method, path in ROUTES:
        answer = await knock(keyed, request(method, path.format(**IDS), *lines))
        assert answer.status == 401, (method, path, answer)
    for path in SOCKETS:
        assert (await knock(keyed, upgrade(path.format(**IDS), *lines))).status == 401, path


async def test_a_key_in_the_address_counts_only_where_it_is_allowed(
    keyed: Live, tmp_path: Path
) -> None:
    for path in ("/v1/models", "/v1/responses"):
        for name in ("api_key", "key", "x-api-key", "access_token"):
            answer = await knock(keyed, request("GET", f"{path}?{name}={ADA}"))
            assert answer.status == 401, (path, name)
    assert (await knock(keyed, upgrade(f"/v1/responses?api_key={ADA}"))).status == 401
    auth = AuthSettings(api_keys=(ADA,), allow_query_key=True)
    async with open_live_demo(tmp_path / "other", auth=auth) as live:
        assert (await knock(live, upgrade(f"/v1/responses?api_key={ADA}"))).status == 101
        assert (await knock(live, upgrade("/v1/responses?api_key=sk-wrong"))).status == 401


@pytest.mark.parametrize(
    "lines",
    [
        (f"Authorization: Bearer {ADA}",),
        (f"authorization: bearer  {ADA}",),
        (f"x-api-key: {ADA}",),
        ("x-api-key: sk-wrong", f"Authorization: Bearer {ADA}"),
    ],
    ids=" ".join,
)
async def test_a_key_opens_its_routes(lines: tuple[str, ...], keyed: Live) -> None:
    for path in ("/v1/models", "/v1/conversations", "/stats"):
        assert (await knock(keyed, request("GET", path, *lines))).status == 200
    assert (await knock(keyed, upgrade("/v1/responses", *lines))).status == 101
    offered = base64.urlsafe_b64encode(ADA.encode()).decode().rstrip("=")
    line = f"Sec-WebSocket-Protocol: ccapi.v1, ccapi-key.{offered}"
    opened = await knock(keyed, upgrade("/v1/overview", line))
    assert opened.status == 101
    assert offered.encode() not in opened.head


# -- what belongs to another -----------------------------------------------------------------------


async def test_what_belongs_to_another_key_is_not_there(keyed: Live) -> None:
    """The same answer as to an id that was never given."""
    ada, bob = f"x-api-key: {ADA}", f"x-api-key: {BOB}"

    async def ask(method: str, path: str, key: str, **body: Any) -> Any:
        answer = await knock(keyed, request(method, path, key, body=body or None))
        return answer.status, json.loads(answer.body)

    said = {"model": "sonnet", "input": "hello"}
    status, made = await ask("POST", "/v1/conversations", ada, model="sonnet", items=[
        {"role": "user", "content": "mine"},
    ])  # fmt: skip
    assert status == 200, made
    status, response = await ask("POST", "/v1/responses", ada, **said)
    assert status == 200, response
    _, listed = await ask("GET", f"/v1/conversations/{made['id']}/items", ada)
    ids = {
        "conversation": made["id"],
        "response": response["id"],
        "item": listed["data"][0]["id"],
        "permission": "perm_x",
    }
    bodies: dict[str, Any] = {
        "POST /v1/conversations/{conversation}": {"metadata": {"a": "b"}},
        "POST /v1/conversations/{conversation}/items": {
            "items": [{"role": "user", "content": "theirs"}]
        },
        "POST /v1/conversations/{conversation}/permissions/{permission}": {"behavior": "allow"},
    }
    named = [(method, path) for method, path in ROUTES if "{" in path]
    assert len(named) == 13
    for method, path in named:
        body = bodies.get(f"{method} {path}", {})
        status, told = await ask(method, path.format(**ids), bob, **body)
        assert status == 404, (method, path, told)
        never = {**ids, "conversation": "conv_never", "response": "resp_never"}
        status, other = await ask(method, path.format(**never), bob, **body)
        assert (status, other["error"]["code"]) == (404, told["error"]["code"])
    events = SOCKETS[2].format(**ids)
    assert (await knock(keyed, upgrade(events, bob))).status == 404
    assert (await knock(keyed, upgrade(events, ada))).status == 101
    for path, fields in (
        ("/v1/responses", {**said, "conversation": ids["conversation"]}),
        ("/v1/responses", {**said, "previous_response_id": ids["response"]}),
        ("/v1/chat/completions", {**BODY, "conversation_id": ids["conversation"]}),
    ):
        status, told = await ask("POST", path, bob, **fields)
        assert told["error"]["code"].endswith("not_found"), (path, fields, told)
    _, theirs = await ask("GET", "/v1/conversations", bob)
    assert theirs["data"] == []
    status, still = await ask("GET", f"/v1/conversations/{made['id']}/items", ada)
    assert (status, len(still["data"])) == (200, 1)


# -- paths and addresses in requests ---------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *(
            "..",
            "../..",
            "../other",
            "/etc",
            "/",
            ".",
            "a/b",
            "a/../..",
            "a\0b",
            "\0",
            "~",
            "~root",
        ),
        *(
            ".hidden",
            "conv_1",
            "a\nb",
            "a b",
            "-rf",
            "x" * 65,
            "${HOME}",
            "..%2f",
            "\u2025",
            "a\\b",
        ),
    ],
    ids=ascii,
)
async def test_a_workspace_is_a_name_and_no_path(name: str, live: Live, tmp_path: Path) -> None:
    for path, fields in (
        ("/v1/conversations", {}),
        ("/v1/responses", {"input": "hello"}),
    ):
        body = {"model": "agent/sonnet", "workspace": name, **fields}
        answer = await knock(live, request("POST", path, body=body))
        assert (answer.status, answer.code) == (400, "invalid_value"), answer
    assert not [*(tmp_path / "state" / "workspaces").glob("*")]


async def test_a_workspace_that_is_a_link_out_is_not_used(live: Live, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "state" / "workspaces"
    root.mkdir(parents=True, exist_ok=True)
    (root / "link").symlink_to(outside)
    body = {"model": "agent/sonnet", "workspace": "link", "input": "write a.txt: x"}
    answer = await knock(live, request("POST", "/v1/responses", body=body))
    assert b"cannot be used" in answer.body, answer
    assert [*outside.iterdir()] == []


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:{port}/a.png", "http://localhost:{port}/a.png", "http://[::1]/a.png"),
        *("http://0.0.0.0:{port}/", "http://127.1:{port}/", "http://2130706433:{port}/a.png"),
        *("http://0x7f000001/", "http://0177.0.0.1/", "http://[::ffff:127.0.0.1]:{port}/a.png"),
        *("http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/a.png", "http://[fd00::1]/"),
        *("file:///etc/passwd", "ftp://127.0.0.1/a.png", "gopher://127.0.0.1:{port}/_x"),
        *("http://user@127.0.0.1:{port}/a.png", "http://127.0.0.1:{port}\\@example.org/"),
    ],
)
async def test_no_picture_is_fetched_from_inside(url: str, tmp_path: Path) -> None:
    """Redirects to such places are refused as the first address is:
    tests/transport/media/test_remote_fetch.py."""
    asked: list[bytes] = []

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            asked.append(bytes(await stream.receive_some()))

    images = ImageSettings(allow_remote=True, fetch_timeout_seconds=2)
    async with open_live_demo(tmp_path, images=images) as live, trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        port = listener.socket.getsockname()[1]
        part = {"type": "image_url", "image_url": {"url": url.format(port=port)}}
        body = {"model": "sonnet", "messages": [{"role": "user", "content": [part]}]}
        told = await knock(live, request("POST", "/v1/chat/completions", body=body))
        assert told.status == 400, told
        assert not any(asked)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/page/../../etc/passwd",
            "/page/..%2f..%2fschemas%2fsettings.py",
            "/page/%2e%2e/asgi.py",
        ),
        *("/page/....//asgi.py", "/page//etc/passwd", "/page/%00", "/page/style.css%00.py"),
        *("//etc/passwd", "/../README.md", "/page/..\\asgi.py"),
    ],
)
async def test_the_page_serves_its_own_files_alone(path: str, live: Live) -> None:
    answer = await knock(live, request("GET", path))
    assert answer.status in {400, 404}, answer
