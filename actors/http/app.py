"""The HTTP front: the routes, and the ASGI app that has them all.

Knows: which path is whose, which of them need a key, and what is honestly not there. Refuses to
know: servers, sockets and TLS; any ASGI server that runs on trio can serve the app.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from attrs import asdict
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from ...schemas.errors import NotFound, UpgradeRequired, invalid
from ...schemas.keys import SHORT
from ...transport.http.asgi import send_response
from ..keys.registry import TURNS
from ..mcp.servers import list_mcp_servers
from ..nodes.checks import PATH as NODE_PATH
from ..nodes.checks import say_who
from ..nodes.figures import NodeFigures, sum_of
from .auth import KeyRing
from .batch_road import road_of
from .batches import cancel_batch, create_batch, list_batches, show_batch
from .chat import complete_chat, complete_text
from .conversations import (
    add_items,
    change_conversation,
    create_conversation,
    delete_conversation,
    delete_item,
    export_conversation,
    list_conversations,
    list_items,
    list_permissions,
    reply_permission,
    show_conversation,
    show_item,
)
from .files import delete_file, list_files, show_content, show_file, upload_file
from .forwarding import Forwarder
from .idempotency import once
from .message_batches import (
    cancel_message_batch,
    create_message_batch,
    delete_message_batch,
    list_message_batches,
    show_message_batch,
    show_results,
)
from .messages import count_message_tokens, create_message
from .middleware import HEADERS, Front
from .models import list_models, show_model
from .openapi import Document
from .page import Page
from .request import Call, Once
from .request import route as any_route
from .responses import (
    cancel_response,
    compact_response,
    count_input_tokens,
    create_response,
    delete_response,
    list_input_items,
    names_response,
    show_response,
)
from .usage import show_usage

if TYPE_CHECKING:
    from ..gateway import Gateway

NOT_OFFERED = {
    "assistants": "assistants",
    "audio": "speech and transcription",
    "batches": "that part of the Batch API",
    "chat/completions": "stored chat completions",
    "chatkit": "ChatKit",
    "containers": "containers",
    "conversations": "that part of the Conversations API",
    "edits": "edits",
    "embeddings": "embeddings",
    "engines": "engines",
    "evals": "evals",
    "files": "that part of the Files API",
    "fine_tuning": "fine-tuning",
    "fine-tunes": "fine-tuning",
    "images": "images",
    "moderations": "moderations",
    "organization": "administration",
    "realtime": "the Realtime API",
    "responses": "that part of the Responses API",
    "skills": "skills",
    "threads": "threads",
    "uploads": "uploads in parts",
    "vector_stores": "vector stores",
    "videos": "videos",
}
"""What OpenAI's API has under ``/v1/`` and this gateway has not: by the beginning of the path, what
to call it. A 404 says so, since OpenAI's SDKs ask again after a 501."""

BATCHED = {
    "/v1/chat/completions": complete_chat,
    "/v1/completions": complete_text,
    "/v1/messages": create_message,
    "/v1/responses": create_response,
}
"""Where the requests of a batch may go."""

ONLY_WEBSOCKET = ("/v1/conversations/{conversation_id}/events", "/v1/overview", "/v1/house")


def http_app(gateway: Gateway) -> ASGIApp:
    """All routes of `gateway`, to be mounted anywhere while the gateway is open."""
    gateway.batches.road = road_of(gateway, BATCHED)
    keys = KeyRing(gateway.keys)
    cluster, nodes = gateway.settings.cluster, gateway.nodes
    forwarding = None
    if nodes is not None:
        forwarding = Forwarder(nodes, gateway.node_client).forwarding
    page = Page(enabled=gateway.settings.page.enabled)

    async def no_such_path(scope: Scope, receive: Receive, send: Send) -> NoReturn:
        keys.owner(scope[HEADERS])
        _refuse_path(scope)

    routes = [
        # What a supervisor of processes asks needs no key, nor do the files of the page; everything
        # else does, what is not there included.
        any_route(gateway, "/health", GET=tell_health),
        any_route(gateway, "/ready", GET=tell_readiness),
        any_route(gateway, "/", GET=page.show),
        any_route(gateway, "/page/{file}", GET=page.file),
        *_turn_routes(gateway, keys, forwarding),
        *_other_routes(gateway, keys),
    ]

    async def tell_node(call: Call) -> None:
        """Which node this is, to another one: for a client there is nothing here."""
        if call.from_node is None or nodes is None:
            await no_such_path(call.scope, call.receive, call.send)
        else:
            await call.answer(say_who(nodes))

    if nodes is not None:
        routes.append(any_route(gateway, NODE_PATH, GET=tell_node))
    router = Router(routes, redirect_slashes=False, default=no_such_path)
    secret = "" if nodes is None else cluster.secret
    return Front(router, gateway.settings.server, gateway.bus, secret)


