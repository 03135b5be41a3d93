"""Claude Code on the gateway: ``claude -p`` with nothing but ``ANTHROPIC_BASE_URL`` and a key.

So the real CLI is at both ends: the one that is the client has its own prompt and tools, and what
it asks for goes through the gateway, through the child behind it, to a model on loopback. The
client has a home, settings and working directories of its own. A run costs seconds, so few of them
do much.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import frozen

from ccapi.schemas.settings.settings import AuthSettings
from tests.support.live import open_live_demo
from tests.support.messages_stub import Request
from tests.support.raw_agent import results_of, run_out
from tests.support.raw_cli import (
    Frame,
    cli_binary,
    cli_environment,
    open_raw_cli,
    user_frame,
)

from .expected import HELLO
from .gateway import open_gateway_for_clients
from .report import PNG

PATIENCE = 180.0
KEY = "sk-the-gateways-own"
ROUNDS = 20
FOREGROUND = {"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1"}
"""A subagent that is waited for is a call of a tool; one that is not has no place in a test."""
NOTE = "The user hasn't heard from you in a while."
"""What the client adds to a result after some rounds, as a system message."""
WHOLE = ("--output-format", "stream-json", "--verbose")
STREAMED = (*WHOLE, "--input-format", "stream-json", "--include-partial-messages")


def dictate(name: str, **arguments: Any) -> str:
    return f"Call {name} with {json.dumps(arguments)}"


@frozen
class Ran:
    """One run of ``claude -p``: what it printed, and what the model was asked meanwhile."""

    status: int
    frames: Sequence[Frame]
    requests: Sequence[Request]
    stderr: str

    @property
    def results(self) -> list[Frame]:
        return [frame for frame in self.frames if frame["type"] == "result"]

    @property
    def said(self) -> str:
        [result] = self.results
        assert (self.status, result["is_error"]) == (0, False), f"{self.frames}\n{self.stderr}"
        return str(result["result"])

    @property
    def children(self) -> list[str]:
        """The gateway's children that took part, in order."""
        found = [request.headers["x-claude-code-session-id"] for request in self.requests]
        return list(dict.fromkeys(found))


@frozen
class Seen:
    runs: Mapping[str, Ran]
    work: Path


