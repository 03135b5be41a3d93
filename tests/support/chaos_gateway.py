"""A gateway that is used hard, as a program of its own: `python -m tests.support.chaos_gateway`.

Arguments: a folder, a seed, the name and value of a variable that marks its children. Each byte on
stdin has it drop a turn that runs, as when a client hangs up, and say `dropped`. SIGTERM ends it
in order; it then says how many of its sessions had crashed. Refuses to know who kills what.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import structlog
import trio

from ccapi.actors.conversations.conversation import Conversation
from ccapi.actors.gateway import Gateway
from ccapi.actors.opening import open_gateway
from ccapi.schemas.errors import GatewayError
from ccapi.schemas.events import SessionCrashed
from ccapi.schemas.settings.settings import ClaudeSettings, Settings, StorageSettings

CONVERSATIONS = 6
CLIENTS = 8

# What a client asks for: mostly an answer, in most ways also trouble.
SCRIPTS: tuple[dict[str, object], ...] = (
    {"answer": "a short one"},
    {"deltas": 40, "pace_ms": 5},
    {"deltas": 5000, "pace_ms": 2},
    {"deltas": 5000, "pace_ms": 2, "grandchild": "open"},
    {"answer": "with a grandchild", "grandchild": "open"},
    {"answer": "with a grandchild", "grandchild": "closed"},
    {"deltas": 9, "hang_at": "delta", "after": 2, "ignore_sigterm": True},
    {"deltas": 5000, "pace_ms": 2, "ignore_interrupt": True, "ignore_sigterm": True},
    {"answer": "and loud", "stderr_bytes": 300_000},
    {"answer": "dead", "die_at": "delta", "deltas": 9, "after": 3},
)


def settings_for(home: Path, name: str, value: str) -> Settings:
    env = {"HOME": str(home), "DEMO_CLI_SWITCHES": json.dumps({"pace_ms": 0}), name: value}
    claude = ClaudeSettings(
        env=env,
        prewarm=2,
        max_concurrent_sessions=5,
        queue_timeout_seconds=1.0,
        timeout_seconds=4.0,
        idle_timeout_seconds=2.0,
        start_timeout_seconds=4.0,
        freeze_after_seconds=0.1,
        hibernate_after_seconds=0.5,
        stop_seconds=0.3,
    )
    return Settings(claude=claude, storage=StorageSettings(path=home / "state"))


class Clients:
    """Tasks that hold conversations, and the turns of theirs that run."""

    def __init__(self, gateway: Gateway, dice: random.Random) -> None:
        self._gateway = gateway
        self._dice = dice
        self._conversations = [gateway.conversation() for _ in range(CONVERSATIONS)]
        self._running: list[trio.CancelScope] = []
        self._began = trio.Event()

    async def chat(self) -> None:
        """Ask again and again, of any conversation; most ways to fail are expected here."""
        while True:
            place = self._dice.randrange(CONVERSATIONS)
            try:
                await self._ask(self._conversations[place])
            except GatewayError:
                if self._dice.random() < 0.2:  # it may be in its back-off for long
                    self._conversations[place] = self._gateway.conversation()
            await trio.sleep(self._dice.choice([0.0, 0.02, 0.3]))

    async def _ask(self, conversation: Conversation) -> None:
        script = json.dumps(self._dice.choice(SCRIPTS))
        with trio.CancelScope() as scope:
            async with conversation.turn(f"!script {script}") as turn:
                try:
                    async for _ in turn:
                        if scope not in self._running:
                            self._running.append(scope)
                            self._began.set()
                finally:
                    if scope in self._running:
                        self._running.remove(scope)

    async def drop(self) -> None:
        """Cancel a turn in the middle of its answer, when there is one."""
        while not self._running:
            self._began = trio.Event()
            await self._began.wait()
        self._running.pop(self._dice.randrange(len(self._running))).cancel()


async def _obey(clients: Clients) -> None:
    async for orders in trio.lowlevel.FdStream(0):
        for _ in orders:
            await clients.drop()
            print("dropped", flush=True)


async def main(home: Path, seed: int, name: str, value: str) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    crashes = 0
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with (
            open_gateway(settings_for(home, name, value), demo=True) as gateway,
            trio.open_nursery() as nursery,
        ):
            clients = Clients(gateway, random.Random(seed))
            nursery.start_soon(_obey, clients)
            for _ in range(CLIENTS):
                nursery.start_soon(clients.chat)
            with gateway.bus.subscribe() as events:
                nursery.start_soon(_end_at_signal, signals, nursery.cancel_scope)
                print("ready", flush=True)
                async for event in events:
                    crashes += isinstance(event, SessionCrashed)
    print(f"crashes {crashes}", flush=True)


async def _end_at_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
