"""What MCP servers cost: `python -m tests.bench.mcp`.

A call through `McpServers.call`, beside the same call written to a server's own pipes, in an order
that changes; and how long a gateway takes to start with three servers, beside one without.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import trio

from ccapi.actors.conversations.conversation import Conversation
from ccapi.actors.mcp.servers import McpServers, open_mcp_servers
from ccapi.actors.opening import open_gateway
from ccapi.actors.runtime.bus import Bus
from ccapi.schemas.settings.settings import CacheSettings, McpSettings, PermissionSettings
from ccapi.schemas.turn_items import TextDelta
from tests.support.live import open_live_cli, settings_for
from tests.support.mcp_servers import http_program, program
from tests.support.messages_stub import ToolUse, call, echo, say

CALLS = 300
ADOPTIONS = 20


class RawServer:
    """A server spoken with as directly as can be: a line out, a line in."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self._number = 0

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        self._number += 1
        asked = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        await self._stdin.send_all(json.dumps(asked).encode() + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            data += await self._stdout.receive_some(65536)
        return json.loads(data)

    async def begin(self) -> None:
        info = {"name": "bench", "version": "1"}
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info}
        await self.ask("initialize", params)
        await self._stdin.send_all(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')


async def wait_ready(servers: McpServers) -> None:
    with trio.fail_after(60):
        while any(state.state != "ready" for state in servers.states()):
            await trio.sleep(0.01)


async def calls(folder: Path) -> None:
    entry, file = program(), folder / "mcp.json"
    with http_program() as http:
        file.write_text(json.dumps({"mcpServers": {"stdio": entry, "http": http.entry()}}))
        process = await trio.lowlevel.open_process(
            [entry["command"], *entry["args"]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **entry["env"]},
        )
        raw = RawServer(process)
        await raw.begin()
        settings = McpSettings(enabled=True, config_file=file)
        async with open_mcp_servers(settings, Bus(), os.environ) as servers:
            await wait_ready(servers)
            took: dict[str, list[float]] = {"straight": [], "stdio": [], "http": []}
            cpu = dict.fromkeys(took, 0.0)
            order = [*took]
            for number in range(CALLS):
                arguments = {"text": f"call {number}"}
                random.shuffle(order)  # who comes behind another finds the machine awake
                for name in order:
                    tool = servers.find(f"mcp__{name}__echo")
                    began, busy = perf_counter(), process_time()
                    if tool is None:
                        await raw.ask("tools/call", {"name": "echo", "arguments": arguments})
                    else:
                        await servers.call(tool, arguments)
                    took[name].append(perf_counter() - began)
                    cpu[name] += process_time() - busy
            assert all(state.errors == 0 for state in servers.states())
        process.kill()
        await process.wait()
    for name, busy in cpu.items():
        print(f"| this process's CPU in a call: {name} | {busy / CALLS * 1000:.2f} ms | - | - |")
    own = median(took.pop("straight")) * 1000
    for name, seconds in took.items():
        mine = median(seconds) * 1000
        extra = mine - own
        bound = ("<= 2 ms", "yes" if extra <= 2 else "NO") if name == "stdio" else ("-", "-")
        figure = f"{mine:.2f} - {own:.2f} = {extra:.2f} ms"
        print(
            f"| a call by {name}, minus the program's own answer | {figure} | {' | '.join(bound)} |"
        )


async def start(folder: Path, servers: int) -> float:
    file = folder / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {f"s{n}": program() for n in range(servers)}}))
    mcp = McpSettings(enabled=servers > 0, config_file=file)
    began = perf_counter()
    async with open_gateway(settings_for(folder, {}, mcp=mcp), demo=True, environ=os.environ):
        return perf_counter() - began


async def starts(folder: Path) -> None:
    without, three = [], []
    for _ in range(5):
        without.append(await start(folder, 0))
        three.append(await start(folder, 3))
    extra = (median(three) - median(without)) * 1000
    figure = f"{median(three) * 1000:.0f} - {median(without) * 1000:.0f} = {extra:.0f} ms"
    good = "yes" if extra <= 100 else "NO"
    print(f"| gateway start with three servers, minus none | {figure} | <= 100 ms | {good} |")


async def adoptions(folder: Path) -> None:
    """The first delta of a new conversation, and of a tool's round in it, on the real CLI: with the
    tools of three servers, beside none."""
    file = folder / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {f"s{n}": program() for n in range(3)}}))
    rules = PermissionSettings(allow=tuple(f"mcp__s{n}" for n in range(3)))
    mcp = McpSettings(enabled=True, config_file=file)
    off = CacheSettings(enabled=False)
    for name in ("none", "three"):
        (folder / name).mkdir()
    async with (
        open_live_cli(folder / "none", cache=off) as none,
        open_live_cli(folder / "three", cache=off, mcp=mcp, permissions=rules) as three,
    ):
        await wait_ready(three.gateway.mcp)
        took: dict[str, list[float]] = {"none": [], "three": [], "round": []}
        for number in range(ADOPTIONS + 2):
            for name in random.sample(["none", "three"], 2):
                live = none if name == "none" else three
                assert live.stub is not None
                live.stub.answer = echo
                conversation = live.gateway.conversation(model="claude-haiku-4-5")
                took[name].append(await first_delta(conversation, f"Hello {number}"))
            assert three.stub is not None
            uses = call(ToolUse("mcp__s1__echo", {"text": "x"}))
            three.stub.queue.extend([uses, say("Done.")])
            conversation = three.gateway.conversation(model="claude-haiku-4-5")
            took["round"].append(await first_delta(conversation, f"Use it {number}"))
    without, with_three = (median(took[name][2:]) * 1000 for name in ("none", "three"))
    extra = with_three - without
    figure = f"{with_three:.1f} - {without:.1f} = {extra:.1f} ms"
    good = "yes" if extra <= 30 else "NO"
    what = "first delta of a new conversation, three servers minus none"
    print(f"| {what} | {figure} | <= 30 ms | {good} |")
    whole = median(took["round"][2:]) * 1000
    print(f"| a turn with one tool call, to its first delta | {whole:.1f} ms | - | - |")


async def first_delta(conversation: Conversation, prompt: str) -> float:
    began, first = perf_counter(), 0.0
    async with conversation.turn(prompt) as turn:
        async for item in turn:
            if isinstance(item, TextDelta) and not first:
                first = perf_counter() - began
    return first


async def main() -> None:
    print("| what | measured | bound | holds |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        await calls(Path(folder))
        await starts(Path(folder))
        await adoptions(Path(folder))


if __name__ == "__main__":
    trio.run(main)
