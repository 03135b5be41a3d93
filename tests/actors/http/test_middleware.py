"""The guards around every route, and the policy that they share with the WebSocket front."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
import pytest
import structlog
import trio
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import capture_logs

from ccapi.actors.http.auth import KeyRing, check_host, headers_of
from ccapi.actors.http.middleware import EXPOSED, Front
from ccapi.actors.keys.registry import KeyRegistry
from ccapi.actors.runtime.boundary import as_gateway_error
from ccapi.actors.runtime.bus import Bus
from ccapi.schemas.errors import Forbidden, InternalError, NotFound, Unauthenticated
from ccapi.schemas.settings.settings import AuthSettings, ServerSettings, Settings
from ccapi.transport.http.asgi import send_json

from ...support.asgi import Client
from ...support.gateway_double import GatewayDouble, app_of, open_gateway_double

LOCAL_PAGE = "http://localhost:3000"
FOREIGN_PAGE = "https://evil.example"
KEYS = ("sk-one-of-the-keys", "sk-another-of-them")


def settings(*, keys: tuple[str, ...] = (), **server: Any) -> Settings:
    return Settings(server=ServerSettings(**server), auth=AuthSettings(api_keys=keys))


# -- what is not HTTP ------------------------------------------------------------------------------


async def exchange(app: ASGIApp, scope: dict[str, Any], *received: str) -> list[Message]:
    """What `app` sends to a server that has only these messages for it."""
    left = [*received]
    sent: list[Message] = []

    async def receive() -> Message:
        await trio.lowlevel.checkpoint()
        return {"type": left.pop(0)}

    async def send(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        assert len(left) < len(received), "something was sent before anything was received"
        sent.append(message)

    await app(scope, receive, send)
    return sent


def handshake(path: str, **more: Any) -> dict[str, Any]:
    headers = [(b"host", b"localhost"), (b"x-request-id", b"mine")]
    return {"type": "websocket", "path": path, "root_path": "", "headers": headers, **more}


@pytest.mark.parametrize("path", ["/health", "/v1/chat/completions", "/nowhere"])
async def test_a_websocket_on_a_mounted_app_is_closed(gateway: GatewayDouble, path: str) -> None:
    mounted = Starlette(routes=[Mount("/claude", app_of(gateway))])
    sent = await exchange(mounted, handshake(f"/claude{path}"), "websocket.connect")
    reason = "WebSocket is not served by this gateway."
    assert sent == [{"type": "websocket.close", "code": 1013, "reason": reason}]


async def test_a_websocket_gets_the_envelope_where_the_server_can_send_it(
    gateway: GatewayDouble,
) -> None:
    scope = handshake("/v1/chat/completions", extensions={"websocket.http.response": {}})
    head, body = await exchange(app_of(gateway), scope, "websocket.connect")
    assert (head["type"], head["status"]) == ("websocket.http.response.start", 501)
    assert (b"x-request-id", b"mine") in head["headers"]
    assert body["type"] == "websocket.http.response.body"
    assert orjson.loads(body["body"])["error"]["message"]


async def test_the_servers_lifespan_starts_and_ends(gateway: GatewayDouble) -> None:
    sent = await exchange(
        app_of(gateway), {"type": "lifespan"}, "lifespan.startup", "lifespan.shutdown"
    )
    assert [m["type"] for m in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_another_protocol_is_refused_by_its_name(gateway: GatewayDouble) -> None:
    with pytest.raises(NotImplementedError, match="telnet"):
        await exchange(app_of(gateway), {"type": "telnet"})


# -- request ids -----------------------------------------------------------------------------------


async def test_a_sane_request_id_is_kept_and_any_other_replaced(client: Client) -> None:
    for given, kept in [
        ("my-id_1", True),
        ("!" * 128, True),
        ("!" * 129, False),
        ("", False),
        ("a b", False),
        ("a\x7f", False),
    ]:
        response = await client.request("GET", "/health", headers={"x-request-id": given})
        told = response.headers["x-request-id"]
        assert (told == given) is kept
        if not kept:
            assert told.startswith("req_")
    first, second = [(await client.request("GET", "/health")).headers for _ in range(2)]
    assert first["x-request-id"] != second["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/nowhere", {}, 404),
        ("PATCH", "/v1/models", {}, 405),
        ("GET", "/health", {"host": "evil.example"}, 403),
        ("POST", "/v1/conversations", {"origin": FOREIGN_PAGE}, 403),
        ("POST", "/v1/conversations", {"content-type": "text/plain"}, 415),
    ],
)
async def test_every_error_has_the_envelope_and_a_request_id(
    client: Client, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    response = await client.request(method, path, headers={"x-request-id": "mine", **headers})
    assert response.status == status
    assert response.error["message"]
    assert response.headers["x-request-id"] == "mine"


async def test_the_request_id_is_bound_for_the_log() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(structlog.contextvars.get_contextvars()["request_id"])
        await send_json(send, 200, {})

    client = Client(Front(app, ServerSettings(), Bus()))
    with capture_logs() as lines:
        await client.request("GET", "/x", headers={"x-request-id": "mine"})
    assert seen == ["mine"]
    assert "request_id" not in structlog.contextvars.get_contextvars()
    [line] = lines
    assert (line["method"], line["path"], line["status"]) == ("GET", "/x", 200)


# -- the boundary ----------------------------------------------------------------------------------


async def test_an_internal_error_is_a_500_without_details_and_a_log_line_with_them() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("the secret of the gateway")

    client = Client(Front(app, ServerSettings(), Bus()))
    with capture_logs() as lines:
        response = await client.request("GET", "/x")
    assert response.status == 500
    assert (response.error["type"], response.error["code"]) == ("server_error", "internal_error")
    assert "secret" not in response.body.decode()
    assert "ZeroDivision" not in response.body.decode()
    [failed] = [line for line in lines if line["log_level"] == "error"]
    assert isinstance(failed["exc_info"], ZeroDivisionError)


async def test_an_error_after_the_head_cuts_the_response() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ZeroDivisionError

    client = Client(Front(app, ServerSettings(), Bus()))
    async with client.stream("GET", "/x") as streamed:
        await streamed.open()
        assert await streamed.rest() == b"half"
        assert not streamed.whole
        assert isinstance(streamed.failure, ZeroDivisionError)


def test_a_single_gateway_error_is_found_in_what_nurseries_wrap_it_in() -> None:
    error = NotFound("Gone.")
    assert as_gateway_error(error) is error
    assert as_gateway_error(ExceptionGroup("", [ExceptionGroup("", [error])])) is error
    with capture_logs() as lines:
        assert isinstance(
            as_gateway_error(ExceptionGroup("", [error, ValueError()])), InternalError
        )
    assert len(lines) == 1


# -- host and origin -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]", 200),
        ("[::1]:8080", 200),
        ("evil.example", 403),
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("[::2]:8080", 403),
        ("", 403),
        (None, 403),
    ],
)
async def test_by_default_only_loopback_names_are_answered_to(
    client: Client, host: str | None, status: int
) -> None:
    response = await client.request("GET", "/health", headers={"host": host})
    assert response.status == status
    if status == 403:
        assert response.error["code"] == "host_not_allowed"
        assert response.error["type"] == "permission_error"


def test_other_hosts_can_be_allowed() -> None:
    server = ServerSettings(allowed_hosts=("api.example",))
    check_host(server, [b"api.example:443"])
    for hosts in ([b"localhost"], [b"api.example", b"evil.example"]):
        with pytest.raises(Forbidden):
            check_host(server, hosts)
    check_host(ServerSettings(allowed_hosts=("*",)), [b"anything"])


@pytest.mark.parametrize("origin", [FOREIGN_PAGE, "null", "http://localhost.evil.example"])
async def test_a_foreign_page_can_change_nothing_and_read_nothing(
    client: Client, gateway: GatewayDouble, origin: str
) -> None:
    headers = {"origin": origin}
    changing = await client.request("POST", "/v1/conversations", headers=headers)
    assert changing.status == 403
    assert changing.error["code"] == "origin_not_allowed"
    asking = {**headers, "access-control-request-method": "POST"}
    preflight = await client.request("OPTIONS", "/v1/conversations", headers=asking)
    assert preflight.status == 403
    reading = await client.request("GET", "/v1/models", headers=headers)
    assert reading.status == 200
    for response in (changing, preflight, reading):
        assert "access-control-allow-origin" not in response.headers
    assert gateway.made == []


async def test_a_page_of_this_machine_may_call_and_read_our_headers(client: Client) -> None:
    headers = {"origin": LOCAL_PAGE}
    preflight = await client.request(
        "OPTIONS",
        "/v1/chat/completions",
        headers={
            **headers,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, content-type, x-stainless-os",
        },
    )
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == LOCAL_PAGE
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in preflight.headers
    made = await client.request("POST", "/v1/conversations", headers=headers)
    assert made.status == 200
    assert made.headers["access-control-allow-origin"] == LOCAL_PAGE
    assert set(EXPOSED) == set(made.headers["access-control-expose-headers"].split(", "))
    assert "x-conversation-id" in EXPOSED


async def test_errors_too_can_be_read_by_a_page_that_may_call(client: Client) -> None:
    missing = await client.request("GET", "/nowhere", headers={"origin": LOCAL_PAGE})
    assert missing.status == 404
    assert missing.headers["access-control-allow-origin"] == LOCAL_PAGE


async def test_configured_origins_replace_the_default() -> None:
    async with open_gateway_double(settings(cors_origins=("https://app.example",))) as gateway:
        client = Client(app_of(gateway))
        for origin, status in [("https://app.example", 200), (LOCAL_PAGE, 403)]:
            response = await client.request("POST", "/v1/conversations", headers={"origin": origin})
            assert response.status == status


async def test_any_origin_can_be_allowed() -> None:
    async with open_gateway_double(settings(cors_origins=("*",))) as gateway:
        client = Client(app_of(gateway))
        made = await client.request("POST", "/v1/conversations", headers={"origin": FOREIGN_PAGE})
        assert made.status == 200
        assert made.headers["access-control-allow-origin"] == "*"


# -- keys ------------------------------------------------------------------------------------------


async def test_without_configured_keys_any_key_or_none_will_do(client: Client) -> None:
    for headers in ({}, {"authorization": "Bearer sk-whatever"}):
        assert (await client.request("GET", "/v1/models", headers=headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer sk-wrong"},
        {"authorization": "Bearer "},
        {"authorization": f"Basic {KEYS[0]}"},
        {"authorization": KEYS[0]},
        {"x-api-key": KEYS[0] + "x"},
    ],
)
async def test_a_missing_or_wrong_key_is_a_401(headers: dict[str, str]) -> None:
    async with open_gateway_double(settings(keys=KEYS)) as gateway:
        client = Client(app_of(gateway))
        for path in ("/v1/models", "/stats", "/metrics", "/v1/embeddings", "/nowhere"):
            response = await client.request("GET", path, headers=headers)
            assert response.status == 401
            assert response.error["type"] == "authentication_error"
            assert response.error["code"] == "invalid_api_key"
            assert response.headers["www-authenticate"] == "Bearer"
            assert KEYS[0] not in response.body.decode()
        for path in ("/health", "/ready"):
            assert (await client.request("GET", path, headers=headers)).status == 200


def test_both_headers_give_the_same_owner_for_every_key() -> None:
    ring = KeyRing(KeyRegistry(AuthSettings(api_keys=KEYS)))
    for key in KEYS:
        owner = hashlib.sha256(key.encode()).hexdigest()
        assert ring.owner(headers_of([(b"authorization", b"Bearer " + key.encode())])) == owner
        assert ring.owner(headers_of([(b"authorization", b"bearer  " + key.encode())])) == owner
        assert ring.owner(headers_of([(b"x-api-key", key.encode())])) == owner
        # A proxy's own key in one header does not hide the caller's in the other.
        both = [(b"authorization", b"Bearer proxy"), (b"x-api-key", key.encode())]
        assert ring.owner(headers_of(both)) == owner
        assert key not in repr(ring)
    assert KeyRing(KeyRegistry(AuthSettings())).owner({}) == "local"
    with pytest.raises(Unauthenticated):
        ring.owner(headers_of([(b"x-api-key", b"\xff\xfe")]))


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "NONSENSE"])
async def test_a_refused_preflight_has_the_envelope(client: Client, method: str) -> None:
    headers = {"origin": LOCAL_PAGE, "access-control-request-method": method}
    response = await client.request("OPTIONS", "/v1/models", headers=headers)
    assert response.status == 400
    assert response.error["code"] == "preflight_refused"
    assert response.error["message"] == "Disallowed CORS method."
    assert int(response.headers["content-length"]) == len(response.body)
    assert response.headers["access-control-allow-origin"] == LOCAL_PAGE
    assert response.headers["x-request-id"]
