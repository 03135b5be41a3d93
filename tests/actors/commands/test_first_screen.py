"""The six lines of a gateway that starts."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from ccapi.actors.commands.first_screen import Facts, facts_of
from ccapi.actors.gateway import Gateway, open_gateway
from ccapi.schemas.settings.settings import AuthSettings, ModelSettings, Settings, StorageSettings

FACTS = Facts(
    version="1.2.3", url="http://h:1", cli="demo", login="none needed", models=("a", "b"),
    default="a", agents=True, sandbox="bubblewrap", keys=0, agent_keys=0, storage="/s", kept=True,
    page=True,
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
        ({"keys": 3, "agent_keys": 1}, 4, "keys         3, of which 1 may use agents"),
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
