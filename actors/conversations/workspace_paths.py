"""Workspaces by their paths: which ones a client has named, and which are a conversation's own.

A path is relative to ``workspaces.root``. Nothing here touches the disk.
"""

from __future__ import annotations

import hashlib
import secrets

OWN = "conv_"
"""What the names of the gateway's own workspaces begin with: each is that of the conversation for
which it was made."""


MARK_DIGITS = 8
"""So many digits of a conversation's name say which of several gateways has made it."""


def mark_of(node_id: str) -> str:
    """What the names begin with of the conversations that a gateway makes, behind `OWN`."""
    return hashlib.sha256(node_id.encode()).hexdigest()[:MARK_DIGITS]


def new_conversation_id(node_id: str = "") -> str:
    """The name of a new conversation, and so of its own workspace. `node_id`: of the gateway that
    makes it, if there are several."""
    if not node_id:
        return f"{OWN}{secrets.token_hex(16)}"
    return f"{OWN}{mark_of(node_id)}{secrets.token_hex(12)}"


def is_made_by(conversation_id: str, node_id: str) -> bool:
    """Whether this gateway has made it, most likely."""
    return conversation_id.startswith(f"{OWN}{mark_of(node_id)}")


def name_of_place(place: str) -> str | None:
    """The name that a client gave to it, if one did."""
    return None if place.startswith(OWN) else place.rpartition("/")[2] or None
