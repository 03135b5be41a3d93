"""How the CLI is logged in: asked of the CLI itself, and what follows for its processes.

Knows: the variables that are a login, what ``claude auth status --json`` answers, and what a plain
model's child needs in its environment for each. Refuses to know: when to ask, and what the operator
learns (`actors.pool.cli_watch`).

``CLAUDE_CODE_SIMPLE`` keeps everything of the CLI's own out of a conversation, and with it every
login but a key or a cloud provider's: under it the CLI never reads a subscription's login. So that
one variable follows the login. The CLI's credentials file is never read here.

Source: measured on the real CLI; tests/contract/test_login.py holds one test per fact.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import trio
from attrs import frozen

from ...schemas.claude.input import AGENT
from .guardian import Guardian
from .short_run import output_of

PROBE_SECONDS = 10.0
"""Longest wait for the CLI's answer, usually a quarter of a second. An expired login and a network
that hangs make it 8.5 seconds."""

STATUS = ("auth", "status", "--json")

SUBSCRIPTION_ENVIRONMENT = {
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1",  # else a MEMORY.md stands before the first user text
    "CLAUDE_CODE_DISABLE_CLAUDE_MDS": "1",  # a second lock on that, and on CLAUDE.md
    "ENABLE_CLAUDEAI_MCP_SERVERS": "0",  # else the account's connectors are fetched at each start
    "CLAUDE_CODE_ENABLE_PROMPT_SUGGESTION": "0",
    # The CLI has more to say where the client has a tool called Bash, or one called Agent.
    "CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS": "1",
    "CLAUDE_AGENT_SDK_DISABLE_BUILTIN_AGENTS": "1",
}
"""What does the work of ``CLAUDE_CODE_SIMPLE`` in a child that cannot have it."""

SUBSCRIPTION_FLAGS = ("--disallowedTools", f"Agent({AGENT})")
"""The rest of it: of the agents there are, the child itself would be listed for such a client."""

_NOT_WITH_SUBSCRIPTION = frozenset({"CLAUDE_CODE_SIMPLE", "SHELL"})
"""Variables that such a child does not get. (The CLI gives the model the login shell.)"""


class Means(enum.Enum):
    """What the CLI is logged in by."""

    KEY = "a key, or a cloud provider"
    AUTH_TOKEN = "ANTHROPIC_AUTH_TOKEN"  # noqa: S105 (a variable's name)
    OAUTH_TOKEN = "CLAUDE_CODE_OAUTH_TOKEN"  # noqa: S105
    FILE = "the CLI's credentials file"
    MANAGED_KEY = "a key that the CLI keeps"
    KEY_HELPER = "an apiKeyHelper"
    NOTHING = "nothing"
    UNKNOWN = "unknown"
    DEMO_CLI = "none needed"


_SUBSCRIPTION = (Means.OAUTH_TOKEN, Means.FILE, Means.MANAGED_KEY)
_BY_VARIABLE = (Means.KEY, Means.AUTH_TOKEN, Means.OAUTH_TOKEN, Means.DEMO_CLI)


@frozen
class Login:
    """The login of the CLI, as far as it is known."""

    means: Means

    @property
    def is_lean(self) -> bool:
        """Whether a plain model's child has ``CLAUDE_CODE_SIMPLE``."""
        return self.means not in _SUBSCRIPTION

    @property
    def has_own_config(self) -> bool:
        """Whether a plain model's child has a configuration folder of the gateway's own. With the
        operator's, the e-mail address of an account in it would go to the model."""
        return self.means is Means.OAUTH_TOKEN

    @property
    def is_missing(self) -> bool:
        """Whether no turn can succeed. (Unknown is not missing.)"""
        return self.means in (Means.NOTHING, Means.KEY_HELPER)

    @property
    def tells_account(self) -> bool:
        """Whether the account's e-mail address comes before the first user text."""
        return self.means is Means.FILE

    @property
    def is_fixed(self) -> bool:
        """Whether it cannot change while the gateway runs."""
        return self.means in _BY_VARIABLE


