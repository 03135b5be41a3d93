"""A gateway in a thread of its own, in front of the real CLI, as tests in sequence share it.

Knows how to ask it over HTTP, what the API was asked meanwhile, and which children there are.
Refuses to know what should come of anything. (pytest-trio's fixtures live as long as one test; a
thread with its own trio run lives as long as it is wanted.)
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import filterfalse
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import httpx
import trio
from attrs import frozen
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from ccapi.schemas.events import ChildAdopted
from ccapi.schemas.settings.settings import CacheSettings, ConversationSettings
from tests.support import chat
from tests.support.embedded import EventRecorder, open_recorder
from tests.support.live import Live, open_live_cli
from tests.support.logins import LoginName
from tests.support.messages_stub import Answer, Request, echo

PATIENCE = 30.0
MODEL = "claude-haiku-4-5"
"""It takes every parameter; newer models refuse some."""


T = TypeVar("T")
JSON = dict[str, Any]


@frozen
class Whole:
    """An answer that was not streamed. `body` is the JSON, whatever the status."""

    status: int
    headers: httpx.Headers
    body: JSON

    @property
    def completion(self) -> ChatCompletion:
        assert self.status == 200, self.body
        return ChatCompletion.model_validate(self.body, strict=True)

    @property
    def message(self) -> JSON:
        assert self.status == 200, self.body
        message: JSON = self.body["choices"][0]["message"]
        return message

    @property
    def text(self) -> str | None:
        content: str | None = self.message["content"]
        return content

    @property
    def finish_reason(self) -> str:
        assert self.status == 200, self.body
        return str(self.body["choices"][0]["finish_reason"])

    @property
    def calls(self) -> list[JSON]:
        return self.message.get("tool_calls") or []

    @property
    def conversation_id(self) -> str:
        return self.headers["x-conversation-id"]

    @property
    def error(self) -> JSON:
        assert self.status >= 400, self.body
        error: JSON = self.body["error"]
        return error


@frozen
class Streamed:
    """An answer that was streamed to its end: its events in order, and whether the last one was
    the end mark."""

    status: int
    headers: httpx.Headers
    events: list[JSON]
    done: bool

    @property
    def chunks(self) -> list[ChatCompletionChunk]:
        assert self.done, self.events
        return [ChatCompletionChunk.model_validate(event, strict=True) for event in self.events]

    @property
    def deltas(self) -> list[JSON]:
        return [choice["delta"] for event in self.events for choice in event.get("choices") or []]

    @property
    def pieces(self) -> list[str]:
        return [delta["content"] for delta in self.deltas if delta.get("content")]

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def finish_reasons(self) -> list[str]:
        reasons = [
            choice["finish_reason"]
            for event in self.events
            for choice in event.get("choices") or []
        ]
        return [reason for reason in reasons if reason is not None]

    @property
    def calls(self) -> list[JSON]:
        """The tool calls that a client puts together out of the fragments."""
        calls: dict[int, JSON] = {}
        for delta in self.deltas:
            for fragment in delta.get("tool_calls") or []:
                index, function = fragment["index"], fragment["function"]
                if "id" in fragment:
                    assert index not in calls, "id and name once"
                    name = function["name"]
                    calls[index] = {
                        "id": fragment["id"],
                        "type": fragment["type"],
                        "function": {"name": name, "arguments": ""},
                    }
                calls[index]["function"]["arguments"] += function.get("arguments") or ""
        assert list(calls) == list(range(len(calls)))
        return list(calls.values())

    @property
    def conversation_id(self) -> str:
        return self.headers["x-conversation-id"]

    @property
    def error(self) -> JSON:
        """The event that a failure ends with, or the body of one that came before any event."""
        assert not self.done
        assert all("error" not in event for event in self.events[:-1])
        error: JSON = self.events[-1]["error"]
        return error


class Served:
    """One gateway with its API. Its methods block, and are for another thread than its own."""

    def __init__(
        self,
        live: Live,
        recorder: EventRecorder,
        token: trio.lowlevel.TrioToken,
        client: httpx.Client,
    ) -> None:
        assert live.stub is not None
        self.live, self.stub = live, live.stub
        self._recorder, self._token, self._client = recorder, token, client
        self._begun = 0

    def __repr__(self) -> str:
        return f"<Served {self.live.url}>"

    def do(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function where the gateway runs."""
        return trio.from_thread.run_sync(function, *args, trio_token=self._token)

    def run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Await a function where the gateway runs."""
        return trio.from_thread.run(function, *args, trio_token=self._token)

    def wait(self, true: Callable[[], object]) -> None:
        """Wait until something of the gateway's is so."""

        async def poll() -> None:
            with trio.fail_after(PATIENCE):
                while not true():
                    await trio.sleep(0.005)

        trio.from_thread.run(poll, trio_token=self._token)

    # -- the API -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """What was asked of the API before does not count any more."""
        self.stub.queue.clear()
        self.stub.answer = echo
        self._begun = len(self.stub.requests)

    def answers(self, *answers: Answer) -> None:
        """What the API will answer next, in order."""
        self.stub.queue.extend(answers)

    @property
    def requests(self) -> list[Request]:
        """What the API was asked since `begin`."""
        return self.stub.requests[self._begun :]

    @property
    def last(self) -> Request:
        return self.requests[-1]

    # -- the client --------------------------------------------------------------------------------

    def ask(self, *messages: JSON, headers: dict[str, str] | None = None, **fields: Any) -> Whole:
        body = {"model": MODEL, "messages": list(messages), **fields}
        response = self._client.post(chat.CHAT, json=body, headers=headers)
        return Whole(response.status_code, response.headers, response.json())

    def get(self, path: str) -> JSON:
        response = self._client.get(path)
        assert response.status_code == 200, response.text
        body: JSON = response.json()
        return body

    def post(self, path: str, body: JSON, headers: dict[str, str] | None = None) -> httpx.Response:
        return self._client.post(path, json=body, headers=headers)

    def stream(
        self, *messages: JSON, headers: dict[str, str] | None = None, **fields: Any
    ) -> Streamed:
        with self.streaming(*messages, headers=headers, **fields) as response:
            return read_events(response)

    @contextmanager
    def streaming(
        self, *messages: JSON, headers: dict[str, str] | None = None, **fields: Any
    ) -> Iterator[httpx.Response]:
        """A stream that may be left before its end, which is what a client does that goes away."""
        body = {"model": MODEL, "messages": list(messages), "stream": True, **fields}
        # A connection of its own: the shared client's would be kept for the next request.
        with (
            _client(self.live.url) as client,
            client.stream("POST", chat.CHAT, json=body, headers=headers) as response,
        ):
            yield response

    # -- the children ------------------------------------------------------------------------------

    def phase(self, conversation_id: str) -> str:
        return self.live.gateway.loaded(conversation_id).info.phase

    def wait_phase(self, conversation_id: str, *phases: str) -> None:
        self.wait(lambda: self.phase(conversation_id) in phases)

    def adopted(self, conversation_id: str) -> list[int]:
        """The processes that the conversation was given, in order."""
        return [
            event.pid
            for event in self._recorder.events
            if isinstance(event, ChildAdopted) and event.conversation_id == conversation_id
        ]

    def kill_unseen(self, conversation_id: str) -> None:
        """The child dies, and the gateway has not noticed it yet when the next request comes."""
        os.kill(self.adopted(conversation_id)[-1], signal.SIGKILL)

    def freeze_and_kill(self, conversation_id: str) -> None:
        """It is frozen first, as the gateway freezes a child that waits long."""
        os.kill(self.adopted(conversation_id)[-1], signal.SIGSTOP)
        self.kill_unseen(conversation_id)

    def kill_child(self, conversation_id: str) -> None:
        """The conversation's child dies, and the conversation sees it."""
        with suppress(ProcessLookupError):
            os.kill(self.adopted(conversation_id)[-1], signal.SIGKILL)
        self.wait_phase(conversation_id, "asleep")


