"""What a node does about its conversations when its lease ends: with an embedded gateway, the demo
CLI, and a store that fails when a test says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from ccapi.actors import Gateway, open_gateway
from ccapi.schemas.errors import GatewayError
from ccapi.schemas.log.messages import ExactMessage
from ccapi.schemas.log.records import Said, TurnEnd
from ccapi.schemas.settings.settings import (
    ClaudeSettings,
    ClusterSettings,
    Settings,
    StorageSettings,
)
from ccapi.schemas.turn import Setup, Usage
from ccapi.transport.store.interface import (
    LiveNode,
    NewConversation,
    StoredConversation,
    Unavailable,
)
from ccapi.transport.store.local import LocalStore
from ccapi.transport.store.memory import MemoryCluster

from ...support.embedded import script

LEASE = 1.2
URL = "http://one:1"


class Flaky:
    """A store whose every call fails while it is `down`."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self.down = False

    def give_up(self) -> None:
        self._store.give_up()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        async def failing() -> None:
            raise Unavailable("The engine is gone.")

        def call(*args: Any, **kwargs: Any) -> Any:
            return failing() if self.down else found(*args, **kwargs)

        return call


class Scene:
    def __init__(self, gateway: Gateway, store: Flaky, cluster: MemoryCluster) -> None:
        self.gateway = gateway
        self.store = store
        self.cluster = cluster
        self.other = cluster.open_node("http://other:1")

    async def lapse(self) -> None:
        """Wait until this node has noticed that its lease is over."""
        nodes = self.gateway.nodes
        assert nodes is not None
        with trio.fail_after(20):
            while nodes.holds:
                await trio.sleep(0.02)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    cluster = MemoryCluster(LEASE)
    store = Flaky(cluster.open_node(URL))
    settings = Settings(
        claude=ClaudeSettings(
            env={"HOME": str(tmp_path), "DEMO_CLI_SWITCHES": "{}"}, prewarm=1, prewarm_agents=0
        ),
        storage=StorageSettings(path=tmp_path / "state"),
        cluster=ClusterSettings(node_url=URL, secret="what-all-nodes-share", lease_seconds=LEASE),
    )
    async with open_gateway(
        settings, demo=True, environ={"PATH": "/usr/bin:/bin"}, store=store
    ) as gateway:
        yield Scene(gateway, store, cluster)


async def test_a_node_that_was_given_up_ends_what_runs(scene: Scene) -> None:
    conversation = scene.gateway.conversation()
    with pytest.raises(GatewayError) as caught:
        async with conversation.turn(script(first_ms=600_000)) as turn:
            nodes = scene.gateway.nodes
            assert nodes is not None
            await trio.sleep(0.1)
            scene.cluster.drop(nodes.node.id)
            with trio.fail_after(20):
                await turn.reply()
    assert caught.value.code == "node_lapsed"
    assert not scene.gateway.conversations()


async def test_a_chat_goes_on_while_the_store_is_silent_and_its_end_counts(scene: Scene) -> None:
    conversation = scene.gateway.conversation()
    name = conversation.conversation_id
    await conversation.ask("One")
    async with conversation.turn(script("a b c d e f", pace_ms=200)) as turn:
        await turn.receive_items()
        scene.store.down = True
        await scene.lapse()
        with pytest.raises(GatewayError) as caught:
            await scene.gateway.conversation(kept=False).ask("Another")
        assert caught.value.code == "storage_unavailable"
        trouble = scene.gateway.trouble
        assert trouble is not None
        assert trouble.code == "node_lapsed"
        await trio.sleep(LEASE)
        scene.store.down = False
        with trio.fail_after(20):
            reply = await turn.reply()
    assert reply.finish_reason == "stop"
    assert (await scene.other.get(name, "local")).turns == 2
    assert await scene.other.orphans() == ()


