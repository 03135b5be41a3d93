"""Links to real MCP servers (transport.mcp): the `mcp` package's own, as programs and by HTTP.

Each kind of server is started once for the module, in a process; a link is made anew in each test.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, field

from ccapi.schemas.mcp_config import ServerEntry, read_config
from ccapi.transport.mcp.interface import CallError, Link, LinkError, LinkOptions, NeedsAuth
from ccapi.transport.mcp.link import open_link
from ccapi.transport.process.guardian import open_guardian
from tests.support.mcp_servers import HttpServer, http_program, program
from tests.support.processes import lives

PATIENCE = 30.0
ENVIRON = {**os.environ, "ANTHROPIC_API_KEY": "key-of-the-gateway", "CLAUDE_CODE__X": "hush"}


@pytest.fixture(scope="module")
def http() -> Iterator[HttpServer]:
    with http_program() as server:
        yield server


@define
class Changes:
    count: int = 0
    event: trio.Event = field(factory=trio.Event)

    def __call__(self) -> None:
        self.count += 1
        self.event.set()


def entry_of(given: dict[str, Any], name: str = "a") -> ServerEntry:
    text = json.dumps({"mcpServers": {name: given}}).encode()
    (entry,) = read_config(text, "mcp.json", ENVIRON).shared
    return entry


@asynccontextmanager
async def linked(given: dict[str, Any], **options: Any) -> AsyncIterator[Link]:
    """A link; that it has ended is no error."""
    chosen = LinkOptions(
        **{
            "environ": ENVIRON,
            "max_message_bytes": 1 << 20,
            "call_timeout_seconds": 60,
            "debug": False,
            "changed": Changes(),
            **options,
        }
    )
    with trio.fail_after(PATIENCE):
        async with open_guardian() as guardian:
            try:
                async with open_link(entry_of(given), chosen, guardian) as link:
                    yield link
            except LinkError:
                pass


async def why_not(given: dict[str, Any]) -> LinkError:
    """Why there is no link."""
    chosen = LinkOptions(ENVIRON, 1 << 20, 60, False, Changes())
    with trio.fail_after(PATIENCE):
        async with open_guardian() as guardian:
            with pytest.raises(LinkError) as raised:
                async with open_link(entry_of(given), chosen, guardian):
                    raise AssertionError("it is connected")
    return raised.value


def text_of(result: dict[str, Any]) -> str:
    (block,) = result["content"]
    return str(block["text"])


# -- every kind ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stdio", "/mcp", "/sse"])
async def test_tools_and_calls(kind: str, http: HttpServer) -> None:
    """One connection for all of it: each costs a start."""
    changes = Changes()
    given = program() if kind == "stdio" else http.entry(kind)
    async with linked(given, changed=changes, max_message_bytes=400_000) as link:
        # All pages.
        names = [tool["name"] for tool in await link.list_tools()]
        assert names[:2] == ["echo", "slow"]
        assert "start" in names
        # As the server gives it.
        assert await link.call("echo", {"text": "é\n"}) == {
            "content": [{"type": "text", "text": "é\n"}],
            "isError": False,
            "structuredContent": {"text": "é\n"},
        }
        # A large one, whole; one that is too large, an error, and the connection goes on.
        assert text_of(await link.call("big", {"n": 300_000})) == "x" * 300_000
        with pytest.raises((CallError, LinkError)) as raised:
            await link.call("big", {"n": 500_000})
        assert "400000 byte" in str(raised.value)
        if kind != "/sse":  # there, the stream of all answers is broken off
            failed = await link.call("fail", {})
            assert (failed["isError"], text_of(failed)) == (True, "it failed")
            with pytest.raises(CallError, match="refused by the server"):
                await link.call("raise", {})
            # Many at once.
            began = time.monotonic()
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(link.call, "slow", {"n": 0.3})
            assert time.monotonic() - began < 3
            # A list that changes.
            await trio.sleep(0.2)  # by HTTP the stream for it is opened after the handshake
            await link.call("grow", {})
            await changes.event.wait()
            assert len(await link.list_tools()) == len(names) + 1
            assert not link.ended.is_set()


@pytest.mark.parametrize("kind", ["stdio", "/mcp"])
async def test_a_cancelled_call_is_cancelled_at_the_server(
    kind: str, http: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    given = program() if kind == "stdio" else http.entry(kind)
    async with linked(given) as link:
        with trio.move_on_after(0.3) as scope:
            await link.call("slow", {"n": 60})
        assert scope.cancelled_caught
        assert text_of(await link.call("echo", {"text": "still there"})) == "still there"
        said = caplog.text if kind == "stdio" else ""
        for _ in range(100):
            said = caplog.text + http.stderr.read_text()
            if "slow was cancelled" in said:
                break
            await trio.sleep(0.05)
        assert "slow was cancelled" in said


# -- programs --------------------------------------------------------------------------------------


async def test_a_program_sees_a_minimal_environment_and_leaves_nothing(tmp_path: Path) -> None:
    given = program()
    given["env"] |= {"OWN": "value"}
    async with linked(given) as link:
        seen = json.loads(text_of(await link.call("see", {})))
        background = int(text_of(await link.call("start", {})))
        assert lives(background)
    allowed = {"PATH", "HOME", "LANG", "TMPDIR", "LC_CTYPE", *given["env"]}
    assert set(seen["env"]) <= allowed
    assert "OWN" in seen["env"]
    assert seen["group"] == seen["pid"]
    assert not lives(seen["pid"])
    assert not lives(background)  # it is of its group


async def test_calls_in_flight_end_at_once_when_the_program_dies() -> None:
    async with linked(program()) as link:
        errors: list[LinkError] = []

        async def ask(name: str) -> None:
            try:
                await link.call(name, {"n": 60})
            except LinkError as error:
                errors.append(error)

        began = time.monotonic()
        async with trio.open_nursery() as nursery:
            for name in ("slow", "slow", "slow", "die"):
                nursery.start_soon(ask, name)
        assert time.monotonic() - began < 5
        assert len(errors) == 4
        await link.ended.wait()
        with pytest.raises(LinkError):
            await link.call("echo", {"text": "x"})


async def test_why_a_program_ended_is_told() -> None:
    options = LinkOptions(ENVIRON, 1 << 20, 60, False, Changes())
    with trio.fail_after(PATIENCE):
        async with open_guardian() as guardian:
            with pytest.raises(LinkError) as raised:
                async with open_link(entry_of(program()), options, guardian) as link:
                    with pytest.raises(LinkError):
                        await link.call("die", {})
                    await link.ended.wait()
    assert raised.value.reason == "the program ended with status 7"
    assert raised.value.detail == "hello from the server"


PYTHON = sys.executable
SILENT_TO_SIGTERM = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", file=sys.stderr, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("given", "reason", "detail"),
    [
        ({"command": "no-such-program"}, "there is no program no-such-program", ""),
        ({"command": "/"}, "/ cannot be started: Permission denied", ""),
        ({"command": PYTHON, "cwd": "/no/such"}, "its directory (cwd) does not exist", ""),
        (
            {"command": PYTHON, "args": ["-c", "import sys; sys.exit('no token: ' + 'abcdef')"],
             "env": {"T": "abcdef"}},
            "the program ended with status 1",
            "no token: ********",
        ),
        ({"command": PYTHON, "args": ["-c", "print('x' * 3_000_000)"]},
         "the program wrote a message of more than 1048576 bytes (mcp.max_result_bytes)", ""),
    ],
)  # fmt: skip
async def test_a_program_that_does_not_start_says_why(
    given: dict[str, Any], reason: str, detail: str
) -> None:
    error = await why_not(given)
    assert error.reason == reason
    assert error.detail == detail


async def test_a_program_that_never_answers_is_ended_when_it_is_given_up() -> None:
    options = LinkOptions(ENVIRON, 1 << 20, 60, False, Changes())
    entry = entry_of({"command": PYTHON, "args": ["-c", SILENT_TO_SIGTERM]})
    began = time.monotonic()
    async with open_guardian() as guardian:
        with trio.move_on_after(0.5) as scope:
            async with open_link(entry, options, guardian):
                raise AssertionError("it is connected")
        assert scope.cancelled_caught
        assert not guardian._groups
    assert time.monotonic() - began < 8


async def test_tools_that_are_none_hide_no_others_and_noise_is_passed_over() -> None:
    """The package's own session refuses the whole list."""
    async with linked(program("bad")) as link:
        assert len(await link.list_tools()) == 8
        assert text_of(await link.call("good", {})) == "good"


