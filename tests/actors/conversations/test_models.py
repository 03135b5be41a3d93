"""What is known of the models that requests may name, before a child has listed them and after."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import trio
import trio.testing

from ccapi.actors.conversations.models import Choice, ModelCatalog, open_learning
from ccapi.actors.keys.registry import Rights
from ccapi.actors.runtime.bus import Bus
from ccapi.schemas.claude.models import ListedModel
from ccapi.schemas.errors import NotFound
from ccapi.schemas.events import ModelsListed
from ccapi.schemas.settings.settings import ModelSettings
from tests.support.live import open_live_demo

SETTINGS = ModelSettings(
    available=("sonnet", "claude-haiku-4-5", "llama-4"), aliases={"gpt": "sonnet"}
)
LISTED = ListedModel("sonnet", "claude-sonnet-4-6", "Sonnet 4.6, for routine", ("low", "max"))


def test_before_a_child_has_listed_them_a_table_says_what_is_known() -> None:
    catalog = ModelCatalog(SETTINGS)
    sonnet = catalog.get("sonnet")
    assert (sonnet.name, sonnet.means, sonnet.listed) == ("Claude Sonnet", "sonnet", False)
    assert sonnet.sizes is not None
    assert sonnet.sizes.context == 1_000_000
    assert catalog.get("llama-4").sizes is None
    assert catalog.get("agent/claude-haiku-4-5").name == "Claude Haiku 4.5 (agent)"


def test_what_a_child_lists_holds_for_every_name_of_it() -> None:
    catalog = ModelCatalog(SETTINGS)
    catalog.learn([LISTED])
    for name in ("sonnet", "gpt", "agent/sonnet", "agent/gpt"):
        model = catalog.get(name)
        assert model.means == "claude-sonnet-4-6"
        assert model.name.startswith("Claude Sonnet 4.6")
        assert (model.profile == "agent") is name.startswith("agent/")
        assert model.sizes is not None
        assert model.sizes.context == 200_000
        assert (model.takes_sampling, model.efforts, model.listed) == (True, ("low", "max"), True)
    assert not catalog.get("claude-haiku-4-5").listed


async def test_it_learns_what_the_children_publish() -> None:
    catalog, bus = ModelCatalog(SETTINGS), Bus()
    with trio.fail_after(5):
        async with open_learning(catalog, bus):
            await trio.testing.wait_all_tasks_blocked()
            bus.publish(ModelsListed((LISTED,)))
            await trio.testing.wait_all_tasks_blocked()
    assert catalog.get("sonnet").listed


async def test_a_child_that_takes_a_turn_says_what_its_models_are(tmp_path: Path) -> None:
    models = ModelSettings(available=("default",), default="default", agents=False)
    async with open_live_demo(tmp_path, models=models) as live:
        async with httpx.AsyncClient(base_url=live.url, trust_env=False, timeout=20) as client:
            assert (await client.get("/v1/models/default")).json()["source"] == "table"
            asked = {"messages": [{"role": "user", "content": "Hello"}]}
            assert (await client.post("/v1/chat/completions", json=asked)).status_code == 200
            with trio.fail_after(10):
                while (told := (await client.get("/v1/models/default")).json())["source"] != "cli":
                    await trio.sleep(0.02)
    assert told["description"] == "No model"


def test_ids_of_a_family_that_is_offered_may_be_named() -> None:
    catalog = ModelCatalog(SETTINGS)
    for name in ("claude-sonnet-5-5", "claude-sonnet-5", "claude-sonnet-4-5-20250929"):
        assert catalog.resolve(name) == Choice(name, "chat")
        assert catalog.resolve(f"agent/{name}") == Choice(name, "agent")
        assert catalog.get(name).means == name
    assert catalog.get("claude-sonnet-4-5-20250929").name == "Claude Sonnet 4.5"
    assert "claude-sonnet-5-5" not in {model.id for model in catalog.list()}
    for name in ("claude-opus-5-5", "claude-haiku-5-5", "claude-sonnet", "claude-sonnet-5-x", ""):
        with pytest.raises(NotFound):
            catalog.resolve(name)


def test_ids_of_a_family_may_not_be_named_where_the_operator_says_so() -> None:
    for settings in (
        ModelSettings(available=("sonnet",), versions=False),
        ModelSettings(available=("claude-opus-4-8", "haiku"), default="haiku"),
        # Its name is another's here.
        ModelSettings(available=("haiku",), aliases={"sonnet": "haiku"}),
    ):
        with pytest.raises(NotFound):
            ModelCatalog(settings).resolve("claude-sonnet-5-5")
    no_agents = ModelCatalog(ModelSettings(available=("sonnet",), agents=False))
    with pytest.raises(NotFound):
        no_agents.resolve("agent/claude-sonnet-5-5")


def test_a_key_that_is_limited_to_a_family_may_name_its_ids() -> None:
    catalog = ModelCatalog(SETTINGS, lambda _: Rights("o", "n", models=frozenset({"sonnet"})))
    assert catalog.resolve("claude-sonnet-5-5").model == "claude-sonnet-5-5"
    with pytest.raises(NotFound):
        catalog.resolve("claude-haiku-4-5")
    by_id = ModelCatalog(
        SETTINGS, lambda _: Rights("o", "n", models=frozenset({"claude-sonnet-5-5"}))
    )
    assert by_id.resolve("claude-sonnet-5-5").model == "claude-sonnet-5-5"
    with pytest.raises(NotFound):
        by_id.resolve("sonnet")