async def test_a_chat_whose_store_stays_silent_fails(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ccapi.actors.conversations.ownership.GRACE_SECONDS", 1.0)
    conversation = scene.gateway.conversation()
    await conversation.ask("One")
    with pytest.raises(GatewayError) as caught:
        async with conversation.turn(script(first_ms=600_000)) as turn:
            await trio.sleep(0.1)
            scene.store.down = True
            with trio.fail_after(30):
                await turn.reply()
    assert caught.value.code in ("node_lapsed", "storage_unavailable")
    scene.store.down = False


async def test_a_chat_ends_when_the_store_answers_others(scene: Scene) -> None:
    async def others_heard(others: Sequence[LiveNode]) -> float:
        return 0.0

    nodes = scene.gateway.nodes
    assert nodes is not None
    nodes.others_heard = others_heard
    conversation = scene.gateway.conversation()
    await conversation.ask("One")
    with pytest.raises(GatewayError) as caught:
        async with conversation.turn(script(first_ms=600_000)) as turn:
            await trio.sleep(0.1)
            scene.store.down = True
            with trio.fail_after(20):
                await turn.reply()
    assert caught.value.code == "node_lapsed"
    scene.store.down = False


async def test_a_chat_that_another_node_has_taken_ends_as_soon_as_the_store_is_back(
    scene: Scene,
) -> None:
    conversation = scene.gateway.conversation()
    await conversation.ask("One")
    with pytest.raises(GatewayError) as caught:
        async with conversation.turn(script(first_ms=600_000)) as turn:
            await trio.sleep(0.1)
            scene.store.down = True
            await scene.lapse()
            while (await scene.other.head(conversation.conversation_id)).node is not None:
                await trio.sleep(0.05)
            await scene.other.renew()
            await scene.other.acquire(conversation.conversation_id, "local")
            scene.store.down = False
            with trio.fail_after(5):
                await turn.reply()
    assert caught.value.code == "node_lapsed"


async def test_what_began_after_an_outage_is_not_ended_for_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ccapi.actors.conversations.ownership.GRACE_SECONDS", 1.0)
    nodes = scene.gateway.nodes
    assert nodes is not None
    scene.store.down = True
    await scene.lapse()
    scene.store.down = False
    with trio.fail_after(20):
        while not nodes.holds:
            await trio.sleep(0.02)
    conversation = scene.gateway.conversation()
    await conversation.ask("One")
    with trio.fail_after(20):
        async with conversation.turn(script("a b c d e f g h", pace_ms=120)) as turn:
            assert (await turn.reply()).finish_reason == "stop"
    # It rests, and keeps its child.
    assert scene.gateway.conversations()


async def test_after_an_outage_a_chat_has_its_child_and_its_watchers(scene: Scene) -> None:
    conversation = scene.gateway.conversation()
    name = conversation.conversation_id
    await conversation.ask("One")
    with conversation.broadcast.watch() as watcher:
        watcher.seen = conversation.broadcast.last
        scene.store.down = True
        await scene.lapse()
        scene.store.down = False
        nodes = scene.gateway.nodes
        assert nodes is not None
        with trio.fail_after(20):
            while not nodes.holds:
                await trio.sleep(0.02)
            while (await scene.other.head(name)).node is None:
                await trio.sleep(0.05)
        [info] = scene.gateway.conversations()
        assert info.phase == "idle"
        assert (await conversation.ask("Two")).finish_reason == "stop"
        kinds = {type(slot.event).__name__ for slot in await watcher.read()}
        assert "TurnEnded" in kinds
        assert "ConversationEnded" not in kinds


async def test_after_an_outage_a_chat_is_whose_it_was_given_to(scene: Scene) -> None:
    conversation = scene.gateway.conversation()
    name = conversation.conversation_id
    await conversation.ask("One")
    scene.store.down = True
    await scene.lapse()
    while (await scene.other.head(name)).node is not None:
        await trio.sleep(0.05)
    await scene.other.renew()
    lease = await scene.other.acquire(name, "local")
    scene.store.down = False
    with trio.fail_after(20):
        while scene.gateway.conversations():
            await trio.sleep(0.05)
    await scene.other.release(lease)
    again = await scene.gateway.find(name)
    assert (await again.ask("Two")).finish_reason == "stop"


async def test_what_another_node_did_while_a_conversation_was_looked_for_is_known(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await scene.other.acquire("conv", "local", NewConversation(setup=Setup("haiku")))

    async def turn(number: int, setup: Setup) -> None:
        name = f"turn {number}"
        await scene.other.begin_turn(lease, turn_id=name, request_id=name, model="haiku")
        end = TurnEnd(name, "stop", Usage(prompt_tokens=3))
        answer = Said(ExactMessage("assistant", ("k",)))
        await scene.other.end_turn(lease, end, (answer,), setup=setup)

    await turn(1, Setup("haiku"))
    get = scene.store.get

    async def get_early(*given: str) -> StoredConversation:
        found: StoredConversation = await get(*given)
        if lease.turns == 1:
            await turn(2, Setup("opus"))
        return found

    await scene.other.release(lease)
    monkeypatch.setattr(scene.store, "get", get_early, raising=False)
    found = (await scene.gateway.find("conv")).info
    assert (found.turns, found.usage.prompt_tokens, found.model) == (2, 6, "opus")
