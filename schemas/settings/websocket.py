"""The settings of WebSockets: what one message may be, and how long a silent client is kept.

Knows: the keys of ``[websocket]``. Refuses to know: who may connect (``[server]`` and ``[auth]``),
and what messages mean.
"""

from typing import ClassVar

from attrs import frozen

from . import rules
from .section import MIB, Section, key


@frozen(kw_only=True)
class WebSocketSettings(Section):
    section: ClassVar[str] = "websocket"

    max_connections: int = key(
        800,
        rules.whole(0),
        "WebSockets open at once, of all `server.max_connections`; more is a 429.",
    )
    max_message_bytes: int = key(
        20 * MIB, rules.whole(1024), "Longest message of a client; a longer one ends its WebSocket."
    )
    ping_seconds: float = key(
        20.0, rules.positive, "Time without a message of a client after which it is sent a ping."
    )
    pong_seconds: float = key(20.0, rules.positive, "Longest time until the client's pong.")
    idle_seconds: float = key(
        0.0,
        rules.not_negative,
        "Time without a message in either direction after which a WebSocket is closed; 0: never.",
    )
