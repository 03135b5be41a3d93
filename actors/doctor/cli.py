"""The CLI: whether it is there and new enough, how it is logged in, what its children say.

Knows: what is asked of the CLI, and what each answer means to the operator. Refuses to know: how
the CLI is asked (`transport.process`).
"""

from __future__ import annotations

import attrs
import trio

from ...schemas.claude.input import initialize
from ...schemas.claude.output import ControlAnswer
from ...schemas.claude.upstream import plain
from ...schemas.errors import GatewayError
from ...schemas.settings.rules import SettingsError, is_loopback
from ...schemas.settings.settings import Settings
from ...schemas.turn import Setup
from ...transport.process.agent_cli import agent_environment
from ...transport.process.child import Child, open_child
from ...transport.process.cli import Cli, clis_of, find_cli
from ...transport.process.cli_version import OLDEST, too_old, version_text
from ...transport.process.login import Login, Means, ask_status
from ..opening import open_gateway
from .case import Case
from .finding import Finding, State, failed, ok, warning

HOW_TO_LOG_IN = (
    "`ccapi login`; or `ccapi login --token`, and set CLAUDE_CODE_OAUTH_TOKEN to what it prints; "
    "or set ANTHROPIC_API_KEY"
)
NO_CLI = "there is no CLI to ask"
FIRST_CLI = "See to the CLI first."

INITIALIZE = "doctor"

STOP_SECONDS = 1.0
"""What a child that was asked has to end by itself."""

STDERR_WORDS = 300
"""Characters of a child's last words that are shown."""


async def check_cli(case: Case) -> Finding:
    """Whether the CLI is there and of a version that will do."""
    # What agents need is looked at by itself (`machine.check_sandbox`).
    claude = case.settings.claude
    plain_only = attrs.evolve(
        case.settings,
        models=attrs.evolve(case.settings.models, agents=False),
        claude=attrs.evolve(claude, stop_seconds=min(claude.stop_seconds, STOP_SECONDS)),
    )
    try:
        case.cli = cli = find_cli(plain_only, case.environ)
    except SettingsError as error:
        return failed("cli", str(error), "Set storage.path to a folder that can be written.")
    except GatewayError as error:
        return failed("cli", error.message, "pip install claude-agent-sdk, or set claude.command")
    program = cli.program[0]
    version = await cli.ask_version(case.guardian)
    if version is None:
        return warning(
            "cli",
            f"{program} does not say which version it is",
            f"Run `{program} --version`: it should print {version_text(OLDEST)} or newer.",
        )
    outdated = too_old(program, version)
    if outdated is not None:
        reason, _, cure = outdated.message.partition(". ")
        return failed("cli", reason, cure)
    return ok("cli", f"version {version_text(version)}, {program}")


async def check_login(case: Case) -> Finding:
    """How the CLI is logged in. What it knows of a login may have ended: only a turn shows that."""
    if case.cli is None:
        return failed("login", NO_CLI, FIRST_CLI)
    if case.settings.logins:
        return await _check_logins(case, case.cli)
    case.login = login = await case.cli.ask_login(case.guardian)
    return _judge(login, case.settings)


async def _check_logins(case: Case, cli: Cli) -> Finding:
    """The same of each login that the settings name. The gateway answers turns with any one."""
    try:
        clis = clis_of(cli, case.settings, case.environ)
    except SettingsError as error:
        text = "; ".join(problem.reason for problem in error.problems)
        return failed("login", text, "Set that variable, or log in with that folder.")
    judged: dict[str, Finding] = {}

    async def ask(name: str) -> None:
        login = await clis[name].ask_login(case.guardian)
        known[name], judged[name] = login, _judge(login, case.settings)

    known: dict[str, Login] = {}
    async with trio.open_nursery() as nursery:
        for name in clis:
            nursery.start_soon(ask, name)
    first = next(
        (name for name in clis if judged[name].state is not State.FAILED), next(iter(clis))
    )
    case.cli, case.login = clis[first], known[first]
    words = [
        f"{each.name} ({each.way}{_trouble(judged[each.name])})" for each in case.settings.logins
    ]
    text = f"{len(words)} {'login' if len(words) == 1 else 'logins'}: {', '.join(words)}"
    bad = [name for name in clis if judged[name].state is not State.OK]
    if not bad:
        return ok("login", text)
    # One that is exposed keeps the whole gateway from starting; one that is missing only itself.
    exposed = any(judged[name].state is State.FAILED and known[name].tells_account for name in bad)
    answered = judged[first].state is not State.FAILED and not exposed
    return (warning if answered else failed)("login", text, f"{bad[0]}: {judged[bad[0]].cure}")


def _trouble(finding: Finding) -> str:
    return "" if finding.state is State.OK else f": {finding.text}"


