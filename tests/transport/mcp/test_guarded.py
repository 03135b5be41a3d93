"""Requests to a server that a client named go to its origin, at an address that was checked."""

from __future__ import annotations

from collections.abc import Sequence

import httpx2
import pytest
import trio
from attrs import define, field

from ccapi.transport.mcp.guarded import AddressRefused, PinnedTransport, may_reach

PUBLIC = "93.184.216.34"


@define
class Inner(httpx2.AsyncBaseTransport):
    """Notes what it is to send. Addresses of `dead` cannot be connected to."""

    dead: frozenset[str] = frozenset()
    sent: list[tuple[str, str, object]] = field(factory=list)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        name = request.extensions.get("sni_hostname")
        self.sent.append((str(request.url), request.headers["host"], name))
        if request.url.host in self.dead:
            raise httpx2.ConnectError("no")
        return httpx2.Response(200)


def send(inner: Inner, url: str, *rounds: Sequence[str], to: str | None = None) -> None:
    """Send one request for each answer of the resolver."""
    answers = iter(rounds)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return next(answers)

    async def work() -> None:
        transport = PinnedTransport(inner, url, resolve)
        for _ in rounds:
            request = httpx2.Request("POST", to or url, content=b"{}")
            await transport.handle_async_request(request)
            assert str(request.url) == (to or url)

    trio.run(work)


@pytest.mark.parametrize(
    ("host", "address", "may"),
    [
        ("mcp.example", PUBLIC, True),
        ("mcp.example", "127.0.0.1", False),
        ("mcp.example", "10.0.0.1", False),
        ("mcp.example", "169.254.169.254", False),
        ("mcp.example", "::1", False),
        ("mcp.example", "::ffff:127.0.0.1", False),
        ("localhost", "127.0.0.1", True),
        ("localhost", "::1", True),
        ("localhost", "10.0.0.1", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("::1", "::1", True),
        ("mcp.example", "nonsense", False),
    ],
)
def test_which_addresses_may_be_reached(host: str, address: str, may: bool) -> None:
    assert may_reach(host, address) is may


def test_the_connection_goes_to_the_address_and_keeps_the_name() -> None:
    inner = Inner()
    send(inner, "https://mcp.example:8443/mcp?a=b", [PUBLIC])
    assert inner.sent == [
        (f"https://{PUBLIC}:8443/mcp?a=b", "mcp.example:8443", "mcp.example"),
    ]


def test_the_next_address_is_tried() -> None:
    inner = Inner(frozenset({PUBLIC}))
    send(inner, "https://mcp.example/", [PUBLIC, "93.184.216.35"])
    assert [url for url, *_ in inner.sent] == [f"https://{PUBLIC}/", "https://93.184.216.35/"]
    with pytest.raises(httpx2.ConnectError):
        send(inner, "https://mcp.example/", [PUBLIC])


def test_a_name_that_turns_private_is_refused() -> None:
    inner = Inner()
    with pytest.raises(AddressRefused):
        send(inner, "https://mcp.example/", [PUBLIC], ["127.0.0.1"])
    assert len(inner.sent) == 1


@pytest.mark.parametrize("found", [[], [PUBLIC, "127.0.0.1"]])
def test_all_addresses_have_to_be_allowed(found: list[str]) -> None:
    inner = Inner()
    with pytest.raises(AddressRefused, match="no address") as refused:
        send(inner, "https://mcp.example/", found)
    assert "127" not in str(refused.value)
    assert not inner.sent


@pytest.mark.parametrize(
    "to", ["https://other.example/", "http://mcp.example/", "https://mcp.example:444/"]
)
def test_another_origin_is_refused(to: str) -> None:
    inner = Inner()
    with pytest.raises(AddressRefused, match="another origin"):
        send(inner, "https://mcp.example/", [PUBLIC], to=to)
    assert not inner.sent
