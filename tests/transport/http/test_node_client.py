"""One node asks another: against a node made of bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from ccapi.schemas.errors import InvalidRequest
from ccapi.transport.http import node_client
from ccapi.transport.http.node_client import NodeClient, NodeGone, Place

Handler = Callable[[trio.SocketStream], Awaitable[None]]

GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Node:
    """Answers each connection with `handler`."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.connections = 0
        self.asked: list[bytes] = []
        self.answers: list[bytes | None] = []
        """One for each request; None closes the connection instead."""
        self.piece_bytes = 1 << 30

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        async with stream:
            while True:
                request = await stream.receive_some(65536)
                if not request:
                    return
                while b"\r\n\r\n" not in request:
                    request += await stream.receive_some(65536)
                self.asked.append(bytes(request))
                answer = self.answers.pop(0) if self.answers else OK
                if answer is None:
                    return
                await self.send(stream, answer)
                if answer == GO_ON:
                    self.asked.append(bytes(await stream.receive_some(65536)))
                    answer = self.answers.pop(0)
                    if answer is None:
                        return
                    await self.send(stream, answer)

    async def send(self, stream: trio.SocketStream, answer: bytes) -> None:
        for at in range(0, len(answer), self.piece_bytes):
            await stream.send_all(answer[at : at + self.piece_bytes])
            await trio.lowlevel.checkpoint()


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    node = Node(listener.socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, node.serve, [listener])
        yield node
        nursery.cancel_scope.cancel()


@pytest.fixture
async def client() -> AsyncIterator[NodeClient]:
    client = NodeClient(0.3)
    yield client
    client.close()


async def read(client: NodeClient, node: Node, body: bytes = b"") -> tuple[int, bytes]:
    async with client.ask(node.url, "POST", "/x?y=z", [(b"a", b"b")], body) as response:
        whole = bytearray()
        while piece := await response.receive():
            whole += piece
        return response.status, bytes(whole)


async def test_a_request_is_written_whole_and_its_response_read(
    client: NodeClient, node: Node
) -> None:
    assert await read(client, node, b"hello") == (200, b"ok")
    head, _, body = node.asked[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /x?y=z HTTP/1.1\r\n")
    assert b"a: b" in head
    assert body == b"hello"


async def test_a_connection_is_used_again(client: NodeClient, node: Node) -> None:
    for _ in range(3):
        await read(client, node)
    assert node.connections == 1


async def test_a_connection_that_was_closed_meanwhile_is_not(
    client: NodeClient, node: Node
) -> None:
    node.answers = [OK, None]
    await read(client, node)
    with pytest.raises(NodeGone) as caught:
        await read(client, node)
    assert caught.value.was_asked
    assert await read(client, node) == (200, b"ok")


async def test_one_that_was_idle_for_long_is_closed_though_its_node_is_gone(
    client: NodeClient, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    await read(client, node)
    assert repr(client) == "<NodeClient 1 idle connections>"
    monkeypatch.setattr(node_client, "IDLE_SECONDS", 0.01)
    await trio.sleep(0.02)
    with pytest.raises(NodeGone):
        async with client.ask("http://127.0.0.1:1", "GET", "/", [], b""):
            pass
    assert repr(client) == "<NodeClient 0 idle connections>"
    await read(client, node)
    assert node.connections == 2


async def test_one_whose_response_was_not_read_is_closed(client: NodeClient, node: Node) -> None:
    node.answers = [OK.removesuffix(b"k")]
    async with client.ask(node.url, "GET", "/", [], b"") as response:
        assert response.status == 200
    await read(client, node)
    assert node.connections == 2


async def test_pieces_come_as_they_are_sent(client: NodeClient, node: Node) -> None:
    node.answers = [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n3\r\nyou\r\n0\r\n\r\n"
    ]
    assert await read(client, node) == (200, b"hiyou")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nshort",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200",
    ],
)
async def test_a_node_that_breaks_off_is_gone(
    client: NodeClient, node: Node, answer: bytes
) -> None:
    node.answers = [answer]

    async def serve_once(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(answer)
        await stream.aclose()

    node.serve = serve_once  # type: ignore[method-assign]
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    node.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve_once, [listener])
        with pytest.raises(NodeGone) as caught, trio.fail_after(10):
            await read(client, node)
        assert caught.value.was_asked
        nursery.cancel_scope.cancel()


async def test_one_that_cannot_be_reached_was_not_asked(client: NodeClient) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(NodeGone) as caught:
        async with client.ask(f"http://127.0.0.1:{port}", "GET", "/", [], b""):
            pass
    assert not caught.value.was_asked