LEAN = Login(Means.KEY)
DEMO_CLI = Login(Means.DEMO_CLI)

Status = Mapping[str, Any]


def login_by_variables(env: Mapping[str, str]) -> Login | None:
    """The login that `env` alone decides on, whatever else there is. None: the CLI has to be asked.

    The CLI prefers these two to every other login, and takes both under ``CLAUDE_CODE_SIMPLE``.
    """
    if env.get("ANTHROPIC_AUTH_TOKEN"):
        return Login(Means.AUTH_TOKEN)
    return Login(Means.KEY) if env.get("ANTHROPIC_API_KEY") else None


def login_by_status(env: Mapping[str, str], lean: Status | None, full: Status | None) -> Login:
    """The login, by what the CLI answers with ``CLAUDE_CODE_SIMPLE`` and without (None: it gave no
    answer that can be read)."""
    if lean is not None and lean["loggedIn"]:
        return Login(Means.KEY)
    if env.get("CLAUDE_CODE_OAUTH_TOKEN"):
        return Login(Means.OAUTH_TOKEN)
    if lean is None and full is None:
        return Login(Means.UNKNOWN)  # perhaps it is another program, and knows a way
    if full is None or not full["loggedIn"]:
        return Login(Means.NOTHING)
    match full.get("authMethod"):
        case "api_key_helper":
            return Login(Means.KEY_HELPER)
        case "api_key":
            return Login(Means.MANAGED_KEY)
    return Login(Means.FILE)


def chat_environment(env: Mapping[str, str], login: Login, config: Path) -> dict[str, str]:
    """What a plain model's child sees, of `env`, which has ``CLAUDE_CODE_SIMPLE`` set. `config` is
    the configuration folder of the gateway's own."""
    if login.is_lean:
        return dict(env)
    kept = {name: value for name, value in env.items() if name not in _NOT_WITH_SUBSCRIPTION}
    own = {"CLAUDE_CONFIG_DIR": str(config)} if login.has_own_config else {}
    return {**kept, **SUBSCRIPTION_ENVIRONMENT, **own}


async def ask_login(
    program: Sequence[str], env: Mapping[str, str], cwd: Path, guardian: Guardian
) -> Login:
    """Ask the CLI how it is logged in, in the environment that its children have.

    Takes `PROBE_SECONDS` at most, and raises nothing: what cannot be found out is `Means.UNKNOWN`,
    or `Means.NOTHING` where the CLI says that no key is there and does not say more.
    """
    known = login_by_variables(env)
    if known is not None:
        return known
    answers: dict[bool, Status] = {}

    async def ask(*, lean: bool) -> None:
        asked = {name: value for name, value in env.items() if name != "CLAUDE_CODE_SIMPLE"}
        if lean:
            asked["CLAUDE_CODE_SIMPLE"] = "1"
        answer = await ask_status(program, asked, cwd, guardian)
        if answer is not None:
            answers[lean] = answer

    with trio.move_on_after(PROBE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(ask, lean=True))
            if not env.get("CLAUDE_CODE_OAUTH_TOKEN"):
                nursery.start_soon(partial(ask, lean=False))
    return login_by_status(env, answers.get(True), answers.get(False))


async def ask_status(
    program: Sequence[str], env: Mapping[str, str], cwd: Path, guardian: Guardian
) -> Status | None:
    """What the CLI says of its login, seeing `env` as it is; None where it gives no answer that can
    be read. Takes as long as the CLI does."""
    printed = await output_of([*program, *STATUS], env, cwd, guardian)
    return None if printed is None else read_status(printed)


def read_status(printed: bytes) -> Status | None:
    """What ``auth status --json`` printed; None where it is no such answer."""
    try:
        answer = orjson.loads(printed)
    except ValueError:
        return None
    sound = isinstance(answer, dict) and isinstance(answer.get("loggedIn"), bool)
    return answer if sound else None