def _client(url: str) -> httpx.Client:
    # Not to verify a server saves reading certificates that no test needs.
    return httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False, verify=False)


def read_events(response: httpx.Response) -> Streamed:
    if response.status_code != 200:
        events = [json.loads(response.read())]
        return Streamed(response.status_code, response.headers, events, done=False)
    events = chat.events(response.read())
    done = events[-1:] == ["[DONE]"]
    if done:
        events.pop()
    return Streamed(response.status_code, response.headers, events, done)


@contextmanager
def open_served(tmp_path: Path, login: LoginName = "key", **sections: Any) -> Iterator[Served]:
    """A gateway while the block runs, with few children and all of the history that is sent; the
    cache is off, so that every question reaches the API."""
    claude = {"max_concurrent_sessions": 8, "prewarm": 2, "max_retries": 0}
    sections["claude"] = claude | sections.get("claude", {})
    sections.setdefault("cache", CacheSettings(enabled=False))
    sections.setdefault("conversation", ConversationSettings(max_history_messages=10_000))
    ready: SimpleQueue[
        tuple[Live, EventRecorder, trio.lowlevel.TrioToken, trio.Event] | BaseException
    ]
    ready = SimpleQueue()

    async def run() -> None:
        async with (
            open_live_cli(tmp_path, login, **sections) as live,
            open_recorder(live.gateway) as recorder,
        ):
            over = trio.Event()
            ready.put((live, recorder, trio.lowlevel.current_trio_token(), over))
            await over.wait()

    def main() -> None:
        try:
            trio.run(run)
        except BaseException as error:  # noqa: BLE001 (raised where the gateway is used)
            failures.append(error)
            ready.put(error)

    failures: list[BaseException] = []
    thread = threading.Thread(target=main, name="gateway")
    thread.start()
    try:
        opened = ready.get(timeout=PATIENCE)
        if isinstance(opened, BaseException):
            raise opened
        live, recorder, token, over = opened
        with _client(live.url) as client:
            yield Served(live, recorder, token, client)
    finally:
        with suppress(trio.RunFinishedError, NameError):
            token.run_sync_soon(over.set)
        thread.join(PATIENCE)
    assert not thread.is_alive()
    for error in failures:
        raise error


