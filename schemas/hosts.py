"""The ``Host`` of a request: what may stand there, and which host that is.

Source: RFC 9110 section 7.2 and RFC 3986 section 3.2: a registered name, an IPv4 address or an IPv6
address in brackets, and perhaps a port. User information is no part of it (RFC 9110 section 4.2.4).
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address

_AUTHORITY = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._~-]{1,255}))(?::([0-9]{0,5}))?"
)

MAX_PORT = 65535


def split_authority(authority: bytes) -> tuple[str, int | None] | None:
    """The host, an IPv6 address without its brackets, and the port where there is one. None for
    what is no authority."""
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        return None
    address, name, port = found.groups()
    if port and int(port) > MAX_PORT:
        return None
    if address is not None:
        try:
            IPv6Address(address.decode())
        except ValueError:
            return None
    return (address or name).decode(), int(port) if port else None
