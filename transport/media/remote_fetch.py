"""Fetching what a URL in a request names, without becoming the client's way into a network.

Knows: HTTP, redirects, and the rule that every address of a host must be public. Refuses to know:
what the bytes are, whether fetching is allowed at all, and the request they are for.

What keeps it safe (OWASP, "Server-Side Request Forgery Prevention"): one parsed URL is both checked
and used. A name is resolved once, all that it resolves to is checked, and the connection goes to
an address that was checked; TLS and the Host header keep the name. No proxy, cookie or credential
is used. Redirects are followed by hand, every hop as the first. One deadline stands over all of
it, bytes are counted as they come, and compressed bodies are refused. An error is reported
without addresses and without anything the server said but its status.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Sequence

import httpx2
import trio
from attrs import field, frozen

from ...schemas.media import Allowance, TooManyBytes
from .public_address import is_plain_host, is_public

MAX_URL = 8192
"""Characters; beyond it servers refuse as well."""

MAX_TRIED_ADDRESSES = 4

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {
    "user-agent": "ccapi",
    "accept": "image/png, image/jpeg, image/gif, image/webp, application/pdf;q=0.9, */*;q=0.1",
    "accept-encoding": "identity",
}

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class BadUrl(Exception):
    """The URL, or one that it redirects to, is not fetched; `str()` says why, after "it"."""


class FetchFailed(Exception):
    """Nothing whole came back; `str()` says why, after "it"."""


async def resolve_host(host: str, port: int) -> Sequence[str]:
    """The addresses of a host, in the order to be tried. Raises OSError, or UnicodeError for what
    can be no name."""
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


@frozen
class Reach:
    """Which hosts may be asked: how names are resolved, which addresses and ports are allowed."""

    resolve: Resolve = resolve_host
    allows: Callable[[str], bool] = is_public
    ports: Collection[int] = frozenset({80, 443})


def default_tls() -> ssl.SSLContext:
    """Servers are verified against the system's certificates, whatever the environment says."""
    return httpx2.create_ssl_context(trust_env=False)


@frozen
class RemoteFetcher:
    """`timeout_seconds` is for all of a fetch, resolving and redirects included. `make_tls` is
    called in a thread, at most once a fetch and as a rule once."""

    timeout_seconds: float
    max_redirects: int
    reach: Reach = Reach()
    make_tls: Callable[[], ssl.SSLContext] = field(default=default_tls, repr=False)
    _tls: list[ssl.SSLContext] = field(factory=list, init=False, repr=False, eq=False)

    async def fetch(self, source: str, allowance: Allowance) -> bytes:
        """The body at the http(s) URL `source`.

        Raises `BadUrl`, `FetchFailed` and `TooManyBytes`.
        """
        try:
            with trio.fail_after(self.timeout_seconds):
                url = _parsed(source)
                for _ in range(self.max_redirects + 1):
                    answer = await self._ask(url, allowance)
                    if isinstance(answer, bytes):
                        return answer
                    url = answer
        except trio.TooSlowError:
            raise FetchFailed(f"took longer than {self.timeout_seconds:g} seconds") from None
        raise FetchFailed(f"redirects more than {self.max_redirects} times")

    async def _ask(self, url: httpx2.URL, allowance: Allowance) -> bytes | httpx2.URL:
        """One hop: the body, or the URL that it redirects to."""
        host, addresses = await self._checked(url)
        # A client for this hop alone: a kept connection is known by its address, and another name
        # at that address has not been verified.
        tls = await self._tls_context()
        async with httpx2.AsyncClient(verify=tls, trust_env=False, timeout=None) as client:
            try:
                response = await self._first_answer(client, url, host, addresses)
                try:
                    return await _answer(response, url, allowance)
                finally:
                    await response.aclose()
            except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError):
                raise FetchFailed("could not be fetched") from None

    async def _checked(self, url: httpx2.URL) -> tuple[str, Sequence[str]]:
        """The host's name, and its addresses: all of them public, and at least one."""
        host = url.raw_host.decode("ascii").removesuffix(".")
        port = url.port or (443 if url.scheme == "https" else 80)
        if port not in self.reach.ports:
            ports = " or ".join(map(str, sorted(self.reach.ports)))
            raise BadUrl(f"must name no port but {ports}")
        if not is_plain_host(host):
            raise BadUrl("must name a host, by its name or its address in the usual form")
        try:
            addresses = await self.reach.resolve(host, port)
        except (OSError, UnicodeError):
            addresses = ()
        # A host that does not exist looks like one that is inside: names are not to be probed.
        if not addresses or not all(map(self.reach.allows, addresses)):
            raise BadUrl("must name a host with a public address")
        return host, addresses

    async def _first_answer(
        self, client: httpx2.AsyncClient, url: httpx2.URL, host: str, addresses: Sequence[str]
    ) -> httpx2.Response:
        """The answer of the first address that can be connected to."""
        tried = list(dict.fromkeys(addresses))[:MAX_TRIED_ADDRESSES]
        # A share of the time for each, so that a dead first one does not take it all.
        timeout = httpx2.Timeout(None, connect=self.timeout_seconds / len(tried))
        for address in tried:
            request = client.build_request(
                "GET",
                url.copy_with(host=address, fragment=None),
                headers=_HEADERS | {"host": url.netloc.decode("ascii")},
                timeout=timeout,
                extensions={"sni_hostname": host},
            )
            try:
                return await client.send(request, stream=True, follow_redirects=False)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        raise FetchFailed("could not be fetched")

    async def _tls_context(self) -> ssl.SSLContext:
        if not self._tls:  # reading all certificates takes long; two at once do no harm
            self._tls.append(await trio.to_thread.run_sync(self.make_tls))
        return self._tls[0]


def _parsed(source: str, base: httpx2.URL | None = None) -> httpx2.URL:
    try:
        if len(source) > MAX_URL:
            raise BadUrl(f"must not have more than {MAX_URL} characters")
        url = httpx2.URL(source) if base is None else base.join(source)
    except (httpx2.InvalidURL, ValueError):
        raise BadUrl("must be a valid URL") from None
    if url.scheme not in ("http", "https"):
        raise BadUrl("must be an http or https URL")
    if url.userinfo:
        raise BadUrl("must not hold a user name or password")
    return url


async def _answer(
    response: httpx2.Response, url: httpx2.URL, allowance: Allowance
) -> bytes | httpx2.URL:
    if response.status_code in _REDIRECTS:
        location = response.headers.get("location")
        if not location:
            raise FetchFailed("redirects to nowhere")
        return _parsed(location, url)
    if response.status_code != 200:
        raise FetchFailed(f"answered with status {response.status_code}")
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise FetchFailed("answered with a compressed body")
    length = response.headers.get("content-length", "")
    if length.isdecimal():
        allowance.check(int(length[:20]))
    return await _body(response, allowance)


async def _body(response: httpx2.Response, allowance: Allowance) -> bytes:
    body = bytearray()
    excess: TooManyBytes | None = None
    # Too much of it is left by cancelling the read, which unwinds all the generators that httpx2
    # nests here. They do not close one another: a plain raise would leave the inner ones behind.
    with trio.CancelScope() as reading:
        async for piece in response.aiter_raw():
            try:
                allowance.take(len(piece))
                body += piece
            except TooManyBytes as error:
                excess = error
                reading.cancel()
    if excess is not None:
        raise excess
    return bytes(body)
