"""What ``[[logins]]`` may say, how it is read from a file, and what a child of a login sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ccapi.schemas.settings.logins import MAX_LOGINS
from ccapi.schemas.settings.settings import LoginSettings, Settings, SettingsError
from ccapi.transport.process.login import LOGIN_VARIABLES, named_environment
from ccapi.transport.settings_loader import load_settings, render_json, render_toml

SECRET = "sk-ant-api03-secret"
TEXT = """
[[logins]]
name = "research"
key_env = "KEY_OF_RESEARCH"

[[logins]]
name = "sales"
config_dir = "/srv/sales"
"""


def load(tmp_path: Path, text: str) -> Any:
    file = tmp_path / "local.toml"
    file.write_text(text)
    return load_settings(file, environ={"HOME": str(tmp_path)})


def test_a_file_names_logins_in_order(tmp_path: Path) -> None:
    loaded = load(tmp_path, TEXT)
    assert loaded.settings.logins == (
        LoginSettings(name="research", key_env="KEY_OF_RESEARCH"),
        LoginSettings(name="sales", config_dir=Path("/srv/sales")),
    )
    assert load(tmp_path, render_toml(loaded)).settings == loaded.settings
    assert json.loads(render_json(loaded))["settings"]["logins"] == [
        {"name": "research", "key_env": "KEY_OF_RESEARCH"},
        {"name": "sales", "config_dir": "/srv/sales"},
    ]


def test_by_default_there_are_none(tmp_path: Path) -> None:
    assert load(tmp_path, "").settings.logins == ()


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ('logins = "a"', "logins", "array of tables"),
        ('[logins]\nname = "a"', "logins", "array of tables"),
        ('[[logins]]\nkey_env = "A"', "logins.name", "must be 1 to 32"),
        ('[[logins]]\nname = "a"', "logins.name", "exactly one of"),
        ('[[logins]]\nname = "default"\nkey_env = "A"', "logins.name", "must not be"),
        ('[[logins]]\nname = "A b"\nkey_env = "A"', "logins.name", "must be 1 to 32"),
        ('[[logins]]\nname = "a"\nkey_env = ""', "logins.key_env", "name of an environment"),
        ('[[logins]]\nname = "a"\nkey_env = 3', "logins.key_env", "name of an environment"),
        ('[[logins]]\nname = "a"\ntoken_env = "A"\nkey_env = "B"', "logins.name", "exactly one"),
        (f'[[logins]]\nname = "a"\nkey_env = "{SECRET}"', "logins.key_env", "never the key itself"),
        ('[[logins]]\nname = "a"\nkey = "x"', "logins.key", "unknown key"),
        ('[[logins]]\nname = "a"\nconfig_dir = 3', "logins.config_dir", "must be a path"),
        (2 * '[[logins]]\nname = "a"\nkey_env = "A"\n', "logins.name", "same for two"),
        ("".join(f'[[logins]]\nname = "{n}"\nkey_env = "A"\n' for n in range(MAX_LOGINS + 1)),
         "logins", "at most"),
    ],
)  # fmt: skip
def test_a_broken_login_is_refused_with_its_place_and_no_secret(
    tmp_path: Path, text: str, key: str, reason: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert reason in problem.reason
    assert problem.source == f"file {tmp_path / 'local.toml'}"
    assert SECRET not in str(caught.value)


# -- what a child sees -----------------------------------------------------------------------------

ONE = LoginSettings(name="one", key_env="ANTHROPIC_KEY_OF_ONE")
TWO = LoginSettings(name="two", token_env="ANTHROPIC_TOKEN_OF_TWO")
GIVEN = {"ANTHROPIC_KEY_OF_ONE": SECRET, "ANTHROPIC_TOKEN_OF_TWO": "sk-ant-oat01-secret"}
WHOLE = {"PATH": "/bin", "CLAUDE_CONFIG_DIR": "/c", **dict.fromkeys(LOGIN_VARIABLES, "x"), **GIVEN}


def test_a_child_sees_its_own_login_and_no_other(tmp_path: Path) -> None:
    folder = LoginSettings(name="three", config_dir=tmp_path)
    logins = (ONE, TWO, folder)
    found = [named_environment(each, logins, WHOLE, GIVEN) for each in logins]
    assert found == [
        {"PATH": "/bin", "CLAUDE_CONFIG_DIR": "/c", "ANTHROPIC_API_KEY": SECRET},
        {
            "PATH": "/bin",
            "CLAUDE_CONFIG_DIR": "/c",
            "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-secret",
        },
        {"PATH": "/bin", "CLAUDE_CONFIG_DIR": str(tmp_path)},
    ]


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_variable_is_named_with_its_login(value: str | None) -> None:
    given = {} if value is None else {"ANTHROPIC_KEY_OF_ONE": value}
    with pytest.raises(SettingsError, match=r"one: .* ANTHROPIC_KEY_OF_ONE is not set"):
        named_environment(ONE, (ONE,), {}, given)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    login = LoginSettings(name="a", config_dir=tmp_path / "none")
    with pytest.raises(SettingsError, match=r"a: there is no folder .*none"):
        named_environment(login, (login,), {}, {})


def test_settings_in_code_are_checked_too() -> None:
    with pytest.raises(SettingsError, match="same for two"):
        Settings(logins=(ONE, ONE))
