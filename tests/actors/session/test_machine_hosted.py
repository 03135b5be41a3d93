"""Tools of MCP servers in a session's machine: who may call them, and where the results go."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from ccapi.actors.session.events import (
    Action,
    CallHosted,
    HostedEnded,
    PermissionDenied,
    PermissionReply,
    PermissionSettled,
    RequestPermission,
    ServersFailed,
    StartTurn,
)
from ccapi.actors.session.hosted import DENIED_BY_RULE
from ccapi.actors.session.machine import Machine
from ccapi.actors.session.permissions import NO_CLIENT, TOO_LATE
from ccapi.actors.session.phases import Limits
from ccapi.schemas.claude.output import (
    AssistantDone,
    ControlAnswer,
    ToolInput,
    ToolReturned,
    ToolsReturned,
    ToolUseStarted,
)
from ccapi.schemas.mcp_rules import Decision
from ccapi.schemas.mcp_tools import ServerTool
from ccapi.schemas.message import Message, ToolCall, ToolResult, ToolRound, digest
from ccapi.schemas.turn import HostedTool, Memory, Setup, Tool, TurnRequest
from tests.support.talk import (
    AWAITING_TOOLS,
    BUSY,
    IDLE,
    INTERRUPTING,
    LOOK,
    MEMORY,
    Talk,
    assistant,
    turn_id,
    user,
)

SCHEMA = '{"type":"object"}'
ECHO = HostedTool.of(ServerTool("a", "echo", "mcp__a__echo", "Says it again.", SCHEMA, False))
READ = HostedTool.of(ServerTool("a", "read", "mcp__a__read", "Reads it.", SCHEMA, True))
DONE: dict[str, Any] = {"content": [{"type": "text", "text": "echoed"}]}


class Rules:
    """A host of these tools, by whose rules they are called as `decision` says, unless they were
    granted."""

    def __init__(self, *tools: HostedTool, decision: Decision = "allow") -> None:
        self.tools = tools
        self.decision = decision
        self.own: Mapping[str, Mapping[str, Any]] = {}

    def offers(self, setup: Setup) -> tuple[HostedTool, ...]:
        return self.tools

    def started_by(self, setup: Setup) -> Mapping[str, Mapping[str, Any]]:
        return self.own

    def decide(self, tool: HostedTool, grants: Sequence[str]) -> Decision:
        return "allow" if tool.name in grants else self.decision

    async def call(self, tool: HostedTool, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        raise AssertionError("a machine calls nothing")


class Hosted(Talk):
    """A talk about a conversation with such tools. `actions` are the last ones."""

    def __init__(
        self, host: Rules, *, heard: bool = True, limits: Limits | None = None,
        memory: Memory = MEMORY,
    ) -> None:  # fmt: skip
        super().__init__(limits, memory)
        self.heard = heard
        self.actions: list[Action] = []
        self.machine = Machine(
            memory, limits or Limits(), 0.0, host=host, is_heard=lambda: self.heard
        )

    def _word(self, action: Action) -> str:
        self.actions.append(action)
        match action:
            case CallHosted(call):
                return f"call {call.tool.source.name} {json.dumps(dict(call.arguments))}"
            case RequestPermission(_, asked):
                return f"may {asked.tool}?"
            case PermissionSettled(_, behavior, by, always):
                return f"{behavior} by {by}{' for good' if always else ''}"
            case PermissionDenied(tool, by):
                return f"{tool} denied by {by}"
        return super()._word(action)

    def wants(self, tool: HostedTool = ECHO, call_id: str = "c1", **arguments: Any) -> list[str]:
        """The model calls a tool, and the CLI asks for it."""
        words = []
        self.feed_block(tool, call_id, arguments)
        params = {
            "name": tool.name, "arguments": arguments, "_meta": {"claudecode/toolUseId": call_id},
        }  # fmt: skip
        words += self.stops("tool_use")
        return words + self.mcp(f"request {call_id}", "tools/call", params)

    def feed_block(self, tool: HostedTool, call_id: str, arguments: dict[str, Any]) -> list[str]:
        text = json.dumps(arguments)
        words = self.feed(ToolUseStarted(call_id, tool.name)) + self.feed(ToolInput(text))
        block = ToolCall(call_id, tool.name, text)
        return words + self.feed(AssistantDone(f"of {call_id}", synthetic=False, call=block))

    def served(self, call_id: str = "c1", result: Mapping[str, Any] = DONE) -> list[str]:
        return self.feed(HostedEnded(call_id, result))


def talk(*tools: HostedTool, decision: Decision = "allow", **more: Any) -> Hosted:
    """A child works on the turn ``one``."""
    made = Hosted(Rules(*(tools or (ECHO,)), decision=decision), **more)
    made.turn("one")
    made.ready()
    made.set_up()
    made.starts()
    return made


def listed(made: Talk) -> dict[str, Any]:
    """The tools that the child gets when it asks, by name."""
    made.mcp("list", "tools/list")
    answer = made.written[-1]["response"]["response"]["mcp_response"]["result"]
    return {each["name"]: each for each in answer["tools"]}


# -- offered ---------------------------------------------------------------------------------------


def test_a_child_gets_the_tools_of_servers_beside_the_clients() -> None:
    made = Hosted(Rules(ECHO, READ))
    made.turn("one", tools=[LOOK])
    made.ready()
    assert made.written[0]["request"]["sdkMcpServers"] == ["client0"]
    tools = listed(made)
    assert list(tools) == ["mcp__a__echo", "mcp__a__read", "look"]
    hints = [each["annotations"]["readOnlyHint"] for each in tools.values()]
    assert hints == [False, True, True]


def test_a_clients_tool_of_the_same_name_is_the_clients() -> None:
    made = Hosted(Rules(ECHO))
    made.turn("one", tools=[Tool(ECHO.name, "Mine.")])
    made.ready()
    assert listed(made)[ECHO.name]["description"] == "Mine."
    made.set_up()
    made.starts()
    assert made.suspends("c1") == []  # of a name that is not offered
    made.calls("c2", ECHO.name)
    assert "completed tool_calls" in made.stops("tool_use")[-1]


def test_what_a_conversation_remembers_has_no_tools_of_servers() -> None:
    made = talk()
    made.answer("Done.")
    assert made.machine.memory.setup == MEMORY.setup
    assert made.machine.memory.setup.hosted == ()


def test_another_list_of_tools_reaches_the_child_with_the_next_turn() -> None:
    host = Rules(ECHO)
    made = Hosted(host)
    made.finish("one", "Done.")
    host.tools = (ECHO, READ)
    words = made.turn("two")
    assert words[:2] == ["started two", "tools of client1"]
    assert list(listed(made)) == ["mcp__a__echo", "mcp__a__read"]
    made.answer("Done again.")
    host.tools = ()
    assert made.turn("three")[1] == "tools of "


def test_a_turn_that_names_its_tools_has_no_others() -> None:
    made = Hosted(Rules(ECHO))
    made._names[turn_id("one")] = "one"
    made.feed(StartTurn(turn_id("one"), TurnRequest((user("one"),), hosted=(READ,))))
    made.ready()
    assert list(listed(made)) == ["mcp__a__read"]


def test_servers_that_the_child_starts_come_behind_its_initialize() -> None:
    host = Rules(ECHO)
    host.own = {"files": {"type": "stdio", "command": "files", "args": [], "env": {}}}
    made = Hosted(host)
    made.turn("one")
    assert made.ready()[:2] == ["initialize sonnet", "tools of client0, files"]
    assert "sdkMcpServers" not in made.written[0]["request"]
    assert made.written[1]["request"]["servers"]["files"]["command"] == "files"


def test_a_server_that_the_child_cannot_start_is_told_to_the_operator() -> None:
    host = Rules(ECHO)
    host.own = {"files": {"type": "stdio", "command": "files", "args": [], "env": {}}}
    made = Hosted(host)
    made.turn("one")
    made.ready()
    errors = {"files": "ENOENT", "client0": "not the child's own"}
    assert made.feed(ControlAnswer("servers", {"errors": errors}, None)) == ["serversfailed"]
    [failed] = [each for each in made.actions if isinstance(each, ServersFailed)]
    assert failed.reasons == {"files": "ENOENT"}
    assert made.feed(ControlAnswer("servers", {"errors": {}}, None)) == []
    assert made.phase is BUSY


# -- called ----------------------------------------------------------------------------------------


def test_a_call_goes_to_the_server_and_its_result_to_the_child() -> None:
    made = talk()
    assert made.says("Let me see.") == ["deliver Let me see."]
    assert made.wants(text="hi") == ['call echo {"text": "hi"}']
    assert made.phase is BUSY
    assert made.served()[0].startswith("answer request c1:")
    sent = made.written[-1]["response"]["response"]["mcp_response"]
    assert sent == {"jsonrpc": "2.0", "id": 7, "result": DONE}
    done = ToolsReturned((ToolReturned("c1", "echoed"),))
    assert made.feed(done) == ["used c1 echoed"]
    made.starts()
    assert made.says("So.") == ["deliver \n\nSo."]
    made.done("So.")
    assert made.result("So.") == ["end one: completed stop"]  # never from the cache
    assert made.phase is IDLE
    last: Message = made.machine.memory.seed[-1]
    assert last.text == "Let me see.\n\nSo."


def test_the_client_sees_that_a_tool_is_used() -> None:
    made = talk()
    assert made.feed_block(ECHO, "c1", {}) == ["uses mcp__a__echo c1", "given c1 {}"]


def test_what_the_server_did_is_done_once() -> None:
    made = talk()
    made.wants()
    turn = made.machine.turn
    assert turn is not None
    assert turn.has_effects
    assert not turn.is_repeatable
    assert made.gone() == ["end one: child_died"]


def test_a_result_for_a_turn_that_is_over_is_dropped() -> None:
    made = talk()
    made.wants()
    made.interrupt("one")
    assert made.phase is INTERRUPTING
    assert made.served() == []


def test_a_child_that_waits_for_a_server_may_be_silent() -> None:
    made = talk(limits=Limits(turn=math.inf, silence=5.0))
    made.now = 1.0
    made.wants()
    assert made.machine.deadline == math.inf
    made.now = 100.0
    made.served()
    assert made.machine.deadline == 105.0


def test_calls_of_the_clients_and_of_servers_in_one_answer() -> None:
    made = Hosted(Rules(ECHO))
    made.turn("one", tools=[LOOK])
    made.ready()
    made.set_up()
    made.starts()
    made.calls("c2")
    params = {"name": ECHO.name, "arguments": {}, "_meta": {"claudecode/toolUseId": "c1"}}
    made.feed_block(ECHO, "c1", {})
    assert made.stops("tool_use") == ["end one: completed tool_calls"]
    assert made.phase is AWAITING_TOOLS
    assert made.mcp("request c1", "tools/call", params) == ["call echo {}"]
    assert made.served()[0].startswith("answer request c1:")


# -- permitted -------------------------------------------------------------------------------------


def test_what_rules_deny_is_not_called() -> None:
    made = talk(decision="deny")
    assert made.wants() == [
        f"answer request c1: no, {DENIED_BY_RULE}",
        "mcp__a__echo denied by rule",
    ]


def test_what_needs_permission_is_denied_where_no_client_is_there() -> None:
    made = talk(decision="ask", heard=False)
    denied = "mcp__a__echo denied by no_client"
    assert made.wants() == [f"answer request c1: no, {NO_CLIENT}", denied]


def test_a_client_permits_a_call() -> None:
    made = talk(decision="ask")
    assert made.wants(text="hi") == ["may mcp__a__echo?"]
    reply = PermissionReply(request_id="mcp_c1", allow=True)
    assert made.feed(reply) == ['call echo {"text": "hi"}', "allow by watcher"]
    assert [each.asked for each in made.actions if isinstance(each, CallHosted)] == [True]
    assert made.machine.memory.grants == ()


def test_a_client_changes_what_the_tool_is_given() -> None:
    made = talk(decision="ask")
    made.wants(text="hi")
    reply = PermissionReply(request_id="mcp_c1", allow=True, updated_input={"text": "ho"})
    assert made.feed(reply)[0] == 'call echo {"text": "ho"}'


def test_a_client_permits_a_tool_for_the_conversation() -> None:
    made = talk(decision="ask")
    made.wants()
    words = made.feed(PermissionReply(request_id="mcp_c1", allow=True, always=True))
    assert words[1] == "allow by watcher for good"
    assert made.machine.memory.grants == ("mcp__a__echo",)
    made.served()
    made.starts()
    made.actions.clear()
    assert made.wants(call_id="c2") == ["call echo {}"]
    assert [each.asked for each in made.actions if isinstance(each, CallHosted)] == [False]


@pytest.mark.parametrize("message", ["Not today.", None])
def test_a_client_denies_a_call(message: str | None) -> None:
    made = talk(decision="ask")
    made.wants()
    words = made.feed(PermissionReply(request_id="mcp_c1", allow=False, message=message))
    assert words[0].startswith("answer request c1: no, ")
    assert (message or "denied") in words[0]
    assert words[1] == "deny by watcher"


def test_no_client_answers_in_time() -> None:
    made = talk(decision="ask", limits=Limits(permission=60.0))
    made.wants()
    assert made.rings() == [f"answer request c1: no, {TOO_LATE}", "deny by timeout"]
    assert made.now == 60.0
    assert made.phase is BUSY


# -- remembered ------------------------------------------------------------------------------------


def returned(call_id: str, text: str) -> ToolsReturned:
    """The CLI tells what the model reads of a result."""
    return ToolsReturned((ToolReturned(call_id, text, content=(text,)),))


def test_a_conversation_remembers_what_its_tools_said() -> None:
    made = talk()
    made.says("Let me see.")
    made.done("Let me see.")
    made.wants(text="hi")
    made.served()
    made.feed(returned("c1", "echoed"))
    made.starts()
    made.says("So.")
    made.done("So.")
    made.stops()
    made.result("So.")
    [_, said] = made.machine.memory.seed
    called = ToolCall("c1", ECHO.name, '{"text": "hi"}')
    round_ = ToolRound((called,), (ToolResult("c1", ("echoed",)),))
    assert said.content == ("Let me see.", round_, "\n\nSo.")
    assert said.text == "Let me see.\n\nSo."
    assert digest(said) == digest(assistant("Let me see.\n\nSo."))


def test_another_child_receives_what_the_tools_said() -> None:
    made = talk()
    for number in (1, 2):  # one after the other
        made.wants(call_id=f"c{number}")
        made.served(f"c{number}")
        made.feed(returned(f"c{number}", "echoed"))
        made.starts()
    made.says("So.")
    made.done("So.")
    made.stops()
    made.result("So.")
    made.gone()
    made.turn("two")
    made.ready()
    words = made.takes_history()
    roles = [frame["type"] for frame in made.written if frame["type"] in ("user", "assistant")]
    assert roles[-6:] == ["assistant", "user", "assistant", "user", "assistant", "user"]
    assert words[-1] == "ask two"
    child = made.machine.resident
    assert child is not None
    assert [cut.held for cut in child.cuts] == [0, 2]  # never between a call and its result
