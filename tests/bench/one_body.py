"""Measures what one body costs a gateway: ``PYTHON one_body.py NAME [TIMES]``, one line of JSON.

The gateway runs in this process, in front of the demo CLI; the client is a process of its
own. It imports nothing of the tree it lies in but what lies beside it: run with another tree's
Python, and that tree as the folder, it measures that tree (`tests.bench.bodies`).
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(Path.cwd()), *(each for each in sys.path if Path(each or ".").resolve() != HERE)]

import trio  # noqa: E402
from attrs import define, field  # noqa: E402

try:
    from ccapi.transport.process.interpreter import share_interpreter
except ImportError:  # an older tree

    def share_interpreter() -> None:
        pass


from ccapi.transport.process.memory import give_back_memory  # noqa: E402
from tests.support.live import open_live_demo  # noqa: E402

BEAT = 0.001
NATURAL = 0.002
"""Seconds by which a beat may be late on a loop that does nothing."""

PAGE = os.sysconf("SC_PAGE_SIZE")


@define(eq=False)
class Watch(trio.abc.Instrument):
    """Looks on from inside the loop.

    A task of its own wakes every millisecond: `longest` is the most seconds by which it was late,
    `late` is all such seconds. `loop` is the processor time of the loop's thread in steps of all
    other tasks, `steps` the longest wall time of a step by the name of its task.
    """

    longest: float = 0.0
    late: float = 0.0
    loop: float = 0.0
    steps: dict[str, float] = field(factory=dict)
    sums: dict[str, float] = field(factory=dict)
    collections: list[float] = field(factory=list)
    _own: trio.lowlevel.Task | None = None
    _began: float = 0.0
    _began_cpu: float = 0.0
    _collecting: float = 0.0

    def reset(self) -> None:
        self.longest = self.late = self.loop = 0.0
        self.steps.clear()
        self.sums.clear()
        self.collections.clear()

    def collected(self, phase: str, _: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._collecting = now
        else:
            self.collections.append(now - self._collecting)

    async def beat(self) -> None:
        self._own = trio.lowlevel.current_task()
        while True:
            due = time.perf_counter() + BEAT
            await trio.sleep(BEAT)
            over = time.perf_counter() - due
            self.longest = max(self.longest, over)
            self.late += max(0.0, over if over > NATURAL else 0.0)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began, self._began_cpu = time.perf_counter(), time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is not self._own:
            spent = time.thread_time() - self._began_cpu
            self.loop += spent
            self.sums[task.name] = spent + self.sums.get(task.name, 0.0)
            took = time.perf_counter() - self._began
            self.steps[task.name] = max(took, self.steps.get(task.name, 0.0))


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


async def _line(stream: trio.abc.ReceiveStream) -> str:
    data = b""
    while not data.endswith(b"\n"):
        more = await stream.receive_some(1)
        assert more, "the client ended before it was done"
        data += more
    return data.decode()


async def measure(port: int, name: str, times: int, watch: Watch) -> dict[str, Any]:
    argv = [sys.executable, str(HERE / "hostile.py"), str(port), name, str(times)]
    process = await trio.lowlevel.open_process(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        length = int(await _line(process.stdout))
        await trio.sleep(0.3)
        forget_highest()
        before, cpu = resident(), time.process_time()
        watch.reset()
        await process.stdin.send_all(b"go\n")
        told = [json.loads(await _line(process.stdout)) for _ in range(times)]
        peak, spent = highest() - before, time.process_time() - cpu
        seen = {"longest": watch.longest, "late": watch.late, "loop": watch.loop}
        seen["collector"], seen["collection"] = (
            sum(watch.collections),
            max(watch.collections, default=0.0),
        )
        slow = sorted(watch.steps.items(), key=lambda each: -each[1])[:8]
        busy = sorted(watch.sums.items(), key=lambda each: -each[1])[:8]
    finally:
        process.kill()
        await process.wait()
    await trio.sleep(2.0)
    return {
        "name": name if times == 1 else f"{name}, {times} at once",
        "length": length * times,
        "answer": ", ".join(sorted({status for status, _ in told})),
        "seconds": max(took for _, took in told),
        **seen,
        "cpu": spent,
        "peak": peak,
        "kept": resident() - before,
        "slow": slow,
        "busy": busy,
    }


async def main(name: str, times: int = 1) -> None:
    watch = Watch()
    give_back_memory()
    share_interpreter()
    with tempfile.TemporaryDirectory() as folder:
        async with open_live_demo(Path(folder)) as live, trio.open_nursery() as nursery:
            nursery.start_soon(watch.beat)
            port = int(live.url.rpartition(":")[2])
            await trio.sleep(1.5)  # children of the pool have started
            # What the first request imports and allocates is no body's cost.
            await measure(port, "legal chat: hello", 1, watch)
            trio.lowlevel.add_instrument(watch)
            gc.callbacks.append(watch.collected)
            seen = await measure(port, name, times, watch)
            nursery.cancel_scope.cancel()
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]) if sys.argv[2:] else 1)
