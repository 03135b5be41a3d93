"""What `ccapi serve` says first: what runs here, in six lines.

Knows: which facts a person wants to see before any log line. Refuses to know: where they are
written.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from attrs import frozen

from ...schemas.keys import count_words
from ...transport.process.cli import DEMO_CLI
from ...transport.process.cli_version import version_text
from ..gateway import Gateway

MOST_MODELS = 8
"""Names of models in one line."""

MOST_LOGINS = 4
"""Names of logins in one line."""


@frozen
class Facts:
    """What a gateway is. `sandbox`: what agents are confined by, empty where by nothing. `login`
    and `cli` are in words, and so are `logins`, which the settings name (empty: none). `keys`: how
    many hold, those of the store among them, None where the store cannot be read; `key_needed`:
    whether a client has to show one, as it does where all were revoked."""

    version: str
    url: str
    cli: str
    login: str
    models: tuple[str, ...]
    default: str
    agents: bool
    sandbox: str
    keys: int | None
    settings_keys: int
    agent_keys: int
    key_needed: bool
    storage: str
    kept: bool
    page: bool
    logins: tuple[str, ...] = ()

    def fields(self) -> dict[str, Any]:
        """For a line of the log."""
        return {
            "version": self.version,
            "url": self.url,
            "cli": self.cli,
            "login": None if self.logins else self.login,
            "logins": list(self.logins) or None,
            "models": list(self.models),
            "default": self.default,
            "agents": self.agents,
            "sandbox": self.sandbox or None,
            "keys": self.keys,
            "storage": self.storage,
            "persist": self.kept,
        }

    def screen(self) -> str:
        """Six lines for a person."""
        lines = (
            (f"ccapi {self.version}", f"{self.url}/{'' if self.page else 'v1'}"),
            ("cli", f"{self.cli}; {self._logins}"),
            ("models", self._models),
            ("agents", self._agents),
            ("keys", self._keys),
            ("storage", self.storage if self.kept else f"in memory only, beside {self.storage}"),
        )
        return "".join(f"{name:<12} {text}\n" for name, text in lines)

    @property
    def _logins(self) -> str:
        if not self.logins:
            return f"login: {self.login}"
        shown, more = self.logins[:MOST_LOGINS], len(self.logins) - MOST_LOGINS
        count = f"{len(self.logins)} {'login' if len(self.logins) == 1 else 'logins'}"
        return f"{count}: {', '.join([*shown, *([f'{more} more'] if more > 0 else [])])}"

    @property
    def _models(self) -> str:
        shown = [name for name in self.models if name != self.default][: MOST_MODELS - 1]
        more = len(self.models) - len(shown) - (self.default in self.models)
        return ", ".join([f"{self.default} (default)", *shown, *([f"{more} more"] if more else [])])

    @property
    def _agents(self) -> str:
        if not self.agents:
            return "off"
        return (
            f"on (agent/NAME), {'confined by ' + self.sandbox if self.sandbox else 'NOT confined'}"
        )

    @property
    def _keys(self) -> str:
        if self.keys is None:
            return "not known: the storage cannot be read"
        if not self.key_needed:
            return "none needed: this machine only"
        if not self.keys:
            return "NONE holds, all are revoked: `ccapi key create`"
        agents = f", of which {self.agent_keys} may use agents" if self.agents else ""
        return f"{count_words(self.keys, self.settings_keys)}{agents}"


def facts_of(gateway: Gateway, url: str) -> Facts:
    """What is known of the gateway now."""
    settings, cli, keys = gateway.settings, gateway.cli, gateway.keys
    return Facts(
        version=metadata.version("claude-code-api"),
        url=url,
        cli=_cli(gateway),
        login=_login(gateway),
        models=settings.models.available,
        default=settings.models.default,
        agents=settings.models.agents,
        sandbox="" if cli.sandbox is None else cli.sandbox.kind,
        keys=len(keys.holding()) if keys.is_known else None,
        settings_keys=keys.of_settings,
        agent_keys=sum("agents" in each.scopes for each in keys.holding()),
        key_needed=keys.needed,
        storage=settings.storage.shown_place,
        kept=settings.storage.persist,
        page=settings.page.enabled,
        logins=_logins(gateway),
    )


def _cli(gateway: Gateway) -> str:
    if gateway.cli.program == DEMO_CLI:
        return "demo: it makes its answers up"
    version = gateway.cli_version
    known = "of unknown version" if version is None else version_text(version)
    return f"Claude Code {known}, {gateway.cli.program[0]}"


def _login(gateway: Gateway) -> str:
    login = gateway.login
    if login is None:
        return "not known yet"
    if login.is_missing:
        return "NONE: run `ccapi login`"
    return login.means.value


def _logins(gateway: Gateway) -> tuple[str, ...]:
    ways = {each.name: each.way for each in gateway.settings.logins}
    missing = {name for name, login in gateway.logins.items() if login and login.is_missing}
    return tuple(
        f"{name} ({way}{', NOT logged in' if name in missing else ''})"
        for name, way in ways.items()
    )
