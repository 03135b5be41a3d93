"""Playbooks of a session's machine: permission for an agent's tools, turns that replace the
last one, children that come ahead of a turn, messages without a turn."""

from __future__ import annotations

import math

from ccapi.actors.session.child import ChildState
from ccapi.actors.session.events import (
    ChildGone,
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
from ccapi.schemas.errors import ChildDied
from ccapi.schemas.message import Message, ToolCall
from ccapi.schemas.turn import AgentOrigin, Memory, ResumePoint, Setup, TurnRequest
from tests.support.talk import (
    ASLEEP,
    BUSY,
    IDLE,
    INTERRUPTING,
    STOPPING,
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
    assert talk.result("x") == ["end one: completed stop"]  # nor can it be given again
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


# -- a child that was started ahead ----------------------------------------------------------------

REFUSED = "cwd_not_found: the claim cwd does not exist or is not accessible"


def claiming(memory: Memory = AGENT) -> Talk:
    """An agent that gets the turn ``one``, and a spare for it."""
    talk = Talk(Limits(permission=PERMISSION, silence=120), memory)
    talk.turn("one")
    words = talk.ready(source="prewarmed", claim="/w/mine")
    assert words[:3] == ["claim /w/mine", "initialize agent", "set model sonnet"]
    assert words[-1] == "ask one"
    return talk


def test_a_spare_gets_its_directory_prompt_and_model_with_the_turn() -> None:
    talk = claiming(Memory(Setup("sonnet", "Be brief.", profile="agent", workspace="mine")))
    assert talk.written[1]["request"]["appendSystemPrompt"] == "Be brief."
    assert talk.claimed() == []
    talk.set_up()
    assert talk.answer("yes")[-1] == "end one: completed stop, yes"
    assert talk.sources == ["prewarmed"]
    resume = ResumePoint("cli-session", "uuid of yes")
    assert talk.machine.memory.resume == resume


def test_a_spare_gets_what_was_allowed_before() -> None:
    talk = Talk(memory=AGENT.granted(["Bash(touch *)"]))
    talk.turn("one")
    words = talk.ready(claim="/w/mine")
    assert words[2:4] == ["set model sonnet", "allow Bash(touch *)"]


def test_the_lines_of_a_claim_byte_by_byte() -> None:
    state = ChildState(Setup("sonnet", profile="agent", workspace="mine"), 0.0, 0.0, 0.0)
    written = b"".join(bytes(each.line) for each in state.claim("/w/mine", ("Bash(touch *)",)))
    assert written == (
        b'{"type":"control_request","request_id":"claim","request":{"subtype":"claim_session",'
        b'"cwd":"/w/mine"}}\n'
        b'{"type":"control_request","request_id":"initialize","request":{"subtype":"initialize",'
        b'"systemPromptSnapshot":false}}\n'
        b'{"type":"control_request","request_id":"settings","request":{"subtype":"set_model",'
        b'"model":"sonnet"}}\n'
        b'{"type":"control_request","request_id":"settings","request":{"subtype":'
        b'"apply_flag_settings","settings":{"permissions":{"allow":["Bash(touch *)"]}}}}\n'
    )


def test_a_spare_that_refuses_is_killed_and_a_new_child_gets_the_turn() -> None:
    talk = claiming()
    first = talk.last_user_uuid
    assert talk.claimed(REFUSED) == ["claimrefused", "kill"]
    assert talk.phase is STOPPING
    # What it had written meanwhile comes late.
    assert talk.set_up() == []
    assert talk.result(is_error=True, num_turns=0, subtype="error_during_execution") == []
    actions = talk.machine.advance(ChildGone(ChildDied("It ended.")), talk.now)
    assert actions == [Wake(AgentOrigin("sonnet", "mine", is_cold=True))]
    assert talk.ready() == ["initialize agent", "ask one"]
    assert talk.last_user_uuid != first
    talk.set_up()
    assert talk.answer("yes")[-1] == "end one: completed stop, yes"
    assert talk.sources == ["prewarmed", "new"]


def test_a_spare_that_fails_the_turn_before_it_says_why_has_refused() -> None:
    talk = claiming()
    assert talk.result(is_error=True, num_turns=0)[0] == "claimrefused"
    talk.gone()
    assert talk.phase is WAKING


def test_a_turn_that_has_begun_is_not_told_to_another_child() -> None:
    talk = claiming()
    talk.says("a")
    assert talk.claimed(REFUSED) == ["end one: upstream_failed", "kill"]
    talk.gone()
    assert talk.phase is ASLEEP


def test_a_failed_turn_of_a_claimed_spare_is_one_of_its_own() -> None:
    talk = claiming()
    talk.claimed()
    talk.set_up()
    assert talk.fails()[0] == "end one: upstream_failed"


def test_a_spare_that_comes_ahead_of_the_turn_and_refuses() -> None:
    talk = Talk(memory=AGENT)
    talk.feed(Warm())
    assert talk.ready(claim="/w/mine") == ["claim /w/mine", "initialize agent", "set model sonnet"]
    assert talk.phase is IDLE
    assert talk.claimed(REFUSED) == ["claimrefused", "kill"]
    talk.gone()
    assert talk.phase is ASLEEP
