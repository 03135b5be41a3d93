"""The way out of a sandbox: to whom agents may connect, and to whom not, by name and by address."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
import trio
from attrs import evolve

from ccapi.schemas.settings.settings import (
    ModelSettings,
    Settings,
    SettingsError,
    StorageSettings,
    WorkspaceSettings,
)
from ccapi.transport.sandbox import sandbox
from ccapi.transport.sandbox.egress import Egress, NotAllowed, egress_of

from .scene import open_scene
from .test_sandbox import KINDS, confine, output_of

PUBLIC, PRIVATE = "93.184.215.14", "10.1.2.3"
GET = "curl -sS -m 10 -o /dev/null -w '%{http_code} ' "


class Names:
    """A resolver that answers as the test says, one after another where the test says so."""

    def __init__(self, **answers: Sequence[str]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        self.asked.append(host)
        return self.answers.get(host.replace(".", "_"), [host])


def egress(**changes: Any) -> Egress:
    plain = egress_of(Settings(storage=StorageSettings(path=Path("/s"))), {})
    return evolve(plain, **{"resolve": Names(), **changes})


@asynccontextmanager
async def web_server(said: bytes = b"hello") -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server on loopback; its port, and what it was asked."""
    asked: list[bytes] = []

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            asked.append(bytes(await stream.receive_some(65536)))
            await stream.send_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said)
            )

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        yield listener.socket.getsockname()[1], asked
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "::1", "0.0.0.0", "::ffff:127.0.0.1", "127.1", "2130706433"),
        *("0x7f.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "fd00:ec2::254", "fe80::1%lo"),
        *("rebound.example", "mixed.example", "", "a b", "[::1]"),
    ],
)
async def test_what_is_not_public_is_refused(host: str) -> None:
    names = Names(
        rebound_example=["127.0.0.1"], mixed_example=[PUBLIC, PRIVATE], localhost=["127.0.0.1"]
    )
    with trio.fail_after(5), pytest.raises((NotAllowed, OSError)) as caught:
        await egress(resolve=names).connect(host, 80)
    assert isinstance(caught.value, NotAllowed)


async def test_a_name_is_asked_once_and_what_was_checked_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names, tried = Names(rebound_example=[PUBLIC]), []

    async def connect(host: str, port: int, **_: Any) -> trio.SocketStream:
        tried.append((host, port))
        raise OSError("no server there")

    monkeypatch.setattr(trio, "open_tcp_stream", connect)
    with pytest.raises(OSError, match=r"^no server there$"):
        await egress(resolve=names).connect("rebound.example", 443)
    assert (names.asked, tried) == (["rebound.example"], [(PUBLIC, 443)])


async def test_this_machine_under_its_public_address_is_refused() -> None:
    async with web_server() as (port, asked):
        with trio.fail_after(5), pytest.raises(NotAllowed, match="this machine"):
            # As if loopback were public: both ends of the connection have one address.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("ccapi.transport.sandbox.egress.is_public", lambda address: True)
                await egress().connect("127.0.0.1", port)
        assert not any(asked)


async def test_without_the_network_only_the_api_and_what_is_named_is_reached() -> None:
    async with web_server() as (port, _):
        only = egress(public=False, api=("api.test",), named=(f"own.test:{port}", ".below.test"))
        only = evolve(
            only,
            resolve=Names(
                **{
                    name: ["127.0.0.1"]
                    for name in ("api_test", "own_test", "x_below_test", "other_test")
                }
            ),
        )
        for host in ("api.test", "own.test", "x.below.test"):
            await trio.aclose_forcefully(await only.connect(host, port))
        for host, at in (("other.test", port), ("own.test", port + 1), ("notbelow.test", port)):
            with pytest.raises(NotAllowed):
                await only.connect(host, at)
        with pytest.raises(NotAllowed):
            await only.connect(PUBLIC, 443)


