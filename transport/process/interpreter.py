"""How the interpreter shares the processor in a process that serves.

Knows: CPython's garbage collector and its lock. Refuses to know: who works in which thread.
"""

from __future__ import annotations

import gc
import sys

SWITCH_SECONDS = 0.0005
"""How long a thread that has work to do keeps the event loop waiting for the interpreter. CPython's
own figure, ten times this, is added to each step of the loop while a long body is read."""


def share_interpreter() -> None:
    """For the whole process, once all is imported.

    What is there now stays until the end: the collector looks no more at it. Else one look at it
    all, some 50 ms in which nothing else runs, follows each request that makes many objects.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_SECONDS)
