"""The server: a gateway with its fronts, listening until it receives a signal to stop.

Knows: the order of starting and stopping, what a signal means, how the log is set up. Refuses
to know: requests.

Stopping: the first SIGTERM or SIGINT drains. New turns are refused (`/ready` says so while the
port is still open), running ones may finish within `server.graceful_seconds`; then the fronts
close, then the sessions, then the children. A second signal ends all of it at once. SIGHUP has the
file of MCP servers read again, and the audit log opened again.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio

from ...schemas.errors import GatewayError
from ...schemas.settings.settings import LogSettings, Settings, SettingsError, check_exposure
from ...transport.http.front_door import (
    FrontDoorLimits,
    ListenError,
    open_listeners,
    serve_connections,
    tls_context,
)
from ...transport.http.websocket import WebSocketLimits
from ...transport.loggers import HeldLog, get_logger
from ...transport.process.interpreter import share_interpreter
from ...transport.process.memory import give_back_memory
from ...transport.process.own_process import close_to_others
from ...transport.store.interface import Store
from ...transport.store.key_table import has_keys
from ..gateway import Gateway
from ..http.app import http_app
from ..nodes.checks import watch_nodes
from ..opening import open_gateway
from ..websocket.app import open_websocket_front
from .first_screen import facts_of
from .workers import Sockets

log = get_logger("ccapi.serve")

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

VERSION_PATIENCE = 2.0
"""Seconds that the port waits for the CLI's version. A CLI that takes longer and turns out to be
too old is reported by `/ready`."""

INTRODUCTION_PATIENCE = 2.0
"""Seconds that the first lines wait for the CLI's version and login."""

DRAIN_MARGIN = 5.0
"""Seconds that the fronts have, after the last turn has ended, to send what is left."""


def run_server(
    settings: Settings,
    *,
    demo: bool = False,
    hidden: Sequence[Path] = (),
    sockets: Sockets | None = None,
) -> int:
    """Serve until a signal says to stop; returns the exit code. `hidden`: files that agents in a
    sandbox never see; `sockets`: where a worker listens.

    Raises `ListenError`, `SettingsError` or `GatewayError` when it cannot start.
    """
    held = configure_logging(settings.log)
    close_to_others()
    give_back_memory()
    share_interpreter()
    errors: list[Exception] = []
    try:
        trio.run(
            partial(
                _serve_until_signalled, settings, held, demo=demo, hidden=hidden, sockets=sockets
            )
        )
    except* (ListenError, SettingsError, GatewayError) as group:
        # Out of the nurseries it came through: a person reads it.
        errors = [*_leaves(group)]
    finally:
        if held is not None:
            held.release()
    if errors:
        raise errors[0]
    return 0