async def claude(
    url: str, home: Path, work: Path, prompt: str, *flags: str, **environment: str
) -> tuple[int, list[Frame], str]:
    """Run ``claude -p`` to its end."""
    done = await trio.run_process(
        [cli_binary(), "-p", *WHOLE, *flags],
        cwd=work,
        env=cli_environment(home, url) | FOREGROUND | environment,
        stdin=prompt.encode(),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    frames = list(map(json.loads, done.stdout.decode().splitlines()))
    return done.returncode, frames, done.stderr.decode()


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return trio.run(_look, tmp_path_factory.mktemp("claude"))


async def _look(folder: Path) -> Seen:
    runs: dict[str, Ran] = {}
    gateway, home, work = (folder / name for name in ("gateway", "client", "work"))
    for place in (gateway, home, work):
        place.mkdir()
    (work / "CLAUDE.md").write_text("Prefer the metric system.")
    (work / "dot.png").write_bytes(base64.b64decode(PNG))
    made = str(work / "made.txt")
    agent = {"description": "Greet", "prompt": "Hello", "subagent_type": "general-purpose"}
    orders = [
        "My name is Ada.",
        dictate("Write", file_path=made, content="made by claude"),
        dictate("Edit", file_path=made, old_string="made", new_string="mended"),
        dictate("Read", file_path=str(work / "dot.png")),
        dictate("Agent", **agent, model="haiku"),
    ]
    counting = [dictate("Bash", command=f"echo {i} | tee -a n.txt") for i in range(ROUNDS)]
    with trio.fail_after(PATIENCE):
        async with open_gateway_for_clients(gateway) as (base_url, stub):
            url = base_url.removesuffix("/v1")

            async def run(name: str, prompt: str, *flags: str) -> None:
                before = len(stub.requests)
                ran = await claude(url, home, work, prompt, *flags)
                runs[name] = Ran(ran[0], ran[1], tuple(stub.requests[before:]), ran[2])

            allowed = ("--allowedTools", "Bash,Write,Edit,Read,Agent")
            await run("work", "\n".join(orders), *allowed)
            await run("continued", "What is my name?", "--continue")
            await run("rounds", "\n".join(counting), *allowed, "--model", "sonnet")
            await run("unknown", "Hello", "--model", "gpt-nope")

            before = len(stub.requests)
            environment = cli_environment(home, url)
            flags = ("-p", *STREAMED, "--model", "haiku")
            frames: list[Frame] = []
            async with open_raw_cli(environment, work, flags) as cli:
                said = ("My name is Grace.", "Think: what is my name?", "Fail once with 529: c")
                for prompt in said:
                    await cli.send(user_frame(prompt))
                    frames += await run_out(cli)
            runs["stream"] = Ran(0, frames, tuple(stub.requests[before:]), cli.stderr.decode())
        await _look_at_demo(folder, runs)
    return Seen(runs, work)


async def _look_at_demo(folder: Path, runs: dict[str, Ran]) -> None:
    """With the demo CLI behind a gateway that wants a key."""
    demo, home, work = (folder / name for name in ("demo", "other", "empty"))
    for place in (demo, home, work):
        place.mkdir()
    async with open_live_demo(demo, auth=AuthSettings(api_keys=(KEY,))) as live:
        for name, key in (("demo", KEY), ("locked", "another")):
            ran = await claude(live.url, home, work, "Hello", ANTHROPIC_API_KEY=key)
            runs[name] = Ran(ran[0], ran[1], (), ran[2])


def test_its_tools_work(seen: Seen) -> None:
    run = seen.runs["work"]
    assert "The tool says" in run.said
    assert (seen.work / "made.txt").read_text() == "mended by claude"
    assert not any(result.get("is_error") for result in results_of(run.frames))
    assert any("Prefer the metric system." in json.dumps(each.body) for each in run.requests)


def test_what_it_says_of_itself_reaches_the_model(seen: Seen) -> None:
    system = seen.runs["work"].requests[0].system
    assert system.count("x-anthropic-billing-header:") <= 1
    assert "Claude Code" in system
    assert {"Bash", "Edit", "Read", "Write"} <= set(seen.runs["work"].requests[0].tools)


def test_a_picture_that_it_reads(seen: Seen) -> None:
    asked = json.dumps(seen.runs["work"].requests[-1].body["messages"])
    assert '"media_type": "image/png"' in asked


def test_a_subagent_with_a_model_of_its_own(seen: Seen) -> None:
    run = seen.runs["work"]
    models = [request.model for request in run.requests]
    assert models.count("claude-haiku-5-5") == 1
    assert set(models) == {"claude-opus-5-5", "claude-haiku-5-5"}
    assert HELLO in run.said


def test_a_session_is_continued_by_another_process(seen: Seen) -> None:
    assert seen.runs["continued"].said == "Your name is Ada."


def test_a_long_loop_of_tools_keeps_its_child(seen: Seen) -> None:
    run = seen.runs["rounds"]
    assert run.said == "\n".join(f"The tool says: {i}" for i in range(ROUNDS))
    assert (seen.work / "n.txt").read_text() == "".join(f"{i}\n" for i in range(ROUNDS))
    assert len(run.requests) == ROUNDS + 1
    # What comes beside a result is no part of it, so another child takes the conversation up.
    notes = json.dumps(run.requests[-1].body["messages"]).count(NOTE)
    assert len(run.children) <= 1 + notes
    assert notes <= ROUNDS // 5
    assert {request.model for request in run.requests} == {"claude-sonnet-5-5"}


def test_a_stream_of_messages(seen: Seen) -> None:
    run = seen.runs["stream"]
    said = [result["result"] for result in run.results[:2]]
    assert said == ["You said: My name is Grace.", "Your name is Grace."]
    events = [frame["event"] for frame in run.frames if frame["type"] == "stream_event"]
    kinds = {event["delta"]["type"] for event in events if event["type"] == "content_block_delta"}
    assert {"text_delta", "thinking_delta", "signature_delta"} <= kinds


def test_it_tries_again_where_the_api_has_no_room(seen: Seen) -> None:
    assert seen.runs["stream"].results[2]["result"] == "You said: Fail once with 529: c"


def test_an_unknown_model_is_named(seen: Seen) -> None:
    [result] = seen.runs["unknown"].results
    assert result["is_error"]
    assert "gpt-nope" in result["result"]


def test_the_demo_behind_a_key(seen: Seen) -> None:
    assert seen.runs["demo"].said
    [locked] = seen.runs["locked"].results
    assert locked["is_error"]
