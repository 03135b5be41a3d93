"""Workspaces by their paths: which ones a client has named, and which are a conversation's own.

A path is relative to ``workspaces.root``. Nothing here touches the disk.
"""

from __future__ import annotations

import secrets

OWN = "conv_"
"""What the names of the gateway's own workspaces begin with: each is that of the conversation for
which it was made."""


def new_conversation_id() -> str:
    """The name of a new conversation, and so of its own workspace."""
    return f"{OWN}{secrets.token_hex(16)}"


def name_of_place(place: str) -> str | None:
    """The name that a client gave to it, if one did."""
    return None if place.startswith(OWN) else place.rpartition("/")[2] or None