def _judge(login: Login, settings: Settings) -> Finding:
    """What one login means to the operator."""
    match login.means:
        case Means.NOTHING:
            return failed("login", "the CLI is not logged in", HOW_TO_LOG_IN)
        case Means.KEY_HELPER:
            return failed(
                "login",
                "an apiKeyHelper in the CLI's settings, which conversations do not load",
                "Set ANTHROPIC_API_KEY to the key.",
            )
        case Means.UNKNOWN:
            return warning(
                "login",
                "the CLI does not say how it is logged in",
                "`ccapi doctor --turn` shows whether it is.",
            )
        case Means.FILE:
            refused = not is_loopback(settings.server.host)
            refused = refused and not settings.claude.allow_credentials_file
            return (failed if refused else warning)(
                "login",
                "the CLI's credentials file: any client can learn the account's e-mail address"
                + (", so no other machine is served" if refused else ""),
                "`ccapi login --token`, and set CLAUDE_CODE_OAUTH_TOKEN to what it prints",
            )
    return ok("login", login.means.value)


async def check_modes(case: Case) -> Finding:
    """Whether plain models' children and agents' find the same login: they see different
    variables, and the CLI's choice of a login follows these."""
    if case.cli is None or case.login is None:
        return failed("modes", NO_CLI, FIRST_CLI)
    if case.login.means in (Means.AUTH_TOKEN, Means.UNKNOWN):
        await trio.lowlevel.checkpoint()
        return ok("modes", "not asked: the CLI reports this login in one mode only")
    seen: dict[str, object] = {}

    async def ask(mode: str, env: dict[str, str]) -> None:
        assert case.cli is not None
        status = await ask_status(case.cli.program, env, case.cli.cwd, case.guardian)
        seen[mode] = _account(status or {})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "chat", dict(case.cli.environment(case.login)))
        nursery.start_soon(ask, "agent", agent_environment(case.cli.env))
    if seen["chat"] == seen["agent"]:
        return ok("modes", f"plain models and agents have the same: {seen['chat']}")
    told = f"plain models have {seen['chat']}, agents {seen['agent']}"
    cure = "Set ANTHROPIC_API_KEY, or CLAUDE_CODE_OAUTH_TOKEN: both modes find those."
    return (failed if "no login" in seen.values() else warning)("modes", told, cure)


def _account(status: object) -> str:
    """Which login a status tells of, in words."""
    assert isinstance(status, dict)
    if not status.get("loggedIn"):
        return "no login"
    return f"a login by {status.get('authMethod') or 'unknown means'}"


async def check_models(case: Case) -> Finding:
    """Start a child as a gateway does, and ask it for its models. It asks the API for nothing."""
    if case.cli is None or case.login is None:
        return failed("models", NO_CLI, FIRST_CLI)
    began = trio.current_time()
    try:
        command = await case.cli.prepare(None, case.login)
        async with open_child(command, case.guardian) as child:
            answer = await _initialized(child, case.settings.models.default)
    except GatewayError as error:
        return failed("models", error.message, "The log of `ccapi serve` has more about it.")
    if answer is None:
        last = plain(child.stderr_tail)[-STDERR_WORDS:]
        text = f"a child ended before it answered: {last or child.post_mortem().message}"
        return failed("models", text, f"Run {case.cli.program[0]} by hand, and see what it says.")
    if answer.error is not None:
        return failed("models", f"a child answers with an error: {answer.error}", FIRST_CLI)
    names = [str(each["value"]) for each in models_in(answer)]
    took = f"a child answered in {trio.current_time() - began:.1f} s"
    return ok("models", f"{took}; it offers {', '.join(names) or 'no list of models'}")


async def _initialized(child: Child, model: str) -> ControlAnswer | None:
    """The child's answer to its initialize; None where it ends before it gives one."""
    child.write(initialize(INITIALIZE, Setup(model)))
    try:
        while True:
            for frame in await child.receive_frames():
                if isinstance(frame, ControlAnswer) and frame.request_id == INITIALIZE:
                    return frame
    except EOFError:
        return None
    finally:
        child.stop_reading()


def models_in(answer: ControlAnswer) -> list[dict[str, object]]:
    """The entries of the CLI's list of models that have a name."""
    listed = answer.body.get("models")
    entries = listed if isinstance(listed, list) else []
    return [each for each in entries if isinstance(each, dict) and each.get("value")]


async def check_turn(case: Case) -> Finding:
    """One turn of the default model, through a gateway that keeps nothing."""
    if case.cli is None:
        return failed("turn", NO_CLI, FIRST_CLI)
    began = trio.current_time()
    try:
        async with open_gateway(_for_one_turn(case.settings), environ=case.environ) as gateway:
            reply = await gateway.query("Reply with the word ok.")
    except (GatewayError, SettingsError) as error:
        return failed("turn", plain(str(error)), HOW_TO_LOG_IN)
    took = trio.current_time() - began
    return ok("turn", f"answered in {took:.1f} s, with {reply.usage.total_tokens} tokens")


def _for_one_turn(settings: Settings) -> Settings:
    return attrs.evolve(
        settings,
        claude=attrs.evolve(settings.claude, prewarm=0, prewarm_agents=0),
        storage=attrs.evolve(settings.storage, persist=False),
        models=attrs.evolve(settings.models, agents=False, default=_plain_default(settings)),
        workspaces=attrs.evolve(settings.workspaces, network=True),
    )


def _plain_default(settings: Settings) -> str:
    """The default model, or the first one where that is an agent's."""
    models = settings.models
    means = models.aliases.get(models.default, models.default)
    return means if means in models.available else models.available[0]
