"""Fetching by URL: which hosts may be asked, and servers that mean no good, over real sockets.

`127.0.0.1` stands for a public address here, and `127.0.0.2` for one inside."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trustme
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from ccapi.schemas.media import Allowance, TooManyBytes
from ccapi.transport.media.public_address import is_plain_host, is_public
from ccapi.transport.media.remote_fetch import (
    BadUrl,
    FetchFailed,
    Reach,
    RemoteFetcher,
    resolve_host,
)

OUTSIDE, INSIDE = "127.0.0.1", "127.0.0.2"
BODY = b"the picture"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n" + BODY
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

# -- the rule for addresses


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "8.8.8.8", "93.184.216.34", "9.255.255.255", "11.0.0.0", "100.63.255.255",
     "100.128.0.0", "126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0",
     "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.167.255.255", "192.169.0.0",
     "198.17.255.255", "198.20.0.0", "223.255.255.255", "168.63.129.15", "2606:4700::1111",
     "2001:200::1", "2a00::1", "2001:4860:4860::8888", "2400::5efe:0:0:1"],
)  # fmt: skip
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200",
     "100.127.255.255", "127.0.0.1", "127.255.255.255", "169.254.169.254", "169.254.0.1",
     "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1",
     "192.168.0.1", "192.168.255.255", "198.18.0.1", "198.19.255.255", "198.51.100.7",
     "203.0.113.7", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
     "168.63.129.16",
     "::", "::1", "::2", "::ffff:1.1.1.1", "::ffff:127.0.0.1", "::ffff:0:1.1.1.1", "::1.1.1.1",
     "::127.0.0.1", "64:ff9b::1.1.1.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1",
     "2001::1", "2001:0:53aa:64c::1", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1",
     "2002:7f00:1::1", "2002:101:101::1", "3ffe::1", "3fff::1", "5f00::1", "fc00::1",
     "fd00:ec2::254", "fd20:ce::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
     "2a00::5efe:127.0.0.1", "2a00::200:5efe:127.0.0.1", "2606:4700::1111%1",
     "", "localhost", "1.1.1", "01.1.1.1", "1.1.1.1 ", "0x1.1.1.1", "[::1]"],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses())
def test_nothing_is_public_that_the_standard_library_knows_to_be_private(address: object) -> None:
    known = (address.is_private, address.is_loopback, address.is_link_local, address.is_multicast,  # type: ignore[attr-defined]
             address.is_reserved, address.is_unspecified)  # type: ignore[attr-defined]  # fmt: skip
    assert not (any(known) and is_public(str(address)))


@pytest.mark.parametrize(
    "host",
    ["example.org", "a", "a-b.c_d.example", "xn--r8jz45g.jp", "1.1.1.1", "127.0.0.1", "::1",
     "4.example", "0x.example"],
)  # fmt: skip
def test_plain_hosts(host: str) -> None:
    assert is_plain_host(host)


@pytest.mark.parametrize(
    "host",
    ["", "2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "127.0.0.01", "1.1.1.1.1",
     "example.1", "example.0x1", "0x", "a..b", ".a", "a.", "-a", "a b", "a%2eb", "127%2e0%2e0%2e1",
     "fe80::1%25eth0", "fe80::1%eth0", "a" * 64 + ".org", "a." * 130 + "org", "a:80", "a/b", "a\\b",
     "\uff11.1.1.1", "a\0"],
)  # fmt: skip
def test_hosts_that_are_not_plain(host: str) -> None:
    assert not is_plain_host(host)


# -- a world to fetch in


@define
class World:
    """Names with the answers their resolver gives, one after the other (the last one stays)."""

    port: int
    names: dict[str, list[Sequence[str]]] = field(factory=dict)
    asked: list[str] = field(factory=list)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host[0].isdigit():
            return [host]
        answers = self.names.get(host, [[OUTSIDE]])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def url(self, path: str = "/", host: str = "pictures.test", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def fetcher(
        self,
        timeout: float = 30,
        redirects: int = 3,
        tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> RemoteFetcher:
        reach = Reach(self.resolve, lambda address: address != INSIDE, {self.port})
        return RemoteFetcher(timeout, redirects, reach, tls)


Handler = Callable[[trio.abc.Stream, bytes], Awaitable[None]]


@define
class Server:
    world: World
    heads: list[bytes] = field(factory=list)
    gone: trio.Event = field(factory=trio.Event)

    async def fetch(self, path: str = "/", *, limit: int = 1000, **options: float) -> bytes:
        fetcher = self.world.fetcher(**options)  # type: ignore[arg-type]
        return await fetcher.fetch(self.world.url(path), Allowance(limit))


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server whose every connection is one request: `handler` gets its head, and writes. `gone`
    is set when a client leaves before its end."""
    (listener,) = await trio.open_tcp_listeners(0, host="0.0.0.0")
    server = Server(World(listener.socket.getsockname()[1]))

    async def serve(raw: trio.SocketStream) -> None:
        stream: trio.abc.Stream = raw
        if tls is not None:
            stream = trio.SSLStream(raw, tls, server_side=True, https_compatible=True)
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                more = await stream.receive_some()
                if not more:
                    return
                head += more
            server.heads.append(head)
            await handler(stream, head)
        except (trio.BrokenResourceError, ConnectionError):
            server.gone.set()
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        with trio.fail_after(60):
            yield server
        nursery.cancel_scope.cancel()


