"""``ccapi mcp list`` and ``ccapi mcp check``: the operator's MCP servers, for people.

Knows: how a server's state reads in one line. Refuses to know: options (`actors.commands.main`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import trio
from attrs import frozen

from ...schemas.mcp_config import McpConfig, ServerEntry
from ...schemas.mcp_tools import LeftOut, clean_tools
from ...schemas.settings.settings import McpSettings
from ...transport.client.gateway_client import GatewayClient
from ...transport.mcp.config_file import check_package, load_config
from ...transport.mcp.interface import CallError, LinkError, LinkOptions
from ...transport.process.guardian import Guardian, open_guardian


@frozen
class Checked:
    """What came of connecting to a server: how many tools it has, or why it is not ready."""

    name: str
    tools: int = 0
    left_out: tuple[LeftOut, ...] = ()
    seconds: float = 0.0
    failure: LinkError | None = None

    def lines(self) -> Iterator[str]:
        if self.failure is None:
            yield f"{self.name}: ready, {self.tools} tools, in {self.seconds:.1f} s"
        else:
            cure = f" -> {self.failure.cure}" if self.failure.cure else ""
            yield f"{self.name}: failed: {self.failure.reason}{cure}"
            yield from (f"  stderr: {line}" for line in self.failure.detail.splitlines())
        yield from (f"  left out: {each.name!r}: {each.reason}" for each in self.left_out)


def run_list(client: GatewayClient) -> dict[str, Any]:
    """The servers of a running gateway, as ``GET /v1/mcp`` has them. Raises `Unreachable`,
    `Refused`."""
    return trio.run(partial(client.get, "/v1/mcp"))


def list_lines(told: Mapping[str, Any]) -> Iterator[str]:
    """The answer of ``GET /v1/mcp``, a line for each server."""
    for server in told["data"]:
        line = f"{server['name']} ({server['transport']}): {server['state']}"
        line += f", {len(server['tools'])} tools, {server['calls']} calls"
        line += f", {server['errors']} errors" if server["errors"] else ""
        line += f": {server['reason']}" if server["reason"] else ""
        if server["next_try"] is not None:
            line += f" (next try in {server['next_try']:g} s)"
        yield line
        yield from (
            f"  left out: {each['name']!r}: {each['reason']}" for each in server["left_out"]
        )
    yield from (f"{name}: each conversation has its own" for name in told["per_conversation"])


def run_check(settings: McpSettings) -> list[Checked]:
    """Connect to every server of the file, all at once. Raises `SettingsError`."""
    check_package()
    return trio.run(_check_all, settings, load_config(settings, os.environ))


async def _check_all(settings: McpSettings, config: McpConfig) -> list[Checked]:
    entries = (*config.shared, *config.per_conversation)
    checked: dict[str, Checked] = {}

    async def check(entry: ServerEntry, guardian: Guardian) -> None:
        checked[entry.name] = await _check(entry, settings, guardian)

    async with open_guardian() as guardian, trio.open_nursery() as nursery:
        for entry in entries:
            nursery.start_soon(check, entry, guardian)
    return [checked[entry.name] for entry in entries]


async def _check(entry: ServerEntry, settings: McpSettings, guardian: Guardian) -> Checked:
    from ...transport.mcp.link import open_link  # it imports the `mcp` package

    options = LinkOptions(
        os.environ, settings.max_result_bytes, settings.call_timeout_seconds, False, _ignore
    )
    began = trio.current_time()
    listed: list[Any] | None = None
    failure = LinkError(
        f"it was not ready within {settings.start_timeout_seconds:g} seconds",
        cure="run its command by hand, or raise mcp.start_timeout_seconds",
    )
    with trio.move_on_after(settings.start_timeout_seconds):
        try:
            async with open_link(entry, options, guardian) as link:
                listed = await link.list_tools()
        except CallError as error:
            failure = LinkError(f"it answered tools/list with an error: {error}")
        except LinkError as error:
            failure = error
    if listed is None:
        return Checked(entry.name, failure=failure)
    tools, left_out = clean_tools(entry.name, listed)
    return Checked(entry.name, len(tools), left_out, trio.current_time() - began)


def _ignore() -> None:
    """That its tools change is nothing here."""
