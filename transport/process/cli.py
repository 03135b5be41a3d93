"""Which CLI to run, and how: program, flags, environment, working directory.

Knows: the flags and variables of the Claude Code CLI that the gateway relies on (each has a test
in the contract suite). Refuses to know: what is said to a child once it runs.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

import trio
from attrs import evolve, frozen

from ...schemas.claude.input import AGENT, TOOL_SERVERS, context_summary
from ...schemas.errors import ChildDied, CliUnusable, HistoryNotWritten
from ...schemas.settings.rules import Problem, SettingsError
from ...schemas.settings.settings import Settings
from ...schemas.turn import AgentOrigin, AgentSpare, Origin, Recording, ResumePoint
from ..sandbox.sandbox import PYTHON, Sandbox, find_sandbox
from .agent_cli import Agents, agent_environment, agents_of
from .child import ChildCommand
from .cli_version import Version, ask_version
from .guardian import Guardian
from .leftovers import Trace
from .login import DEMO_CLI as NO_LOGIN_NEEDED
from .login import (
    LEAN,
    SUBSCRIPTION_FLAGS,
    Login,
    ask_login,
    chat_environment,
    named_environment,
)
from .transcript import transcript_path, write_transcript

AHEAD = "ahead"
"""The id of what a spare is asked as soon as it runs (`Cli.prepare`). Nothing needs the answer: to
find it, the CLI loads what its first turn needs, and asks the API for nothing. (It saves a fifth of
the time to the first delta.)"""

GENERIC_FLAGS = (
    "-p",
    *("--input-format", "stream-json"),
    *("--output-format", "stream-json"),
    "--verbose",
    "--include-partial-messages",
    *("--tools", ""),
    "--strict-mcp-config",
    *("--setting-sources", ""),
    "--disable-slash-commands",
    *("--agent", AGENT),
    # The client's own tools, whatever their names.
    *("--allowedTools", *(f"mcp__{server}" for server in TOOL_SERVERS)),
)
"""A child that can still become any conversation: prompt and model come when it is adopted."""

FIXED_ENVIRONMENT = {
    "CLAUDE_AGENT_SDK_MCP_NO_PREFIX": "1",  # the client's tools keep their names
    "CLAUDE_CODE_MAX_MCP_DESCRIPTION_LENGTH": "1000000",  # and their descriptions, whole
    "ENABLE_TOOL_SEARCH": "false",  # and are all shown to the model
    "CLAUDE_CODE_DISABLE_ATTACHMENTS": "1",  # without it "@path" in a user's text reads that file
    # Nothing of its own before the first user text. A subscription's login needs it to be off.
    "CLAUDE_CODE_SIMPLE": "1",
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",  # no second, silent request after a cut
    "CLAUDE_CODE_DISABLE_REFUSAL_RETRY": "1",  # nor one after a refusal
    "DISABLE_COMPACT": "1",  # what is too long is refused, and never silently made shorter
    "CLAUDE_CODE_EAGER_FLUSH": "1",  # the transcript is whole when the result comes
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
}

_INHERITED_NAMES = frozenset(
    (
        *("PATH", "HOME", "LANG", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL"),
        *("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"),
        *("CLOUD_ML_REGION", "NODE_EXTRA_CA_CERTS"),
    )
)
_INHERITED_PREFIXES = (
    *("LC_", "ANTHROPIC_", "CLAUDE_", "SSL_CERT_"),
    *("AWS_", "GOOGLE_", "VERTEX_REGION_", "AZURE_"),  # Bedrock, Vertex, Foundry
)
_OURS = "CLAUDE_CODE__"
_NESTED = frozenset({"CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SSE_PORT"})
"""Set inside a Claude Code session; a child must not take itself for part of that one."""

TOOL_MARGIN_SECONDS = 60.0

DEMO_CLI = (PYTHON, "-I", "-m", "ccapi.transport.demo_cli")
"""The child of ``--demo``: it speaks the protocol and needs no account."""


@frozen
class Cli:
    """A program that speaks stream-json, ready to be started again and again.

    `env` is what a plain model's child sees where a key is the login (`environment` has the
    others'). `login_name`: whose login it is, where there are several."""

    program: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    stop_seconds: float
    max_line_bytes: int
    agents: Agents
    sandbox: Sandbox | None = None
    login_name: str = ""

    async def ask_login(self, guardian: Guardian) -> Login:
        """How the program is logged in (`transport.process.login.ask_login`); the demo CLI
        needs no login."""
        if self.program == DEMO_CLI:
            return NO_LOGIN_NEEDED
        return await ask_login(self.program, self.env, self.cwd, guardian)

    async def ask_version(self, guardian: Guardian) -> Version | None:
        """The program's version; None where it has none that can be read, and for the demo CLI."""
        if self.program == DEMO_CLI:
            return None
        return await ask_version(self.program, self.env, self.cwd, guardian)

    def environment(self, login: Login) -> Mapping[str, str]:
        """What a plain model's child sees."""
        return chat_environment(self.env, login, self._own_config)

    @property
    def _own_config(self) -> Path:
        """The configuration folder of the gateway's own (`Login.has_own_config`): each login has
        one, for the CLI keeps there what it knows of the account."""
        name = f"claude-{self.login_name}" if self.login_name else "claude"
        return self.cwd.parent / name

    async def prepare(self, origin: Origin | None, login: Login = LEAN) -> ChildCommand:
        """The child that begins with `origin`, or a generic one. What it needs on the disk is
        written. Raises `ChildDied`."""
        if isinstance(origin, AgentSpare):
            return await self._prepare_spare(origin)
        if not isinstance(origin, AgentOrigin):
            env = self.environment(login)
            resume = await self._take_up(origin, self.cwd, env)
            command = self.command(resume, login)
            # A child that resumes nothing writes nothing: there is nothing to be removed later.
            return command if resume is None else _named(command, resume)
        place = self.workspace(origin.workspace)
        resume = await self._take_up(origin.history, place, self.env)
        argv = [*self.program, *self.agents.arguments(origin), *_resume_flags(resume)]
        command = _named(self._agent_command(argv, place), resume)
        return command if self.sandbox is None else await self._confine(command, self.sandbox)

    @property
    def binds_workspaces(self) -> bool:
        """Whether an agent's child can work in no other directory than it is started for."""
        return self.sandbox is not None

    def workspace(self, name: str) -> Path:
        """The working directory called `name`, as `Agents.workspace`. Raises `ChildDied`."""
        try:
            return self.agents.workspace(name)
        except OSError as error:
            raise ChildDied(
                f"The agent's workspace {name} cannot be used ({error.strerror})."
            ) from error

    async def _prepare_spare(self, spare: AgentSpare) -> ChildCommand:
        """A child that waits for an agent's conversation: in its workspace, or in the directory of
        plain models' children, where nothing is, until it learns its own."""
        place = self.workspace(spare.workspace) if spare.workspace else self._own_directory()
        argv = [*self.program, *self.agents.spare_arguments()]
        command = _named(self._agent_command(argv, place), None)
        command = evolve(command, ahead=context_summary(AHEAD))
        return command if self.sandbox is None else await self._confine(command, self.sandbox)

    def _agent_command(self, argv: Sequence[str], place: Path) -> ChildCommand:
        return ChildCommand(
            argv,
            agent_environment(self.env),
            place,
            self.stop_seconds,
            self.max_line_bytes,
            runs_others=True,
        )

    def moved(self, trace: Trace, place: Path) -> Trace:
        """The trace of a spare that works in `place` from now on."""
        projects = Path(trace.config, "projects")
        return evolve(trace, folder=transcript_path(projects, place, trace.session_id).parent.name)

    async def _confine(self, command: ChildCommand, sandbox: Sandbox) -> ChildCommand:
        place = transcript_path(_projects(self.env), command.cwd, "any").parent
        try:
            confined = await trio.to_thread.run_sync(
                sandbox.confine, command.argv, command.env, command.cwd, place
            )
        except OSError as error:
            raise ChildDied(f"The agent's sandbox cannot be made ({error.strerror}).") from error
        return evolve(
            command,
            argv=confined.argv,
            env=confined.env,
            egress=confined.egress,
            filter=confined.filter,
            scratch=confined.scratch,
        )

    async def _take_up(
        self, history: Recording | ResumePoint | None, cwd: Path, env: Mapping[str, str]
    ) -> ResumePoint | None:
        return await self.record(history, cwd, env) if isinstance(history, Recording) else history

    async def record(
        self, recording: Recording, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> ResumePoint:
        """Write a history down as a session that a child in `cwd` can resume (None: one that is no
        agent) which sees `env` (None: the one of a login by key). Raises `HistoryNotWritten`."""
        projects = _projects(self.env if env is None else env)
        try:
            _make_private(self.cwd)
            return await write_transcript(
                projects, cwd or self.cwd, recording.messages, recording.model
            )
        except OSError as error:
            raise HistoryNotWritten(
                f"The history could not be written for the CLI process ({error.strerror})."
            ) from error

    def command(self, resume: ResumePoint | None = None, login: Login = LEAN) -> ChildCommand:
        """A generic child; or, with `resume`, one that takes up an earlier session.

        Raises `ChildDied` if the working directory is gone and cannot be made again.
        """
        cwd = self._own_directory(login)
        flags = GENERIC_FLAGS if login.is_lean else (*GENERIC_FLAGS, *SUBSCRIPTION_FLAGS)
        if resume is None:  # it may serve many conversations, which the gateway keeps itself
            flags = (*flags, "--no-session-persistence")
        argv = [*self.program, *flags, *_resume_flags(resume)]
        env = self.environment(login)
        return ChildCommand(argv, env, cwd, self.stop_seconds, self.max_line_bytes)

    def _own_directory(self, login: Login = LEAN) -> Path:
        """Where children run that work in no workspace. Raises `ChildDied`."""
        try:
            # State directories are cleaned up while servers run; what starts next needs one.
            _make_private(self.cwd)
            if login.has_own_config:
                _make_private(self._own_config)
        except OSError as error:
            raise ChildDied(
                "The CLI process could not be started: there is no directory "
                f"{error.filename}, and none can be made ({error.strerror})."
            ) from error
        return self.cwd


def _projects(env: Mapping[str, str]) -> Path:
    """Where a child that sees `env` keeps its transcripts."""
    home = env.get("CLAUDE_CONFIG_DIR") or Path(env.get("HOME", "/")) / ".claude"
    return Path(home) / "projects"


def _named(command: ChildCommand, resume: ResumePoint | None) -> ChildCommand:
    """The command, with a name for what its session leaves: a new one where it resumes none."""
    session_id = str(uuid4()) if resume is None else resume.session_id
    named = [] if resume is not None else ["--session-id", session_id]
    env, projects = command.env, _projects(command.env)
    temporary = env.get("CLAUDE_CODE_TMPDIR") or env.get("TMPDIR") or "/tmp"  # noqa: S108 (its own)
    trace = Trace(
        session_id=session_id,
        config=str(projects.parent),
        temporary=str(Path(temporary, f"claude-{os.getuid()}")),
        folder=transcript_path(projects, command.cwd, session_id).parent.name,
    )
    return evolve(command, argv=[*command.argv, *named], trace=trace)


def _resume_flags(resume: ResumePoint | None) -> list[str]:
    if resume is None:
        return []
    at = ["--resume-session-at", resume.assistant_uuid] if resume.assistant_uuid else []
    return ["--resume", resume.session_id, *at]


def find_cli(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    demo: bool = False,
    hidden: Sequence[Path] = (),
) -> Cli:
    """The CLI that `settings` mean. `hidden`: what agents are not to see, whatever else they do.

    Raises `CliUnusable` (``cli_not_found``), and `SettingsError` where ``storage.path`` cannot be
    used.

    `environ` is what the child may inherit from (an allow-list is taken of it). The working
    directory is made under ``storage.path``: the CLI files transcripts by working directory, so
    the gateway's stay apart from the operator's own.
    """
    try:
        storage = settings.storage.path.expanduser().absolute()
        cwd = storage / "chat"
        _make_private(cwd)
    except OSError as error:
        reason = f"no directory can be made at {error.filename}: {error.strerror}"
        raise SettingsError([Problem("storage.path", reason)]) from error
    except RuntimeError as error:  # a "~" of a user without a home
        raise SettingsError([Problem("storage.path", str(error))]) from error
    program = DEMO_CLI if demo else (find_program(settings.claude.command, environ),)
    env = child_environment(settings, environ)
    folders = [login.config_dir for login in settings.logins if login.config_dir is not None]
    agents = agents_of(settings, storage)
    return Cli(
        program=program,
        env=env,
        cwd=cwd,
        stop_seconds=settings.claude.stop_seconds,
        max_line_bytes=settings.claude.max_line_bytes,
        agents=agents,
        sandbox=find_sandbox(
            settings, program, env, workspaces=agents.root, hidden=[*hidden, *folders]
        ),
    )


def clis_of(cli: Cli, settings: Settings, environ: Mapping[str, str]) -> dict[str, Cli]:
    """The CLI with each login that the settings name, by the login's name; nothing where they name
    none. Raises `SettingsError` where one cannot be used."""
    given = {**environ, **settings.claude.env}
    problems: list[Problem] = []
    found: dict[str, Cli] = {}
    for login in settings.logins:
        try:
            env = named_environment(login, settings.logins, cli.env, given)
        except SettingsError as error:
            problems += error.problems
            continue
        sandbox = None if cli.sandbox is None else cli.sandbox.for_login(cli.program, env)
        found[login.name] = evolve(cli, env=env, sandbox=sandbox, login_name=login.name)
    if problems:
        raise SettingsError(problems)
    return found


def _make_private(cwd: Path) -> None:
    """Make `cwd` and the storage around it, where missing, readable to their owner alone."""
    for directory in (cwd.parent, cwd):  # `mkdir` gives its mode to the last part only
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def child_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """What a child sees: an allow-list of `environ`, then ``claude.env``, then what is fixed."""
    inherited = {
        name: value
        for name, value in environ.items()
        if (
            name in _INHERITED_NAMES
            or name.startswith(_INHERITED_PREFIXES)
            or name.upper().endswith("_PROXY")
        )
        and not name.startswith(_OURS)
        and name not in _NESTED
    }
    # The gateway gives up first: it takes the turn back, where the CLI would report it to the
    # model.
    patience = settings.claude.tool_wait_seconds + TOOL_MARGIN_SECONDS
    ours = {
        "CLAUDE_CODE_MAX_RETRIES": str(settings.claude.max_retries),
        "MCP_TOOL_TIMEOUT": str(math.ceil(patience * 1000)),
    }
    return {**inherited, **ours, **settings.claude.env, **FIXED_ENVIRONMENT}


def find_program(command: str, environ: Mapping[str, str]) -> str:
    """The path of the CLI that `claude.command` means. Raises `CliUnusable` (``cli_not_found``)."""
    name = str(Path(command).expanduser()) if command.startswith("~") else command
    found = shutil.which(name, path=environ.get("PATH", ""))
    if found is not None:
        # A child runs in another directory, from where a relative path leads elsewhere; and a
        # sandbox has no ".." on the way.
        return os.path.abspath(found)  # noqa: PTH100 (which leaves ".." in it)
    if command == "claude":
        bundled = _bundled()
        if bundled is not None:
            return str(bundled)
        raise CliUnusable(
            "The Claude Code CLI was not found. Install it (pip install claude-agent-sdk, which "
            "brings it along, or npm install -g @anthropic-ai/claude-code), set claude.command "
            "to its path, or try the gateway without it: ccapi serve --demo.",
            code="cli_not_found",
        )
    raise CliUnusable(
        f"claude.command is {command!r}: there is no such program, or it cannot be executed.",
        code="cli_not_found",
    )


def _bundled() -> Path | None:
    """The binary inside the claude-agent-sdk wheel, found without importing the SDK."""
    spec = importlib.util.find_spec("claude_agent_sdk")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "_bundled" / "claude"
    return path if path.is_file() else None
