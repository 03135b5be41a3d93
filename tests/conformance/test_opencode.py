"""opencode on the gateway: `opencode run` with nothing but a provider's entry in its settings.

Three entries, for the libraries through which opencode speaks: chat completions, Responses and the
Messages API.
opencode runs in a home and working directories of its own, and asks for nothing beyond loopback.
A run costs seconds of its own, so few of them do much; but for the first they run side by side.
"""

from __future__ import annotations

import base64
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import frozen

from . import node
from .checks import LOOPBACK_ONLY
from .gateway import open_gateway_for_clients
from .report import PNG

HERE = Path(__file__).parent / "opencode"
PATIENCE = 180.0
QUIET = {
    f"OPENCODE_DISABLE_{what}": "1"
    for what in ("AUTOUPDATE", "DEFAULT_PLUGINS", "LSP_DOWNLOAD", "MODELS_FETCH", "SHARE")
}


def settings(url: str) -> dict[str, Any]:
    def provider(package: str) -> dict[str, Any]:
        modalities = {"input": ["text", "image"], "output": ["text"]}
        models = {
            "sonnet": {"attachment": True, "tool_call": True, "modalities": modalities},
            "gpt-nope": {},
        }
        return {"npm": package, "options": {"baseURL": url, "apiKey": "unused"}, "models": models}

    chat, responses = provider("@ai-sdk/openai-compatible"), provider("@ai-sdk/openai")
    messages = provider("@ai-sdk/anthropic")
    return {
        "model": "ccapi/sonnet",
        "small_model": "ccapi/sonnet",
        "provider": {"ccapi": chat, "ccapi-responses": responses, "ccapi-messages": messages},
    }


def dictate(name: str, **arguments: Any) -> str:
    return f"Call {name} with {json.dumps(arguments)}"


def files_of(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text("latin-1") for file in folder.iterdir() if file.is_file()}


@frozen
class Ran:
    """One ``opencode run --format json``: its events, and the files of its directory afterwards."""

    status: int
    events: tuple[Mapping[str, Any], ...]
    files: Mapping[str, str]
    stderr: str

    def parts(self, kind: str) -> list[Any]:
        return [event["part"] for event in self.events if event["type"] == kind]

    @property
    def said(self) -> list[str]:
        return [part["text"] for part in self.parts("text")]

    @property
    def tools(self) -> list[tuple[str, str]]:
        return [(part["tool"], part["state"]["status"]) for part in self.parts("tool_use")]


@frozen
class Seen:
    runs: Mapping[str, Ran]
    prompts: tuple[str, ...]
    """What the model was asked, oldest first: system prompt and messages as JSON."""

    def by(self, name: str) -> Ran:
        ran = self.runs[name]
        assert ran.status == 0, f"{ran.events}\n{ran.stderr}"
        assert ran.events, ran.stderr
        return ran