def saying(answer: bytes) -> Handler:
    async def handler(stream: trio.abc.Stream, head: bytes) -> None:
        await stream.send_all(answer)

    return handler


def moved(location: str, status: int = 302) -> bytes:
    return (
        f"HTTP/1.1 {status} x\r\nlocation: {location}\r\nset-cookie: a=b; path=/\r\n"
        "content-length: 0\r\n\r\n"
    ).encode()


# -- fetching


async def test_the_body_comes_whole_and_the_request_says_little() -> None:
    async with serving(saying(OK)) as server:
        assert await server.fetch("/a%20b?q=1#fragment") == BODY
        lines = server.heads[0].decode().lower().split("\r\n")
        assert lines[0] == "get /a%20b?q=1 http/1.1"
        assert f"host: pictures.test:{server.world.port}" in lines
        assert "accept-encoding: identity" in lines
        names = {line.partition(":")[0] for line in lines[1:]} - {""}
        assert names == {"host", "accept", "accept-encoding", "connection", "user-agent"}
        assert server.world.asked == ["pictures.test"]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\n" + BODY,
        CHUNKED + b"4\r\nthe \r\n7\r\npicture\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: identity\r\ncontent-length: 11\r\n\r\n" + BODY,
        b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + OK,
        OK + b"more than it said",
    ],
)
async def test_bodies_of_every_length(answer: bytes) -> None:
    async with serving(saying(answer)) as server:
        assert await server.fetch() == BODY


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n" + BODY,
        CHUNKED + b"zz\r\nthe",
        CHUNKED + b"4\r\nthe \r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nx: " + b"x" * 300_000 + b"\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\ncontent-encoding: br, identity\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-encoding: identity\r\n\r\n" + BODY,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 206 Partial\r\ncontent-length: 11\r\n\r\n" + BODY,
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n" + BODY,
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 404 picture\r\ncontent-length: 11\r\n\r\n" + BODY,
        b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n",
    ],
)
async def test_anything_but_a_whole_plain_body_has_failed(answer: bytes) -> None:
    async with serving(saying(answer)) as server:
        with pytest.raises(FetchFailed) as caught:
            await server.fetch()
        told = str(caught.value)
        assert OUTSIDE not in told
        assert "picture" not in told


async def test_the_status_is_named() -> None:
    async with serving(saying(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n")) as server:
        with pytest.raises(FetchFailed, match=r"^answered with status 403$"):
            await server.fetch()


async def test_nothing_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        serving(saying(b"HTTP/1.1 502 proxy\r\n\r\n")) as proxy,
        serving(saying(OK)) as server,
    ):
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://{OUTSIDE}:{proxy.world.port}")
        assert await server.fetch() == BODY
        assert proxy.heads == []


async def test_a_server_that_is_not_there() -> None:
    async with serving(saying(OK)) as server:
        world = server.world
    with pytest.raises(FetchFailed, match=r"^could not be fetched$"):
        await world.fetcher().fetch(world.url(), Allowance(100))


# -- hosts


@pytest.mark.parametrize(
    "url",
    [
        "http://u:p@pictures.test/",
        "http://pictures.test\\@127.0.0.1/",
        "http://2130706434/",
        "http://0x7f000002/",
        "http://0177.0.0.2/",
        "http://127.2/",
        "http://127%2e0%2e0%2e2/",
        "http://127.0.0.2/",
        "http://\uff11\uff12\uff17.0.0.2/",
        "http://[fe80::1%25eth0]/",
        "http:///",
        "http:pictures.test",
        "http://pictures.test:22/",
        "http://pictures.test:99999/",
        "http://pictures.test:x/",
        "http://[::1/",
        "http://a\n.test/",
        "http://" + "a" * 9000,
        "ftp://pictures.test/",
        "//pictures.test/",
        "",
    ],
)
async def test_urls_that_are_not_fetched(url: str) -> None:
    async with serving(saying(OK)) as server:
        fetcher = RemoteFetcher(
            30, 3, Reach(server.world.resolve, lambda address: address != INSIDE)
        )
        with pytest.raises(BadUrl) as caught:
            await fetcher.fetch(url, Allowance(100))
        assert INSIDE not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["http://localhost/", "http://127.0.0.1/", "http://[::1]/", "http://[::ffff:127.0.0.1]/",
     "http://0/", "http://169.254.169.254/latest/meta-data/", "https://localhost./"],
)  # fmt: skip
async def test_as_it_comes_it_reaches_nothing_inside(url: str) -> None:
    with pytest.raises(BadUrl):
        await RemoteFetcher(30, 3).fetch(url, Allowance(100))


