"""A scripted stand-in for the Anthropic Messages API on loopback.

Knows HTTP/1.1 (through h11), who asked what, and when to send which step of an answer. What the
answers are is in `messages_answers`, whose names are importable from here too. Refuses to know the
CLI that asks and the gateway in front of that CLI.

    async with open_messages_stub() as stub:
        stub.answer = lambda request: say("hello", chunks=5, pause=0.01)
        ...
        assert stub.requests[0].model == "claude-sonnet-4-5"

`python -m tests.support.messages_stub --port 0` serves from its own process and prints its URL.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import h11
import orjson
import trio
from attrs import define, field

from tests.support.messages_answers import (
    JSON,
    Answer,
    Block,
    Failure,
    Hang,
    RedactedThinking,
    Reply,
    SearchResult,
    ServerToolUse,
    Text,
    Thinking,
    ToolUse,
    Usage,
    call,
    say,
)

__all__ = [
    "Answer",
    "Block",
    "Failure",
    "Hang",
    "MessagesStub",
    "RedactedThinking",
    "Reply",
    "Request",
    "SearchResult",
    "ServerToolUse",
    "Text",
    "Thinking",
    "ToolUse",
    "Usage",
    "call",
    "echo",
    "open_messages_stub",
    "say",
    "serve",
]


@define(eq=False)
class Request:
    """One `POST /v1/messages` as it arrived; `left` is set when the client hung up on it."""

    body: JSON
    headers: dict[str, str]
    left: trio.Event = field(factory=trio.Event)

    @property
    def model(self) -> str:
        """The model asked for."""
        return str(self.body.get("model"))

    @property
    def system(self) -> str:
        """The system prompt, blocks joined by blank lines."""
        return "\n\n".join(_texts(self.body.get("system", "")))

    @property
    def tools(self) -> list[str]:
        """The names of the tools offered."""
        return [tool["name"] for tool in self.body.get("tools") or []]

    @property
    def is_search(self) -> bool:
        """Whether the CLI has the API search the web, in a call of its own beside the turn's."""
        return any(
            str(tool.get("type")).startswith("web_search_") for tool in self.body.get("tools") or []
        )

    @property
    def conversation(self) -> list[tuple[str, list[str]]]:
        """User and assistant messages as (role, texts of the blocks).

        What the CLI adds of its own is left out: system-role messages and `<system-reminder>`
        blocks. A block that is not text stands as its type in angle brackets.
        """
        spoken = []
        for message in self.body["messages"]:
            if message["role"] != "system":
                texts = [t for t in _texts(message["content"]) if not _is_reminder(t)]
                spoken.append((message["role"], texts))
        return spoken

    @property
    def last_user_text(self) -> str:
        """The last text of the last user message, or that of a tool's result."""
        for message in reversed(self.body["messages"]):
            if message["role"] == "user":
                for block in reversed(_blocks(message["content"])):
                    if block["type"] == "tool_result":
                        return " ".join(_texts(block.get("content") or ""))
                    if block["type"] == "text" and not _is_reminder(block["text"]):
                        return str(block["text"])
        return ""


def echo(request: Request) -> Reply:
    """Answer "turn N: <last user text>", N counted from the assistant messages in the history."""
    turn = 1 + sum(role == "assistant" for role, _ in request.conversation)
    return say(f"turn {turn}: {request.last_user_text}")


COUNT = "/v1/messages/count_tokens"


@define(eq=False)
class MessagesStub:
    """The running stub.

    `answer` is called for each request; answers put in `queue` go first, in order. `requests`
    holds what came for `POST /v1/messages`, in order, `counted` the bodies whose tokens
    were counted, and `hits` every request as (method, path).
    """

    url: str
    answer: Callable[[Request], Answer]
    requests: list[Request] = field(factory=list)
    queue: deque[Answer] = field(factory=deque)
    hits: list[tuple[str, str]] = field(factory=list)
    counted: list[JSON] = field(factory=list)
    _news: trio.Event = field(factory=trio.Event)

    async def wait_requests(self, count: int) -> Request:
        """Wait until `count` message requests have arrived and return the last of them."""
        while len(self.requests) < count:
            await self._news.wait()
        return self.requests[count - 1]

    def _record(self, method: str, path: str) -> None:
        self.hits.append((method, path))
        self._news.set()
        self._news = trio.Event()

    async def _serve(self, stream: trio.SocketStream) -> None:
        # trio sets TCP_NODELAY on every SocketStream; without it 40 ms of delayed ACK would
        # pass for the client's own latency.
        connection = _Connection(stream)
        async with stream:
            try:
                while await self._serve_one(connection):
                    pass
            except (trio.BrokenResourceError, h11.RemoteProtocolError):
                return

    async def _serve_one(self, connection: _Connection) -> bool:
        """Serve one request; return whether the connection can carry another."""
        received = await connection.receive_request()
        if received is None:
            return False
        head, body = received
        method, path = head.method.decode(), head.target.decode().partition("?")[0]
        if (method, path) == ("POST", "/v1/messages"):
            request = Request(orjson.loads(body), {k.decode(): v.decode() for k, v in head.headers})
            self.requests.append(request)
            self._record(method, path)
            answer = self.queue.popleft() if self.queue else self.answer(request)
            await connection.answer(request, answer)
        else:
            if path == COUNT:
                self.counted.append(orjson.loads(body))
            self._record(method, path)
            status, document = _side_answer(method, path, body)
            await connection.respond(status, document)
        return connection.start_next_cycle()


