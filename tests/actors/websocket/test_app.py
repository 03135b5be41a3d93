"""Which clients are let in to which WebSocket, how others are refused, and what a failing one
says."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, cast

import orjson
import pytest
import trio
from structlog.contextvars import get_contextvars
from structlog.testing import capture_logs

from ccapi.actors.gateway import Gateway
from ccapi.actors.http.auth import KeyRing
from ccapi.actors.keys.registry import KeyRegistry
from ccapi.actors.websocket import app as websocket_front
from ccapi.actors.websocket.app import ROUTES, open_websocket_front
from ccapi.actors.websocket.call import SocketCall
from ccapi.schemas.errors import Conflict
from ccapi.schemas.settings.settings import (
    AuthSettings,
    ServerSettings,
    Settings,
    WebSocketSettings,
)

from ...support.gateway_double import GatewayDouble, app_of, open_gateway_double
from ...support.http_client import knock, open_door
from ...support.websocket_client import (
    RawWebSocket,
    client_frame,
    close,
    open_raw_websocket,
    refused,
    text,
)

KEYS = ("sk-one-of-the-keys", "sk-another/of+them==")
RING = KeyRegistry(AuthSettings(api_keys=KEYS))
FOREIGN_PAGE = "https://evil.example"
LOCAL_PAGE = "http://localhost:3000"
SOCKET = "/v1/responses"


def coded(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def settings(
    *,
    keys: tuple[str, ...] = (),
    allow_query_key: bool = False,
    websocket: dict[str, Any] | None = None,
    **server: Any,
) -> Settings:
    return Settings(
        server=ServerSettings(**server),
        auth=AuthSettings(api_keys=keys, allow_query_key=allow_query_key),
        websocket=WebSocketSettings(**(websocket or {})),
    )


async def say_who(call: SocketCall) -> None:
    """Says who called; then every message again, until one is ``bye``."""
    await call.send({"owner": call.owner, "query": call.query, "id": call.request_id})
    while True:
        message = await call.receive()
        if message == {"type": "bye"}:
            return
        await call.send({"echo": message})


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Awaitable[None]]], None]:
    def put(handler: Callable[[SocketCall], Awaitable[None]]) -> None:
        """`handler` in the place of the Responses API's."""
        route = websocket_front._Route(ROUTES[0].pattern, handler)
        monkeypatch.setattr(websocket_front, "ROUTES", (route, *ROUTES[1:]))

    put(say_who)
    return put


@pytest.fixture(autouse=True)
def _installed(handlers: object) -> None:
    pass