def _turn_routes(gateway: Gateway, keys: KeyRing, forwarding: Once | None) -> list[Route]:
    """What belongs to conversations, which another node may have."""
    route = partial(any_route, scopes=TURNS, forwarding=forwarding)
    conversation = "/v1/conversations/{conversation_id}"
    response = "/v1/responses/{response_id}"
    return [
        route(gateway, "/v1/chat/completions", keys, once=once, POST=complete_chat),
        route(gateway, "/v1/completions", keys, once=once, POST=complete_text),
        route(gateway, "/v1/messages", keys, once=once, POST=create_message),
        route(
            gateway,
            "/v1/messages/batches",
            keys,
            once=once,
            GET=list_message_batches,
            POST=create_message_batch,
        ),
        route(
            gateway,
            "/v1/messages/batches/{message_batch_id}",
            keys,
            GET=show_message_batch,
            DELETE=delete_message_batch,
        ),
        route(
            gateway,
            "/v1/messages/batches/{message_batch_id}/cancel",
            keys,
            POST=cancel_message_batch,
        ),
        route(gateway, "/v1/messages/batches/{message_batch_id}/results", keys, GET=show_results),
        route(gateway, "/v1/messages/count_tokens", keys, POST=count_message_tokens),
        route(gateway, "/v1/responses", keys, once=once, POST=create_response),
        route(gateway, "/v1/responses/input_tokens", keys, POST=count_input_tokens),
        route(gateway, "/v1/responses/compact", keys, once=once, POST=compact_response),
        route(
            gateway,
            response,
            keys,
            is_there=names_response,
            GET=show_response,
            DELETE=delete_response,
        ),
        route(gateway, f"{response}/cancel", keys, POST=cancel_response),
        route(gateway, f"{response}/input_items", keys, GET=list_input_items),
        route(gateway, "/v1/conversations", keys, GET=list_conversations, POST=create_conversation),
        route(
            gateway,
            conversation,
            keys,
            GET=show_conversation,
            POST=change_conversation,
            DELETE=delete_conversation,
        ),
        route(gateway, f"{conversation}/export", keys, GET=export_conversation),
        route(gateway, f"{conversation}/items", keys, GET=list_items, POST=add_items),
        route(
            gateway, f"{conversation}/items/{{item_id}}", keys, GET=show_item, DELETE=delete_item
        ),
        route(gateway, "/v1/files", keys, GET=list_files, POST=upload_file),
        route(gateway, "/v1/files/{file_id}", keys, GET=show_file, DELETE=delete_file),
        route(gateway, "/v1/files/{file_id}/content", keys, GET=show_content),
        route(gateway, "/v1/batches", keys, once=once, GET=list_batches, POST=create_batch),
        route(gateway, "/v1/batches/{batch_id}", keys, GET=show_batch),
        route(gateway, "/v1/batches/{batch_id}/cancel", keys, POST=cancel_batch),
        route(gateway, f"{conversation}/permissions", keys, GET=list_permissions),
        route(gateway, f"{conversation}/permissions/{{request_id}}", keys, POST=reply_permission),
    ]