async def test_a_long_body_is_sent_beside_its_head(client: NodeClient, node: Node) -> None:
    received = bytearray()

    async def serve_once(stream: trio.SocketStream) -> None:
        while len(received) < 3_000_000:
            received.extend(await stream.receive_some(65536))
        await stream.send_all(OK)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    node.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve_once, [listener])
        with trio.fail_after(20):
            assert await read(client, node, b"x" * 3_000_000) == (200, b"ok")
        nursery.cancel_scope.cancel()
    assert received.endswith(b"xxx")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://10.0.0.5:8080", Place("10.0.0.5", 8080, tls=False)),
        ("https://node.example", Place("node.example", 443, tls=True)),
        ("http://[::1]:80", Place("::1", 80, tls=False)),
    ],
)
def test_urls(url: str, place: Place) -> None:
    assert Place.of(url) == place


@pytest.mark.parametrize(
    ("target", "header"),
    [
        ("/x", (b"a", b"b\r\nx-ccapi-owner: another")),
        ("/x", (b"a", b"b\nc")),
        ("/x", (b"a: b\r\nc", b"d")),
        ("/x", (b"a b", b"c")),
        ("/x HTTP/1.1\r\nx-ccapi-owner: another\r\nz: ", (b"a", b"b")),
    ],
)
async def test_no_header_becomes_two(
    client: NodeClient, node: Node, target: str, header: tuple[bytes, bytes]
) -> None:
    with pytest.raises(InvalidRequest):
        async with client.ask(node.url, "GET", target, [header], b""):
            pass
    assert node.asked == []


CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b"2;x=y\r\nhi\r\n1e\r\n" + b"-" * 30 + b"\r\n0\r\ntrailer: 1\r\n\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_a_response_however_it_comes(client: NodeClient, node: Node, size: int) -> None:
    for answer in (CHUNKED, b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED):
        node.answers = [answer]
        node.piece_bytes = size
        with trio.fail_after(20):
            assert await read(client, node) == (200, b"hi" + b"-" * 30)
    assert node.connections == 1


@pytest.mark.parametrize(
    "broken",
    [b"x\r\n", b"-1\r\n", b"2\r\nhi!\r\n", b"1\r\naXX", b"f" * 9000],
    ids=["no number", "less than nothing", "longer", "no line end", "endless"],
)
async def test_a_body_that_is_not_chunked(client: NodeClient, node: Node, broken: bytes) -> None:
    node.answers = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + broken]
    with pytest.raises(NodeGone), trio.fail_after(10):
        await read(client, node)


async def test_a_head_without_end(client: NodeClient, node: Node) -> None:
    node.answers = [b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 40_000]
    with pytest.raises(NodeGone, match="too long"), trio.fail_after(10):
        await read(client, node)


@pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na", b"nonsense"])
async def test_a_response_without_a_request_ends_the_connection(
    client: NodeClient, node: Node, more: bytes
) -> None:
    node.answers = [OK + more, OK]
    assert await read(client, node) == (200, b"ok")
    assert await read(client, node) == (200, b"ok")
    assert node.connections == 2


async def test_a_response_to_head_has_no_body(client: NodeClient, node: Node) -> None:
    node.answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"]
    with trio.fail_after(10):
        async with client.ask(node.url, "HEAD", "/", [], b"") as response:
            assert (response.status, await response.receive()) == (200, b"")


async def test_a_response_without_a_length_is_no_whole_one(client: NodeClient, node: Node) -> None:
    node.answers = [b"HTTP/1.1 200 OK\r\n\r\nabc", None]
    with pytest.raises(NodeGone), trio.fail_after(10):
        async with client.ask(node.url, "GET", "/", [], b"") as response:
            assert await response.receive() == b"abc"
            async with client.ask(node.url, "GET", "/", [], b""):
                pass


# -- a node that is about to stop ------------------------------------------------------------------


async def read_from_stopping(client: NodeClient, node: Node) -> tuple[int, bytes]:
    body = bytearray()
    with trio.fail_after(10):
        async with client.ask(node.url, "POST", "/", [], b"{}", may_stop=True) as response:
            while piece := await response.receive():
                body += piece
    return response.status, bytes(body)


async def test_the_body_waits_until_a_node_that_may_stop_wants_it(
    node: Node, client: NodeClient
) -> None:
    node.answers = [GO_ON, OK]
    assert await read_from_stopping(client, node) == (200, b"ok")
    head, body = node.asked
    assert b"expect: 100-continue" in head
    assert head.endswith(b"\r\n\r\n")
    assert body == b"{}"


async def test_a_node_that_stops_before_that_was_not_asked(node: Node, client: NodeClient) -> None:
    assert await read(client, node) == (200, b"ok")
    node.answers = [None]
    with pytest.raises(NodeGone) as gone:
        await read_from_stopping(client, node)
    assert not gone.value.was_asked
    assert node.connections == 2, "no connection that it is about to close"
    node.answers = [GO_ON, None]
    with pytest.raises(NodeGone) as gone:
        await read_from_stopping(client, node)
    assert gone.value.was_asked


async def test_a_node_that_may_stop_can_answer_without_the_body(
    node: Node, client: NodeClient
) -> None:
    node.answers = [b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nno"]
    assert await read_from_stopping(client, node) == (503, b"no")
    assert len(node.asked) == 1
