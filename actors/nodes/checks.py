"""Whether nodes reach each other: each asks the others, and itself, who is there.

Knows: what may stand between two nodes, and what each answer means. Refuses to know: what else
nodes ask each other. What is wrong is said in the log of the node that finds it, once.
"""

from __future__ import annotations

from uuid import uuid4

import trio

from ...schemas.convert import parse_json
from ...schemas.node_seal import HEADER, Passed
from ...transport.http.node_client import NodeClient, NodeGone
from ...transport.loggers import get_logger
from .membership import Membership

log = get_logger("ccapi.nodes")

PATH = "/v1/node"
"""Answers only nodes, with the id of the one that is there."""

PATIENCE_SECONDS = 5.0
MAX_BYTES = 65536


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
    passed = Passed("GET", PATH, f"req_{uuid4().hex}")
    body = bytearray()
    try:
        with trio.fail_after(PATIENCE_SECONDS):
            async with client.ask(url, "GET", PATH, nodes.prove(passed), b"") as response:
                while (piece := await response.receive()) and len(body) < MAX_BYTES:
                    body += piece
    except NodeGone as gone:
        return f"nothing answers there: {gone}"
    except trio.TooSlowError:
        return f"nothing answers there within {PATIENCE_SECONDS:.0f} s"
    return _judge(response.status, bytes(body), node_id)


def _judge(status: int, body: bytes, node_id: str) -> str | None:
    try:
        said = parse_json(body)
    except ValueError:
        said = None
    said = said if isinstance(said, dict) else {}
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
