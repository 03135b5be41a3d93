"""Clients that vanish and children that die, over HTTP, and then the server is killed outright."""

from __future__ import annotations

import json
import os
import random
import signal
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import trio

from tests.actors.commands.test_serve import chat, open_server
from tests.support.processes import eventually, marked

MARK = "CCAPI_TEST_HTTP_CHAOS"
CLIENTS = 60
WORKERS = 4


async def test_vanishing_clients_dying_children_and_a_killed_server_leave_no_process(
    tmp_path: Path,
) -> None:
    mark = uuid4().hex
    dice = random.Random(2026)
    env = json.dumps({"DEMO_CLI_SWITCHES": "{}", MARK: mark})
    async with open_server(tmp_path, CLAUDE__ENV=env) as server:
        port = int(server.url.rpartition(":")[2])
        numbers = iter(range(CLIENTS))

        async def vanish(number: int) -> None:
            switches = {"deltas": 400, "pace_ms": 2}
            if number % 5 == 0:
                switches["grandchild_seconds"] = 600
            text = f"!script {json.dumps(switches)} {number}"
            body = json.dumps(chat(text, stream=dice.random() < 0.7))
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            async with stream:
                await stream.send_all(
                    "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
                    "content-type: application/json\r\n"
                    f"content-length: {len(body)}\r\n\r\n{body}".encode()
                )
                with trio.move_on_after(dice.random() * 0.4):
                    while await stream.receive_some(4096):
                        pass

        async def work() -> None:
            for number in numbers:
                await vanish(number)
                children = sorted(marked(MARK, mark))
                if number % 4 == 0 and children:
                    with suppress(ProcessLookupError):
                        os.kill(dice.choice(children), signal.SIGKILL)

        async with trio.open_nursery() as nursery:
            for _ in range(WORKERS):
                nursery.start_soon(work)
        # After all that it serves as if nothing had happened, and then it is not even asked.
        answer = await server.client.post("/v1/chat/completions", json=chat("Hello"))
        assert answer.status_code == 200
        assert marked(MARK, mark)
        server.process.send_signal(signal.SIGKILL)
        await server.ended()
        await eventually(lambda: not marked(MARK, mark))
