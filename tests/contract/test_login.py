"""What the login changes: who is asked, what the CLI says of its own, and what it tells of itself.

Subscription notes, sections 1, 3, 6 and 7. A test that is not about one login runs with all.
"""

import json
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.contract.conftest import PROFILE_CALL, OpenChild
from tests.support.logins import (
    EMAIL,
    SUBSCRIPTIONS,
    LoginName,
    RefusingProxy,
    every_login,
    limit_headers,
    login_environment,
    reminders,
    shows,
    write_account,
    write_credentials,
)
from tests.support.messages_stub import Failure, MessagesStub, Request, say
from tests.support.raw_cli import (
    Frame,
    adoption,
    assistant_frame,
    cli_binary,
    cli_environment,
    is_result,
    user_frame,
)
from tests.support.raw_tools import tool, tool_child, tool_turn

every_subscription = pytest.mark.parametrize("login", SUBSCRIPTIONS, indirect=True)
by_token = pytest.mark.parametrize("login", ["token"], indirect=True)
by_file = pytest.mark.parametrize("login", ["file"], indirect=True)

TEXT_BLOCKS = ["claude-sonnet-4-5", "claude-haiku-4-5"]
SYSTEM_MESSAGE = ["claude-opus-4-8", "claude-sonnet-5"]

HEADINGS = re.compile(
    r"# Environment|You are powered by the model|Codebase and user instructions|# userEmail"
    r"|Today's date is"
)


def notes(request: Request) -> list[tuple[str, list[str]]]:
    """What the CLI says itself: in whose name, and the headings of each piece."""
    return [(role, HEADINGS.findall(text)) for role, text in reminders(request.body)]


ENVIRONMENT, MODEL, DATE = "# Environment", "You are powered by the model", "Today's date is"
ACCOUNT = "# userEmail"
AS_BLOCKS = [("user", [ENVIRONMENT]), ("user", [MODEL]), ("user", [DATE])]
AS_SYSTEM = [("system", [ENVIRONMENT, MODEL, DATE])]


async def adopted(
    open_child: OpenChild, *contents: str, model: str = "claude-haiku-4-5", **given: Any
) -> list[Frame]:
    """Take turns in a child with that model; the last result."""
    async with open_child(adopt=False, **given) as cli:
        await cli.send(cli.control_frame("initialize", **adoption(model=model)))
        for content in contents:
            frames = await cli.turn(content)
    return frames


# --- what the CLI says before the first user text ------------------------------------------------


@by_token
@pytest.mark.parametrize("model", [*TEXT_BLOCKS, *SYSTEM_MESSAGE])
async def test_what_the_cli_says_itself_depends_on_the_model(
    open_child: OpenChild, stub: MessagesStub, model: str
) -> None:
    """Section 1: text blocks before the first user text, or one system message behind it; once."""
    await adopted(open_child, "one", "two", model=model)
    expected = AS_BLOCKS if model in TEXT_BLOCKS else AS_SYSTEM
    for request in stub.requests:
        assert notes(request) == expected
        first = request.body["messages"][0]["content"]
        if model in TEXT_BLOCKS:
            assert [block["text"] for block in first][-1] == "one"
        else:
            assert request.body["messages"][1]["role"] == "system"
    assert stub.requests[-1].conversation[-1] == ("user", ["two"])
    size = sum(len(text) for _, text in reminders(stub.requests[-1].body))
    assert 800 < size < 1300


