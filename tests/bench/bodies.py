"""What one body costs the others: ``python -m tests.bench.bodies [WORD…]``.

For each body of `tests.bench.hostile`: the longest time for which the event loop stood still (a
task beside the gateway, in the same loop, looks at the clock; "block" is processor time, which
other programs do not lengthen), the processor time of the loop's
own thread and of the whole process, and the memory, at its highest and when the request is over,
in lengths of the body. The gateway runs in this process, its child is the demo CLI.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio
from attrs import define

from ccapi.transport.process.memory import give_back_memory
from tests.bench.hostile import CASES
from tests.support.live import open_live_demo

BEAT = 0.001
PAGE = os.sysconf("SC_PAGE_SIZE")
LOOP_BOUND, MEMORY_BOUND = 0.1, 5.0


@define
class Heart:
    """Beats in the loop. `longest`: the seconds by which a beat was late, at most; `longest_cpu`:
    the processor time that the process had between two beats, at most, which is the same on a
    machine where nothing else runs."""

    longest: float = 0.0
    longest_cpu: float = 0.0

    async def beat(self) -> None:
        while True:
            due, cpu = time.perf_counter() + BEAT, time.process_time()
            await trio.sleep(BEAT)
            self.longest = max(self.longest, time.perf_counter() - due)
            self.longest_cpu = max(self.longest_cpu, time.process_time() - cpu)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def highest() -> int:
    """Since `forget_highest`, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def forget_highest() -> None:
    Path("/proc/self/clear_refs").write_text("5")


async def measure(port: int, name: str, heart: Heart, times: int = 1) -> str:
    argv = [sys.executable, "-m", "tests.bench.hostile", str(port), name, str(times)]
    process = await trio.lowlevel.open_process(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ}
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        length = int(await _line(process.stdout))
        forget_highest()
        before, cpu, thread = resident(), time.process_time(), time.thread_time()
        heart.longest = heart.longest_cpu = 0.0
        await process.stdin.send_all(b"go\n")
        told = [json.loads(await _line(process.stdout)) for _ in range(times)]
        block, peak = heart.longest_cpu, highest() - before
        late = heart.longest
        spent, own = time.process_time() - cpu, time.thread_time() - thread
    finally:
        process.kill()
        await process.wait()
    await trio.sleep(1.0)
    kept = resident() - before
    length *= times
    good = block <= LOOP_BOUND and peak <= MEMORY_BOUND * length + 2**20
    statuses = ", ".join(sorted({status for status, _ in told}))
    cells = [
        f"{name}, {times} at once" if times > 1 else name,
        f"{length / 1e6:.1f}",
        statuses,
        f"{max(took for _, took in told):.2f}",
        *(f"{seconds * 1000:.0f}" for seconds in (late, block, own, spent)),
        f"{peak / 1e6:.0f} = {peak / length:.1f} x",
        f"{kept / 1e6:.0f}",
        "yes" if good else "NO",
    ]
    return f"| {' | '.join(cells)} |"


async def _line(stream: trio.abc.ReceiveStream) -> str:
    data = b""
    while not data.endswith(b"\n"):
        more = await stream.receive_some(1)
        assert more, "the client ended before it was done"
        data += more
    return data.decode()


async def main(words: list[str]) -> None:
    print(
        "| body | MB | answer | s | late ms | block ms | loop ms | CPU ms | peak MB | kept MB |",
        end="",
    )
    print(" holds |\n" + "|---" * 11 + "|")
    give_back_memory()
    with tempfile.TemporaryDirectory() as folder:
        async with open_live_demo(Path(folder)) as live, trio.open_nursery() as nursery:
            heart = Heart()
            nursery.start_soon(heart.beat)
            port = int(live.url.rpartition(":")[2])
            await trio.sleep(2)
            for name in CASES:
                if all(word in name for word in words):
                    print(await measure(port, name, heart), flush=True)
            if not words or "once" in words:
                name = "legal chat: 19 MB of text"
                print(await measure(port, name, heart, times=30), flush=True)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