async def test_names_are_resolved_by_the_system() -> None:
    assert set(await resolve_host("localhost", 80)) & {"127.0.0.1", "::1"}


@pytest.mark.parametrize("answer", [[], [INSIDE], [OUTSIDE, INSIDE], [INSIDE, OUTSIDE]])
async def test_one_address_inside_is_one_too_many(answer: list[str]) -> None:
    async with serving(saying(OK)) as server:
        server.world.names["pictures.test"] = [answer]
        with pytest.raises(BadUrl, match="must name a host with a public address"):
            await server.fetch()
        assert server.heads == []


@pytest.mark.parametrize("error", [OSError("no such name"), UnicodeError("label too long")])
async def test_a_name_that_does_not_exist_looks_like_one_that_is_inside(error: Exception) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        raise error

    with pytest.raises(BadUrl, match=r"^must name a host with a public address$"):
        await RemoteFetcher(30, 3, Reach(resolve)).fetch("http://a.test/", Allowance(100))


async def test_the_name_is_resolved_once_and_the_connection_goes_to_what_was_checked() -> None:
    """DNS rebinding: a second answer would lead inside, and the gateway does not ask for it."""
    async with serving(saying(OK)) as server:
        server.world.names["pictures.test"] = [[OUTSIDE], [INSIDE]]
        assert await server.fetch() == BODY
        assert server.world.asked == ["pictures.test"]
        with pytest.raises(BadUrl):
            await server.fetch()
        assert len(server.heads) == 1


async def test_the_next_address_is_tried_where_no_server_listens() -> None:
    async with serving(saying(OK)) as server:
        # The server listens on IPv4 alone.
        server.world.names["pictures.test"] = [["::1", OUTSIDE]]
        assert await server.fetch() == BODY


# -- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed_without_what_was_said(status: int) -> None:
    async def handler(stream: trio.abc.Stream, head: bytes) -> None:
        first = head.startswith(b"GET /a/b ")
        await stream.send_all(moved("../c?d", status) if first else OK)

    async with serving(handler) as server:
        assert await server.fetch("/a/b") == BODY
        assert server.heads[1].startswith(b"GET /c?d ")
        for word in (b"cookie", b"referer", b"127.0.0.1"):
            assert word not in server.heads[1].lower()


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2:{port}/",
        "//inside.test:{port}/",
        "http://2130706434:{port}/",
        "http://u@pictures.test:{port}/",
        "http://pictures.test:22/",
        "file:///etc/passwd",
        "data:text/plain,x",
        "http://[",
    ],
)
async def test_a_redirect_is_checked_as_the_first_url_was(location: str) -> None:
    async def handler(stream: trio.abc.Stream, head: bytes) -> None:
        await stream.send_all(moved(location.format(port=server.world.port)))

    async with serving(handler) as server:
        server.world.names["inside.test"] = [[INSIDE]]
        with pytest.raises((BadUrl, FetchFailed)):
            await server.fetch()
        assert len(server.heads) == 1


async def test_a_name_that_changes_its_address_between_hops_is_seen() -> None:
    async with serving(saying(moved("/again"))) as server:
        server.world.names["pictures.test"] = [[OUTSIDE], [INSIDE]]
        with pytest.raises(BadUrl):
            await server.fetch()
        assert (len(server.heads), server.world.asked) == (1, ["pictures.test"] * 2)


