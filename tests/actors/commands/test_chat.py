"""``ccapi chat`` at a terminal and at pipes, before the demo CLI and before a gateway whose
every word is the test's."""

from __future__ import annotations

import json
import re
import signal
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from starlette.types import Receive, Scope, Send
from trio_websocket import WebSocketRequest

from ccapi.schemas.settings.settings import AuthSettings
from ccapi.transport.client.gateway_client import GatewayClient
from ccapi.transport.http.front_door import Peer
from ccapi.transport.http.websocket import WebSocket, WebSocketClosed, accept_websocket

from ...support.http_client import open_door, read_body, respond
from ...support.live import open_live, open_live_demo, settings_for
from ...support.terminals import CTRL_C, CTRL_D, open_terminal, run_at_pipes

JSON = dict[str, Any]
ENDLESS = '!script {"deltas": 100000, "pace_ms": 20}'


# -- before a real gateway -------------------------------------------------------------------------


async def test_a_talk_of_two_turns(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        async with open_terminal(tmp_path, "chat", "--url", live.url) as terminal:
            await terminal.until("> ")
            await terminal.type("repeat: the first answer\n")
            assert await terminal.until("> ") == "the first answer\n> "
            await terminal.type("\n")  # nothing is asked by an empty line
            assert await terminal.until("> ") == "> "
            await terminal.type("repeat: é\u2603\n")
            assert await terminal.until("> ") == "é☃\n> "
            await terminal.type(CTRL_D)
            assert await terminal.ended() == 0
        [conversation] = live.gateway.conversations()
        assert conversation.turns == 2


async def test_ctrl_c_interrupts_a_turn_and_leaves_at_the_prompt(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        async with open_terminal(tmp_path, "chat", "--url", live.url) as terminal:
            await terminal.until("> ")
            await terminal.type(f"{ENDLESS}\n")
            [info] = live.gateway.conversations()
            broadcast = live.gateway.loaded(info.conversation_id).broadcast
            while broadcast.turn is None or not broadcast.turn.items:
                await trio.sleep(0.01)
            await trio.sleep(0.3)
            await terminal.type(CTRL_C)
            await terminal.until("\n(interrupted)\n> ")
            assert live.gateway.statistics().turns_running == 0
            await terminal.type("repeat: still here\n")
            await terminal.until("still here\n> ")
            await terminal.type(CTRL_C)
            assert await terminal.ended() == 0


async def test_a_pasted_text_is_one_turn(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        async with open_terminal(tmp_path, "chat", "--url", live.url) as terminal:
            await terminal.until("> ")
            await terminal.type("\x1b[200~repeat: one\n\n/two\nthree\n\x1b[201~")
            await trio.sleep(0.3)
            assert live.gateway.statistics().turns_running == 0  # it waits for Enter
            await terminal.type("\n")
            assert await terminal.until("\n> ") == "one\n\n/two\nthree\n> "
            await terminal.type(CTRL_D)
            assert await terminal.ended() == 0
        [conversation] = live.gateway.conversations()
        assert (conversation.turns, conversation.messages) == (1, 2)


async def test_a_long_line_is_not_cut(tmp_path: Path) -> None:
    words = " ".join(str(number) for number in range(4_000))
    async with open_live_demo(tmp_path) as live:
        async with open_terminal(tmp_path, "chat", "--url", live.url) as terminal:
            await terminal.until("> ")
            for at in range(0, len(words), 1000):
                await terminal.type(words[at : at + 1000])
                await trio.sleep(0.01)
            await terminal.type("\n")
            [info] = live.gateway.conversations()
            broadcast = live.gateway.loaded(info.conversation_id).broadcast
            with trio.fail_after(20):
                while (turn := broadcast.turn or broadcast.history.last) is None:
                    await trio.sleep(0.01)
            assert turn.messages[0].text == words


async def test_a_signal_that_ends_it_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        async with open_terminal(tmp_path, "chat", "--url", live.url) as terminal:
            before = termios.tcgetattr(terminal.fd)
            await terminal.until("> ")
            assert termios.tcgetattr(terminal.fd) != before
            terminal.process.terminate()
            assert await terminal.ended() == 128 + signal.SIGTERM
            assert termios.tcgetattr(terminal.fd) == before


@pytest.mark.parametrize("key", ["schl\u00fcssel", "two words", "dash\u2013ed", "\n"])
async def test_a_key_that_no_header_can_hold_is_refused_in_words(tmp_path: Path, key: str) -> None:
    async with open_live_demo(tmp_path, auth=AuthSettings(api_keys=("sk-the-right-key",))) as live:
        done = await run_at_pipes(tmp_path, "chat", "--url", live.url, CCAPI_API_KEY=f"sk-1{key}2")
        assert done.code == 2
        assert "--api-key: A key is made of" in done.err
        assert "Traceback" not in done.err
        assert "sk-1" not in done.err
        kept = await run_at_pipes(
            tmp_path, "chat", "--url", live.url, typed="", CCAPI_API_KEY="sk-the-right-key\n"
        )
        assert (kept.code, kept.err) == (0, "")


async def test_commands(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        async with open_terminal(tmp_path, "chat", "--url", f"{live.url}/v1/") as terminal:
            await terminal.until("> ")
            await terminal.type("/help\n")
            assert "/quit" in await terminal.until("turn that runs.\n> ")
            await terminal.type("/nonsense\n")
            await terminal.until("There is no /nonsense; /help says what is.\n> ")
            await terminal.type("/new\n")
            await terminal.until("> ")
            assert len(live.gateway.conversations()) == 2
            await terminal.type("repeat: new\n")
            await terminal.until("new\n> ")
            await terminal.type("/quit\n")
            assert await terminal.ended() == 0
        assert [each.turns for each in live.gateway.conversations()] == [0, 1]


async def test_lines_from_a_pipe_are_turns_and_the_output_has_their_answers(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        typed = "repeat: one\nrepeat: two"
        done = await run_at_pipes(tmp_path, "chat", "--url", live.url, typed=typed)
    assert (done.code, done.out, done.err) == (0, "one\ntwo\n", "")


async def test_a_turn_that_fails_is_one_line_and_the_exit_code(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        typed = '!script {"error": "rate_limit"}\n'
        done = await run_at_pipes(tmp_path, "chat", "--url", live.url, typed=typed)
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"Error: .+\n", done.err)


async def test_a_conversation_is_joined_and_its_past_shown(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        conversation = live.gateway.conversation()
        await conversation.ask("repeat: before")
        arguments = ("chat", "--url", live.url, "--conversation", conversation.conversation_id)
        async with open_terminal(tmp_path, *arguments) as terminal:
            shown = await terminal.until("\n> ")
            assert shown == "> repeat: before\nbefore\n> "
            await conversation.ask("repeat: from elsewhere")
            await terminal.until("(another client) > repeat: from elsewhere\nfrom elsewhere\n> ")
            await terminal.type("repeat: from here\n")
            await terminal.until("from here\n> ")
            await live.gateway.forget(conversation.conversation_id)
            await terminal.until("the conversation has ended")
            assert await terminal.ended() == 0


async def test_a_key_is_taken_from_the_environment(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path, auth=AuthSettings(api_keys=("sk-the-right-key",))) as live:
        arguments = ("chat", "--url", live.url)
        good = await run_at_pipes(
            tmp_path, *arguments, typed="repeat: x\n", CCAPI_API_KEY="sk-the-right-key"
        )
        assert (good.code, good.out) == (0, "x\n")
        bad = await run_at_pipes(tmp_path, *arguments, "--api-key", "sk-wrong", typed="x\n")
        assert (bad.code, bad.out) == (1, "")
        assert bad.err == "Error: The API key is not valid.\n"


async def test_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    with (
        certificate.cert_chain_pems[0].tempfile() as cert_file,
        certificate.private_key_pem.tempfile() as key_file,
        authority.cert_pem.tempfile() as authority_file,
    ):
        tls = {"tls_cert_file": Path(cert_file), "tls_key_file": Path(key_file)}
        settings = settings_for(tmp_path, {"HOME": str(tmp_path)}, server=tls)
        async with open_live(settings, demo=True) as live:
            assert live.url.startswith("https://")
            arguments = ("chat", "--url", live.url)
            done = await run_at_pipes(
                tmp_path, *arguments, typed="repeat: safe\n", SSL_CERT_FILE=authority_file
            )
            assert (done.code, done.out, done.err) == (0, "safe\n", "")
            distrustful = await run_at_pipes(tmp_path, *arguments, typed="repeat: x\n")
            assert distrustful.code == 1
            assert "certificate" in distrustful.err.lower()
            assert distrustful.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--url", "http://127.0.0.1:9"), 1, "http://127.0.0.1:9 does not answer"),
        (("--url", "127.0.0.1:9"), 2, "is no http or https address"),
        (("--url", "http://[::1"), 2, "--url"),
        (("--conversation", "x", "--system", "y"), 2, "--system is for a new conversation"),
    ],
)
async def test_what_cannot_begin_is_said_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = await run_at_pipes(tmp_path, "chat", *arguments, typed="x\n")
    assert done.code == code
    assert message in done.err
    assert "Traceback" not in done.err
    assert done.err.splitlines()[-1].startswith("Error: ")


async def test_a_conversation_or_a_model_that_is_not_there(tmp_path: Path) -> None:
    async with open_live_demo(tmp_path) as live:
        for arguments in (("--conversation", "conv_none"), ("--model", "gpt-none")):
            done = await run_at_pipes(tmp_path, "chat", "--url", live.url, *arguments, typed="x\n")
            assert done.code == 1
            assert re.fullmatch(r"Error: .+\n", done.err)


# -- before a gateway of the test's own ------------------------------------------------------------


class Gateway:
    """Every connection is handed to the test, which says what a gateway would."""

    def __init__(self) -> None:
        self.url = ""
        self._send: trio.MemorySendChannel[Visit]
        self.visits: trio.MemoryReceiveChannel[Visit]
        self._send, self.visits = trio.open_memory_channel[Visit](8)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await respond(send, {"id": "conv_1", "object": "conversation"})

    async def socket(self, request: WebSocketRequest, peer: Peer) -> None:
        websocket = await accept_websocket(request, subprotocol="ccapi.v1")
        visit = Visit(websocket, request.path)
        await self._send.send(visit)
        await visit.over.wait()

    async def visited(self, **hello: Any) -> Visit:
        with trio.fail_after(20):
            visit = await self.visits.receive()
        await visit.tell("conversation.joined", **(HELLO | hello))
        return visit


HELLO: JSON = {
    "last_event_id": 0,
    "resumed": False,
    "items": [],
    "has_more": False,
    "turn": None,
    "permissions": [],
}


class Visit:
    def __init__(self, websocket: WebSocket, path: str) -> None:
        self.websocket = websocket
        self.path = path
        self.over = trio.Event()
        self._number = 0

    async def tell(self, kind: str, **fields: Any) -> None:
        await self.websocket.send(json.dumps({"type": kind, **fields}).encode())

    async def happen(self, kind: str, number: int, **fields: Any) -> None:
        await self.tell(kind, event_id=number, turn_id="t1", **fields)

    async def receive(self) -> JSON:
        with trio.fail_after(20):
            received: JSON = json.loads(await self.websocket.receive())
        return received

    async def lose(self) -> None:
        """Break off without a word."""
        await trio.aclose_forcefully(self.websocket._connection._stream)
        self.over.set()

    async def end(self) -> None:
        with pytest.raises(WebSocketClosed):
            await self.receive()
        self.over.set()


@asynccontextmanager
async def open_gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    async with open_door(gateway.app, gateway.socket) as port:
        gateway.url = f"http://127.0.0.1:{port}"
        yield gateway


LEAVE: JSON = {
    "request_id": "r1",
    "tool": "Bash",
    "input": {"command": "rm -r x"},
    "title": None,
    "description": "Remove\x1b[2J x",
    "suggestions": [],
    "expires_at": 0,
}


async def begin(gateway: Gateway, terminal: Any, text: str = "go") -> Visit:
    """A turn of the terminal's under way."""
    visit = await gateway.visited()
    await terminal.until("> ")
    await terminal.type(f"{text}\n")
    asked = await visit.receive()
    assert (asked["type"], asked["input"]) == ("turn.create", text)
    await visit.tell("turn.accepted", turn_id="t1", ref=asked["ref"])
    await visit.happen("turn.started", 1, items=[])
    return visit


FINISHED: JSON = {"finish_reason": "stop", "usage": {}, "items": []}


async def test_what_an_agent_does_is_shown_in_lines(tmp_path: Path) -> None:
    async with open_gateway() as gateway:
        async with open_terminal(tmp_path, "chat", "--url", gateway.url) as terminal:
            visit = await begin(gateway, terminal)
            await visit.happen("reasoning.delta", 2, text="Hm.")
            await visit.happen("text.delta", 3, text="I look.")
            await visit.happen("activity.started", 4, call_id="c", name="Bash")
            await visit.happen("activity.delta", 5, call_id="c", arguments='{"command": ')
            await visit.happen("activity.delta", 6, call_id="c", arguments='"ls"}')
            await visit.happen("activity.ended", 7, call_id="c", output="a\nb", is_error=False)
            await visit.happen("text.delta", 8, text="Two ")
            await visit.happen("text.delta", 9, text="files.\x1b]0;evil\x07")
            asked = '{"query":"\x1b]0;evil\x07"}'
            await visit.happen("search.started", 10, call_id="s", arguments=asked)
            await visit.happen("search.ended", 11, call_id="s", sources=[{}, {}], error=None)
            await visit.happen("turn.finished", 12, **FINISHED)
            shown = await terminal.until("\n> ")
            assert shown == (
                'Hm.\nI look.\n* Bash …\n  {"command": "ls"} -> a b\nTwo files.�]0;evil�\n'
                '* web_search {"query":"�]0;evil�"}\n  -> 2 pages\n> '
            )
            assert "\x1b]0" not in terminal.raw
            await terminal.type(CTRL_D)
            await visit.end()
            assert await terminal.ended() == 0


@pytest.mark.parametrize(
    ("word", "behavior", "always"),
    [("y", "allow", False), ("N", "deny", False), ("always", "allow", True)],
)
async def test_leave_is_asked_for_and_given_or_not(
    tmp_path: Path, word: str, behavior: str, always: bool
) -> None:
    async with open_gateway() as gateway:
        async with open_terminal(tmp_path, "chat", "--url", gateway.url) as terminal:
            visit = await begin(gateway, terminal)
            await terminal.type("y\n")  # typed ahead: not meant for what is asked later
            await trio.sleep(0.2)
            await visit.happen("permission.requested", 2, **LEAVE)
            shown = await terminal.until("conversation: ")
            assert "wants to use Bash" in shown
            assert '"command": "rm -r x"' in shown
            assert "\x1b[2J" not in terminal.raw
            await terminal.type("what?\n")
            await terminal.until("conversation: ")
            await terminal.type(f"{word}\n")
            reply = await visit.receive()
            assert reply == {
                "type": "permission.reply",
                "request_id": "r1",
                "behavior": behavior,
                "always": always,
            }
            await visit.happen("permission.resolved", 3, request_id="r1", behavior=behavior, by="x")
            await visit.happen("turn.finished", 4, **FINISHED)
            await terminal.until("> ")
            await terminal.type(CTRL_C)
            await visit.end()
            assert await terminal.ended() == 0


async def test_leave_that_is_asked_twice_is_asked_for_in_order(tmp_path: Path) -> None:
    async with open_gateway() as gateway:
        async with open_terminal(tmp_path, "chat", "--url", gateway.url) as terminal:
            visit = await begin(gateway, terminal)
            await visit.happen("permission.requested", 2, **LEAVE)
            await visit.happen(
                "permission.requested", 3, **(LEAVE | {"request_id": "r2", "tool": "Write"})
            )
            await terminal.until("Write")
            await terminal.until("conversation: ")
            await terminal.type("n\n")
            assert (await visit.receive())["request_id"] == "r1"
            # Another client answers the other: nothing is left to be asked here.
            await visit.happen("permission.resolved", 4, request_id="r1", behavior="deny", by="x")
            await visit.happen("permission.resolved", 5, request_id="r2", behavior="deny", by="x")
            await visit.happen("turn.finished", 6, **FINISHED)
            await terminal.until("\n> ")
            await terminal.type("next\n")
            assert (await visit.receive())["input"] == "next"
            visit.over.set()


async def test_with_no_client_to_ask_permission_is_denied(tmp_path: Path) -> None:
    async def play(gateway: Gateway) -> None:
        visit = await gateway.visited()
        await visit.receive()
        await visit.happen("turn.started", 1, items=[])
        await visit.happen("permission.requested", 2, **LEAVE)
        reply = await visit.receive()
        assert (reply["behavior"], reply["request_id"]) == ("deny", "r1")
        await visit.happen("permission.resolved", 3, request_id="r1", behavior="deny", by="x")
        await visit.happen("text.delta", 4, text="Then not.")
        await visit.happen("turn.finished", 5, **FINISHED)
        await visit.end()

    async with open_gateway() as gateway, trio.open_nursery() as nursery:
        nursery.start_soon(play, gateway)
        done = await run_at_pipes(tmp_path, "chat", "--url", gateway.url, typed="go\n")
    assert done.code == 0
    assert done.out.endswith("Then not.\n")


async def test_a_lost_connection_is_taken_up_from_what_was_seen(tmp_path: Path) -> None:
    async with open_gateway() as gateway:
        async with open_terminal(tmp_path, "chat", "--url", gateway.url) as terminal:
            visit = await begin(gateway, terminal)
            assert visit.path == "/v1/conversations/conv_1/events"
            await visit.happen("text.delta", 2, text="one ")
            await terminal.until("one ")
            await visit.lose()
            await terminal.until("the connection is lost")
            visit = await gateway.visited(resumed=True, items=None, last_event_id=3)
            assert visit.path.endswith("/events?after=2")
            await visit.happen("text.delta", 3, text="two")
            await visit.happen("turn.finished", 4, **FINISHED)
            await terminal.until("two\n> ")
            await terminal.type("on\n")
            assert (await visit.receive())["input"] == "on"
            visit.over.set()


async def test_a_client_too_far_behind_takes_the_snapshot(tmp_path: Path) -> None:
    answer = {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "the whole answer"}],
    }
    async with open_gateway() as gateway:
        async with open_terminal(tmp_path, "chat", "--url", gateway.url) as terminal:
            visit = await begin(gateway, terminal)
            await visit.happen("text.delta", 2, text="the who")
            await terminal.until("the who")
            await visit.websocket.close(4008, "too far behind")
            visit.over.set()
            visit = await gateway.visited(reason="behind", items=[answer], last_event_id=900)
            await terminal.until("missed)\nthe whole answer\n(connected again)\n> ")
            await visit.lose()
            visit = await gateway.visited(resumed=True, items=None, last_event_id=900)
            assert visit.path.endswith("after=900")
            visit.over.set()


async def test_a_line_that_was_lost_with_the_connection_is_reported(tmp_path: Path) -> None:
    async with open_gateway() as gateway:
        async with open_terminal(tmp_path, "chat", "--url", gateway.url) as terminal:
            visit = await gateway.visited()
            await terminal.until("> ")
            await terminal.type("go\n")
            await visit.receive()
            await visit.lose()  # before anything came of it
            visit = await gateway.visited(resumed=True, items=None, last_event_id=0)
            await terminal.until("lost with the connection; type it again: go\n> ")
            await terminal.type("go\n")
            assert (await visit.receive())["input"] == "go"
            visit.over.set()


@pytest.mark.parametrize("typed_before", [True, False])
async def test_a_line_without_an_answer_goes_to_where_the_conversation_has_moved(
    tmp_path: Path, typed_before: bool
) -> None:
    moved = {"reason": "moved"}
    refused = {"message": "The gateway is stopping.", "code": "draining"}
    async with open_gateway() as gateway:
        async with open_terminal(tmp_path, "chat", "--url", gateway.url) as terminal:
            visit = await gateway.visited()
            await terminal.until("> ")
            if typed_before:
                await terminal.type("go\n")
                asked = await visit.receive()
                await visit.tell("conversation.closed", **moved)
                await visit.tell("error", ref=asked["ref"], error=refused)
            else:  # on the connection that is just being closed
                await visit.tell("conversation.closed", **moved)
                await visit.tell("presence", watchers=2)
                await trio.sleep(0.2)
                await terminal.type("go\n")
            await terminal.until("the line waits")
            await visit.lose()
            visit = await gateway.visited(resumed=False, items=[], last_event_id=0)
            assert (await visit.receive())["input"] == "go"
            await visit.tell("turn.accepted", turn_id="t1", ref="turn")
            await visit.happen("turn.started", 1, items=[])
            await visit.happen("text.delta", 2, text="gone")
            await visit.happen("turn.finished", 3, **FINISHED)
            await terminal.until("gone\n> ")
            assert "type it again" not in terminal.seen
            visit.over.set()


async def test_a_gateway_that_refuses_a_turn_is_asked_again(tmp_path: Path) -> None:
    async with open_gateway() as gateway:
        async with open_terminal(tmp_path, "chat", "--url", gateway.url) as terminal:
            visit = await gateway.visited()
            await terminal.until("> ")
            await terminal.type("go\n")
            asked = await visit.receive()
            error = {"message": "Too many turns wait.", "type": "x", "code": "x", "param": None}
            await visit.tell("error", ref=asked["ref"], error=error)
            await terminal.until("error: Too many turns wait.\n> ")
            visit.over.set()


async def test_a_second_ctrl_c_leaves_whatever_the_gateway_does(tmp_path: Path) -> None:
    async with open_gateway() as gateway:
        async with open_terminal(tmp_path, "chat", "--url", gateway.url) as terminal:
            visit = await begin(gateway, terminal)
            await terminal.type(CTRL_C)
            assert (await visit.receive())["type"] == "turn.interrupt"
            await terminal.type(CTRL_C)
            assert await terminal.ended() == 130
            visit.over.set()


async def test_who_answers_but_is_no_gateway(tmp_path: Path) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await respond(send, ["hello"])

    async with open_door(app) as port:
        url = f"http://127.0.0.1:{port}"
        done = await run_at_pipes(tmp_path, "chat", "--url", url, typed="x\n")
    assert (done.code, done.err) == (1, f"Error: {url} answers, but not as a gateway does.\n")


@pytest.mark.parametrize("url", ["localhost", "ftp://x", "http://", "http://x:0", "http://x:99999"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        GatewayClient(url)