async def serve(
    settings: Settings,
    *,
    demo: bool = False,
    environ: Mapping[str, str] | None = None,
    hidden: Sequence[Path] = (),
    stop: trio.Event,
    abort: trio.Event | None = None,
    hang_up: trio.MemoryReceiveChannel[None] | None = None,
    store: Store | None = None,
    sockets: Sockets | None = None,
    task_status: trio.TaskStatus[tuple[str, Gateway]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop` is set, then drain and return; `abort` cuts that short. With each item of
    `hang_up` the file of MCP servers is read again, and the audit log opened again. `store` is one
    that is open already (None: what the settings name), `sockets` are where a worker listens (None:
    where the settings say).

    Started with the URL and the gateway.
    """
    storage = settings.storage
    stored = storage.persist and has_keys(storage.place)
    check_exposure(settings, has_stored_keys=stored)
    tls = None
    if settings.server.tls_cert_file is not None and settings.server.tls_key_file is not None:
        tls = tls_context(str(settings.server.tls_cert_file), str(settings.server.tls_key_file))
    # The port first: if it is taken, no child is ever started.
    own: list[trio.SocketListener] = []
    if sockets is None:
        listeners = await open_listeners(settings.server.host, settings.server.port)
    else:
        listeners, own = [listen(sockets.shared)], [listen(sockets.own)]
    async with AsyncExitStack() as stack:
        for listener in (*listeners, *own):
            stack.push_async_callback(listener.aclose)
        gateway = await stack.enter_async_context(
            open_gateway(
                settings,
                environ=os.environ if environ is None else environ,
                demo=demo,
                hidden=hidden,
                store=store,
            )
        )
        with trio.move_on_after(VERSION_PATIENCE):
            await gateway.check_version()
        await gateway.check_exposure()
        websockets = await stack.enter_async_context(open_websocket_front(gateway))
        async with trio.open_nursery() as fronts:
            if abort is not None:
                fronts.start_soon(_end_at_once, abort, gateway, fronts.cancel_scope)
            if hang_up is not None:
                fronts.start_soon(_reload, hang_up, gateway)
            async with trio.open_nursery() as doors:
                close_doors, app = trio.Event(), http_app(gateway)
                for behind, security in ((listeners, tls), (own, None)):
                    if behind:
                        await doors.start(
                            partial(
                                serve_connections,
                                behind,
                                app,
                                websockets.serve,
                                limits_of(settings),
                                ssl_context=security,
                                stop=close_doors,
                            )
                        )
                url = _url(settings, listeners)
                log.info("listening", url=url, demo=demo)
                if gateway.nodes is not None:
                    fronts.start_soon(watch_nodes, gateway.nodes, gateway.node_client)
                task_status.started((url, gateway))
                await stop.wait()
                await _drain(gateway)
                close_doors.set()
            fronts.cancel_scope.cancel()
    log.info("stopped")


async def _drain(gateway: Gateway) -> None:
    """Refuse new turns, and give those that run `server.graceful_seconds`."""
    log.info("draining", turns_running=gateway.statistics().turns_running)
    gateway.drain()
    with trio.move_on_after(gateway.settings.server.graceful_seconds):
        await gateway.wait_drained()


async def _reload(hang_up: trio.MemoryReceiveChannel[None], gateway: Gateway) -> None:
    async for _ in hang_up:
        if gateway.audit is not None:
            gateway.audit.reopen()
        await gateway.mcp.reload()


async def _end_at_once(abort: trio.Event, gateway: Gateway, fronts: trio.CancelScope) -> None:
    await abort.wait()
    log.warning("stopping at once")
    gateway.kill_children()
    fronts.cancel()


def listen(made: socket.socket) -> trio.SocketListener:
    """A listener of a socket that listens."""
    made.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(made))


def limits_of(settings: Settings) -> FrontDoorLimits:
    """What the settings allow a connection."""
    server, websocket = settings.server, settings.websocket
    return FrontDoorLimits(
        stall_seconds=server.stall_seconds,
        head_timeout_seconds=server.head_timeout_seconds,
        max_header_bytes=server.max_header_bytes,
        min_body_bytes_per_second=server.min_body_bytes_per_second,
        max_connections=server.max_connections,
        max_per_address=server.max_connections_per_address,
        graceful_seconds=DRAIN_MARGIN,
        websocket=WebSocketLimits(
            max_message_bytes=websocket.max_message_bytes,
            stall_seconds=server.stall_seconds,
            min_bytes_per_second=server.min_body_bytes_per_second,
            ping_seconds=websocket.ping_seconds,
            pong_seconds=websocket.pong_seconds,
            idle_seconds=websocket.idle_seconds or math.inf,
        ),
    )


async def _serve_until_signalled(
    settings: Settings,
    held: HeldLog | None,
    *,
    demo: bool,
    hidden: Sequence[Path],
    sockets: Sockets | None,
) -> None:
    stop, abort = trio.Event(), trio.Event()
    # One that waits is enough: what is read then is as new as it gets.
    send, hang_up = trio.open_memory_channel[None](1)

    numbers = [signal.SIGTERM, signal.SIGINT]
    if settings.mcp.enabled or settings.audit.path is not None:
        numbers.append(signal.SIGHUP)
    at_terminal = sys.stderr.isatty()

    async def obey() -> None:
        async for number in signals:
            # A terminal that closes sends it too, and then is none any more.
            if number == signal.SIGHUP and sys.stderr.isatty() == at_terminal:
                with suppress(trio.WouldBlock):
                    send.send_nowait(None)
            else:
                (abort if stop.is_set() else stop).set()

    with trio.open_signal_receiver(*numbers) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(obey)
            async with trio.open_nursery() as serving:
                url, gateway = await serving.start(
                    partial(
                        serve,
                        settings,
                        demo=demo,
                        hidden=hidden,
                        stop=stop,
                        abort=abort,
                        hang_up=hang_up,
                        sockets=sockets,
                    )
                )
                if sockets is None or sockets.number == 0:
                    await _introduce(gateway, url, held)
                elif held is not None:
                    held.release()  # the first worker has said it for all
            nursery.cancel_scope.cancel()


async def _introduce(gateway: Gateway, url: str, held: HeldLog | None) -> None:
    """Say what runs here, once the CLI has said what it is: in six lines before all that is logged,
    or as one line of the log where that is for machines."""
    with trio.move_on_after(INTRODUCTION_PATIENCE):
        await gateway.wait_known()
    facts = facts_of(gateway, url)
    if held is None:
        log.info("serving", **facts.fields())
    else:
        held.release(facts.screen())


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _url(settings: Settings, listeners: list[trio.SocketListener]) -> str:
    scheme = "https" if settings.server.tls_cert_file else "http"
    host = settings.server.host
    port = listeners[0].socket.getsockname()[1]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def configure_logging(settings: LogSettings) -> HeldLog | None:
    """Set up logging once for the whole process: structlog, on stderr. ``format``: ``console`` for
    people, ``json`` for machines, ``auto`` by whether stderr is a terminal. What libraries say
    through the standard library goes the same way. For people the log is held back: the caller
    releases what is returned."""
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    held = HeldLog(sys.stderr) if console else None
    file: Any = held or sys.stderr
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[Any] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[settings.level]),
        logger_factory=structlog.WriteLoggerFactory(file=file),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(file)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(LEVELS[settings.level], logging.WARNING))
    return held