@pytest.mark.parametrize("redirects", [0, 2])
async def test_redirects_are_counted(redirects: int) -> None:
    async with serving(saying(moved("/again"))) as server:
        with pytest.raises(FetchFailed, match=f"^redirects more than {redirects} times$"):
            await server.fetch(redirects=redirects)
        assert len(server.heads) == redirects + 1


# -- too much, too slow


async def test_an_endless_body_is_cut_and_left() -> None:
    async def handler(stream: trio.abc.Stream, head: bytes) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(bytes(65536))

    async with serving(handler) as server:
        with pytest.raises(TooManyBytes):
            await server.fetch(limit=1_000_000)
        await server.gone.wait()


async def test_a_body_that_says_it_is_too_long_is_not_waited_for() -> None:
    async def handler(stream: trio.abc.Stream, head: bytes) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n")
        assert await stream.receive_some() == b""
        server.gone.set()

    async with serving(handler) as server:
        with pytest.raises(TooManyBytes):
            await server.fetch(limit=1000)
        await server.gone.wait()


async def test_the_limit_is_exact() -> None:
    async with serving(saying(OK)) as server:
        assert await server.fetch(limit=len(BODY)) == BODY
        with pytest.raises(TooManyBytes):
            await server.fetch(limit=len(BODY) - 1)


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_one_deadline_stands_over_all_however_it_drips(begin: bytes) -> None:
    async def handler(stream: trio.abc.Stream, head: bytes) -> None:
        await stream.send_all(begin)
        while True:
            if begin:
                await stream.send_all(b"x")
            elif await stream.receive_some() == b"":
                raise trio.BrokenResourceError
            await trio.sleep(0.01)

    async with serving(handler) as server:
        with pytest.raises(FetchFailed, match=r"^took longer than 0\.2 seconds$"):
            await server.fetch(timeout=0.2, limit=10**6)
        if server.heads:
            await server.gone.wait()


async def test_redirects_do_not_renew_the_deadline() -> None:
    async def handler(stream: trio.abc.Stream, head: bytes) -> None:
        await trio.sleep(0.01)
        await stream.send_all(moved("/again"))

    async with serving(handler) as server:
        with pytest.raises(FetchFailed, match="took longer"):
            await server.fetch(timeout=0.2, redirects=10**6)


async def test_a_slow_resolver_is_under_the_deadline_too() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        await trio.sleep_forever()
        return ()

    with pytest.raises(FetchFailed, match="took longer"):
        await RemoteFetcher(0.05, 3, Reach(resolve)).fetch("http://a.test/", Allowance(100))


# -- TLS


def server_tls(ca: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*names).configure_cert(context)
    return context


def client_tls(ca: trustme.CA) -> Callable[[], ssl.SSLContext]:
    def make() -> ssl.SSLContext:
        context = ssl.create_default_context()
        ca.configure_trust(context)
        return context

    return make


async def test_tls_is_spoken_with_the_name_and_not_with_the_address() -> None:
    ca, told = trustme.CA(), []
    tls = server_tls(ca, "pictures.test")
    tls.sni_callback = lambda _, name, __: told.append(name)
    async with serving(saying(OK), tls) as server:
        world = server.world
        fetcher = world.fetcher(tls=client_tls(ca))
        for host in ("pictures.test", "pictures.test."):
            url = world.url(scheme="https", host=host)
            assert await fetcher.fetch(url, Allowance(100)) == BODY
        assert told == ["pictures.test"] * 2
        assert f"host: pictures.test:{world.port}\r\n".encode() in server.heads[0].lower()


async def test_a_certificate_of_another_name_or_issuer_is_refused() -> None:
    ca = trustme.CA()
    async with serving(saying(OK), server_tls(ca, "pictures.test", OUTSIDE)) as server:
        world = server.world
        for host, tls in (
            ("other.test", client_tls(ca)),
            ("pictures.test", client_tls(trustme.CA())),
        ):
            url = world.url(scheme="https", host=host)
            with pytest.raises(FetchFailed, match=r"^could not be fetched$"):
                await world.fetcher(tls=tls).fetch(url, Allowance(100))
        assert server.heads == []


async def test_by_default_servers_are_verified_against_the_systems_issuers() -> None:
    async with serving(saying(OK), server_tls(trustme.CA(), "pictures.test")) as server:
        world = server.world
        fetcher = RemoteFetcher(30, 3, world.fetcher().reach)
        with pytest.raises(FetchFailed):
            await fetcher.fetch(world.url(scheme="https"), Allowance(100))
        assert server.heads == []
