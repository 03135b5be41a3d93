"""Messages in few words."""

from __future__ import annotations

from ccapi.schemas.message import Block, Message


def user(*blocks: Block) -> Message:
    return Message("user", blocks)


def assistant(*blocks: Block) -> Message:
    return Message("assistant", blocks)
