"""What a node asks the others, and itself: who is there, and when the store has answered it last.

Knows: what may stand between two nodes, and what each answer means. Refuses to know: what clients
ask that is passed on. What is wrong is said in the log of the node that finds it, once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from uuid import uuid4

import trio

from ...schemas.convert import parse_json
from ...schemas.errors import InvalidRequest
from ...schemas.node_seal import HEADER, Passed
from ...transport.http.node_client import NodeClient, NodeGone
from ...transport.loggers import get_logger
from ...transport.store.interface import LiveNode
from .membership import Membership

log = get_logger("ccapi.nodes")

PATH = "/v1/node"
"""Answers only nodes, with what `say_who` says of the one that is there."""

PATIENCE_SECONDS = 5.0

HURRY_SECONDS = 0.3
"""How long a node that clients wait for asks another."""

MAX_BYTES = 65536


def say_who(nodes: Membership) -> dict[str, object]:
    """This node, to another: its id, and how many seconds ago the store has answered it."""
    return {"id": nodes.node.id, "heard": round(nodes.heard, 3)}


async def watch_nodes(nodes: Membership, client: NodeClient) -> None:
    """Look at every node that comes, and at this one's own URL first. Never returns."""
    known: set[str] = set()
    while True:
        living = [nodes.node, *(each.node for each in nodes.others)]
        for node in living:
            if node.url and node.id not in known:
                problem = await problem_of(nodes, client, node.url, node.id)
                # One that has just gone is no one's fault.
                if problem is not None and (node == nodes.node or nodes.lives_on(node.id)):
                    log.error("a node cannot be reached", url=node.url, problem=problem)
        known = {node.id for node in living}
        await nodes.wait_beat()


async def problem_of(nodes: Membership, client: NodeClient, url: str, node_id: str) -> str | None:
    """What is wrong with the node of this id at this URL, as seen from here; None: nothing."""
    try:
        status, said = await _ask(nodes, client, url, PATIENCE_SECONDS)
    except NodeGone as gone:
        return f"nothing answers there: {gone}"
    except trio.TooSlowError:
        return f"nothing answers there within {PATIENCE_SECONDS:.0f} s"
    return _judge(status, said, node_id)


async def others_heard(nodes: Membership, client: NodeClient, others: Sequence[LiveNode]) -> float:
    """See `Membership.others_heard`."""
    least = math.inf

    async def ask(url: str) -> None:
        nonlocal least
        with suppress(NodeGone, trio.TooSlowError):
            _, said = await _ask(nodes, client, url, HURRY_SECONDS)
            heard = said.get("heard")
            if isinstance(heard, int | float):
                least = min(least, heard)

    async with trio.open_nursery() as nursery:
        for other in others:
            nursery.start_soon(ask, other.node.url)
    return least


async def _ask(
    nodes: Membership, client: NodeClient, url: str, seconds: float
) -> tuple[int, Mapping[str, object]]:
    """What is answered at this URL: the status, and the JSON object. Raises `NodeGone`,
    `trio.TooSlowError`."""
    passed = Passed("GET", PATH, f"req_{uuid4().hex}")
    body = bytearray()
    with trio.fail_after(seconds):
        async with client.ask(url, "GET", PATH, nodes.prove(passed), b"") as response:
            while (piece := await response.receive()) and len(body) < MAX_BYTES:
                body += piece
    try:
        said = parse_json(bytes(body))
    except InvalidRequest:  # a proxy's page of its own, most likely
        said = None
    return response.status, said if isinstance(said, dict) else {}


def _judge(status: int, said: Mapping[str, object], node_id: str) -> str | None:
    error = said.get("error")
    if status == 200 and said.get("id") == node_id:
        return None
    if status == 200 and "id" in said:
        return "another node answers there: two have one cluster.node_url, or a balancer is there"
    if status == 403 and isinstance(error, dict):
        return f"it refuses this node: {error.get('message')}"
    if status == 404:
        return f"what answers there is no node, or something in between takes {HEADER} away"
    return f"what answers there is no node: it says {status}"
