"""WebSocket frames as a server sends them, so that one event encoded once serves every watcher.

Knows: the header of an unmasked, whole text frame (RFC 6455, section 5.2). Refuses to know: what
is said in it, and to whom.
"""

from __future__ import annotations

import struct

TEXT = 0x81
"""FIN and the opcode of a text frame: no extension is ever negotiated, so no bit beside them."""


def encode_frame(payload: bytes) -> bytes:
    """One text message (`payload` is UTF-8) as one frame, its length in the fewest bytes."""
    size = len(payload)
    if size < 126:
        return b"%c%c%b" % (TEXT, size, payload)
    if size < 65536:
        return struct.pack("!BBH", TEXT, 126, size) + payload
    return struct.pack("!BBQ", TEXT, 127, size) + payload
