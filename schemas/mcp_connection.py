"""How the MCP server that one request names by its URL is reached, and which URLs may be named.

Knows: origins, and what makes two connections the same. Refuses to know: addresses, and who
connects (`transport.mcp`).
"""

from __future__ import annotations

from urllib.parse import urlsplit

from attrs import field, frozen

PORTS = {"http": 80, "https": 443}


@frozen
class Connection:
    """One client's connection to a server. Two requests share it where all of this is the same:
    whose they are, the server's label, its URL, and the headers. All of it may be secret."""

    owner: str = field(repr=False)
    label: str
    url: str = field(repr=False)
    headers: frozenset[tuple[str, str]] = field(repr=False)


def origin_of(url: str) -> str | None:
    """The origin of an http(s) URL as browsers write it (RFC 6454, 6.2). None: it is no such URL,
    or has a user name or a fragment in it."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        return None
    if scheme not in PORTS or not host or port == 0 or parts.fragment:
        return None
    if not all("!" <= char <= "~" and char != "\\" for char in url) or "@" in parts.netloc:
        return None
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}" if port in (None, PORTS[scheme]) else f"{scheme}://{shown}:{port}"
