"""What this project uses of other packages beyond their public interfaces: named here, one by one,
each in one module, so that an upgrade which takes a name away fails here and says where.

A name of this list that is gone, or one that is used and not listed, is a failure.
"""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from functools import cache
from typing import Any

import psycopg
import pytest
from hypercorn.protocol.h2 import H2Protocol, StreamBuffer
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.worker_context import WorkerContext
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Scope
from trio.testing import memory_stream_pair
from trio_websocket import WebSocketConnection, WebSocketRequest
from wsproto import ConnectionType, WSConnection

from ccapi.actors.http.middleware import Cors
from ccapi.transport.http import protocols, websocket
from ccapi.transport.http.protocols import Http1, Http2, HttpLimits, Peer, ProtocolContext
from ccapi.transport.store.postgres import trio_connection
from ccapi.transport.store.postgres.trio_connection import TrioConnection

from .sources import ROOT, every_module, nodes_of

PROTOCOLS = "transport/http/protocols.py"
WEBSOCKET = "transport/http/websocket.py"

PRIVATE = {
    PROTOCOLS: {
        # hypercorn's protocols, from which ours inherit
        "_close_stream", "_create_stream", "_flush", "_window_updated",
        # h2: how much has come of a frame that is not whole
        "_data",
    },
    WEBSOCKET: {
        # trio_websocket.WebSocketConnection, from which ours inherits
        "_abort_web_socket", "_close_handshake", "_get_request", "_max_message_size",
        "_reader_task", "_recv_channel", "_send", "_send_channel", "_stream_lock", "_wsproto",
        # trio_websocket.WebSocketRequest
        "_event",
    },
}  # fmt: skip
"""Private names that a module uses and does not define."""

DEFINED_TOO = {
    PROTOCOLS: {"_handle_events", "_maybe_recycle", "_send_data", "_send_h11_event"},
    WEBSOCKET: {
        "_close_reason", "_connection", "_handle_close_connection_event", "_handle_message_event",
        "_handle_ping_event", "_handle_pong_event", "_reader_running", "_stream",
    },
}  # fmt: skip
"""Private names of the other package that a module defines or assigns itself."""

DOCUMENTED = {"_asdict", "_exit", "_field_defaults", "_fields", "_make", "_replace"}
"""Public in spite of their names: `typing.NamedTuple` and `os._exit`."""

OVERRIDDEN: dict[type, tuple[type, set[str]]] = {
    Http1: (
        H11Protocol,
        {"__init__", "_handle_events", "_maybe_recycle", "_send_h11_event"},
    ),
    Http2: (
        H2Protocol,
        {"__init__", "_handle_events", "_send_data", "handle", "stream_send"},
    ),
    websocket._Connection: (
        WebSocketConnection,
        {
            "__init__", "_handle_close_connection_event", "_handle_message_event",
            "_handle_ping_event", "_handle_pong_event",
        },
    ),
    Cors: (CORSMiddleware, {"__init__", "is_allowed_origin", "preflight_response"}),
    TrioConnection: (psycopg.AsyncConnection, {"__init__", "wait"}),
}  # fmt: skip
"""Our classes, those of others that they are made from, and the methods that they replace."""


class Door:
    """The least of a `protocols.Carrier`."""

    peer = Peer(client=None, server=None, tls=False)
    corked: list[bytes] | None = None

    async def write(self, data: bytes) -> None: ...
    async def flush(self) -> None: ...
    def note_idle(self, idle: bool) -> None: ...
    def finish(self) -> None: ...
    def spawn(self, function: Any, *args: Any) -> None: ...
    def start_request(self, scope: Scope, send: Any) -> Any: ...


def defined(module: str) -> set[str]:
    """The names that a module defines, and the attributes that it assigns to `self`."""
    names = set()
    for node in nodes_of(module):
        match node:
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
                names.add(name)
            case ast.Name(name, ast.Store()) | ast.Attribute(ast.Name("self"), name, ast.Store()):
                names.add(name)
    return names


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@every_module
def test_private_names_of_others_are_used_where_this_list_says(module: str) -> None:
    own = defined(module) | DOCUMENTED
    used = {
        node.attr
        for node in nodes_of(module)
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own
    }
    assert used == PRIVATE.get(module, set())


@cache
def imports(module: str) -> frozenset[str]:
    """What a module imports of other packages, by full names."""
    names = set()
    for node in nodes_of(module):
        match node:
            case ast.Import(aliases):
                names |= {alias.name for alias in aliases}
            case ast.ImportFrom(str(package), aliases, 0):
                names |= {f"{package}.{alias.name}" for alias in aliases}
    return frozenset(names)


@every_module
def test_no_private_module_or_name_is_imported(module: str) -> None:
    """But for the socket of the launcher, which starts as fast as it can."""
    parts = {part for name in imports(module) for part in name.split(".")}
    private = set(filter(is_private, parts))
    assert private == ({"_socket"} if module == "transport/sandbox/launcher.py" else set())


@every_module
def test_hypercorn_is_known_to_one_module(module: str) -> None:
    names = {name for name in imports(module) if name.split(".")[0] == "hypercorn"}
    assert not names or module == PROTOCOLS, f"{module} imports {names}"


