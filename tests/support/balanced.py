"""Several gateways, each a process of its own, behind Debian's haproxy with the project's own
configuration (`examples/deploy/haproxy.cfg`).

Knows: how they start and stop, and which of them has had a request, by what they log. Refuses to
know: what clients ask. All of it blocks, so that the tests of a module can share it; a test on trio
calls it in a thread.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from attrs import define, field

from .nodes import SECRET
from .readme import ROOT

PATIENCE = 60.0
NAMES = ("one", "two", "three")
"""As the configuration calls them."""

CONFIGURATION = ROOT / "examples" / "deploy" / "haproxy.cfg"


PORTS = range(20_000, 32_000)
"""Which the kernel gives to no connection by itself: a gateway that starts again finds its port
free, however many connections its neighbours have made meanwhile."""


def free_port() -> int:
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def wait_until(is_so: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait for what only another process can bring about."""
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)


def _client() -> httpx.Client:
    # Not to verify a server saves reading certificates that no test needs.
    return httpx.Client(timeout=5, trust_env=False, verify=False)


@define(eq=False)
class Gateway:
    """One ``ccapi serve`` at `port`, with all its files in `folder`."""

    name: str
    port: int
    folder: Path
    arguments: Sequence[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments, env=self.environment, stdout=log, stderr=log, cwd=self.folder
            )

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log_text[-3000:]
        try:
            with _client() as client:
                return client.get(f"{self.url}/ready").status_code == 200
        except httpx.TransportError:
            return False

    def wait_ready(self) -> None:
        wait_until(self.is_ready, f"gateway {self.name} is ready")

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Until it has ended; returns its exit code."""
        assert self.process is not None
        return self.process.wait(seconds)

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def log_text(self) -> str:
        return (self.folder / "log.txt").read_text("utf-8", "replace")

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """The lines of its log that say this, with these fields."""
        found = []
        for line in self.log_text.splitlines():
            with suppress(ValueError):  # the last one may be half written
                said = json.loads(line)
                if said.get("event") == event and fields.items() <= said.items():
                    found.append(said)
        return found


@define(eq=False)
class Balanced:
    """The gateways, and the URL of what is in front of them."""

    folder: Path
    gateways: list[Gateway]
    url: str
    process: subprocess.Popen[bytes] = field(repr=False)

    def by_name(self, name: str) -> Gateway:
        return next(each for each in self.gateways if each.name == name)

    def road(self, request_id: str) -> tuple[str, ...]:
        """The names of the gateways that have had a request: the one that the balancer chose, and
        the one that this one has passed it on to, if it has."""

        def had(*, by_node: bool) -> list[str]:
            return [
                each.name
                for each in self.gateways
                for line in each.logged("request", request_id=request_id)
                if by_node == ("from_node" in line)
            ]

        def is_over() -> bool:
            asked = {"request_id": request_id}
            passed_on = any(each.logged("passed on", **asked) for each in self.gateways)
            return bool(had(by_node=False) and (had(by_node=True) or not passed_on))

        # The first logs that it passes a request on before it logs that this is over.
        wait_until(is_over, f"the gateways have logged {request_id}", 10)
        return (*had(by_node=False), *had(by_node=True))

    def count_up(self, gateway: Gateway) -> int:
        """How often the balancer has found that the gateway is ready again."""
        said = f"Server gateways/{gateway.name} is UP"
        return (self.folder / "haproxy.txt").read_text("utf-8").count(said)

    def wait_ready(self) -> None:
        for each in self.gateways:
            each.wait_ready()


def configuration(port: int, gateways: Mapping[str, int]) -> str:
    """The project's own for haproxy, at these ports of this machine."""
    text, count = re.subn(
        r"(?m)^( +bind) \*:8080$", rf"\1 127.0.0.1:{port}", CONFIGURATION.read_text("utf-8")
    )
    assert count == 1, "it listens once"
    for name, own in gateways.items():
        wanted = rf"(?m)^( +server {name}) {name}:8080$"
        text, count = re.subn(wanted, rf"\1 127.0.0.1:{own}", text)
        assert count == 1, f"it knows {name}"
    return text


def haproxy() -> str:
    """The program."""
    found = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    assert found is not None, "haproxy is missing: apt-get install haproxy"
    return found


@contextmanager
def _open_haproxy(folder: Path, text: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    file = folder / "haproxy.cfg"
    file.write_text(text, "utf-8")
    with (folder / "haproxy.txt").open("ab") as log:
        process = subprocess.Popen(
            [haproxy(), "-db", "-f", str(file)], stdout=log, stderr=log, env={}, cwd=folder
        )

    def listens() -> bool:
        assert process.poll() is None, (folder / "haproxy.txt").read_text()
        try:
            with _client() as client:
                return client.get(f"http://127.0.0.1:{port}/health").status_code > 0
        except httpx.TransportError:
            return False

    try:
        wait_until(listens, "haproxy listens")
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def open_balanced(
    folder: Path,
    database: str,
    *,
    program: Sequence[str] = ("-m", "ccapi.actors.commands.main", "serve"),
    environments: Mapping[str, Mapping[str, str]] | None = None,
    names: Sequence[str] = NAMES,
    **settings: str,
) -> Iterator[Balanced]:
    """So many gateways on one database, all of them ready, and behind one balancer, while the
    block runs. `program`: what Python runs; `environments`: further variables of each by its name;
    `settings`: without their ``CLAUDE_CODE__``."""
    gateways = []
    for name in names:
        home = folder / name
        home.mkdir()
        port = free_port()
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
            "CLAUDE_CODE__CLUSTER__SECRET": SECRET,
            "CLAUDE_CODE__CLUSTER__NODE_URL": f"http://127.0.0.1:{port}",
            "CLAUDE_CODE__STORAGE__URL": database,
            "CLAUDE_CODE__STORAGE__PATH": str(home / "state"),
            "CLAUDE_CODE__LOG__FORMAT": "json",
            **{f"CLAUDE_CODE__{key}": value for key, value in settings.items()},
            **(environments or {}).get(name, {}),
        }
        arguments = [sys.executable, *program, "--port", str(port)]
        gateways.append(Gateway(name, port, home, arguments, environment))
    port = free_port()
    text = configuration(port, {each.name: each.port for each in gateways})
    try:
        for each in gateways:
            each.start()
        with _open_haproxy(folder, text, port) as process:
            balanced = Balanced(folder, gateways, f"http://127.0.0.1:{port}", process)
            balanced.wait_ready()
            wait_until(lambda: _rotates(balanced), "the balancer has all of them")
            yield balanced
    finally:
        with ThreadPoolExecutor() as threads:
            [*threads.map(Gateway.end, gateways)]


def _rotates(balanced: Balanced) -> bool:
    """Whether each gateway has had one of as many requests."""
    ids = [f"look-{time.monotonic_ns()}-{number}" for number in range(len(balanced.gateways))]
    for each in ids:
        with _client() as client:
            answered = client.get(f"{balanced.url}/ready", headers={"x-request-id": each})
        if answered.headers.get("x-request-id") != each:
            return False  # the balancer itself has answered it: it has none
    return len({balanced.road(each) for each in ids}) == len(balanced.gateways)
