"""The guard of requests to a server that a client named: to one origin, at an address that a client
may reach.

Knows: names are resolved and checked where the connection is made, so that no other address can
come in between. Refuses to know: which origins the operator allows, and messages.

A request of another origin (a redirect) is refused. An origin whose host is an address, or
localhost, stands so in the operator's list, so that this very address is allowed; all addresses of
any other name must be public.
"""

from __future__ import annotations

from ipaddress import ip_address

import httpx2

from ...schemas.mcp_connection import origin_of
from ..media.public_address import is_plain_host, is_public
from ..media.remote_fetch import MAX_TRIED_ADDRESSES, Resolve, resolve_host


class AddressRefused(Exception):
    """The request is not sent; `str()` says why, without an address."""


def may_reach(host: str, address: str) -> bool:
    """Whether `address` may be connected to for the allowed origin of `host`."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if host == "localhost":
        return parsed.is_loopback
    try:
        return ip_address(host) == parsed
    except ValueError:
        return is_public(address)


class PinnedTransport(httpx2.AsyncBaseTransport):
    """Sends requests of the origin of `url` through `inner`, each to an address that was checked.
    TLS and the Host header keep the name."""

    def __init__(
        self, inner: httpx2.AsyncBaseTransport, url: str, resolve: Resolve = resolve_host
    ) -> None:
        self._inner = inner
        self._origin = origin_of(url)
        self._resolve = resolve

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises `AddressRefused`, `httpx2.TransportError`."""
        url = request.url
        if self._origin is None or origin_of(str(url.copy_with(fragment=None))) != self._origin:
            raise AddressRefused("the server leads to another origin")
        host = url.raw_host.decode("ascii").strip("[]")
        if not is_plain_host(host):
            raise AddressRefused("the server's host is no name or address in the usual form")
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            found = list(dict.fromkeys(await self._resolve(host, port)))
        except (OSError, UnicodeError):
            found = []
        # A name that does not exist looks like one that is inside: names are not to be probed.
        if not found or not all(may_reach(host, address) for address in found):
            raise AddressRefused("the server has no address that may be reached from here")
        error: httpx2.TransportError | None = None
        request.extensions = {**request.extensions, "sni_hostname": host}
        try:
            for address in found[:MAX_TRIED_ADDRESSES]:
                request.url = url.copy_with(host=address)  # the Host header has the name already
                try:
                    return await self._inner.handle_async_request(request)
                except (httpx2.ConnectError, httpx2.ConnectTimeout) as failure:
                    error = failure
        finally:
            request.url = url
        assert error is not None
        raise error

    async def aclose(self) -> None:
        await self._inner.aclose()
