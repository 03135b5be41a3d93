"""Several gateways in one command: as many processes as there are processors to use.

Knows: how a worker is made, what each has of its own, and what a signal means to all of them.
Refuses to know: what a worker does (`actors.commands.serve`).

Each worker is a node (`actors.nodes`): they share a database and nothing else. All listen at the
same address (SO_REUSEPORT), so that the kernel gives each a share of the connections; and each at
an address of its own, where the others reach it. They are forked before there is any thread or
event loop, and this process only waits: for a signal, which it passes on, and for a worker that
ended, in whose place it starts another.

No worker outlives this process: the kernel tells it of the end (PR_SET_PDEATHSIG).

Source: socket(7) on SO_REUSEPORT, prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

import attrs
from attrs import define, field, frozen

from ...schemas.settings.settings import Problem, Settings, SettingsError
from ...transport.http.front_door import ListenError
from ...transport.loggers import get_logger
from ..runtime.restart_budget import RestartBudget

log = get_logger("ccapi.workers")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What this process waits for and passes on."""

AGAIN_SECONDS = 1.0
"""How long the place of a worker that failed stays empty."""

_PR_SET_PDEATHSIG = 1


@frozen
class Sockets:
    """Where a worker listens: for clients, beside the other workers; and for those. `number`: which
    worker it is, from 0."""

    shared: socket.socket
    own: socket.socket
    number: int


Run = Callable[[Settings, Sockets], int]
"""Serves with these settings on these sockets; returns the exit code."""


def worker_settings(settings: Settings, number: int, node_url: str, secret: str) -> Settings:
    """What the worker of this number has of its own: where it is reached, and a folder for what no
    other may touch. Agents of all workers have the same workspaces."""
    storage, workspaces = settings.storage, settings.workspaces
    root = workspaces.root or storage.path.expanduser().absolute() / "workspaces"
    return attrs.evolve(
        settings,
        storage=attrs.evolve(storage, path=storage.path / f"worker-{number}"),
        workspaces=attrs.evolve(workspaces, root=root),
        cluster=attrs.evolve(settings.cluster, node_url=node_url, secret=secret),
    )


def own_address(settings: Settings, number: int) -> tuple[str, int]:
    """Where the worker of this number listens for the others: behind the port of
    ``cluster.node_url``, if there are other machines; else at any port of this one."""
    url = settings.cluster.node_url
    if not url:
        return "127.0.0.1", 0
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return settings.server.host, port + 1 + number


def node_url_of(settings: Settings, port: int) -> str:
    """The URL of the worker that listens at that port for the others. Between workers there is no
    TLS: what they say is between two processes, or between machines of one network."""
    host = urlsplit(settings.cluster.node_url).hostname if settings.cluster.node_url else None
    host = host or "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def shared_socket(host: str, port: int) -> socket.socket:
    """A socket that listens there beside those of other workers. Raises `ListenError`."""
    return _listening(host, port, shared=True)


def _listening(host: str, port: int, *, shared: bool) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ListenError(f"cannot listen on {host!r}: {error}") from error
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
        made.listen(socket.SOMAXCONN)
    except OSError as error:
        made.close()
        raise ListenError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return made


def _check_free(host: str, port: int) -> None:
    """SO_REUSEPORT would share the port with any program of this user's that has it too."""
    if port:
        _listening(host, port, shared=False).close()


@define
class Workers:
    """The processes of one command. `run` is what each of them does."""

    settings: Settings
    count: int
    run: Run
    secret: str = field(init=False)
    stopping: bool = field(init=False, default=False)
    _living: dict[int, int] = field(init=False, factory=dict)  # numbers, by process
    _port: int = field(init=False, default=0)
    _budget: RestartBudget = field(init=False, factory=RestartBudget)
    _failed: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        self.secret = self.settings.cluster.secret or secrets.token_urlsafe(32)

    def serve(self) -> int:
        """Have the workers serve until a signal says to stop; returns the exit code. Raises
        `ListenError`."""
        host, port = self.settings.server.host, self.settings.server.port
        _check_free(host, port)
        awaited = {*SIGNALS, signal.SIGCHLD}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
        try:
            self._port = port
            for number in range(self.count):
                self._start(number, before)
            while self._living:
                self._take(signal.sigwait(awaited), before)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return 1 if self._failed else 0

    def _start(self, number: int, mask: set[signal.Signals | int]) -> None:
        """Raises `ListenError`. In the worker it does not return."""
        shared = shared_socket(self.settings.server.host, self._port)
        # The first one finds a port where any will do; the others have the same one.
        self._port = shared.getsockname()[1]
        own = _listening(*own_address(self.settings, number), shared=False)
        url = node_url_of(self.settings, own.getsockname()[1])
        settings = worker_settings(self.settings, number, url, self.secret)
        settings = attrs.evolve(settings, server=attrs.evolve(settings.server, port=self._port))
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _become_worker(parent, mask)
                code = self.run(settings, Sockets(shared, own, number))
            finally:
                # Nothing of what called this is the worker's to end.
                sys.stderr.flush()
                os._exit(code)
        # A connection that waits at a copy here would wait for ever, once its worker has ended.
        shared.close()
        own.close()
        self._living[pid] = number

    def _take(self, number: int, mask: set[signal.Signals | int]) -> None:
        if number == signal.SIGCHLD:
            self._bury(mask)
            return
        if number != signal.SIGHUP:
            self.stopping = True
        for pid in self._living:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP if number == signal.SIGHUP else signal.SIGTERM)

    def _bury(self, mask: set[signal.Signals | int]) -> None:
        """Take note of workers that have ended; start others in their places."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = self._living.pop(pid, None)
            if worker is None or (self.stopping and status == 0):
                continue
            code = os.waitstatus_to_exitcode(status)
            log.error("a worker ended", number=worker, pid=pid, code=code)
            if self.stopping:
                self._failed = True
            elif self._budget.has_room(time.monotonic()):
                self._budget.spend(time.monotonic())
                time.sleep(AGAIN_SECONDS)
                self._start(worker, mask)
            else:
                log.error("workers keep failing: all stop")
                self._failed = True
                self._take(signal.SIGTERM, mask)


def _become_worker(parent: int, mask: set[signal.Signals | int]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    # A terminal's signal is for the process that waits, which passes it on once.
    os.setpgid(0, 0)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os._exit(1)


def check_workers(settings: Settings) -> None:
    """Raise `SettingsError` where several workers cannot share what is kept."""
    if not settings.storage.url:
        reason = "must be a database that workers can share: --workers needs PostgreSQL"
        raise SettingsError([Problem("storage.url", reason)])