@pytest.fixture(scope="module")
def seen(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    if platform.machine() != "x86_64":
        pytest.skip("the program that package.json pins is for x86-64")
    assert pytestconfig.cache is not None
    folder = node.install(pytestconfig.cache.mkdir("opencode"), HERE)
    program = folder / "node_modules" / "opencode-linux-x64-baseline" / "bin" / "opencode"
    return trio.run(_look, program, tmp_path_factory.mktemp("opencode"))


async def _look(program: Path, folder: Path) -> Seen:
    runs: dict[str, Ran] = {}
    with trio.fail_after(PATIENCE):
        async with open_gateway_for_clients(folder) as (url, stub):
            entry = folder / "opencode.json"
            entry.write_text(json.dumps(settings(url)))
            environment = {
                "PATH": os.environ["PATH"],
                "HOME": str(folder / "home"),
                "OPENCODE_CONFIG": str(entry),
                **QUIET,
                **LOOPBACK_ONLY,
            }

            async def run(name: str, work: Path, prompt: str, *arguments: str) -> None:
                done = await trio.run_process(
                    [str(program), "run", "--format", "json", "--auto", *arguments],
                    cwd=work,
                    env=environment,
                    # Not an argument: opencode puts quotation marks around those with spaces.
                    stdin=prompt.encode(),
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                )
                events = tuple(map(json.loads, done.stdout.decode().splitlines()))
                runs[name] = Ran(done.returncode, events, files_of(work), done.stderr.decode())

            def directory(name: str) -> Path:
                made = folder / name
                made.mkdir()
                return made

            first = directory("first")
            (first / "AGENTS.md").write_text("Prefer the metric system.")
            await run("named", first, "My name is Ada.")
            session = runs["named"].events[0]["sessionID"]

            file = str(first / "made.txt")
            work = [
                "My name is Ada.",
                dictate("write", filePath=file, content="made by opencode"),
                dictate("edit", filePath=file, oldString="made", newString="mended"),
                dictate("bash", command="cat made.txt", description="Read it"),
            ]
            picture = directory("picture")
            (picture / "dot.png").write_bytes(base64.b64decode(PNG))
            responses = directory("responses")
            command = "echo over responses > made.txt; cat made.txt"
            bash = dictate("bash", command=command, description="Write it")
            other = ("--title", "Other", "-m", "ccapi-responses/sonnet")
            messages = directory("messages")
            command = "echo over messages > made.txt; cat made.txt"
            in_messages = dictate("bash", command=command, description="Write it")
            over_messages = ("--title", "Third", "-m", "ccapi-messages/sonnet")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, "tools", first, "\n".join(work), "-s", session)
                nursery.start_soon(
                    run, "image", picture, "Describe this image.", "--title", "Dot", "-f", "dot.png"
                )
                nursery.start_soon(run, "responses", responses, bash, *other)
                nursery.start_soon(run, "messages", messages, in_messages, *over_messages)
                unknown = ("--title", "None", "-m", "ccapi/gpt-nope")
                nursery.start_soon(run, "unknown", directory("unknown"), "Hello", *unknown)
            prompts = tuple(
                json.dumps([request.body.get("system"), request.body["messages"]])
                for request in stub.requests
            )
    return Seen(runs, prompts)


def test_a_turn_and_its_usage(seen: Seen) -> None:
    run = seen.by("named")
    assert len(run.said) == 1
    assert "My name is Ada." in run.said[0]
    [end] = run.parts("step_finish")
    assert end["reason"] == "stop"
    assert end["tokens"]["input"] > 0
    assert end["tokens"]["output"] > 0


def test_a_title_is_asked_for(seen: Seen) -> None:
    assert any("Generate a title for this conversation" in prompt for prompt in seen.prompts)


def test_the_projects_instructions_reach_the_model(seen: Seen) -> None:
    assert any("Prefer the metric system." in prompt for prompt in seen.prompts)


def test_a_session_goes_on_with_tools(seen: Seen) -> None:
    run = seen.by("tools")
    assert run.tools == [("write", "completed"), ("edit", "completed"), ("bash", "completed")]
    assert run.files["made.txt"].strip() == "mended by opencode"
    assert "mended by opencode" in run.said[-1]
    assert {event["sessionID"] for event in run.events} == {
        event["sessionID"] for event in seen.by("named").events
    }


def test_an_image(seen: Seen) -> None:
    # What is said to it is opencode's affair: it adds a line about its tool that reads files.
    seen.by("image")
    asked = [prompt for prompt in seen.prompts if "Describe this image." in prompt]
    assert '"media_type": "image/png"' in asked[0]


def test_tools_over_responses(seen: Seen) -> None:
    run = seen.by("responses")
    assert run.tools == [("bash", "completed")]
    assert run.files["made.txt"] == "over responses\n"
    assert "over responses" in run.said[-1]


def test_tools_over_messages(seen: Seen) -> None:
    run = seen.by("messages")
    assert run.tools == [("bash", "completed")]
    assert run.files["made.txt"] == "over messages\n"
    assert "over messages" in run.said[-1]


def test_an_error_is_shown(seen: Seen) -> None:
    [event] = [event for event in seen.runs["unknown"].events if event["type"] == "error"]
    assert "gpt-nope" in json.dumps(event["error"])