async def test_a_key_brings_no_word_of_the_clis_own(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    for model in (*TEXT_BLOCKS, *SYSTEM_MESSAGE):
        await adopted(open_child, "one", model=model)
    assert [notes(request) for request in stub.requests] == [[]] * 4


@every_login
async def test_system_prompt_and_tools_are_the_same_with_every_login(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    await adopted(open_child, "one")
    (request,) = stub.requests
    assert request.system.endswith("Agent SDK.\n\nYou are a test.")
    assert request.tools == []


@every_subscription
async def test_a_subscription_is_shown_by_its_beta(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """The conftest checks the Authorization of each request."""
    await adopted(open_child, "one")
    assert "oauth-2025-04-20" in stub.requests[0].headers["anthropic-beta"]


def memory_in(config: Path, cwd: Path) -> None:
    folder = config / "projects" / re.sub(r"[^A-Za-z0-9]", "-", str(cwd)) / "memory"
    folder.mkdir(parents=True)
    (folder / "MEMORY.md").write_text("MARKER-OF-THE-MEMORY")
    (config / "CLAUDE.md").write_text("MARKER-OF-THE-USER")
    (cwd / "CLAUDE.md").write_text("MARKER-OF-THE-PROJECT")
    subprocess.run(["git", "init", "-q", str(cwd)], check=True)


@by_token
@pytest.mark.parametrize("shut", [True, False])
async def test_a_memory_is_sent_unless_two_variables_shut_it(
    open_child: OpenChild, stub: MessagesStub, tmp_path: Path, shut: bool
) -> None:
    """Section 3: CLAUDE_CODE_DISABLE_AUTO_MEMORY, and CLAUDE_CODE_DISABLE_CLAUDE_MDS behind it."""
    memory_in(tmp_path / "config", tmp_path)
    doors = ("CLAUDE_CODE_DISABLE_AUTO_MEMORY", "CLAUDE_CODE_DISABLE_CLAUDE_MDS")
    await adopted(open_child, "one", without=() if shut else doors)
    body = json.dumps(stub.requests[0].body)
    assert ("MARKER-OF-THE-MEMORY" in body) is not shut
    assert "MARKER-OF-THE-USER" not in body
    assert "MARKER-OF-THE-PROJECT" not in body


AGENTS_TOLD = {"CLAUDE_AGENT_SDK_DISABLE_BUILTIN_AGENTS": "0"}
GIT_TOLD = {"CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS": "0"}


@by_token
@pytest.mark.parametrize(
    ("name", "opened", "said"),
    [
        ("Agent", {}, ""),
        ("Agent", AGENTS_TOLD, "Available agent types"),
        ("Bash", {}, ""),
        ("Bash", GIT_TOLD, "Attribution for git commits"),
    ],
)
async def test_two_names_of_a_clients_tools_have_the_cli_say_more_unless_it_is_shut(
    open_child: OpenChild, stub: MessagesStub, name: str, opened: dict[str, str], said: str
) -> None:
    """Not in the notes: found by giving the client each name of the CLI's own tools."""
    async with tool_child(open_child, environment=opened) as cli:
        await tool_turn(cli, "hi", [tool(name)])
    (request,) = stub.requests
    assert request.tools == [name]
    others = [text for _, text in reminders(request.body) if not HEADINGS.search(text)]
    assert [said in text for text in others] == ([True] if said else [])


@by_file
async def test_a_credentials_file_gives_the_model_the_operators_address(
    open_child: OpenChild, stub: MessagesStub, tmp_path: Path
) -> None:
    """Section 1. If this fails, the gateway's warnings can go (`tells_account`)."""
    write_account(tmp_path / "config")
    await adopted(open_child, "one")
    assert notes(stub.requests[0])[2] == ("user", [ACCOUNT])
    assert EMAIL in json.dumps(stub.requests[0].body)


@by_token
@pytest.mark.parametrize("own", [True, False])
async def test_a_token_gives_no_address_with_a_configuration_folder_of_its_own(
    open_child: OpenChild, stub: MessagesStub, tmp_path: Path, own: bool
) -> None:
    write_account(tmp_path / "config")
    folder = {"CLAUDE_CONFIG_DIR": str(tmp_path / "own")} if own else {}
    await adopted(open_child, "one", environment=folder)
    assert (EMAIL in json.dumps(stub.requests[0].body)) is not own


@by_token
async def test_the_login_shell_is_sent_unless_the_variable_is_gone(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    await adopted(open_child, "one", environment={"SHELL": "/usr/bin/zsh"})
    await adopted(open_child, "one")
    said = ["zsh" in json.dumps(request.body) for request in stub.requests]
    assert said == [True, False]


@by_token
async def test_a_replayed_history_has_them_once_and_not_where_a_live_one_has(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Section 6: the date comes with the first real turn."""
    async with open_child() as cli:
        await cli.turn("q1", shouldQuery=False)
        await cli.send(assistant_frame([{"type": "text", "text": "a1"}], id="msg_h1"))
        await cli.turn("q2")
    (request,) = stub.requests
    first, _, last = [
        [block["text"][:60] for block in message["content"]] for message in request.body["messages"]
    ]
    assert [HEADINGS.findall(text)[:1] for text in first[:2]] == [[ENVIRONMENT], [MODEL]]
    assert HEADINGS.findall(last[0]) == [DATE]
    assert request.conversation == [("user", ["q1"]), ("assistant", ["a1"]), ("user", ["q2"])]


@by_token
@pytest.mark.parametrize("shut", [True, False])
async def test_a_result_after_a_replay_gains_the_date_unless_an_empty_block_is_behind(
    open_child: OpenChild, stub: MessagesStub, shut: bool
) -> None:
    used: Frame = {"type": "tool_use", "id": "call_a", "name": "t", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "call_a", "content": "sunny"}
    async with open_child() as cli:
        await cli.turn("q", shouldQuery=False)
        await cli.send(assistant_frame([used], id="msg_h1"))
        await cli.turn([result, *([{"type": "text", "text": ""}] if shut else [])])
    told = stub.requests[0].body["messages"][-1]["content"][0]["content"]
    assert told.startswith("sunny")
    assert (DATE in told) is not shut


@by_token
async def test_an_unknown_command_is_exact_with_an_empty_block_behind(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Section 3: without it the CLI says that there is no such command."""
    blocks = [{"type": "text", "text": "/nosuch x"}, {"type": "text", "text": ""}]
    async with open_child() as cli:
        await cli.turn(blocks)
        await cli.turn("/nosuch y")
    assert stub.requests[0].conversation == [("user", ["/nosuch x"])]
    assert "slash command" not in json.dumps(stub.requests[0].body["messages"])
    assert "slash command" in json.dumps(stub.requests[1].body["messages"])


@by_token
async def test_an_emptied_child_is_as_a_fresh_one(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """Section 4, in small: three conversations in one child, and each in one of its own."""
    bodies = []
    async with open_child() as cli:
        for content in ("one", "two", "three"):
            asked = user_frame(content)
            await cli.send(asked)
            await cli.until(is_result)
            await cli.control("rewind_conversation", target_message_uuid=asked["uuid"])
    async with open_child() as cli:
        await cli.turn("three")
    for request in stub.requests:
        body = {**request.body}
        body.pop("metadata", None)
        bodies.append(body)
    assert bodies[2]["messages"] == bodies[3]["messages"]
    assert bodies[2]["system"][1:] == bodies[3]["system"][1:]


# --- what it calls beside the API ----------------------------------------------------------------


@by_file
@pytest.mark.parametrize("shut", [True, False])
async def test_an_accounts_connectors_are_fetched_unless_a_variable_shuts_them(
    open_child: OpenChild, proxy: RefusingProxy, tmp_path: Path, shut: bool
) -> None:
    """Section 3: ENABLE_CLAUDEAI_MCP_SERVERS. The other call brings the account's address, and no
    variable stops it."""
    log = tmp_path / "log"
    env = {} if shut else {"ENABLE_CLAUDEAI_MCP_SERVERS": "1"}
    async with open_child("--debug-file", str(log), environment=env) as cli:
        write_credentials(tmp_path / "config", "user:mcp_servers")
        await cli.turn("one")
        with trio.move_on_after(10):
            while "[claudeai-mcp]" not in log.read_text():
                await trio.sleep(0.05)
    assert ("[claudeai-mcp] Disabled via env var" in log.read_text()) is shut
    assert set(proxy.asked) == {PROFILE_CALL}


@by_token
async def test_a_token_calls_nothing_but_the_api(
    open_child: OpenChild, stub: MessagesStub, proxy: RefusingProxy
) -> None:
    await adopted(open_child, "one", "two")
    assert stub.hits == [("POST", "/v1/messages")] * 2
    assert proxy.asked == []


# --- when the API refuses the login, or the account is used up -----------------------------------


@every_login
async def test_a_login_that_the_api_refuses_is_known_by_the_status(
    open_child: OpenChild, stub: MessagesStub, login: LoginName
) -> None:
    """Section 3: with a subscription it is sent twice, in spite of no retries."""
    stub.answer = lambda _: Failure(401, "as scripted")
    result = (await adopted(open_child, "one"))[-1]
    assert (result["is_error"], result["api_error_status"]) == (True, 401)
    assert len(stub.requests) == (1 if login == "key" else 2)


def rejected(resets_at: int) -> Failure:
    """What the API answers to a subscriber whose five hours are used up."""
    return Failure(429, "as scripted", headers=limit_headers("rejected", resets_at))


def reported(seen: list[Frame]) -> list[dict[str, Any]]:
    return [frame["rate_limit_info"] for frame in seen if frame["type"] == "rate_limit_event"]


@every_login
async def test_a_used_up_limit_is_reported_with_its_end_to_subscribers_alone(
    open_child: OpenChild, stub: MessagesStub, login: LoginName
) -> None:
    resets_at = 1_999_999_999
    stub.answer = lambda _: rejected(resets_at)
    seen = await adopted(open_child, "one")
    assert (seen[-1]["is_error"], seen[-1]["api_error_status"]) == (True, 429)
    found = [
        (info["status"], info.get("resetsAt"), info.get("rateLimitType")) for info in reported(seen)
    ]
    assert found == ([] if login == "key" else [("rejected", resets_at, "five_hour")])


@by_token
async def test_a_used_up_limit_is_reported_once(open_child: OpenChild, stub: MessagesStub) -> None:
    stub.answer = lambda _: rejected(1_999_999_999)
    seen = await adopted(open_child, "one", "two")
    assert reported(seen) == []


def in_an_hour() -> int:
    """The CLI leaves out a window that ends later than it can be long."""
    return int(time.time()) + 3600


@every_login
async def test_the_windows_are_reported_with_the_first_answer_to_subscribers_alone(
    open_child: OpenChild, stub: MessagesStub, login: LoginName
) -> None:
    ends = in_an_hour()
    stub.answer = lambda _: say("yes", headers=limit_headers("allowed", ends, 0.5))
    seen = await adopted(open_child, "one")
    assert seen[-1]["is_error"] is False
    if login == "key":
        assert reported(seen) == []
        return
    (info,) = reported(seen)
    assert (info["status"], info["rateLimitType"]) == ("allowed", "five_hour")
    assert info["unifiedWindows"] == {
        "five_hour": {"utilization": 0.5, "resetsAt": ends, "status": "allowed"},
        "seven_day": {"utilization": 0.25, "resetsAt": ends + 86400, "status": "allowed"},
    }


@by_token
@pytest.mark.parametrize("overage", ["allowed", "rejected"])
async def test_overage_is_reported_beside_the_limit(
    open_child: OpenChild, stub: MessagesStub, overage: str
) -> None:
    """Where it pays, the API answers although the limit is rejected."""
    headers = limit_headers("rejected", in_an_hour(), overage=overage)
    pays = overage == "allowed"
    stub.answer = lambda _: say("yes", headers=headers) if pays else Failure(429, headers=headers)
    seen = await adopted(open_child, "one")
    assert seen[-1]["is_error"] is not pays
    (info,) = reported(seen)
    assert (info["status"], info["overageStatus"]) == ("rejected", overage)
    assert info["isUsingOverage"] is pays


@by_token
async def test_a_limit_that_counts_anew_is_reported(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    headers = limit_headers("allowed", in_an_hour(), 0.1)
    stub.queue += [rejected(in_an_hour()), say("yes", headers=headers)]
    seen = await adopted(open_child, "one", "two")
    assert [info["status"] for info in reported(seen)] == ["allowed"]


# --- auth status ----------------------------------------------------------------------------------


async def status(env: Mapping[str, str], *, simple: bool) -> tuple[int, dict[str, Any]]:
    mode = {"CLAUDE_CODE_SIMPLE": "1"} if simple else {}
    done = await trio.run_process(
        [cli_binary(), "auth", "status", "--json"],
        env={**env, **mode},
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


ASKED: list[Any] = [
    (None, {}, (False, "none"), False),
    ("key", {}, (True, "api_key"), True),
    ("token", {}, (True, "oauth_token"), False),
    ("file", {}, (True, "claude.ai"), False),
    # The same word as for the other token, and SIMPLE's answer is wrong: its children work.
    (None, {"ANTHROPIC_AUTH_TOKEN": "t"}, (True, "oauth_token"), False),
    (None, {"CLAUDE_CODE_USE_BEDROCK": "1"}, (True, "third_party"), True),
    (None, {"CLAUDE_CODE_USE_VERTEX": "1"}, (True, "third_party"), True),
    (None, {"CLAUDE_CODE_USE_FOUNDRY": "1"}, (True, "third_party"), True),
    ("token", {"ANTHROPIC_API_KEY": "k"}, (True, "api_key"), True),
    ("token", {"CLAUDE_CODE_USE_BEDROCK": "1"}, (True, "third_party"), True),
]


@pytest.mark.parametrize(("login", "more", "found", "in_simple_mode"), ASKED)
async def test_the_cli_says_how_it_is_logged_in(
    tmp_path: Path,
    proxy: RefusingProxy,
    login: LoginName | None,
    more: dict[str, str],
    found: tuple[bool, str],
    in_simple_mode: bool,
) -> None:
    """Section 7: and calls no server for it, unless it looks for an account's profile."""
    env = login_environment(login, tmp_path, "http://127.0.0.1:9", proxy.url) | more
    code, answer = await status(env, simple=False)
    assert (answer["loggedIn"], answer["authMethod"]) == found
    assert code == (0 if found[0] else 1)
    _, answer = await status(env, simple=True)
    assert answer["loggedIn"] is in_simple_mode
    assert set(proxy.asked) <= ({PROFILE_CALL} if login == "file" else set())


async def test_other_logins_that_the_cli_distinguishes(tmp_path: Path) -> None:
    """Section 7: a Console login, and a helper in the user's settings."""
    env = cli_environment(tmp_path, "http://127.0.0.1:9")
    del env["ANTHROPIC_API_KEY"]
    config = Path(env["CLAUDE_CONFIG_DIR"])
    (config / "settings.json").write_text(json.dumps({"apiKeyHelper": "echo sk-ant-x"}))
    assert (await status(env, simple=False))[1]["authMethod"] == "api_key_helper"
    (config / "settings.json").unlink()
    (config / ".claude.json").write_text(json.dumps({"primaryApiKey": "sk-ant-x"}))
    answer = (await status(env, simple=False))[1]
    assert (answer["authMethod"], answer["apiKeySource"]) == ("api_key", "/login managed key")
    assert (await status(env, simple=True))[1]["loggedIn"] is False


# --- simple mode takes more than keys ------------------------------------------------------------


async def test_simple_mode_takes_an_auth_token(open_child: OpenChild, stub: MessagesStub) -> None:
    """Section 2: it beats all others, so that it alone decides. (A dummy key stands beside it.)"""
    given = {"ANTHROPIC_AUTH_TOKEN": "t"}
    async with open_child(environment=given, without=("ANTHROPIC_API_KEY",)) as cli:
        assert (await cli.turn("one"))[-1]["is_error"] is False
    assert shows(stub.requests[0]) == {"authorization": "Bearer t"}
    stub.requests.clear()


@every_subscription
async def test_simple_mode_ignores_a_subscription(
    open_child: OpenChild, stub: MessagesStub
) -> None:
    """The reason for all this."""
    result = (await adopted(open_child, "one", environment={"CLAUDE_CODE_SIMPLE": "1"}))[-1]
    assert (result["is_error"], result["api_error_status"]) == (True, None)
    assert "Not logged in" in result["result"]
    assert stub.requests == []


async def test_bedrock_is_asked_in_simple_mode(open_child: OpenChild, stub: MessagesStub) -> None:
    """Its own address stands in; it is asked by its own path."""
    given = {
        "CLAUDE_CODE_USE_BEDROCK": "1",
        "CLAUDE_CODE_SKIP_BEDROCK_AUTH": "1",
        "ANTHROPIC_BEDROCK_BASE_URL": stub.url,
        "AWS_REGION": "us-east-1",
    }
    without = ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")
    async with open_child(environment=given, without=without) as cli:
        await cli.turn("one")
    paths = {path for _, path in stub.hits}
    assert any(path.startswith("/model/") for path in paths), paths