def test_nothing_of_a_program_outlives_a_killed_gateway(tmp_path: Path) -> None:
    script = tmp_path / "gateway.py"
    script.write_text("""
import json, trio
from tests.transport.mcp.test_link import linked, program, text_of
async def main():
    async with linked(program()) as link:
        seen = json.loads(text_of(await link.call("see", {})))
        background = text_of(await link.call("start", {}))
        print(seen["pid"], background, flush=True)
        await trio.sleep(60)
trio.run(main)
""")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    gateway = subprocess.Popen([PYTHON, str(script)], env=env, stdout=subprocess.PIPE, text=True)
    assert gateway.stdout is not None
    with gateway, gateway.stdout:
        pids = [int(word) for word in gateway.stdout.readline().split()]
        assert len(pids) == 2
        gateway.send_signal(signal.SIGKILL)
        gateway.wait(10)
    until = time.monotonic() + 5
    while any(map(lives, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(lives, pids))


# -- URLs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["http", "sse"])
async def test_one_that_asks_for_authorization_is_told_apart(kind: str, http: HttpServer) -> None:
    before = http.stderr.read_text()
    error = await why_not({"type": kind, "url": f"{http.url}/auth"})
    assert isinstance(error, NeedsAuth)
    assert error.reason == "the server asks for authorization (HTTP 401)"
    assert error.cure == "set headers.Authorization in its entry"
    headers = {"Authorization": "Bearer wrong-token"}
    error = await why_not({"type": kind, "url": f"{http.url}/auth", "headers": headers})
    assert isinstance(error, NeedsAuth)
    assert error.reason.startswith("the server refuses the Authorization header (HTTP 401)")
    # It registers nowhere, and looks for no place to.
    asked = http.stderr.read_text().removeprefix(before).split("asked ")[1:]
    assert {line.split()[1] for line in asked} == {"/auth"}


@pytest.mark.parametrize("kind", ["http", "sse"])
async def test_one_that_is_not_there(kind: str, http: HttpServer) -> None:
    error = await why_not({"type": kind, "url": "http://127.0.0.1:9/mcp"})
    assert error.reason == "the server cannot be reached (no connection)"
    error = await why_not({"type": kind, "url": f"{http.url}/nothing"})
    assert "HTTP 404" in error.reason


async def test_a_server_that_dies_by_http_ends_its_calls_and_the_link() -> None:
    with http_program() as server:
        async with linked(server.entry()) as link:
            errors: list[Exception] = []

            async def ask() -> None:
                try:
                    await link.call("slow", {"n": 60})
                except (CallError, LinkError) as error:
                    errors.append(error)

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(ask)
                await trio.sleep(0.5)
                server.process.kill()
            assert len(errors) == 3
            with pytest.raises(LinkError):
                await link.call("echo", {"text": "x"})
            await link.ended.wait()
