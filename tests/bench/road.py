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
from attrs import define, field

from tests.support.live import open_live_demo

FLOORS = ("/actors/", "/transport/", "/schemas/")
START = 0  # the argument of RESUME where a frame begins
WARM_UPS = 2


@define
class Trace:
    """Frames that were entered while it is on, in order."""

    seen: list[tuple[str, str, bool]] = field(factory=list)
    on: bool = False
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

    def take(self) -> list[tuple[str, str, bool]]:
        seen, self.seen = self.seen, []
        return seen


def _place(file: str) -> str | None:
    """The file in the project, None where it is none of its sources."""
    for floor in FLOORS:
        before, found, after = file.rpartition(floor)
        if found and "site-packages/" not in after and not before.endswith("/tests"):
            if "site-packages" in before and not before.endswith("ccapi"):
                continue
            return f"{floor.strip('/')}/{after}"
    return None


def _changes(seen: list[tuple[str, str, bool]]) -> int:
    return sum(1 for one, next in pairwise(seen) if one[0] != next[0])


def _report(name: str, seen: list[tuple[str, str, bool]], turns: int) -> None:
    resumed = sum(1 for _, _, begun in seen if not begun)
    print(
        f"| {name} | {len(seen) / turns:.1f} | {resumed / turns:.1f} "
        f"| {len({place for place, _, _ in seen})} | {_changes(seen) / turns:.1f} |"
    )


def _top(seen: list[tuple[str, str, bool]], turns: int, most: int) -> None:
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


async def main() -> None:
    tokens = 80
    with tempfile.TemporaryDirectory() as folder:
        async with open_live_demo(Path(folder)) as live:
            port = int(live.url.rpartition(":")[2])
            trace = Trace()
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                message = {"role": "user", "content": f"count to {tokens}"}
                body: dict[str, object] = {"model": "haiku", "stream": True, "messages": [message]}
                created = live.gateway.conversation(model="haiku")
                body["conversation_id"] = created.conversation_id
                for _ in range(WARM_UPS):
                    await _ask(stream, body)
                    await _read_to_end(stream, trace, tokens)
                await trio.sleep(0.2)  # the last request is over for all, the child included
                sys.setprofile(trace)
                trace.on = True
                try:
                    await _ask(stream, body)
                    begin, end = await _read_to_end(stream, trace, tokens)
                finally:
                    trace.on = False
                    sys.setprofile(None)
    seen = trace.take()
    written = next(
        index for index, (place, name, _) in enumerate(seen) if name.endswith("Child.write")
    )
    request, steady = seen[: written + 1], seen[begin:end]
    pieces = max(1, sum(1 for _, name, begun in steady if begun and name.endswith("Stream.write")))
    print("| what | calls | of them resumed | files | changes of file |\n|---|---|---|---|---|")
    _report("a request, until its prompt is written", request, 1)
    _report(f"a steady token (of {pieces})", steady, pieces)
    print("  of a request:")
    _top(request, 1, 25)
    print("  of a token:")
    _top(steady, pieces, 40)


if __name__ == "__main__":
    trio.run(main)
