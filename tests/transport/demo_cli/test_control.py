"""The demo CLI answers control requests as the Claude Code CLI does, turns running or not."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.demo_cli import (
    DemoCli,
    Frame,
    control,
    is_answer,
    is_delta,
    is_result,
    kind,
    new_uuids,
    open_demo_cli,
    text_of,
    user,
)

SLOW = '!script {"deltas": 5000, "pace_ms": 2}'


async def interrupt(child: DemoCli) -> list[Frame]:
    """Interrupt a turn that streams; the frames from the acknowledgement to the result."""
    await child.until(is_delta)
    await child.send(control("interrupt"))
    return [(await child.until(is_answer))[-1], *await child.until(is_result)]


# --- interrupting and rewinding -----------------------------------------------------------------


async def test_an_interrupt_while_idle_is_only_acknowledged(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        assert (await child.ask("interrupt"))["response"] == {"still_queued": []}
        assert (await child.turn("repeat: on"))[-1]["result"] == "on"


async def test_an_interrupt_ends_the_turn_and_keeps_what_was_said(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        await child.send(user(SLOW))
        frames = await interrupt(child)
        assert [kind(f) for f in frames] == [
            *("control_response", "assistant", "user", "content_block_stop", "message_delta"),
            *("message_stop", "error_during_execution"),
        ]
        partial = frames[1]["message"]["content"][0]["text"]
        everything = [json.loads(line) for line in child.printed.splitlines()]
        assert partial == text_of(everything)
        marker = [{"type": "text", "text": "[Request interrupted by user]"}]
        assert frames[2]["message"]["content"] == marker
        assert frames[-1]["is_error"]
        assert frames[-1]["usage"]["output_tokens"] == 0
        history = (await child.report())["history"]
        assert [entry["content"] for entry in history[1:3]] == [
            [{"type": "text", "text": partial}],
            marker,
        ]


async def test_an_interrupt_before_the_first_delta(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        await child.send(user('!script {"first_ms": 3600000}'))
        await child.until(lambda f: kind(f) == "status")
        await child.send(control("interrupt"))
        assert [kind(f) for f in await child.until(is_result)] == [
            "control_response",
            "user",
            "error_during_execution",
        ]


async def test_an_interrupt_in_one_write_with_its_turn_comes_too_early(tmp_path: Path) -> None:
    (uuid,) = new_uuids(1)
    async with open_demo_cli(tmp_path) as child:
        await child.send(user("repeat: on", uuid), control("interrupt"))
        frames = await child.until(is_result)
        answer = next(filter(is_answer, frames))
        assert answer["response"]["response"] == {"still_queued": [uuid]}
        assert frames[-1]["result"] == "on"


async def test_what_is_queued_runs_after_an_interrupt_unless_cancelled(tmp_path: Path) -> None:
    kept, dropped = new_uuids(2)
    async with open_demo_cli(tmp_path) as child:
        await child.send(user(SLOW))
        await child.until(is_delta)
        await child.send(user("repeat: kept", kept), user("repeat: dropped", dropped))
        answer = await child.ask("cancel_async_message", message_uuid=dropped)
        assert answer["response"] == {"cancelled": True, "message_uuid": dropped}
        answer = await child.ask("cancel_async_message", message_uuid=dropped)
        assert answer["response"] == {"cancelled": False}
        frames = await interrupt(child)
        assert frames[0]["response"]["response"] == {"still_queued": [kept]}
        assert (await child.until(is_result))[-1]["result"] == "kept"


async def test_only_the_last_user_message_can_be_rewound(tmp_path: Path) -> None:
    first, second, third = new_uuids(3)

    async def rewind(target: str) -> Frame:
        answer = await child.ask("rewind_conversation", target_message_uuid=target)
        return dict(answer["response"])

    async with open_demo_cli(tmp_path) as child:
        said = [await child.turn(f"repeat: {u}", u) for u in (first, second, third)]
        assistants = [next(f for f in turn if f["type"] == "assistant")["uuid"] for turn in said]
        assert (await rewind("unknown"))["error"] == "target not found"
        assert (await rewind(second))["error"] == "stale target"
        assert await rewind(third) == {
            "rewound": True,
            "targetMessageUuid": third,
            "prefillText": f"repeat: {third}",
            "precedingAssistantUuid": assistants[1],
        }
        assert (await rewind(second))["precedingAssistantUuid"] == assistants[0]
        assert (await rewind(first))["precedingAssistantUuid"] is None
        assert len((await child.report())["history"]) == 1


async def test_a_whole_conversation_is_cut_out_by_one_request(tmp_path: Path) -> None:
    first, second, third = new_uuids(3)
    async with open_demo_cli(tmp_path) as child:
        for uuid in (first, second, third):
            await child.turn(f"repeat: {uuid}", uuid)

        async def cut(last: str) -> Frame:
            answer = await child.ask(
                "rewind_conversation", target_message_uuid=first, last_seen_user_message_uuid=last
            )
            return dict(answer["response"])

        assert (await cut(second))["reason"] == "unseen_later_turn"
        assert (await cut(third))["rewound"] is True
        summary = await child.ask("get_context_usage", detail="summary")
        assert "Messages" not in [each["name"] for each in summary["response"]["categories"]]


async def test_rewinding_a_running_turn_interrupts_it_first_if_asked(tmp_path: Path) -> None:
    first, second = new_uuids(2)
    async with open_demo_cli(tmp_path) as child:
        await child.turn("repeat: a", first)
        await child.send(user(SLOW, second))
        await child.until(is_delta)
        target = {"target_message_uuid": second}
        answer = await child.ask("rewind_conversation", **target)
        assert answer["response"]["error"] == "turn running"
        await child.send(control("rewind_conversation", **target, interrupt_if_running=True))
        frames = await child.until(is_answer)
        ending = ["error_during_execution", "cancelled", "control_response"]
        assert [kind(f) for f in frames][-3:] == ending
        assert frames[-1]["response"]["response"]["rewound"]
        assert len((await child.report())["history"]) == 3
        assert "still_queued" in (await child.ask("interrupt"))["response"]  # answered only once


async def test_a_rewind_in_one_write_with_its_turn_interrupts_it_at_the_start(
    tmp_path: Path,
) -> None:
    first, second = new_uuids(2)
    async with open_demo_cli(tmp_path) as child:
        await child.turn("repeat: a", first)
        target = {"target_message_uuid": second}
        await child.send(
            user("repeat: b", second),
            control("rewind_conversation", **target),
            control("rewind_conversation", **target, interrupt_if_running=True),
        )
        answer = (await child.until(is_answer))[-1]["response"]["response"]
        assert answer["error"] == "turn running"
        frames = await child.until(is_answer)
        assert sum(map(is_result, frames)) == 1
        assert not any(map(is_delta, frames))
        assert frames[-1]["response"]["response"]["rewound"]
        assert (await child.turn("how many messages?"))[-1]["result"].startswith(
            "I have been given **3** messages"
        )


# --- the other control requests -----------------------------------------------------------------


async def test_permission_modes(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path, "--permission-mode", "acceptEdits") as child:
        answer = await child.ask("set_permission_mode", mode="plan")
        assert answer["response"] == {"mode": "plan"}
        assert (await child.report())["permission_mode"] == "plan"
        answer = await child.ask("set_permission_mode", mode="bypassPermissions")
        assert answer["error_code"] == "bypass_not_launched"
        assert (await child.ask("set_permission_mode", mode="zonk"))["error_code"] == "invalid_mode"


async def test_an_unknown_request_is_an_error_and_other_frames_are_ignored(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        await child.send_bytes(b'[1]\n3\nnull\n{"type":"keep_alive"}\n{"type":"zonk"}\n{}\n')
        await child.send({"type": "control_response", "response": {"request_id": "unknown"}})
        answer = await child.ask("zonk", request_id="q")
        assert (answer["subtype"], answer["request_id"]) == ("error", "q")
        assert answer["error"] == "Unsupported control request subtype: zonk"


async def test_end_session_while_idle(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path) as child:
        assert await child.ask("end_session") == {"subtype": "success", "request_id": "r"}
        assert await child.wait() == 0


async def test_end_session_in_a_turn_interrupts_it_and_drops_what_waits(tmp_path: Path) -> None:
    (waiting,) = new_uuids(1)
    async with open_demo_cli(tmp_path) as child:
        await child.send(user(SLOW))
        await child.until(is_delta)
        await child.send(user("repeat: never", waiting), control("end_session"))
        frames = await child.rest()
        assert [kind(f) for f in frames][-2:] == ["error_during_execution", "discarded"]
        assert await child.wait() == 1


# --- a spare ------------------------------------------------------------------------------------


def transcripts(home: Path) -> list[Path]:
    """The folders of transcripts, one for each working directory."""
    return list(home.glob("**/scripted/*"))


async def test_a_spare_works_where_its_claim_says_with_the_model_set_behind_it(
    tmp_path: Path,
) -> None:
    place = tmp_path / "claimed"
    place.mkdir()
    async with open_demo_cli(tmp_path, "--await-claim") as child:
        await child.send(
            control("claim_session", cwd=str(place)),
            control("initialize", appendSystemPrompt="Be brief."),
            control("set_model", model="some-model"),
            control("apply_flag_settings", settings={"permissions": {"allow": ["Bash"]}}),
            user("repeat: on"),
        )
        frames = await child.until(is_result)
        init = next(frame for frame in frames if kind(frame) == "init")
        assert (init["cwd"], init["model"]) == (str(place), "some-model")
        assert frames[-1]["result"] == "on"
        again = await child.ask("claim_session", cwd=str(place))
        assert again["error"].startswith("not_a_spare")
    assert [folder.name.rpartition("-")[2] for folder in transcripts(tmp_path)] == ["claimed"]


async def test_a_spare_that_is_not_claimed_runs_no_turn(tmp_path: Path) -> None:
    async with open_demo_cli(tmp_path, "--await-claim") as child:
        refused = await child.ask("claim_session", cwd=str(tmp_path / "nowhere"))
        assert refused["error"].startswith("cwd_not_found")
        refused = await child.ask("set_model", model="some-model")
        assert refused["error"].startswith("not_claimed")
        (result,) = [each for each in await child.turn("repeat: on") if is_result(each)]
        assert (result["subtype"], result["num_turns"]) == ("error_during_execution", 0)
        # It can still be claimed.
        assert (await child.ask("claim_session", cwd=str(tmp_path)))["subtype"] == "success"
        assert (await child.turn("repeat: on"))[-1]["result"] == "on"


async def test_a_spare_resumes_nothing(tmp_path: Path) -> None:
    flags = ("--await-claim", "--resume", "462e7a2c-0000-4000-8000-000000000000")
    async with open_demo_cli(tmp_path, *flags) as child:
        assert await child.wait() == 1
