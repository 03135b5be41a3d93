"""What `ccapi serve` says first: what runs here, in six lines.

Knows: which facts a person wants to see before any log line. Refuses to know: where they are
written.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from attrs import frozen

from ...transport.process.cli import DEMO_CLI
from ...transport.process.cli_version import version_text
from ..gateway import Gateway

MOST_MODELS = 8
"""Names of models in one line."""


@frozen
class Facts:
    """What a gateway is. `sandbox`: what agents are confined by, empty where by nothing. `login`
    and `cli` are in words."""

    version: str
    url: str
    cli: str
    login: str
    models: tuple[str, ...]
    default: str
    agents: bool
    sandbox: str
    keys: int
    agent_keys: int
    storage: str
    kept: bool
    page: bool

    def fields(self) -> dict[str, Any]:
        """For a line of the log."""
        return {
            "version": self.version,
            "url": self.url,
            "cli": self.cli,
            "login": self.login,
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
            ("cli", f"{self.cli}; login: {self.login}"),
            ("models", self._models),
            ("agents", self._agents),
            ("keys", self._keys),
            ("storage", self.storage if self.kept else f"in memory only, beside {self.storage}"),
        )
        return "".join(f"{name:<12} {text}\n" for name, text in lines)

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
        if not self.keys:
            return "none needed: this machine only"
        agents = f", of which {self.agent_keys} may use agents" if self.agents else ""
        return f"{self.keys}{agents}"


def facts_of(gateway: Gateway, url: str) -> Facts:
    """What is known of the gateway now."""
    settings, cli = gateway.settings, gateway.cli
    return Facts(
        version=metadata.version("claude-code-api"),
        url=url,
        cli=_cli(gateway),
        login=_login(gateway),
        models=settings.models.available,
        default=settings.models.default,
        agents=settings.models.agents,
        sandbox="" if cli.sandbox is None else cli.sandbox.kind,
        keys=len(settings.auth.api_keys),
        agent_keys=len(settings.auth.agent_keys),
        storage=str(settings.storage.path),
        kept=settings.storage.persist,
        page=settings.page.enabled,
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
