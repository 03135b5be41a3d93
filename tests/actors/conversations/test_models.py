"""What is known of the models that requests may name, before a child has listed them and after."""

from __future__ import annotations

import trio
import trio.testing

from ccapi.actors.conversations.models import ModelCatalog, open_learning
from ccapi.actors.runtime.bus import Bus
from ccapi.schemas.claude.models import ListedModel
from ccapi.schemas.events import ModelsListed
from ccapi.schemas.settings.settings import ModelSettings

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
