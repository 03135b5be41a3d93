"""The six lines of a gateway that starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from ccapi.actors.commands.first_screen import Facts, facts_of
from ccapi.actors.commands.key import create
from ccapi.actors.gateway import Gateway
from ccapi.actors.opening import open_gateway
from ccapi.schemas.settings.logins import LoginSettings
from ccapi.schemas.settings.settings import AuthSettings, ModelSettings, Settings, StorageSettings
from ccapi.transport.store.key_table import open_key_table

FACTS = Facts(
    version="1.2.3", url="http://h:1", cli="demo", login="none needed", models=("a", "b"),
    default="a", agents=True, sandbox="bubblewrap", keys=0, settings_keys=0, agent_keys=0,
    key_needed=False, storage="/s", kept=True, page=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "line", "text"),
    [
        ({}, 0, "ccapi 1.2.3  http://h:1/"),
        ({"page": False}, 0, "ccapi 1.2.3  http://h:1/v1"),
        ({}, 1, "cli          demo; login: none needed"),
        ({}, 2, "models       a (default), b"),
        ({"default": "x"}, 2, "models       x (default), a, b"),
        (
            {"models": tuple("abcdefghij")},
            2,
            "models       a (default), b, c, d, e, f, g, h, 2 more",
        ),
        ({}, 3, "agents       on (agent/NAME), confined by bubblewrap"),
        ({"sandbox": ""}, 3, "agents       on (agent/NAME), NOT confined"),
        ({"agents": False}, 3, "agents       off"),
        ({}, 4, "keys         none needed: this machine only"),
        (
            {"logins": ("a (key)", "b (token)")},
            1,
            "cli          demo; 2 logins: a (key), b (token)",
        ),
        (
            {"logins": tuple("abcdef")},
            1,
            "cli          demo; 6 logins: a, b, c, d, 2 more",
        ),
        (
            {"keys": 3, "settings_keys": 1, "agent_keys": 1, "key_needed": True},
            4,
            "keys         3 keys (1 of the settings), of which 1 may use agents",
        ),
        ({"keys": 1, "key_needed": True, "agents": False}, 4, "keys         1 key"),
        ({"key_needed": True}, 4, "keys         NONE holds, all are revoked: `ccapi key create`"),
        ({"keys": None}, 4, "keys         not known: the storage cannot be read"),
        ({"kept": False}, 5, "storage      in memory only, beside /s"),
    ],
)
def test_each_line(changed: dict[str, Any], line: int, text: str) -> None:
    lines = evolve(FACTS, **changed).screen().splitlines()
    assert len(lines) == 6
    assert lines[line] == text


async def test_what_is_known_of_a_gateway(tmp_path: Any) -> None:
    settings = Settings(
        models=ModelSettings(agents=False),
        auth=AuthSettings(api_keys=("secret-1", "secret-2")),
        storage=StorageSettings(path=tmp_path, persist=False),
    )
    async with open_gateway(settings, demo=True) as gateway:
        assert isinstance(gateway, Gateway)
        await gateway.wait_known()
        facts = facts_of(gateway, "http://h:1")
    assert (facts.keys, facts.agents, facts.kept, facts.login) == (2, False, False, "none needed")
    assert "secret" not in facts.screen() + str(facts.fields())


async def test_keys_of_the_store_and_all_logins_are_told(tmp_path: Path) -> None:
    _, secret = create(tmp_path, "ann", ("chat", "agents"), (), {})
    bob, _ = create(tmp_path, "bob", (), (), {})
    with open_key_table(tmp_path) as table:
        table.revoke(bob.id)
    settings = Settings(
        auth=AuthSettings(api_keys=("secret-1",)),
        storage=StorageSettings(path=tmp_path),
        logins=(
            LoginSettings(name="a", key_env="KEY_A"),
            LoginSettings(name="b", token_env="TOKEN_B"),
        ),
    )
    given = {**os.environ, "KEY_A": "sk-ant-1", "TOKEN_B": "oat-2"}
    async with open_gateway(settings, demo=True, environ=given) as gateway:
        facts = facts_of(gateway, "http://h:1")
    assert (facts.keys, facts.settings_keys, facts.agent_keys, facts.key_needed) == (2, 1, 1, True)
    assert facts.logins == ("a (key)", "b (token)")
    shown = facts.screen() + str(facts.fields())
    assert not [word for word in ("secret-1", secret, "sk-ant-1", "oat-2") if word in shown]
