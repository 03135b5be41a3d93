"""Who may call, from where, under which name: where an API key is checked, for HTTP and WebSocket.

Knows: request headers and the operator's rules for them. Refuses to know: ASGI, sockets, and what
is being asked for. Nothing here waits.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import reprlib
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import quote, urlsplit

from attrs import evolve

from ...schemas.errors import Forbidden, GatewayError, Unauthenticated
from ...schemas.events import CallerRefused
from ...schemas.hosts import split_authority
from ...schemas.node_seal import HEADER, OWNER_HEADER, Passed, open_seal
from ...schemas.settings.settings import ServerSettings
from ...transport.loggers import get_logger
from ..keys.registry import LOCAL, KeyRegistry
from ..runtime.bus import Bus

log = get_logger("ccapi.http")

REFUSED = (401, 403)
"""Statuses of errors that refuse the client, and not what it asks for."""

Headers = Mapping[bytes, Sequence[bytes]]
"""The values of each header as they came, by its name in lower case."""

NODE_HEADER = HEADER.encode()

_SANE_ID = re.compile(rb"[!-~]{1,128}")


def headers_of(fields: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers of a request, from its list of names (in lower case) and values."""
    headers: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        headers.setdefault(name, []).append(value)
    return headers


def request_id_of(headers: Headers) -> str:
    """The caller's own ``x-request-id`` where it is 1-128 visible ASCII, else a new one."""
    for given in headers.get(b"x-request-id", ())[:1]:
        if _SANE_ID.fullmatch(given):
            return given.decode("ascii")
    return f"req_{uuid.uuid4().hex}"


def node_of(secret: str, headers: Headers, passed: Passed) -> str:
    """The id of the node that has passed this request on, for the owner that `KeyRing.passed_on`
    gives. Raises `Forbidden`."""
    value = headers[NODE_HEADER][0].decode("latin-1")
    return open_seal(secret, value, evolve(passed, owner=_passed_owner(headers)), time.time())


def _passed_owner(headers: Headers) -> str:
    return headers.get(OWNER_HEADER.encode(), (b"",))[0].decode("latin-1")


def target_of(path: str, query: bytes) -> str:
    """The target of a request between nodes, which both write alike."""
    target = quote(path, safe="/:@!$&'()*+,;=~-._")
    return f"{target}?{query.decode('latin-1')}" if query else target


def publish_refusal(bus: Bus, error: GatewayError, request_id: str = "", owner: str = "") -> None:
    """Publish that a client was refused, if `error` does that. `owner`: whose key it showed."""
    if error.status in REFUSED:
        bus.publish(CallerRefused(request_id, owner, error.status, error.code))


def check_host(server: ServerSettings, hosts: Sequence[bytes]) -> None:
    """Refuse a request that is addressed to another server: a page whose DNS name was rebound to
    this machine says that name here. Raises `Forbidden`."""
    for host in hosts:
        place = split_authority(host)
        if place is None or not server.allows_host(place[0]):
            break
    else:
        if hosts:
            return
    named = reprlib.repr(hosts[0].decode("latin-1")) if hosts else "no host"
    raise Forbidden(
        f"This server does not answer to {named}; server.allowed_hosts says to whom it does.",
        code="host_not_allowed",
    )


def _is_own_page(server: ServerSettings, origin: str, hosts: Sequence[bytes]) -> bool:
    """Whether a page from `origin` is the gateway's own: it came from where its request goes. That
    says nothing where any name is answered to, for a name can be rebound to this machine."""
    try:
        place = urlsplit(origin).netloc.lower()
    except ValueError:  # half an IPv6 address
        return False
    named = {host.decode("latin-1").lower() for host in hosts}
    return "*" not in server.allowed_hosts and bool(place) and named == {place}


def check_origin(
    server: ServerSettings, headers: Headers, hosts: Sequence[bytes] | None = None
) -> None:
    """Refuse a page from elsewhere. Raises `Forbidden`; callers that are no browser pass. `hosts`:
    to whom the request is addressed, where the headers do not say."""
    named = headers.get(b"host", ()) if hosts is None else hosts
    for given in headers.get(b"origin", ()):
        origin = given.decode("latin-1")
        if not (server.allows_origin(origin) or _is_own_page(server, origin, named)):
            raise Forbidden(
                f"Pages from {reprlib.repr(origin)} may not call this server;"
                " server.cors_origins says which may.",
                code="origin_not_allowed",
            )


class KeyRing:
    """The API keys, and whose request it is that shows one of them.

    A caller's identity is the SHA-256 of its key (hex), so that no key is kept in memory or
    written beside what belongs to it.
    """

    def __init__(self, keys: KeyRegistry) -> None:
        self._keys = keys

    def __repr__(self) -> str:
        return f"<KeyRing {len(self._keys.digests)} keys>"

    def passed_on(self, headers: Headers) -> str:
        """Whose request it is that another node has passed on (`node_of`). Raises
        `Unauthenticated` where that node knows a key which this one does not, `Overloaded`."""
        owner = _passed_owner(headers)
        if self._keys.holds(owner):
            return owner
        self._keys.check_known()
        raise Unauthenticated("Another node takes this API key, and this one does not know it.")

    def owner(self, headers: Headers, others: Iterable[bytes] = ()) -> str:
        """The client's key as an owner; `LOCAL` where none is needed. `others`: keys that were
        shown elsewhere than in `headers`.

        Raises `Unauthenticated`; `Overloaded` where it is not known which keys there are.
        """
        offered, needed = False, self._keys.needed
        if needed:
            for key in (*_offered_keys(headers), *others):
                offered = True
                digest = hashlib.sha256(key).digest()
                # Every key is compared, in constant time each: the error shows nothing of any.
                if sum([hmac.compare_digest(digest, own) for own in self._keys.digests]):
                    return digest.hex()
        self._keys.check_known()
        if not needed:
            return LOCAL
        raise Unauthenticated(
            "The API key is not valid."
            if offered
            else "An API key is needed: Authorization: Bearer KEY, or x-api-key: KEY."
        )


def _offered_keys(headers: Headers) -> Iterator[bytes]:
    for value in headers.get(b"authorization", ()):
        scheme, _, key = value.partition(b" ")
        if scheme.lower() == b"bearer":
            yield key.strip()
    yield from headers.get(b"x-api-key", ())