def _other_routes(gateway: Gateway, keys: KeyRing) -> list[Route]:
    """For every key, which sees what is its own."""
    document = Document(keyed=gateway.keys.needed)
    return [
        any_route(gateway, "/v1/mcp", keys, GET=show_mcp_servers),
        any_route(gateway, "/openapi.json", keys, GET=document.show),
        any_route(gateway, "/v1/models", keys, GET=list_models),
        any_route(gateway, "/v1/models/{model:path}", keys, GET=show_model),
        *(any_route(gateway, path, keys, GET=only_websocket) for path in ONLY_WEBSOCKET),
        any_route(gateway, "/v1/usage", keys, GET=show_usage),
        any_route(gateway, "/stats", keys, GET=tell_statistics),
        any_route(gateway, "/metrics", keys, GET=tell_metrics),
    ]


# -- for operators -------------------------------------------------------------------------------


async def tell_health(call: Call) -> None:
    """The process lives; that is all this says."""
    await call.answer({"status": "ok"})


async def tell_readiness(call: Call) -> None:
    """Whether new turns are taken and can be answered. Draining, this goes first, so that no client
    is sent here. With ``?else=404`` that is a 404: to some balancers the mark of a server that ends
    what it has, while any other failure is one's that is gone (haproxy's ``disable-on-404``)."""
    other = call.query("else").get("else")
    if other not in (None, "404"):
        raise invalid("else must be 404.", "else")
    trouble = call.gateway.trouble
    if trouble is None:
        await call.answer({"status": "ready"})
    elif other is None:
        raise type(trouble)(trouble.message, code=trouble.code)
    else:
        await call.answer(trouble.body(), 404)


async def tell_statistics(call: Call) -> None:
    """Of the gateway; for a key that may not see that, of its own turns and sessions."""
    gateway = call.gateway
    if call.rights.sees_all:
        await call.answer(
            {
                **gateway.stats.snapshot(),
                "gateway": asdict(gateway.statistics()),
                "mcp": [asdict(state) for state in gateway.mcp.states()],
                "audit": {} if gateway.audit is None else gateway.audit.snapshot(),
                **_tell_nodes(gateway.node_figures()),
            }
        )
        return
    own = gateway.own_statistics(call.owner)
    told = {**gateway.stats.snapshot(call.owner), "gateway": asdict(own)}
    nodes = gateway.node_figures()
    if nodes:
        running = sum(node.keys.get(call.owner[:SHORT], 0) for node in nodes)
        told["cluster"] = {"nodes": len(nodes), "turns_running": running}
    await call.answer(told)


def _tell_nodes(nodes: list[NodeFigures]) -> dict[str, Any]:
    """Of all gateways, where there are several: their sums, and each of them."""
    if not nodes:
        return {}
    return {
        "cluster": {"nodes": len(nodes), **asdict(sum_of(nodes))},
        "nodes": [node.encode() for node in nodes],
    }


async def show_mcp_servers(call: Call) -> None:
    """The operator's MCP servers: how each stands, and its tools."""
    told = list_mcp_servers(call.gateway.mcp, whole=call.rights.sees_all)
    await call.answer(told)


async def tell_metrics(call: Call) -> None:
    """Prometheus' text exposition format."""
    owner = None if call.rights.sees_all else call.owner
    nodes = call.gateway.node_figures()
    for node in nodes:
        if call.gateway.nodes is not None and node.id == call.gateway.nodes.node.id:
            call.gateway.stats.note_nodes(node, len(nodes))
    text = call.gateway.stats.prometheus(owner)
    await send_response(call.send, 200, CONTENT_TYPE_LATEST, text)


# -- what is not there -----------------------------------------------------------------------------


async def only_websocket(call: Call) -> NoReturn:
    call.response.headers["upgrade"] = "websocket"
    raise UpgradeRequired(f"{call.scope['path']} is a WebSocket.")


def _refuse_path(scope: Scope) -> NoReturn:
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    for beginning, what in NOT_OFFERED.items():
        if f"{path}/".startswith(f"/v1/{beginning}/"):
            raise NotFound(
                f"This gateway does not offer {what}: there is nothing at {scope['method']} "
                f"{scope['path']}.",
                code="not_offered",
            )
    raise NotFound(f"There is nothing at {scope['method']} {scope['path']}.")