@every_module
def test_trio_websockets_connection_is_subclassed_in_one_module(module: str) -> None:
    """Others use what the package exports."""
    names = {name for name in imports(module) if name.split(".")[0] == "trio_websocket"}
    assert all(name.count(".") == 1 for name in names), names
    bases = {
        ast.unparse(base)
        for node in nodes_of(module)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
    }
    subclassed = bases & {name.rpartition(".")[2] for name in names}
    assert subclassed == ({"WebSocketConnection"} if module == WEBSOCKET else set())


@pytest.mark.parametrize("ours", OVERRIDDEN, ids=lambda ours: ours.__name__)
def test_what_replaces_a_method_of_another_package_replaces_one(ours: type) -> None:
    """And takes it as it was; a method of ours must not replace a new one unawares."""
    theirs, names = OVERRIDDEN[ours]
    assert {name for name in vars(ours) if callable(vars(ours)[name])} & {*dir(theirs)} == names, (
        f"{ours.__module__} and {theirs.__module__} do not fit together"
    )
    for name in names - {"__init__"}:
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert inspect.iscoroutinefunction(mine) == inspect.iscoroutinefunction(other), name
        assert len(inspect.signature(mine).parameters) == len(inspect.signature(other).parameters)


def instances() -> dict[str, object]:
    """What the modules touch, made by the other packages alone (needs a trio run)."""
    context = ProtocolContext(HttpLimits())
    http1, http2 = Http1(context, Door()), Http2(context, Door())
    theirs1 = H11Protocol(*http1._arguments(context))
    theirs2 = H2Protocol(*http2._arguments(context))
    stream, _ = memory_stream_pair()
    socket = WebSocketConnection(stream, WSConnection(ConnectionType.SERVER))
    request = WebSocketRequest(socket, object())  # type: ignore[arg-type]
    return {
        "H11Protocol": theirs1,
        "H2Protocol": theirs2,
        "h2.frame_buffer.FrameBuffer": theirs2.connection.incoming_buffer,
        "StreamBuffer": StreamBuffer(WorkerContext.event_class),
        "WorkerContext": context.worker,
        "WebSocketConnection": socket,
        "WebSocketRequest": request,
    }


USED = {
    "H11Protocol": (
        "config", "connection", "handle", "initiate", "stream", "_create_stream", "_handle_events",
        "_maybe_recycle", "_send_h11_event",
    ),
    "H2Protocol": (
        "closed", "config", "connection", "handle", "idle", "initiate", "stream_buffers", "streams",
        "stream_send", "_close_stream", "_flush", "_handle_events", "_send_data", "_window_updated",
    ),
    "h2.frame_buffer.FrameBuffer": ("_data",),
    "StreamBuffer": ("buffer", "close"),
    "WorkerContext": ("terminated",),
    "WebSocketConnection": (
        "_abort_web_socket", "_close_handshake", "_close_reason", "_get_request",
        "_handle_close_connection_event", "_handle_message_event", "_handle_ping_event",
        "_handle_pong_event", "_max_message_size", "_reader_running", "_reader_task",
        "_recv_channel", "_send", "_send_channel", "_stream", "_stream_lock", "_wsproto",
    ),
    "WebSocketRequest": ("_connection", "_event"),
}  # fmt: skip


@pytest.mark.parametrize("name", USED)
async def test_what_is_used_of_another_package_is_there(name: str) -> None:
    thing = instances()[name]
    gone = [used for used in USED[name] if not hasattr(thing, used)]
    where = WEBSOCKET if name.startswith("WebSocket") else PROTOCOLS
    assert not gone, f"{where} needs {gone} of {name}"


def test_all_private_names_of_the_lists_are_checked() -> None:
    checked = {name for names in USED.values() for name in names if is_private(name)}
    listed = {name for kind in (PRIVATE, DEFINED_TOO) for names in kind.values() for name in names}
    assert checked == listed


async def test_no_name_of_ours_hides_one_of_the_connection_it_is_made_from() -> None:
    """An attribute that a new version brings must not be one that is ours already."""
    made = instances()
    for theirs, module, ours in (
        ("H11Protocol", protocols, Http1),
        ("H2Protocol", protocols, Http2),
        ("WebSocketConnection", websocket, websocket._Connection),
    ):
        source = ast.parse(inspect.getsource(ours))
        assigned = {
            node.attr
            for node in ast.walk(source)
            if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) == "self"
        }
        both = assigned & {*vars(made[theirs])}
        assert both <= {*USED[theirs]}, f"{module.__name__}: {both}"


@pytest.mark.parametrize("package", ["hypercorn", "trio-websocket", "psycopg"])
def test_packages_that_are_known_from_the_inside_are_pinned(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
    [pin] = [each for each in named if re.match(rf"{package}\W", each)]
    assert ",<" in pin, f"{pin}: the next minor version has to pass this test first"


def test_what_is_used_of_psycopg_is_there() -> None:
    """What its connection leaves to an event loop: to wait, a lock, and to connect. `wait` is given
    generators that say by `Wait` what they wait for, and receive `Ready`."""
    assert trio_connection.misfit() is None
    assert "self.lock = ALock()" in inspect.getsource(psycopg.AsyncConnection.__init__)
    assert [*inspect.signature(psycopg.generators.connect).parameters] == ["conninfo"]
    assert {each.name for each in psycopg.waiting.Wait} == {"R", "W", "RW"}
    assert {each.name for each in psycopg.waiting.Ready} >= {"NONE", "R", "W"}
    execute = inspect.getsource(psycopg.AsyncCursor.execute)
    assert "self._conn.lock" in execute
    assert "await self._conn.wait(" in execute
