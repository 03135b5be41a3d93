"""The Codex CLI on the gateway: `codex exec` with nothing but a provider's entry in its settings.

Which tools Codex has depends on what it takes the model for. A model that it does not know gets
functions and a namespace; ``gpt-5.5`` a custom `apply_patch` with a grammar; ``gpt-5.6-sol`` all
its tools in an `additional_tools` item, a custom tool within a namespace among them. The gateway
has the last two as other names of its own.

Codex runs in a home and a working directory of its own, knows no network but loopback, and its
sandbox is off: it does not work in every container.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import frozen

from tests.support.messages_stub import MessagesStub

from . import node
from .gateway import open_gateway_for_clients

HERE = Path(__file__).parent / "codex"
ALIASES = {"gpt-5.5": "sonnet", "gpt-5.6-sol": "sonnet"}
PATIENCE = 180.0
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PATCH = """*** Begin Patch
*** Add File: patched.txt
+patched by "codex"
*** End Patch
"""
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["city", "count"],
    "additionalProperties": False,
}


def dictate(name: str, **arguments: Any) -> str:
    return f"Call {name} with {json.dumps(arguments)}"


@frozen
class Ran:
    """One run of ``codex exec --json``: its events, and the files of its directory afterwards."""

    status: int
    events: tuple[Mapping[str, Any], ...]
    files: Mapping[str, bytes]
    stderr: str

    @property
    def said(self) -> list[str]:
        return [item["text"] for item in self.items if item["type"] == "agent_message"]

    @property
    def items(self) -> list[Mapping[str, Any]]:
        return [each["item"] for each in self.events if each["type"] == "item.completed"]

    @property
    def thread(self) -> str:
        return str(self.events[0]["thread_id"])


class World:
    """Codex, its home, and the gateway that it is configured for."""

    def __init__(self, program: Path, folder: Path, url: str, stub: MessagesStub) -> None:
        self._program = program
        self._home = folder / "home"
        self._work = folder / "work"
        self.stub = stub
        self._work.mkdir()
        for name, sockets in (("http", "false"), ("sockets", "true")):
            settings = self._home / name
            settings.mkdir(parents=True)
            (settings / "config.toml").write_text(
                'model = "sonnet"\nmodel_provider = "ccapi"\n'
                f'[model_providers.ccapi]\nname = "ccapi"\nbase_url = "{url}"\n'
                f"supports_websockets = {sockets}\n"
            )

    async def exec(self, *arguments: str, over: str = "http") -> Ran:
        done = await trio.run_process(
            [
                *("node", str(self._program), "exec", "--json", "--skip-git-repo-check"),
                *("-s", "danger-full-access", *arguments),
            ],
            cwd=self._work,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self._home),
                "CODEX_HOME": str(self._home / over),
            },
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        events = tuple(map(json.loads, done.stdout.decode().splitlines()))
        files = {file.name: file.read_bytes() for file in self._work.iterdir()}
        return Ran(done.returncode, events, files, done.stderr.decode())

    def put(self, name: str, data: bytes) -> str:
        (self._work / name).write_bytes(data)
        return str(self._work / name)


@frozen
class Seen:
    runs: Mapping[str, Ran]
    offered: Mapping[str, tuple[str, ...]]
    """By run, the tools that the model was offered."""
    pictures: Mapping[str, int]
    """By run, how many images its first request brought to the model."""

    def by(self, name: str) -> Ran:
        ran = self.runs[name]
        assert ran.status == 0, f"{ran.events}\n{ran.stderr}"
        assert ran.events[-1]["type"] == "turn.completed", ran.events
        return ran


@pytest.fixture(scope="module")
def seen(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    assert pytestconfig.cache is not None
    folder = node.install(pytestconfig.cache.mkdir("codex"), HERE)
    program = folder / "node_modules" / "@openai" / "codex" / "bin" / "codex.js"
    return trio.run(_look, program, tmp_path_factory.mktemp("codex"))


async def _look(program: Path, folder: Path) -> Seen:
    runs: dict[str, Ran] = {}
    offered: dict[str, tuple[str, ...]] = {}
    pictures: dict[str, int] = {}
    with trio.fail_after(PATIENCE):
        async with open_gateway_for_clients(folder, ALIASES) as (url, stub):
            world = World(program, folder, url, stub)

            async def run(name: str, *arguments: str, over: str = "http") -> Ran:
                before = len(stub.requests)
                runs[name] = await world.exec(*arguments, over=over)
                for request in stub.requests[before : before + 1]:
                    offered[name] = tuple(tool["name"] for tool in request.body.get("tools") or ())
                    pictures[name] = json.dumps(request.body).count('"type": "image"')
                return runs[name]

            named = await run("named", "My name is Ada.")
            await run("resumed", "resume", named.thread, "What is my name?")
            shell = dictate("exec_command", cmd="echo made by codex > made.txt; cat made.txt")
            await run("shell", shell)
            await run("patch", "-m", "gpt-5.5", dictate("apply_patch", input=PATCH))
            script = 'text((await tools.exec_command({cmd: "echo from a script"})).output)'
            await run("script", "-m", "gpt-5.6-sol", dictate("exec", input=script))
            agent = dictate("close_agent", target="00000000-0000-4000-8000-000000000000")
            await run("namespace", agent)
            picture = world.put("dot.png", PNG)
            await run("image", "-i", picture, "--", dictate("get_goal"))
            await run("viewed", dictate("view_image", path=picture))
            schema = world.put("schema.json", json.dumps(SCHEMA).encode())
            await run("schema", "--output-schema", schema, "3 times in Rome")
            sockets = await run("sockets", "My name is Grace.", over="sockets")
            again = "resume", sockets.thread, "What is my name?"
            await run("sockets_resumed", *again, over="sockets")
            over_sockets = dictate("exec_command", cmd="echo over sockets")
            await run("sockets_shell", over_sockets, over="sockets")
    return Seen(runs, offered, pictures)


def test_a_turn_and_its_usage(seen: Seen) -> None:
    run = seen.by("named")
    assert len(run.said) == 1
    assert "My name is Ada." in run.said[0]
    usage = run.events[-1]["usage"]
    assert usage["input_tokens"] > 0
    assert usage["output_tokens"] > 0


def test_a_session_is_resumed(seen: Seen) -> None:
    assert seen.by("resumed").said == ["Your name is Ada."]


def test_a_command(seen: Seen) -> None:
    run = seen.by("shell")
    assert run.files["made.txt"] == b"made by codex\n"
    [command] = [item for item in run.items if item["type"] == "command_execution"]
    assert command["exit_code"] == 0
    assert "made by codex" in run.said[-1]


def test_a_patch_by_a_custom_tool(seen: Seen) -> None:
    run = seen.by("patch")
    assert "apply_patch" in seen.offered["patch"]
    assert run.files["patched.txt"] == b'patched by "codex"\n'
    [change] = [item for item in run.items if item["type"] == "file_change"]
    assert change["status"] == "completed"
    assert run.said[-1].startswith("The tool says: ")


def test_a_custom_tool_within_a_namespace_that_an_item_brings(seen: Seen) -> None:
    run = seen.by("script")
    assert "functions__exec" in seen.offered["script"]
    assert "from a script" in run.said[-1]


def test_a_function_within_a_namespace(seen: Seen) -> None:
    """Codex knows the tool by the namespace that comes back: it looks for the agent."""
    run = seen.by("namespace")
    assert run.said[-1].startswith("The tool says: ")
    assert "not found" in run.said[-1].lower()
    assert "unsupported" not in run.said[-1].lower()


def test_of_built_in_tools_the_search_alone_is_offered(seen: Seen) -> None:
    """By the API itself, behind what Codex does."""
    assert "exec_command" in seen.offered["named"]
    assert seen.offered["named"][-1] == "web_search"


def test_an_image(seen: Seen) -> None:
    assert seen.by("image").said[-1].startswith("The tool says: ")
    assert (seen.pictures["image"], seen.pictures["named"]) == (1, 0)
    assert "(image)" in seen.by("viewed").said[-1]


def test_an_output_schema(seen: Seen) -> None:
    assert json.loads(seen.by("schema").said[-1]).keys() == {"city", "count"}


def test_over_websocket(seen: Seen) -> None:
    assert seen.by("sockets_resumed").said == ["Your name is Grace."]
    assert "over sockets" in seen.by("sockets_shell").said[-1]