class World:
    def __init__(self, gateway: GatewayDouble, port: int) -> None:
        self.gateway = gateway
        self.port = port

    async def who(self, path: str = SOCKET, **headers: str) -> dict[str, Any]:
        """What an admitted client receives."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with open_raw_websocket(self.port, path, names) as client:
            told = await json_of(client)
            protocol = dict(client.head.headers).get(b"sec-websocket-protocol")
            return told | {"protocol": None if protocol is None else protocol.decode()}


async def json_of(client: RawWebSocket) -> dict[str, Any]:
    told: dict[str, Any] = orjson.loads(await client.message())
    return told


@asynccontextmanager
async def open_front(given: Settings | None = None) -> AsyncIterator[World]:
    async with open_gateway_double(given) as double:
        async with open_websocket_front(cast(Gateway, double)) as front:
            async with open_door(app_of(double), front.serve) as port:
                yield World(double, port)


# -- who is let in ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "path", "headers", "status", "code"),
    [
        ((), SOCKET, {"host": "evil.example"}, 403, "host_not_allowed"),
        ((), SOCKET, {"origin": FOREIGN_PAGE}, 403, "origin_not_allowed"),
        ((), SOCKET, {"origin": "null"}, 403, "origin_not_allowed"),
        ((), "/v1/overview", {"origin": FOREIGN_PAGE}, 403, "origin_not_allowed"),
        (KEYS, SOCKET, {}, 401, "invalid_api_key"),
        (KEYS, "/nowhere", {}, 401, "invalid_api_key"),
        (KEYS, "/v1/overview", {}, 401, "invalid_api_key"),
        (KEYS, SOCKET, {"authorization": "Bearer sk-wrong"}, 401, "invalid_api_key"),
        (KEYS, f"{SOCKET}?api_key={KEYS[0]}", {}, 401, "invalid_api_key"),
        (KEYS, SOCKET, {"sec-websocket-protocol": "ccapi.v1"}, 401, "invalid_api_key"),
        (KEYS, SOCKET, {"sec-websocket-protocol": "ccapi-key.!!"}, 401, "invalid_api_key"),
        (KEYS, SOCKET, {"sec-websocket-protocol": "ccapi-key."}, 401, "invalid_api_key"),
        (
            KEYS, SOCKET, {"sec-websocket-protocol": "openai-insecure-api-key.sk-wrong"},
            401, "invalid_api_key",
        ),
        ((), "/nowhere", {}, 404, "no_websocket"),
        ((), "/v1/models", {}, 404, "no_websocket"),
        ((), f"{SOCKET}/", {}, 404, "no_websocket"),
        ((), "/v1/conversations/conv_unknown/events", {}, 404, "conversation_not_found"),
    ],
)  # fmt: skip
async def test_who_is_not_let_in_gets_a_status_and_the_envelope(
    keys: tuple[str, ...], path: str, headers: dict[str, str], status: int, code: str
) -> None:
    async with open_front(settings(keys=keys)) as world:
        with capture_logs() as lines:
            response = await refused(world.port, path, {"x-request-id": "mine", **headers})
    assert (response.status, response.error["code"]) == (status, code)
    assert response.headers["x-request-id"] == "mine"
    assert ("www-authenticate" in response.headers) is (status == 401)
    [line] = lines
    assert (line["event"], line["status"], line["websocket"]) == ("request", status, True)
    assert line["path"] == path.partition("?")[0]


async def test_clients_without_a_page_and_pages_of_this_machine_are_let_in() -> None:
    async with open_front() as world:
        assert (await world.who())["owner"] == "local"
        assert (await world.who(origin=LOCAL_PAGE))["owner"] == "local"
        assert (await world.who(host="[::1]:8080"))["owner"] == "local"


async def test_configured_origins_replace_the_default() -> None:
    async with open_front(settings(cors_origins=("https://app.example",))) as world:
        assert (await world.who(origin="https://app.example"))["owner"] == "local"
        assert (await refused(world.port, SOCKET, {"origin": LOCAL_PAGE})).status == 403


async def test_a_key_counts_wherever_it_may_be_shown() -> None:
    async with open_front(settings(keys=KEYS, allow_query_key=True)) as world:
        for key in KEYS[:1]:
            owner = KeyRing(RING).owner({b"x-api-key": [key.encode()]})
            protocol = "sec_websocket_protocol"
            for told in [
                await world.who(authorization=f"Bearer {key}"),
                await world.who(x_api_key=key),
                await world.who(**{protocol: f"ccapi.v1, ccapi-key.{coded(key)}"}),
                await world.who(**{protocol: f"realtime, openai-insecure-api-key.{key}"}),
                await world.who(f"{SOCKET}?api_key={key}"),
                # A wrong one beside it changes nothing.
                await world.who(f"{SOCKET}?api_key={key}", authorization="Bearer wrong"),
            ]:
                assert told["owner"] == owner


async def test_any_key_can_be_shown_by_its_base64_form() -> None:
    async with open_front(settings(keys=KEYS)) as world:
        told = await world.who(sec_websocket_protocol=f"ccapi.v1, ccapi-key.{coded(KEYS[1])}")
        assert told["owner"] == KeyRing(RING).owner({b"x-api-key": [KEYS[1].encode()]})


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("ccapi.v1", "ccapi.v1"),
        ("other, ccapi.v1", "ccapi.v1"),
        (f"ccapi-key.{coded('k')}, ccapi.v1", "ccapi.v1"),
        ("realtime, openai-insecure-api-key.k, openai-beta.x", "realtime"),
        ("openai-insecure-api-key.k, realtime", "realtime"),
        (f"ccapi-key.{coded('k')}", f"ccapi-key.{coded('k')}"),
        (None, None),
    ],
)
async def test_a_subprotocol_is_agreed_on_and_no_key_if_it_can_be_helped(
    offered: str | None, chosen: str | None
) -> None:
    headers = {} if offered is None else {"sec_websocket_protocol": offered}
    async with open_front() as world:
        assert (await world.who(**headers))["protocol"] == chosen


async def test_no_key_reaches_a_handler_or_the_log() -> None:
    key = KEYS[0]
    seen = []

    def capture(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        seen.append(f"{event} {get_contextvars()}")
        return event

    async with open_front(settings(keys=KEYS, allow_query_key=True)) as world:
        with capture_logs(processors=[capture]):
            path = f"{SOCKET}?after=3&api_key={key}"
            protocols = f"ccapi.v1, ccapi-key.{coded(key)}, openai-insecure-api-key.{key}"
            told = await world.who(path, sec_websocket_protocol=protocols)
            await refused(world.port, f"/nowhere?api_key={key}x")
    assert told["query"] == {"after": "3"}
    assert len(seen) >= 3
    assert not [line for line in seen if key in line or coded(key) in line]


async def test_websockets_over_the_limit_are_refused_until_one_ends() -> None:
    async with open_front(settings(websocket={"max_connections": 1})) as world:
        async with open_raw_websocket(world.port, SOCKET) as client:
            await json_of(client)
            response = await refused(world.port, SOCKET)
            assert (response.status, response.error["code"]) == (429, "too_many_websockets")
            assert response.headers["retry-after"]
            await client.send(close())
            await client.close_code()
            assert await client.ended()
        await world.who()


async def test_a_draining_gateway_admits_no_client() -> None:
    async with open_front() as world:
        world.gateway.draining = True
        response = await refused(world.port, SOCKET)
        assert (response.status, response.error["code"]) == (503, "draining")


@pytest.mark.parametrize("path", ["/v1/overview", "/v1/conversations/conv_1/events"])
async def test_without_an_upgrade_one_is_asked_for(path: str) -> None:
    async with open_front() as world, knock(world.port) as client:
        await client.send(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        response = await client.response()
        assert (response.status, response.error["code"]) == (426, "upgrade_required")
        assert response.headers["upgrade"] == "websocket"


# -- the talk --------------------------------------------------------------------------------------


async def test_a_talk_has_an_id_and_two_lines_in_the_log() -> None:
    async with open_front() as world:
        with capture_logs() as lines:
            headers = {"x-request-id": "mine"}
            async with open_raw_websocket(world.port, f"{SOCKET}?x=1", headers) as client:
                assert dict(client.head.headers)[b"x-request-id"] == b"mine"
                assert (await json_of(client))["id"] == "mine"
                await client.send(text('{"type": "a"}'))
                assert await json_of(client) == {"echo": {"type": "a"}}
                await client.send(text('{"type": "bye"}'))
                assert await client.close_code() == 1000
                await client.send(close())
                assert await client.ended()
    opened, closed = lines
    assert (opened["event"], opened["path"]) == ("websocket_opened", SOCKET)
    assert (closed["event"], closed["path"]) == ("websocket_closed", SOCKET)
    assert (closed["code"], closed["received"], closed["sent"]) == (1000, 2, 2)
    assert closed["seconds"] >= 0


@pytest.mark.parametrize(
    ("error", "close_code", "code"),
    [
        (Conflict("Busy."), 1008, "conversation_busy"),
        (ZeroDivisionError("secret"), 1011, "internal_error"),
    ],
)
async def test_what_a_handler_raises_is_sent_and_ends_its_websocket(
    handlers: Any, error: Exception, close_code: int, code: str
) -> None:
    async def fail(call: SocketCall) -> None:
        async with trio.open_nursery():
            raise error

    handlers(fail)
    async with open_front() as world:
        with capture_logs() as lines:
            async with open_raw_websocket(world.port, SOCKET) as client:
                told = await json_of(client)
                assert (told["type"], told["error"]["code"]) == ("error", code)
                assert "secret" not in str(told)
                assert await client.close_code() == close_code
                await client.send(close())
                assert await client.ended()
    errors = [line["event"] for line in lines if line["log_level"] == "error"]
    assert errors == ([] if close_code == 1008 else ["request_failed"])


@pytest.mark.parametrize("message", ["[1]", "{", "", '"x"', '{"a": "\\ud800"}'])
async def test_what_is_no_object_is_an_error_of_the_client(message: str) -> None:
    async with open_front() as world, open_raw_websocket(world.port, SOCKET) as client:
        await json_of(client)
        await client.send(text(message))
        told = await json_of(client)
        assert told["error"]["code"] in {"invalid_json", "invalid_type"}
        assert await client.close_code() == 1008


async def test_a_client_that_goes_away_leaves_no_error_behind() -> None:
    async with open_front() as world:
        with capture_logs() as lines:
            async with open_raw_websocket(world.port, SOCKET) as client:
                await json_of(client)
                await client.send(client_frame(2, b"\x00"))
                assert await client.close_code() == 1003
            async with open_raw_websocket(world.port, SOCKET) as client:
                await json_of(client)
            with trio.fail_after(5):
                while len([line for line in lines if line["event"] == "websocket_closed"]) < 2:
                    await trio.sleep(0.01)
    assert {line["log_level"] for line in lines} <= {"info", "debug"}
    assert [line["code"] for line in lines if "code" in line and line["log_level"] == "info"] == [
        1003,
        1006,
    ]