@asynccontextmanager
async def open_messages_stub(
    answer: Callable[[Request], Answer] = echo, *, port: int = 0
) -> AsyncIterator[MessagesStub]:
    """Serve on 127.0.0.1 for as long as the block runs; port 0 takes a free one."""
    (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
    stub = MessagesStub(f"http://127.0.0.1:{listener.socket.getsockname()[1]}", answer)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, stub._serve, [listener])
        yield stub
        nursery.cancel_scope.cancel()


class _Connection:
    """One HTTP/1.1 connection: h11 for the protocol, a trio stream for the bytes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.SERVER)

    async def receive_request(self) -> tuple[h11.Request, bytes] | None:
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    await self._send(go_on)
                self._http.receive_data(await self._stream.receive_some())
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return head, bytes(body)
            else:
                return None

    def start_next_cycle(self) -> bool:
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def respond(
        self, status: int, body: bytes, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        fields = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            *headers,
        ]
        await self._send(
            h11.Response(status_code=status, headers=fields),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )

    async def answer(self, request: Request, answer: Answer) -> None:
        if isinstance(answer, Failure):
            retry = (
                () if answer.retry_after is None else (("retry-after", str(answer.retry_after)),)
            )
            await self.respond(answer.status, answer.body(), (*retry, *answer.headers))
        elif isinstance(answer, Hang):
            await self._wait_left(request)
        elif not request.body.get("stream"):
            await self.respond(200, orjson.dumps(answer.message(request.model)))
        elif answer.immediate:
            whole = answer.opening(request.model) + b"".join(answer.steps)
            await self._send(_stream_head(answer), h11.Data(data=whole), h11.EndOfMessage())
        else:
            await self._stream_watched(request, answer)

    async def _stream_watched(self, request: Request, reply: Reply) -> None:
        """Stream step by step, and stop as soon as the client leaves."""
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await self._wait_left(request)
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                await self._stream_steps(reply, request.model)
            except trio.BrokenResourceError:
                request.left.set()
            nursery.cancel_scope.cancel()

    async def _stream_steps(self, reply: Reply, model: str) -> None:
        await self._send(_stream_head(reply), h11.Data(data=reply.opening(model)))
        for number, step in enumerate(reply.steps):
            if reply.pause and number:
                await trio.sleep(reply.pause)
            if number in reply.holds:
                await reply.holds[number].wait()
            if reply.cut_after == number:
                return
            if reply.hang_after == number:
                await trio.sleep_forever()
            await self._send(h11.Data(data=step))
        await self._send(h11.EndOfMessage())

    async def _wait_left(self, request: Request) -> None:
        # A client that waits for an answer sends nothing more: whatever ends the read is its
        # leaving.
        try:
            while data := await self._stream.receive_some():
                self._http.receive_data(data)
        except trio.BrokenResourceError:
            pass
        request.left.set()

    async def _send(self, *events: h11.Event) -> None:
        await self._stream.send_all(b"".join(self._http.send(event) or b"" for event in events))


def _stream_head(reply: Reply) -> h11.Response:
    fields = [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")]
    return h11.Response(status_code=200, headers=[*fields, *reply.headers])


def count_tokens(body: JSON) -> int:
    """Four characters of what the model would read are a token."""
    read = {key: body[key] for key in ("system", "tools", "messages") if body.get(key)}
    return 1 + len(orjson.dumps(read)) // 4


def _side_answer(method: str, path: str, body: bytes) -> tuple[int, bytes]:
    if method == "HEAD":
        return 200 if path == "/" else 404, b""
    if (method, path) == ("POST", COUNT):
        return 200, orjson.dumps({"input_tokens": count_tokens(orjson.loads(body))})
    return 404, Failure(404, f"no {method} {path} here").body()


def _blocks(content: Any) -> list[JSON]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _texts(content: Any) -> list[str]:
    return [
        block["text"] if block["type"] == "text" else f"<{block['type']}>"
        for block in _blocks(content)
    ]


def _is_reminder(text: str) -> bool:
    return text.startswith("<system-reminder>")


async def serve(
    answer: Callable[[Request], Answer], port: int = 0, announce: Callable[[str], None] = print
) -> None:
    """Serve until cancelled; `announce` is called once with the URL."""
    async with open_messages_stub(answer, port=port) as stub:
        announce(stub.url)
        await trio.sleep_forever()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve one fixed answer, or echo when none is described."""
    parser = argparse.ArgumentParser(prog="messages_stub", description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--deltas", type=int, default=0, help="text deltas of each answer; 0: echo")
    parser.add_argument("--delta-chars", type=int, default=5)
    parser.add_argument("--pause-ms", type=float, default=0.0, help="between two deltas")
    options = parser.parse_args(arguments)
    answer: Callable[[Request], Answer] = echo
    if options.deltas:
        text = "abcdefghij "[: options.delta_chars].ljust(options.delta_chars, "x") * options.deltas
        fixed = say(text, chunks=options.deltas, pause=options.pause_ms / 1000)
        answer = lambda _: fixed  # noqa: E731
    trio.run(serve, answer, options.port, lambda url: print(url, flush=True))


if __name__ == "__main__":
    main()
