"""Playbooks of a session's machine: permission for an agent's tools, turns that replace the
last one, children that come ahead of a turn, messages without a turn."""

from __future__ import annotations

import math

from ccapi.actors.session.events import (
    Extend,
    PermissionReply,
    PermissionRequested,
    StartTurn,
    Wake,
    Warm,
)
from ccapi.actors.session.phases import Limits
from ccapi.schemas.claude.output import (
    AssistantDone,
    ControlCancelled,
    PermissionAsked,
    ToolInput,
    ToolReturned,
    ToolsReturned,
    ToolUseStarted,
)
from ccapi.schemas.message import Message, ToolCall
from ccapi.schemas.turn import AgentOrigin, Memory, ResumePoint, Setup, TurnRequest
from tests.support.talk import (
    ASLEEP,
    BUSY,
    IDLE,
    INTERRUPTING,
    WAKING,
    Talk,
    turn_id,
    user,
)

AGENT = Memory(Setup("sonnet", profile="agent", workspace="mine"))
PERMISSION = 60.0


def asked(request_id: str = "r1") -> PermissionAsked:
    return PermissionAsked(request_id, "Bash", {"command": "ls"}, "toolu_1")


def working(
    memory: Memory = AGENT, limits: Limits | None = None, *, keep_stopped: bool = False
) -> Talk:
    """An agent that works on the turn ``one``."""
    talk = Talk(limits or Limits(permission=PERMISSION, silence=120), memory)
    talk.turn("one", keep_stopped=keep_stopped)
    talk.ready()
    talk.set_up()
    assert talk.phase is BUSY
    return talk


def test_an_agents_child_is_started_for_it() -> None:
    talk = Talk(memory=AGENT)
    actions = talk.machine.advance(StartTurn(turn_id("one"), TurnRequest((user("one"),))), 0.0)
    assert actions[-1] == Wake(AgentOrigin("sonnet", "mine"))


def test_it_takes_up_its_session_and_what_was_allowed() -> None:
    talk = working()
    talk.feed(PermissionRequested(asked(), answerable=True))
    talk.feed(PermissionReply(request_id="r1", allow=True, always=True))
    talk.answer("yes")
    talk.give_way()
    talk.gone()
    actions = talk.machine.advance(StartTurn(turn_id("two"), TurnRequest((user("two"),))), 0.0)
    history = ResumePoint("cli-session", "uuid of yes")
    assert actions[-1] == Wake(AgentOrigin("sonnet", "mine", ("Bash",), history))


def test_permission_is_requested_and_given() -> None:
    talk = working()
    assert talk.feed(PermissionRequested(asked(), answerable=True)) == ["requestpermission"]
    assert talk.phase is BUSY
    assert talk.machine.deadline == PERMISSION
    talk.now = 50.0
    words = talk.feed(PermissionReply(request_id="r1", allow=True))
    assert words[1:] == ["permissionsettled"]
    assert talk.written[-1]["response"]["response"]["behavior"] == "allow"
    assert talk.feed(PermissionReply(request_id="r1", allow=False)) == []
    # A child that waited for a client was silent with good reason.
    assert talk.machine.deadline == 50.0 + 120


def test_without_a_client_permission_is_denied_at_once() -> None:
    talk = working()
    talk.feed(PermissionRequested(asked(), answerable=False))
    assert talk.written[-1]["response"]["response"]["behavior"] == "deny"
    assert talk.phase is BUSY


def test_permission_that_is_not_given_in_time_is_denied() -> None:
    talk = working()
    talk.feed(PermissionRequested(asked(), answerable=True))
    assert talk.rings()[1:] == ["permissionsettled"]
    assert talk.written[-1]["response"]["response"]["behavior"] == "deny"
    assert talk.answer("done anyway")[-1].startswith("end one: completed stop")


def test_the_child_may_think_better_of_it() -> None:
    talk = working()
    talk.feed(PermissionRequested(asked(), answerable=True))
    assert talk.feed(ControlCancelled("r1")) == ["permissionsettled"]
    assert talk.feed(ControlCancelled("r1")) == []


def test_an_interrupted_turn_needs_no_permission_any_more() -> None:
    talk = working()
    talk.feed(PermissionRequested(asked(), answerable=True))
    assert talk.interrupt("one") == ["end one: turn_interrupted", "rewind one"]
    assert talk.phase is INTERRUPTING
    assert talk.feed(PermissionReply(request_id="r1", allow=True)) == []
    talk.feed(PermissionRequested(asked("r2"), answerable=True))
    assert talk.written[-1]["response"]["response"]["behavior"] == "deny"


def test_the_next_turn_names_what_a_stopped_agent_did() -> None:
    talk = working(keep_stopped=True)
    talk.says("First.")
    call = ToolCall("toolu_1", "Bash", '{"command":"ls"}')
    talk.feed(ToolUseStarted(call.id, call.name))
    talk.feed(ToolInput(call.arguments))
    talk.feed(AssistantDone("u", synthetic=False, call=call))
    assert talk.interrupt("one")[0] == "end one: turn_interrupted, kept"
    said = 'First.\n\n[Stopped. Used before that: Bash {"command":"ls"}]'
    assert talk.machine.memory.seed[-1] == Message("assistant", (said,))


