"""The road of a request and of a token, counted: `python -m tests.bench.road`.

Runs a gateway in this process, over real sockets and with the demo CLI as its child, streams one
chat completion, and counts the Python frames of this project that are entered in the gateway: from
the bytes of the request to the prompt on the child's stdin, and for each steady token. A frame that
is resumed behind an `await` or a `yield` counts as a call too ("resumed" says how many they are).

Method: `sys.setprofile` in the one thread that runs everything. Frames of the client, of the tests
and of other packages are left out. The figures do not depend on the machine's speed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import FrameType

import trio
from attrs import define, field, frozen

from tests.support.live import open_live_demo

FLOORS = ("/actors/", "/transport/", "/schemas/")
START = 0  # the argument of RESUME where a frame begins
WARM_UPS = 2


Seen = list[tuple[str, str, bool]]
"""Frames: the file, the function, and whether the frame begins there (or is resumed)."""


@define
class Trace:
    """Frames that were entered while it is on, in order."""

    on: bool = False
    seen: Seen = field(factory=list)
    files: dict[object, str | None] = field(factory=dict)

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        if event != "call" or not self.on:
            return
        code = frame.f_code
        if code not in self.files:
            self.files[code] = _place(code.co_filename)
        place = self.files[code]
        if place is not None:
            begun = frame.f_lasti < 0 or code.co_code[frame.f_lasti + 1] & 3 == START
            self.seen.append((place, code.co_qualname, begun))


def _place(file: str) -> str | None:
    """The file in the project, None where it is none of its sources."""
    for floor in FLOORS:
        before, found, after = file.rpartition(floor)
        if found and "site-packages/" not in after and not before.endswith("/tests"):
            if "site-packages" in before and not before.endswith("ccapi"):
                continue
            return f"{floor.strip('/')}/{after}"
    return None


def _changes(seen: Seen) -> int:
    return sum(1 for one, next in pairwise(seen) if one[0] != next[0])


def _report(name: str, seen: Seen, turns: int) -> None:
    resumed = sum(1 for _, _, begun in seen if not begun)
    print(
        f"| {name} | {len(seen) / turns:.1f} | {resumed / turns:.1f} "
        f"| {len({place for place, _, _ in seen})} | {_changes(seen) / turns:.1f} |"
    )


def _top(seen: Seen, turns: int, most: int) -> None:
    counted = Counter((place, name) for place, name, _ in seen)
    for (place, name), times in counted.most_common(most):
        print(f"    {times / turns:6.2f}  {place}:{name}")


async def _ask(stream: trio.SocketStream, body: dict[str, object]) -> None:
    data = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        "content-type: application/json\r\ncache-control: no-store\r\n"
        f"content-length: {len(data)}\r\n\r\n"
    )
    await stream.send_all(head.encode() + data)


async def _read_to_end(stream: trio.SocketStream, trace: Trace, tokens: int) -> tuple[int, int]:
    """Read one streamed answer. Returns the counted frames' borders: behind the first, and behind
    the last but some of its tokens."""
    data, begin, end = b"", 0, 0
    while b"[DONE]" not in data:
        data += await stream.receive_some(65536)
        count = data.count(b'"delta":{"content"')
        if count >= tokens // 4 and not begin:
            begin, _first = len(trace.seen), count
        if count >= tokens // 4 * 3 and not end:
            end = len(trace.seen)
    return begin, end


@frozen
class Road:
    """What one streamed request passes until its prompt is written, and what its steady tokens
    pass; `tokens`: how many they are."""

    request: Seen
    steady: Seen
    tokens: int

    @property
    def per_token(self) -> float:
        return len(self.steady) / self.tokens


async def walk(tokens: int = 80, walks: int = 3, *, persist: bool) -> Road:
    """The shortest of some walks: other tasks' work may fall into one. `persist`: a turn is stored
    before its prompt is written, and other tasks run meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        async with open_live_demo(Path(folder), storage={"persist": persist}) as live:
            port = int(live.url.rpartition(":")[2])
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                message = {"role": "user", "content": f"count to {tokens}"}
                body: dict[str, object] = {"model": "haiku", "stream": True, "messages": [message]}
                created = live.gateway.conversation(model="haiku")
                body["conversation_id"] = created.conversation_id
                for _ in range(WARM_UPS):
                    await _ask(stream, body)
                    await _read_to_end(stream, Trace(), tokens)
                walked = [await _walk(stream, body, tokens) for _ in range(walks)]
    shortest = min(walked, key=lambda road: len(road.request))
    steady = min(walked, key=lambda road: road.per_token)
    return Road(shortest.request, steady.steady, steady.tokens)


async def _walk(stream: trio.SocketStream, body: dict[str, object], tokens: int) -> Road:
    await trio.sleep(0.2)  # the last request is over for all, the child included
    trace = Trace(on=True)
    sys.setprofile(trace)
    try:
        await _ask(stream, body)
        begin, end = await _read_to_end(stream, trace, tokens)
    finally:
        sys.setprofile(None)
    seen = trace.seen
    written = next(
        index for index, (place, name, _) in enumerate(seen) if name.endswith("Child.write")
    )
    steady = seen[begin:end]
    given = sum(1 for _, name, begun in steady if begun and name.endswith("ChunkWriter.item"))
    return Road(seen[: written + 1], steady, max(1, given))


async def main() -> None:
    road, stored = await walk(persist=False), await walk(persist=True)
    print("| what | calls | of them resumed | files | changes of file |\n|---|---|---|---|---|")
    _report("a request, until its prompt is written", road.request, 1)
    _report(f"a steady token (of {road.tokens})", road.steady, road.tokens)
    _report("a request that is stored first", stored.request, 1)
    _report(f"a steady token of it (of {stored.tokens})", stored.steady, stored.tokens)
    print("  of a request:")
    _top(road.request, 1, 25)
    print("  of a token:")
    _top(road.steady, road.tokens, 40)
    print("  files of a request:")
    print("    " + "\n    ".join(sorted({place for place, _, _ in road.request})))


if __name__ == "__main__":
    trio.run(main)
