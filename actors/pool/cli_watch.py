"""Whether the CLI can answer turns: its version, how it is logged in, and whether turns succeed.

Knows: the login that new children get, when to ask for it again, and what keeps turns from being
answered, for `/ready` and for the log. Refuses to know: how the CLI is asked
(`transport.process.login`), and processes that do not start (`actors.pool.pool`).

The gateway asks for the login once when it opens; no child starts before the answer, and the port
does not wait for it. It asks again when a turn fails for lack of a login, and every
`RECHECK_SECONDS` while there is none. A login from environment variables cannot change: then only
turns show whether the API accepts it. It asks for the version once.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import trio

from ...schemas.claude.upstream import not_logged_in
from ...schemas.errors import (
    ChildDied,
    ChildError,
    CliUnusable,
    GatewayError,
    NotLoggedIn,
    Overloaded,
    TurnTimeout,
)
from ...schemas.events import TurnFailed, TurnFinished
from ...schemas.settings.rules import Problem, SettingsError, is_loopback
from ...schemas.settings.settings import Settings
from ...transport.loggers import get_logger
from ...transport.process.cli_version import Version, too_old, version_text
from ...transport.process.login import Login, Means
from ..runtime.bus import Bus, Subscription
from ..runtime.once_log import OnceLog

log = get_logger("ccapi.login")

RECHECK_SECONDS = 15.0
"""How often the gateway asks the CLI for its login while there is none."""

LEAST_SECONDS = 2.0
"""Between two questions, however many turns fail for lack of a login."""

DOUBT_SECONDS = 30.0
"""How long `/ready` reports that the API refused the login, or that children never become ready,
unless a turn succeeds meanwhile."""

NEVER_READY = "child_start_timeout"
SLOW_STARTS = 2
"""Children in a row that never became ready, until `/ready` reports it: one may be an accident."""

ACCOUNT_SETTING = "claude.allow_credentials_file"


async def _unknown_version() -> Version | None:
    await trio.lowlevel.checkpoint()
    return None


class CliWatch:
    """Made by the gateway. `run` asks, `listen` follows the ends of turns; the rest never waits."""

    def __init__(self, program: str, settings: Settings) -> None:
        self._program = program
        self._exposed = not is_loopback(settings.server.host)
        self._allowed = settings.claude.allow_credentials_file
        self.login: Login | None = None
        self.version: Version | None = None
        self._known = trio.Event()
        self._version_known = trio.Event()
        self._doubt = trio.Event()
        self._refused: GatewayError | None = None  # as turns said
        self._refused_until = -math.inf
        self._slow_starts = 0  # one after the other, without a turn that succeeded
        self._once = OnceLog(log)

    def __repr__(self) -> str:
        return f"<CliWatch {self.login.means.name if self.login else 'asking'}>"

    # -- for the pool, and for `/ready` ------------------------------------------------------------

    async def known(self) -> Login:
        """The login that a child gets that starts now; waits for the first answer.

        Raises `NotLoggedIn` where that login must not be used, `CliUnusable` (``cli_too_old``).
        """
        await trio.lowlevel.checkpoint()
        await self.check_version()
        await self._known.wait()
        assert self.login is not None
        if self._is_forbidden(self.login):
            raise self._no_turns()
        return self.login

    @property
    def trouble(self) -> GatewayError | None:
        """Why turns cannot be answered, as far as is known."""
        outdated = too_old(self._program, self.version)
        if outdated is not None:
            return outdated
        if self.login is None:
            return Overloaded("The gateway is asking the CLI for its login.", code="starting")
        if self._is_forbidden(self.login):
            return self._no_turns()
        if self.login.is_missing:
            return self._missing(self.login)
        return self._refused if trio.current_time() < self._refused_until else None

    async def check_version(self) -> None:
        """Wait until the CLI's version is known. Raises `CliUnusable` (``cli_too_old``)."""
        await self._version_known.wait()
        outdated = too_old(self._program, self.version)
        if outdated is not None:
            raise outdated

    async def wait_known(self) -> None:
        """Wait until version and login are known, or known to be unknown."""
        await self._version_known.wait()
        await self._known.wait()

    async def check_exposure(self) -> None:
        """Raises `SettingsError` where the gateway would serve other machines with a login that
        reveals the account's e-mail address to every client."""
        if not self._exposed or self._allowed:
            return
        await self._known.wait()
        assert self.login is not None
        if self._is_forbidden(self.login):
            raise SettingsError([Problem("server.host", self._forbidden())])

    def _is_forbidden(self, login: Login) -> bool:
        return login.tells_account and self._exposed and not self._allowed

    def _forbidden(self) -> str:
        return (
            "the gateway does not serve other machines with the login in the CLI's credentials "
            "file: the CLI gives the model the account's e-mail address in every conversation, and "
            f"any client can ask for it. Run `ccapi login --token` and set "
            "CLAUDE_CODE_OAUTH_TOKEN to what it prints, or set ANTHROPIC_API_KEY; or listen on "
            f"127.0.0.1, or set {ACCOUNT_SETTING}"
        )

    def _no_turns(self) -> NotLoggedIn:
        reason = self._forbidden()
        return NotLoggedIn(f"{reason[0].upper()}{reason[1:]}.")

    def _missing(self, login: Login) -> NotLoggedIn:
        if login.means is Means.KEY_HELPER:
            return not_logged_in(
                self._program,
                "The CLI's login is an apiKeyHelper in its settings, which the gateway's "
                "conversations do not load.",
            )
        return not_logged_in(self._program)

    # -- asking ------------------------------------------------------------------------------------

    async def run(
        self,
        ask: Callable[[], Awaitable[Login]],
        renew: Callable[[], None],
        ask_version: Callable[[], Awaitable[Version | None]] = _unknown_version,
    ) -> None:
        """Ask now, and again whenever there is reason to. Never ends. Calls `renew` when the login
        has changed, so that no child that started before may be used any more."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._learn_version, ask_version)
            nursery.start_soon(self._learn_login, ask, renew)

    async def _learn_version(self, ask: Callable[[], Awaitable[Version | None]]) -> None:
        self.version = await ask()
        self._version_known.set()
        outdated = too_old(self._program, self.version)
        if outdated is not None:
            log.error("no turn is answered", reason=outdated.message)
        elif self.version is not None:
            log.info("the CLI was found", program=self._program, version=version_text(self.version))

    async def _learn_login(
        self, ask: Callable[[], Awaitable[Login]], renew: Callable[[], None]
    ) -> None:
        while True:
            doubted = self._doubt.is_set()
            self._doubt = trio.Event()
            login = await ask()
            if self.login is not None and (login != self.login or doubted):
                renew()
            if login != self.login:
                self.login = login
                self._refused = None
                self._log_login(login)
            self._known.set()
            await trio.sleep(LEAST_SECONDS)
            again = RECHECK_SECONDS if login.is_missing else math.inf
            with trio.move_on_after(again):
                await self._doubt.wait()

    def _log_login(self, login: Login) -> None:
        """Log the login, where an operator has to know."""
        match login.means:
            case Means.OAUTH_TOKEN:
                log.info(
                    "the CLI is logged in by CLAUDE_CODE_OAUTH_TOKEN: it puts about 270 tokens of "
                    "notes on its environment into each conversation"
                )
            case Means.FILE if self._is_forbidden(login):
                log.error("no turn is answered", reason=self._forbidden())
            case Means.FILE:
                log.warning(
                    "the CLI is logged in by its credentials file: it gives the model the "
                    "account's e-mail address and the path of its working directory in every "
                    "conversation, and any client can ask for them; run ccapi login --token and "
                    "set CLAUDE_CODE_OAUTH_TOKEN to what it prints",
                )
            case Means.NOTHING | Means.KEY_HELPER:
                self._once.warn(
                    "the CLI is not logged in",
                    login.means.name,
                    reason=self._missing(login).message,
                )
            case Means.UNKNOWN:
                log.info("the CLI does not report how it is logged in", program=self._program)
            case Means.DEMO_CLI:
                pass
            case _:
                log.info("the CLI is logged in", by=login.means.value)

    # -- the ends of turns -------------------------------------------------------------------------

    async def listen(self, bus: Bus) -> None:
        """Follow the ends of turns until `bus` is closed."""
        with bus.subscribe(TurnFinished, TurnFailed) as subscription:
            await self._follow(subscription)

    async def _follow(self, subscription: Subscription) -> None:
        async for event in subscription:
            match event:
                case TurnFinished():
                    self._worked()
                case TurnFailed(error=error):
                    self._failed(error)

    def _worked(self) -> None:
        self._refused, self._refused_until = None, -math.inf
        self._slow_starts = 0
        self._once.forget()

    def _refuse(self, error: GatewayError) -> None:
        """Report `error` as what keeps turns from being answered, for a while."""
        self._refused = error
        self._refused_until = trio.current_time() + DOUBT_SECONDS

    def _failed(self, error: GatewayError) -> None:
        login = self.login
        known = login is not None and (login.is_missing or self._is_forbidden(login))
        logged = isinstance(error, NotLoggedIn) and known
        # The pool logs a child that died, with the end of its stderr.
        logged = logged or isinstance(error, ChildDied) or error.code == "cli_not_found"
        if isinstance(error, ChildError | TurnTimeout | CliUnusable) and not logged:
            self._once.warn(
                "a turn failed", f"{error.code} {error.message}", code=error.code,
                reason=error.message,
            )  # fmt: skip
        if error.code == NEVER_READY:
            self._slow_starts += 1
            if self._slow_starts >= SLOW_STARTS:
                self._refuse(CliUnusable(error.message, code=error.code))
        if isinstance(error, NotLoggedIn):
            self._refuse(error)
            if login is not None and not login.is_fixed:
                self._doubt.set()