def test_results_of_the_clients_own_tools_are_no_news_to_the_client() -> None:
    talk = working()
    assert talk.feed(ToolsReturned((ToolReturned("c1", "sunny"),))) == []
    talk.feed(ToolUseStarted("toolu_1", "Bash"))
    both = ToolReturned("c1", "sunny"), ToolReturned("toolu_1", "a.txt")
    assert talk.feed(ToolsReturned(both)) == ["used toolu_1 a.txt"]


def test_an_agents_own_tool_use_is_delivered_and_is_no_call_of_the_clients() -> None:
    talk = working()
    assert talk.says("First.") == ["deliver First."]
    assert talk.feed(ToolUseStarted("toolu_1", "Bash")) == ["uses Bash toolu_1"]
    assert talk.feed(ToolInput('{"command"')) == ['given toolu_1 {"command"']
    talk.stops("tool_use")
    result = ToolReturned("toolu_1", "a.txt")
    assert talk.feed(ToolsReturned((result,))) == ["used toolu_1 a.txt"]
    talk.starts()
    assert talk.says("Then.", " More.") == ["deliver \n\nThen.", "deliver  More."]
    talk.done("Then. More.")
    assert talk.result("x") == ["end one: completed stop, First.\n\nThen. More."]
    assert talk.phase is IDLE


def test_an_agent_that_is_cut_by_the_models_limit_goes_on() -> None:
    talk = working()
    talk.says("long")
    assert talk.stops("max_tokens") == []
    assert talk.phase is BUSY


# -- asked again -----------------------------------------------------------------------------------


def told(talk: Talk, name: str, back_to: Memory | None) -> list[str]:
    talk._names[turn_id(name)] = name
    return talk.feed(StartTurn(turn_id(name), TurnRequest((user(name),), back_to=back_to)))


def test_the_last_turn_is_taken_back_and_another_begun_in_the_same_child() -> None:
    talk = Talk()
    talk.finish("one", "1")
    before = talk.machine.memory
    talk.finish("two", "2")
    assert told(talk, "three", before) == ["started three", "rewind two"]
    assert talk.machine.memory == before
    talk.rewound()
    assert talk.phase is BUSY
    talk.answer("3")
    assert talk.machine.memory.turns == 2


def test_it_is_taken_back_where_there_is_no_child() -> None:
    talk = Talk()
    talk.finish("one", "1")
    before = talk.machine.memory
    talk.finish("two", "2")
    talk.give_way()
    talk.gone()
    assert told(talk, "three", before) == ["started three", "wake"]


def test_what_others_have_gone_on_from_is_not_taken_back() -> None:
    talk = Talk()
    first = talk.machine.memory
    talk.finish("one", "1")
    talk.finish("two", "2")
    held = talk.machine.memory
    words = told(talk, "three", first)
    assert words == ["started three", "end three: conversation_moved_on"]
    assert talk.machine.memory == held
    talk.turn("four")
    assert told(talk, "five", held)[1] == "end five: conversation_busy"


# -- ahead of a turn -------------------------------------------------------------------------------


def test_a_child_sought_ahead_takes_the_first_turn() -> None:
    talk = Talk()
    assert talk.feed(Warm()) == ["wake"]
    assert talk.feed(Warm()) == []
    assert talk.ready() == ["initialize sonnet"]
    assert talk.phase is IDLE
    talk.set_up()
    assert talk.turn("one")[0] == "started one"
    assert talk.phase is BUSY


def test_a_turn_that_comes_while_the_child_is_sought_gets_it() -> None:
    talk = Talk()
    talk.feed(Warm())
    assert talk.turn("one") == ["started one"]
    words = talk.ready()
    assert words[0] == "initialize sonnet"
    assert "ask one" in words
    assert talk.phase is BUSY


def test_a_failed_warm_up_fails_no_turn() -> None:
    talk = Talk()
    talk.feed(Warm())
    assert talk.phase is WAKING
    assert talk.wake_failed() == []
    assert talk.phase is ASLEEP
    talk.feed(Warm())
    talk.ready()
    assert talk.set_up("no") == ["kill"]
    assert talk.machine.deadline == math.inf


# -- without an answer -----------------------------------------------------------------------------


def test_added_messages_are_written_with_the_next_turn() -> None:
    talk = Talk()
    talk.finish("one", "1")
    talk.feed(Extend((user("by the way"),)))
    assert len(talk.machine.memory.digests) == 3
    assert talk.turn("two")[1:] == ["ask by the way|two"]


def test_nothing_is_added_in_the_middle() -> None:
    talk = Talk()
    talk.turn("one")
    talk.ready()
    held = talk.machine.memory
    talk.feed(Extend((user("by the way"),)))
    assert talk.machine.memory == held
