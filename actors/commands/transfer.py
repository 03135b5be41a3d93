"""``ccapi export`` and ``ccapi import``: all conversations of a key, as lines of JSON.

Knows: that a line is a conversation as ``GET /v1/conversations/{id}/export`` gives it, and what of
it makes a new one. Refuses to know: options (`actors.commands.main`), and the form of messages.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from typing import Any, TextIO
from urllib.parse import urlencode

import trio

from ...transport.client.gateway_client import GatewayClient

PAGE = 100


class BadLine(Exception):
    """A line of a file that is no conversation; the text says which and why."""


def run_export(client: GatewayClient, output: TextIO) -> int:
    """Write every conversation, the oldest first; returns how many there were.

    Raises `Unreachable`, `Refused`, `OSError`.
    """

    async def export() -> int:
        count = 0
        async for conversation_id in _ids(client):
            told = await client.get(f"/v1/conversations/{conversation_id}/export")
            output.write(json.dumps(told, ensure_ascii=False) + "\n")
            count += 1
        return count

    return trio.run(export)


def run_import(client: GatewayClient, lines: Iterable[str], report: TextIO) -> int:
    """Make a conversation of every line, and write ``old id, new id`` for each; returns how many
    there were.

    Raises `BadLine`, `Unreachable`, `Refused`: those of earlier lines are made then.
    """

    async def take() -> int:
        count = 0
        for number, line in enumerate(lines, 1):
            if line.strip():
                old, body = _read(line, number)
                made = await client.post("/v1/conversations", body)
                report.write(f"{old}\t{made['id']}\n")
                count += 1
        return count

    return trio.run(take)


async def _ids(client: GatewayClient) -> AsyncIterator[str]:
    after: dict[str, Any] = {}
    while True:
        query = urlencode({"limit": PAGE, "order": "asc", **after})
        page = await client.get(f"/v1/conversations?{query}")
        for each in page["data"]:
            yield each["id"]
        if not page["has_more"]:
            return
        after = {"after": page["last_id"]}


def _read(line: str, number: int) -> tuple[str, dict[str, Any]]:
    """The id of the conversation that was, and what makes it anew."""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise BadLine(f"line {number} is not JSON: {error}") from None
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list):
        raise BadLine(f"line {number} is no exported conversation: it has no list of messages")
    body = {name: value[name] for name in ("messages", "model", "metadata") if value.get(name)}
    return str(value.get("id", "-")), body
