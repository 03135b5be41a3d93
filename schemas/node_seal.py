"""What one node shows another: that a request comes from a node of the same cluster, and whose it
is.

Knows: the headers `x-ccapi-node` and `x-ccapi-owner`, what they prove, what `x-ccapi-events` asks
for beside them, and how a node says of a failure whether it is for good. Refuses to know: who is
reached where, and what is asked otherwise.

The first is ``v1 NODE MILLISECONDS MAC``: the sender's id, its time (Unix), and an HMAC-SHA256 of
both, of the second header, the method, the target and the request's id, under the secret that all
nodes share (``cluster.secret``). So a client can neither make one nor use one for another request.
The second is the owner: the hash of the API key that the client has shown the first node. The key
itself goes no further.
"""

from __future__ import annotations

import hmac
import json

from attrs import frozen

from .errors import Forbidden

HEADER = "x-ccapi-node"
OWNER_HEADER = "x-ccapi-owner"

EVENTS_HEADER = "x-ccapi-events"
"""Of a connection that has joined a conversation, what becomes of the events. Without it they come
over that connection."""

SHARED = "shared"
"""The connection is the node's own: it receives the events, once for all its watchers. Says nothing
else, and is no watcher."""

APART = "apart"
"""The connection is a watcher's, and its node receives the events by another. This one brings what
the watcher has missed, then a mark (`transport.http.websocket_frames`), and only answers behind
it."""

FINAL_HEADER = "x-ccapi-final"
"""Of a failure: it is for good, since some of what was asked for is done (`should_retry`).
(``x-should-retry`` also says that an SDK shall not wait for a limit, or for an operator.)"""

UNDONE = b": nothing was done\n\n"
"""How a stream of events ends whose failure is not for good: a comment."""

VERSION = "v1"

MOST_SKEW_SECONDS = 30.0
"""By how much the clocks of two nodes may differ."""


@frozen
class Passed:
    """What the header is about: a request, as both nodes see it."""

    method: str
    target: str
    request_id: str
    owner: str = ""


def seal(secret: str, node_id: str, passed: Passed, now: float) -> str:
    """The header of a request that this node passes on. `now`: Unix seconds."""
    at = str(round(now * 1000))
    return " ".join([VERSION, node_id, at, _mac(secret, node_id, at, passed)])


def open_seal(secret: str, value: str, passed: Passed, now: float) -> str:
    """The id of the node that has passed the request on. Raises `Forbidden`, which says what is
    wrong to the operator of both."""
    version, _, rest = value.partition(" ")
    parts = rest.split(" ")
    if version != VERSION or len(parts) != 3 or not parts[1].isdecimal() or len(parts[1]) > 16:
        raise _refused(f"{HEADER} is none of this version's ({VERSION}): are all nodes alike?")
    node_id, at, mac = parts
    if not hmac.compare_digest(mac, _mac(secret, node_id, at, passed)):
        raise _refused(
            f"{HEADER} was made with another secret (cluster.secret), or for another request: "
            "something between the nodes may change what they send."
        )
    skew = now - int(at) / 1000
    if abs(skew) > MOST_SKEW_SECONDS:
        raise _refused(
            f"The clocks of two nodes differ by {abs(skew):.0f} s; at most "
            f"{MOST_SKEW_SECONDS:.0f} s are taken. Set them by NTP."
        )
    return node_id


def _refused(reason: str) -> Forbidden:
    return Forbidden(reason, code="node_refused")


def _mac(secret: str, node_id: str, at: str, passed: Passed) -> str:
    parts = (node_id, at, passed.method, passed.owner, passed.request_id, passed.target)
    said = json.dumps([VERSION, *parts]).encode()  # JSON says where each part ends
    return hmac.digest(secret.encode(), said, "sha256").hex()