# -- what a client says ----------------------------------------------------------------------------


def system(text: str) -> JSON:
    return {"role": "system", "content": text}


def user(content: str | list[JSON]) -> JSON:
    return {"role": "user", "content": content}


def assistant(content: str | None, *calls: JSON) -> JSON:
    message: JSON = {"role": "assistant", "content": content}
    return message | ({"tool_calls": list(calls)} if calls else {})


def tool(call_id: str, content: str | list[JSON], **fields: Any) -> JSON:
    return {"role": "tool", "tool_call_id": call_id, "content": content, **fields}


def part(text: str) -> JSON:
    return {"type": "text", "text": text}


def called(call_id: str, name: str, arguments: JSON | str) -> JSON:
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments)
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def function(name: str, parameters: JSON | None = None, **fields: Any) -> JSON:
    parameters = {"type": "object", "properties": {}} if parameters is None else parameters
    fields = {"name": name, "description": f"It is {name}.", "parameters": parameters, **fields}
    return {"type": "function", "function": fields}


# -- what the API received -------------------------------------------------------------------------

Spoken = list[tuple[str, list[Any]]]


def spoken(request: Request) -> Spoken:
    """The user's and the assistant's messages, neighbours of one role joined as the API does it:
    text as it is, a call as (id, name, input), a result as (call id, texts, whether it failed)."""
    return joined(
        (
            message["role"],
            [_plain(block) for block in _blocks(message["content"]) if not _is_note(block)],
        )
        for message in request.body["messages"]
        if message["role"] != "system"  # of the CLI's own
    )


def joined(messages: Iterable[tuple[str, list[Any]]]) -> Spoken:
    """Neighbours of one role as one message. Results that were given together may come in any
    order, since each says which call it is of: they stand in the order of the ids."""
    together: Spoken = []
    for role, blocks in messages:
        if together and together[-1][0] == role:
            together[-1][1].extend(blocks)
        elif blocks:
            together.append((role, list(blocks)))
    return [
        (role, [*sorted(filter(_is_result, blocks)), *filterfalse(_is_result, blocks)])
        for role, blocks in together
    ]


_NOTE = re.compile(
    r"<system-reminder>\n(# Environment\n|You are powered by the model|Today's date is)"
)


def _is_note(block: JSON) -> bool:
    """Whether the CLI says it itself, where the login is a subscription's. Anything else that it
    may say counts as said by the client, and so as wrong."""
    return block["type"] == "text" and _NOTE.match(block["text"]) is not None


def _is_result(block: Any) -> bool:
    return isinstance(block, tuple) and len(block) == 3 and isinstance(block[2], bool)


def _blocks(content: Any) -> list[Any]:
    return [part(content)] if isinstance(content, str) else content


def _plain(block: JSON) -> Any:
    match block["type"]:
        case "text":
            return block["text"]
        case "tool_use":
            return block["id"], block["name"], block["input"]
        case "tool_result":
            content = [_plain(each) for each in _blocks(block.get("content") or [])]
            return block["tool_use_id"], content, bool(block.get("is_error"))
        case kind:
            return kind, block.get("source") or block