def test_where_the_api_is_follows_the_environment() -> None:
    plain = Settings(storage=StorageSettings(path=Path("/s")))
    assert egress_of(plain, {}).forward is None
    assert "api.anthropic.com" in egress_of(plain, {}).api
    local = egress_of(plain, {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9000/x"})
    assert local.forward == ("127.0.0.1", 9000)
    assert "llm.corp:443" in egress_of(plain, {"ANTHROPIC_BASE_URL": "https://LLM.corp/"}).api
    bedrock = egress_of(plain, {"CLAUDE_CODE_USE_BEDROCK": "1", "AWS_REGION": "eu-west-1"})
    assert "bedrock-runtime.eu-west-1.amazonaws.com" in bedrock.api


async def test_a_proxy_of_the_operators_is_taken() -> None:
    """With its credentials; the name goes to it as it is."""
    asked = b""

    async def proxy(stream: trio.SocketStream) -> None:
        nonlocal asked
        async with stream:
            asked = bytes(await stream.receive_some(65536))
            await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\nhello")

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, proxy, [listener])
        port = listener.socket.getsockname()[1]
        proxies = {"https": f"http://u:p@127.0.0.1:{port}", "no": "inside.test"}
        behind = egress(proxies=proxies, resolve=Names(outside_test=[PUBLIC]))
        with trio.fail_after(5):
            stream = await behind.connect("outside.test", 443)
            assert await stream.receive_some(5) == b"hello"
            await stream.aclose()
        nursery.cancel_scope.cancel()
    assert asked.startswith(b"CONNECT outside.test:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic dTpw" in asked


@pytest.mark.parametrize("kind", KINDS)
async def test_tools_reach_what_they_may(kind: str, tmp_path: Path) -> None:
    """By tunnel and by plain request; the error says whose it is."""
    async with web_server() as (port, asked), open_scene(tmp_path) as scene:
        own = f"127.0.0.1:{port}"
        script = f"{GET} --noproxy '' http://{own}/a?b; {GET} -p --noproxy '' http://{own}/c; "
        script += f"curl -sS -m 10 --noproxy '' http://127.0.0.1:{port + 1}/; "
        script += f"{GET} http://localhost:{port}/d"
        command = await confine(
            scene, kind, ["/bin/sh", "-c", script], allowed_hosts=(own,), network=False
        )
        said = await output_of(command)
        assert said.startswith("200 200 ccapi: Agents may not connect to 127.0.0.1"), said
        assert "000" in said, "and nothing without the proxy"
        first, second = asked
        assert first.startswith(b"GET /a?b HTTP/1.1\r\nHost: " + own.encode())
        assert b"roxy" not in first
        assert second.startswith(b"GET /c HTTP/1.1")


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_no_request_to_a_proxy_is_refused(kind: str, tmp_path: Path) -> None:
    script = 'for r in "GET / HTTP/1.1\\r\\nHost: x" "CONNECT x HTTP/1.1\\r\\nHost: x" '
    script += '"CONNECT x:99999999 HTTP/1.1\\r\\nHost: x" "GET ftp://x/ HTTP/1.1\\r\\nHost: x"; do '
    script += 'printf "$r\\r\\n\\r\\n" | python3 -c "'
    script += "import os, socket, sys; p = os.environ['HTTP_PROXY'].rpartition(':')[2]; "
    script += "s = socket.create_connection(('127.0.0.1', int(p))); "
    script += 's.sendall(sys.stdin.buffer.read()); print(s.recv(12))"; done'
    async with open_scene(tmp_path) as scene:
        said = await output_of(await confine(scene, kind, ["/bin/sh", "-c", script]))
    assert said.split("\n")[:4] == ["b'HTTP/1.1 400'"] * 4, said


def test_no_network_needs_a_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_probe_bubblewrap", lambda: "not here")
    monkeypatch.setattr(sandbox, "_probe_landlock", lambda: "nor here")

    def find(**workspaces: Any) -> object:
        settings = Settings(
            storage=StorageSettings(path=tmp_path),
            workspaces=WorkspaceSettings(**workspaces),
            models=ModelSettings(),
        )
        return sandbox.find_sandbox(settings, ["/bin/sh"], {}, workspaces=tmp_path / "w")

    with structlog.testing.capture_logs() as logs:
        assert find() is None
    [warned] = logs
    assert warned["log_level"] == "warning"
    assert warned["reason"] == "bubblewrap: not here; Landlock: nor here"
    for refused in ({"network": False}, {"network": False, "sandbox": "off"}):
        with pytest.raises(SettingsError, match=r"workspaces\.network: needs a sandbox"):
            find(**refused)
    for kind, why in (("bubblewrap", "bubblewrap: not here"), ("landlock", "Landlock: nor here")):
        with pytest.raises(SettingsError, match=f"workspaces.sandbox: {why}"):
            find(sandbox=kind)


async def test_a_child_that_goes_at_once_leaves_nothing_waiting() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with trio.fail_after(5), ours:
        await egress().serve(ours)


async def test_a_connection_that_fails_is_one_connection(tmp_path: Path) -> None:
    """Not the child's end, and far less the gateway's."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        raise RuntimeError(host)

    script = f"{GET} --noproxy '' http://a.example/; {GET} --noproxy '' http://b.example/; echo END"
    async with open_scene(tmp_path) as scene:
        command = await confine(scene, "auto", ["/bin/sh", "-c", script])
        assert command.egress is not None
        with structlog.testing.capture_logs() as logs:
            said = await output_of(evolve(command, egress=evolve(command.egress, resolve=resolve)))
    assert "END" in said
    failed = [line for line in logs if line["event"] == "an agent's connection failed"]
    assert len(failed) == 2
