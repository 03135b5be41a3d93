"""Behaviour: who owns what, and what happens next.

For programs that embed the gateway, this is its whole face:

    async with open_gateway() as gateway:
        conversation = gateway.conversation(system="Be brief.")
        async with conversation.turn("Hello") as turn:
            async for item in turn:
                if isinstance(item, TextDelta):
                    print(item.text, end="")

The names are looked up when they are first used, because the command line lives in this package
too: with plain imports ``ccapi --help`` would take 1.2 seconds instead of 0.2.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..schemas.errors import GatewayError
    from ..schemas.message import Document, Image, Message, ToolCall, ToolResult
    from ..schemas.settings.settings import Settings
    from ..schemas.turn import Options, Reply, Tool, ToolChoice, Usage
    from ..schemas.turn_items import (
        ActivityDelta,
        ActivityEnded,
        ActivityStarted,
        ReasoningDelta,
        Refused,
        TextDelta,
        ToolCallDelta,
        ToolCallStarted,
    )
    from .conversations.conversation import Conversation, ConversationInfo
    from .gateway import Gateway
    from .listeners.overview import GatewayStatistics
    from .opening import open_gateway
    from .runtime.reply_channel import Turn

__all__ = [
    "ActivityDelta",
    "ActivityEnded",
    "ActivityStarted",
    "Conversation",
    "ConversationInfo",
    "Document",
    "Gateway",
    "GatewayError",
    "GatewayStatistics",
    "Image",
    "Message",
    "Options",
    "ReasoningDelta",
    "Refused",
    "Reply",
    "Settings",
    "TextDelta",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolCallStarted",
    "ToolChoice",
    "ToolResult",
    "Turn",
    "Usage",
    "open_gateway",
]

_TURN_WORDS = ("Options", "Reply", "Tool", "ToolChoice", "Usage")

_TURN_ITEMS = (
    "ActivityDelta", "ActivityEnded", "ActivityStarted", "ReasoningDelta", "Refused", "TextDelta",
    "ToolCallDelta", "ToolCallStarted",
)  # fmt: skip

_HOMES = {
    "GatewayError": "..schemas.errors",
    "Settings": "..schemas.settings.settings",
    **dict.fromkeys(
        ("Document", "Image", "Message", "ToolCall", "ToolResult"), "..schemas.message"
    ),
    **dict.fromkeys(_TURN_WORDS, "..schemas.turn"),
    **dict.fromkeys(_TURN_ITEMS, "..schemas.turn_items"),
    **dict.fromkeys(("Conversation", "ConversationInfo"), ".conversations.conversation"),
    "GatewayStatistics": ".listeners.overview",
    "open_gateway": ".opening",
    "Turn": ".runtime.reply_channel",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, ".gateway"), __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
