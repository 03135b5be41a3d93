"""Behaviour: who owns what, and what happens next.

For programs that embed the gateway, this is its whole face:

    async with open_gateway() as gateway:
        conversation = gateway.conversation(system="Be brief.")
        async with conversation.turn("Hello") as turn:
            async for delta in turn:
                print(delta.text, end="")

The names are looked up when they are first used: the command line lives in this package too, and
must not wait for what it does not need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..schemas.errors import GatewayError
    from ..schemas.settings import Settings
    from ..schemas.turn import Message, Reply, TextDelta, Usage
    from .gateway import (
        Conversation,
        ConversationInfo,
        Gateway,
        GatewayStatistics,
        open_gateway,
    )
    from .turns import Turn

__all__ = [
    "Conversation",
    "ConversationInfo",
    "Gateway",
    "GatewayError",
    "GatewayStatistics",
    "Message",
    "Reply",
    "Settings",
    "TextDelta",
    "Turn",
    "Usage",
    "open_gateway",
]

_HOMES = {
    "GatewayError": "..schemas.errors",
    "Settings": "..schemas.settings",
    **dict.fromkeys(("Message", "Reply", "TextDelta", "Usage"), "..schemas.turn"),
    "Turn": ".turns",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, ".gateway"), __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
